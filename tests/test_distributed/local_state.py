"""A hook, for configs, that prints how much of the optimiser's state a process holds."""

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class LocalStateHook(Hook):
    def after_train(self, runner):
        state = runner.optim_wrapper.optimizer.state.values()
        held = sum(moments['exp_avg'].numel() for moments in state)
        print(f'rank {runner.rank} holds {held} elements', flush=True)
