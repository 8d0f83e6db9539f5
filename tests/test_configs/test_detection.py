"""The detectors' configs against the recipes, and whether they train."""

import pytest
from config_checks import assert_no_decay_of_norms, assert_small_delta, build, load
from mmengine.config import Config
from mmengine.utils import get_installed_path

SIZES = {
    # channels, drop-path rate, arch
    't': ([64, 128, 256, 512], 0.1, 'tiny'),
    's': ([64, 128, 256, 512], 0.2, 'small'),
    'b': ([96, 192, 384, 768], 0.3, 'base'),
}


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
        (resize,) = (t for t in split.dataset.pipeline if t.type == 'Resize')
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
        num_outs=5,
    )
    assert cfg.model.bbox_head.anchor_generator.strides == [8, 16, 32, 64, 128]
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.val_evaluator.metric == 'bbox'


@pytest.mark.parametrize('size', SIZES)
def test_recipe_of_mask_rcnn(size):
    cfg = load(f'mask_rcnn_biformer_{size}_1x')
    channels, _, _ = SIZES[size]
    assert 'out_indices' not in cfg.model.backbone  # all four
    assert cfg.model.neck == dict(type='FPN', in_channels=channels, out_channels=256, num_outs=5)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=0.05)
    assert cfg.val_evaluator.metric == ['bbox', 'segm']


def test_mask_rcnn_decays_all_but_norms():
    cfg = load('mask_rcnn_biformer_t_1x')
    assert_no_decay_of_norms(build(cfg), cfg.optim_wrapper, 0.05)


@pytest.mark.parametrize('size', ['t', 'b'])
@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_size_variants_are_small_deltas(method, size):
    assert_small_delta(f'{method}_biformer_{size}_1x')


@pytest.mark.parametrize(
    'name', ['mask_rcnn_biformer_s_3x_ms', 'cascade_mask_rcnn_biformer_s_3x_ms']
)
def test_3x_multi_scale(name):
    cfg = load(name)
    assert (
        cfg.model.type
        == dict(mask_rcnn='MaskRCNN', cascade_mask_rcnn='CascadeRCNN')[name.split('_biformer')[0]]
    )
    assert cfg.model.backbone == load('mask_rcnn_biformer_s_1x').model.backbone
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0)
    assert cfg.train_cfg.max_epochs == 36
    assert cfg.param_scheduler[1].milestones == [27, 33]
    (choice,) = (t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomChoice')
    scales = choice.transforms[0][0].scales
    assert scales == [(short, 1333) for short in range(480, 801, 32)]
    assert 'RandomCrop' in [t.type for t in choice.transforms[1]]
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16


def test_dino_is_mmdets_but_for_the_backbone():
    ours = load('dino_biformer_s_1x')
    theirs = Config.fromfile(
        get_installed_path('mmdet') + '/.mim/configs/dino/dino-4scale_r50_8xb2-12e_coco.py'
    )
    assert ours.model.backbone == load('retinanet_biformer_s_1x').model.backbone
    assert ours.model.neck.in_channels == [128, 256, 512]
    theirs.model.backbone = ours.model.backbone
    theirs.model.neck.in_channels = ours.model.neck.in_channels
    for field in (
        'model',
        'train_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'auto_scale_lr',
    ):
        assert strip(ours[field]) == strip(theirs[field]), field


def strip(node):
    """Without the marks that MMEngine leaves on inherited parts."""
    if isinstance(node, dict):
        return {k: strip(v) for k, v in node.items() if k != '_scope_'}
    return [strip(v) for v in node] if isinstance(node, list) else node
