"""The detectors' configs against the recipes, and whether they train."""
import pytest
from config_checks import (assert_no_decay_of_norms, assert_small_delta,
                           assert_trains, build, load, predict)
from mmdet.testing import demo_mm_inputs

from biformer_mm.datasets import SHAPES_CLASSES, SHAPES_PALETTE

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
    assert_no_decay_of_norms(build(cfg), cfg.optim_wrapper, 0.05)


@pytest.mark.parametrize('size', ['t', 'b'])
@pytest.mark.parametrize('method', ['retinanet', 'mask_rcnn'])
def test_size_variants_are_small_deltas(method, size):
    assert_small_delta(f'{method}_biformer_{size}_1x')


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
    inputs = demo_mm_inputs(
        1, [(3, 96, 128)], num_items=[2], num_classes=4, with_mask=True)
    assert_trains(model, inputs)
    prediction, = predict(model, inputs)
    assert prediction.pred_instances.bboxes.isfinite().all()
