"""A hook that quantises the linear layers of a model to 8-bit integers before a test."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_


@HOOKS.register_module()
class Int8Hook(Hook):
    def before_test(self, runner: Runner) -> None:
        quantize_(runner.model, Int8DynamicActivationInt8WeightConfig())
        print_log('Linear layers compute in 8-bit integers.', logger='current')
