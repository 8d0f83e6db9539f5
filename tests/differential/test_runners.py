"""What the frameworks' tools do with other runners and more processes."""

from importlib.util import find_spec

import pytest
from differential.running import Case

pytestmark = pytest.mark.slow

# MMEngine's own choices need GPUs, ours do not. The tests let theirs do
# without, too: the server has their requests for a GPU do nothing.
ON_CPUS = """
        custom_imports = dict(
            imports=['biformer_mm', 'biformer_mm.engine.runner.distributed'])
        env_cfg = dict(dist_cfg=dict(backend='gloo'))
        wrapper = dict(
            type='CPUDistributedDataParallel', broadcast_buffers=False)
"""
NO_AVERAGES = "'EMAHook' object has no attribute 'ema_model'"
CASES = [
    Case(
        'flexible_detector',
        'retinanet_biformer_demo.py',
        """
        runner_type = 'FlexibleRunner'
        strategy = dict(type='SingleDeviceStrategy')
        """,
        'mmdet',
    ),
    # MMEngine's FlexibleRunner loads before the hook has built its model.
    Case(
        'flexible_averages',
        'biformer_demo.py',
        """
        runner_type = 'FlexibleRunner'
        strategy = dict(type='SingleDeviceStrategy')
        custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook')]
        """,
        'mmpretrain',
        test_fails=(NO_AVERAGES, NO_AVERAGES),
    ),
    Case(
        'two_processes',
        'retinanet_biformer_demo.py',
        ON_CPUS
        + """
        model_wrapper_cfg = wrapper
        """,
        'mmdet',
        ranks=2,
    ),
    Case(
        'flexible_two_processes',
        'biformer_demo.py',
        ON_CPUS
        + """
        runner_type = 'FlexibleRunner'
        strategy = dict(type='DDPStrategy', model_wrapper=wrapper)
        """,
        'mmpretrain',
        ranks=2,
    ),
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_case(check, case):
    check(case)


@pytest.mark.skipif(find_spec('deepspeed') is None, reason='DeepSpeed is not installed')
def test_deepspeed(check):
    # Weights in a file, as docs/distributed.md has it for testing.
    check(
        Case(
            'deepspeed',
            'retinanet_biformer_demo_zero.py',
            ON_CPUS
            + """
        default_hooks = dict(checkpoint=dict(save_optimizer=False))
        """,
            'mmdet',
            ranks=1,
            tests=False,
            limit=900,
        )
    )  # it compiles a part of itself
