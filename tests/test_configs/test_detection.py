"""The detectors' configs against the recipes, and whether they train."""
import copy

import pytest
import torch
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from tools import ROOT

from biformer_mm.datasets import SHAPES_CLASSES, SHAPES_PALETTE

SIZES = {
    # channels, drop-path rate, arch
    't': ([64, 128, 256, 512], 0.1, 'tiny'),
    's': ([64, 128, 256, 512], 0.2, 'small'),
    'b': ([96, 192, 384, 768], 0.3, 'base'),
}


def load(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def build(cfg):
    torch.manual_seed(0)
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_recipe_of_both(method, size):
    cfg = load(f'{method}_biformer_{size}_1x')
    _, drop_path_rate, arch = SIZES[size]
    backbone = cfg.model.backbone
    assert backbone.type == 'BiFormer' and backbone.arch == arch
    assert backbone.num_regions == 16
    assert backbone.drop_path_rate == drop_path_rate
    assert backbone.norm_eval is True

    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.train_cfg.max_epochs == 12
    warm_up, steps = cfg.param_scheduler
    assert warm_up.type == 'LinearLR' and warm_up.start_factor == 0.001
    assert (warm_up.begin, warm_up.end, warm_up.by_epoch) == (0, 500, False)
    assert steps.type == 'MultiStepLR' and steps.by_epoch
    assert steps.milestones == [8, 11] and steps.gamma == 0.1

    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    loader = cfg.train_dataloader
    assert loader.batch_size == 2 and loader.dataset.type == 'CocoDataset'
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    for split in (loader, cfg.val_dataloader, cfg.test_dataloader):
        resize, = (t for t in split.dataset.pipeline if t.type == 'Resize')
        assert resize.scale == (1333, 800) and resize.keep_ratio


@pytest.mark.parametrize('size', SIZES)
def test_recipe_of_retinanet(size):
    cfg = load(f'retinanet_biformer_{size}_1x')
    channels, _, _ = SIZES[size]
    assert cfg.model.backbone.out_indices == (1, 2, 3)
    assert cfg.model.neck == dict(
        type='FPN',
        in_channels=channels[1:],
        out_channels=256,
        start_level=0,
        add_extra_convs='on_input',
        num_outs=5)
    assert cfg.model.bbox_head.anchor_generator.strides == [
        8, 16, 32, 64, 128
    ]
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.val_evaluator.metric == 'bbox'


@pytest.mark.parametrize('size', SIZES)
def test_recipe_of_mask_rcnn(size):
    cfg = load(f'mask_rcnn_biformer_{size}_1x')
    channels, _, _ = SIZES[size]
    assert 'out_indices' not in cfg.model.backbone  # all four
    assert cfg.model.neck == dict(
        type='FPN', in_channels=channels, out_channels=256, num_outs=5)
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, weight_decay=0.05)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']


def test_mask_rcnn_decays_all_but_norms():
    cfg = load('mask_rcnn_biformer_t_1x')
    model = build(cfg)
    cfg.optim_wrapper.type = 'OptimWrapper'  # AMP needs a GPU
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {
        id(p): group['weight_decay']
        for group in optimizer.param_groups for p in group['params']
    }
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))
        for p in m.parameters()
    }
    for name, param in model.named_parameters():
        expected = 0 if id(param) in norms else 0.05
        assert decay[id(param)] == expected, name


@pytest.mark.parametrize('size', ['t', 'b'])
@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_size_variants_are_small_deltas(method, size):
    path = ROOT / 'configs' / f'{method}_biformer_{size}_1x.py'
    lines = [
        line for line in path.read_text().splitlines()
        if line.strip() and not line.startswith('#')
    ]
    assert len(lines) <= 15


def test_demo_names_the_classes_of_its_data():
    metainfo = load('retinanet_biformer_demo').metainfo
    assert metainfo.classes == SHAPES_CLASSES
    assert metainfo.palette == SHAPES_PALETTE


@pytest.mark.parametrize('name', [
    'retinanet_biformer_t_1x', 'retinanet_biformer_s_1x',
    'retinanet_biformer_b_1x', 'retinanet_biformer_demo',
    'mask_rcnn_biformer_t_1x', 'mask_rcnn_biformer_s_1x',
    'mask_rcnn_biformer_b_1x'
])
def test_trains_and_predicts(name):
    model = build(load(name))
    model.init_weights()
    before = copy.deepcopy(model.state_dict())
    inputs = demo_mm_inputs(
        1, [(3, 96, 128)], num_items=[2], num_classes=4, with_mask=True)

    model.train()
    data = model.data_preprocessor(copy.deepcopy(inputs), training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    for param_name, param in model.named_parameters():
        if param.requires_grad:  # none is left out: DDP needs no search
            assert param.grad is not None, param_name
    torch.optim.AdamW(model.parameters(), 1e-4).step()
    assert any(
        not torch.equal(v, before[k]) for k, v in model.state_dict().items())

    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs)
        prediction, = model(**data, mode='predict')
    assert prediction.pred_instances.bboxes.isfinite().all()
