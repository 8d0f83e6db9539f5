import pytest
from config_checks import build, load

from biformer_mm.analysis.parts import find_parts

STAGES = ['stem', 'stage 1', 'stage 2', 'stage 3', 'stage 4']


@pytest.mark.parametrize(
    'name, others',
    [
        ('biformer_demo', ['data_preprocessor', 'neck', 'head']),
        (
            'mask_rcnn_biformer_demo',
            ['data_preprocessor', 'neck', 'rpn_head']
            + ['roi_head.bbox_roi_extractor', 'roi_head.bbox_head']
            + ['roi_head.mask_roi_extractor', 'roi_head.mask_head'],
        ),
        ('upernet_biformer_demo', ['data_preprocessor', 'decode_head', 'auxiliary_head']),
    ],
)
def test_every_parameter_is_of_one_part(name, others):
    model = build(load(name))
    parts = find_parts(model)
    assert set(parts) == {*STAGES, *others}
    found = [id(p) for modules in parts.values() for m in modules for p in m.parameters()]
    assert sorted(found) == sorted(map(id, model.parameters()))


def test_a_backbone_is_its_stages():
    backbone = build(load('retinanet_biformer_demo')).backbone
    parts = find_parts(backbone)
    assert list(parts) == STAGES
    assert parts['stage 2'] == [
        backbone.downsamples[0],
        backbone.stages[1],
        backbone.out_norms['1'],
    ]
