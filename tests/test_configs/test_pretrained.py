"""ImageNet weights as the README gives them to a recipe."""

import pytest
import torch
from config_checks import build, load
from mmengine.registry import MODELS


@pytest.mark.parametrize(
    'name',
    [
        'retinanet_biformer_t_1x',
        'mask_rcnn_biformer_t_1x',
        'semantic_fpn_biformer_t_80k',
        'upernet_biformer_t_160k',
    ],
)
def test_option_loads_a_classifiers_weights(name, tmp_path):
    torch.manual_seed(1)
    classifier = MODELS.build(dict(type='BiFormer', arch='tiny', out_indices=(3,), out_norm='BN'))
    state = classifier.state_dict()
    path = str(tmp_path / 'in1k.pth')
    torch.save(dict(model=state), path)

    cfg = load(name)
    cfg.merge_from_dict(
        {'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': path}
    )
    loaded = build(cfg).backbone.state_dict()
    for key, value in state.items():
        if not key.startswith('out_norms.'):
            assert torch.equal(loaded[key], value), key
