"""Ways for a rank of a distributed run to hang or fail, for configs.

TROUBLE is KIND:RANK, such as 'forward:1'.
"""

import ctypes
import os
import signal
import time

from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS

KIND, _, RANK = os.environ.get('TROUBLE', 'none:0').partition(':')
PAUSE = float(os.environ.get('PAUSE', 1000))  # s
MINE = os.environ.get('RANK') == RANK


def sleep():
    time.sleep(PAUSE)  # what hangs


def hold_interpreter():
    ctypes.PyDLL(None).sleep(int(PAUSE))


def fail():
    raise ValueError('the trouble')


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


@TRANSFORMS.register_module()
class Trouble:
    """In loading the fourth sample of a process, or the first of a worker."""

    def __init__(self):
        self.calls = 0

    def __call__(self, results):
        self.calls += 1
        if MINE and self.calls == dict(data=4, worker=1).get(KIND):
            sleep()
        return results


@HOOKS.register_module()
class TroubleHook(Hook):
    """In the third iteration, or the metrics of an evaluation."""

    def before_train_iter(self, runner, *args, **kwargs):
        act = dict(forward=sleep, hold=hold_interpreter, stop=stop, fail=fail).get(KIND)
        if KIND == 'fail_alone':  # the others wait without noticing
            act = fail if MINE else sleep
        elif not MINE:
            act = None
        if act and runner.iter == 2:
            module = runner.model.module.backbone
            module.register_forward_pre_hook(lambda *_: act())

    def before_val_epoch(self, runner):
        (metric,) = runner.val_evaluator.metrics
        compute = metric.compute_metrics

        def compute_slowly(results):
            sleep()
            return compute(results)

        if MINE and KIND == 'evaluation':
            metric.compute_metrics = compute_slowly
