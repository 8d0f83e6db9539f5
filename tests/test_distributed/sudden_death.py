"""A hook, for configs, that kills a process in the middle of training."""

import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SuddenDeathHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.rank == 1 and runner.iter == 2:
            print('rank 1 dies', flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
