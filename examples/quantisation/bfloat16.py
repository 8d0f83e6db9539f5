"""A hook that tests a one-stage detector in bfloat16, all but the choice of its boxes."""

from functools import wraps

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class BFloat16Hook(Hook):
    def before_test(self, runner: Runner) -> None:
        model = runner.model
        # Not test_cfg.fp16=True: mmcv's suppression of boxes takes no bfloat16 on a CPU.
        for module, name in ((model, 'extract_feat'), (model.bbox_head, 'forward')):
            setattr(module, name, in_bfloat16(getattr(module, name)))
        print_log('The network computes in bfloat16.', logger='current')


def in_bfloat16(function):
    """Let a function that returns tuples of maps compute in bfloat16."""

    @wraps(function)
    def compute(images, *args, **kwargs):
        device = (images if torch.is_tensor(images) else images[0]).device.type
        with torch.autocast(device, torch.bfloat16):
            return to_float(function(images, *args, **kwargs))

    return compute


def to_float(maps):
    """Convert the maps of nested tuples and lists to float32."""
    return maps.float() if torch.is_tensor(maps) else type(maps)(map(to_float, maps))
