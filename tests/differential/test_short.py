"""What the frameworks' tools do, ours do: short cases."""

import pytest
from differential.running import Case

CASES = [
    Case(
        'detector_with_averages',
        'retinanet_biformer_s_1x.py',
        """
        custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook')]
        """,
        'mmdet',
    ),
    Case('segmentor', 'semantic_fpn_biformer_s_80k.py', '', 'mmseg'),
    # Its test_cfg is an empty dict, as all of mmpretrain's are. The base mixes
    # batches (Mixup, CutMix).
    Case('classifier', 'biformer_s_in1k.py', '', 'mmpretrain'),
    Case(
        'flexible_runner',
        'biformer_demo.py',
        """
        runner_type = 'FlexibleRunner'
        strategy = dict(type='SingleDeviceStrategy')
        """,
        'mmpretrain',
    ),
    Case(
        'accumulated_gradients',
        'semantic_fpn_biformer_demo.py',
        """
        optim_wrapper = dict(
            accumulative_counts=2, clip_grad=dict(max_norm=0.1))
        """,
        'mmseg',
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_case(check, case):
    check(case)
