"""The segmentors' configs against the recipes, and whether they train."""

import pytest
from config_checks import assert_no_decay_of_norms, assert_small_delta, build, load

SIZES = {
    # channels, arch, drop-path rate of Semantic FPN and of UperNet
    't': ([64, 128, 256, 512], 'tiny', 0.1, 0.1),
    's': ([64, 128, 256, 512], 'small', 0.15, 0.3),
    'b': ([96, 192, 384, 768], 'base', 0.3, 0.4),
}


def assert_common(cfg, size, drop_path_rate):
    channels, arch = SIZES[size][:2]
    backbone = cfg.model.backbone
    assert backbone.type == 'BiFormer' and backbone.arch == arch
    assert backbone.num_regions == 8
    assert backbone.drop_path_rate == drop_path_rate
    assert backbone.norm_cfg.type == 'SyncBN'
    assert cfg.model.get('pretrained') is None
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'
    (crop,) = (t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'RandomCrop')
    assert crop.crop_size == (512, 512)
    assert cfg.model.data_preprocessor.size == (512, 512)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (t for t in loader.dataset.pipeline if t.type == 'Resize')
        assert resize.scale == (2048, 512) and resize.keep_ratio


def assert_warm_up(scheduler, start_factor, iterations):
    assert scheduler.type == 'LinearLR' and scheduler.by_epoch is False
    assert scheduler.start_factor == start_factor
    assert (scheduler.get('begin', 0), scheduler.end) == (0, iterations)


@pytest.mark.parametrize('size', SIZES)
def test_recipe_of_semantic_fpn(size):
    cfg = load(f'semantic_fpn_biformer_{size}_80k')
    assert_common(cfg, size, SIZES[size][2])
    assert cfg.model.neck == dict(
        type='FPN', in_channels=SIZES[size][0], out_channels=256, num_outs=4
    )
    assert cfg.model.decode_head.type == 'FPNHead'

    assert cfg.train_dataloader.batch_size == 4
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=32)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=2e-4, weight_decay=1e-4)
    assert 'paramwise_cfg' not in cfg.optim_wrapper
    assert cfg.train_cfg.type == 'IterBasedTrainLoop'
    assert cfg.train_cfg.max_iters == 80000
    warm_up, cosine = cfg.param_scheduler
    assert_warm_up(warm_up, 0.1, 1000)
    assert cosine == dict(
        type='CosineAnnealingLR', by_epoch=False, begin=1000, end=80000, T_max=79000, eta_min=0.0
    )
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert dict(type='ResizeToMultiple', size_divisor=32) in loader.dataset.pipeline


def test_semantic_fpn_160k_is_the_80k_run_on_half_the_gpus():
    ours, full = (load(f'semantic_fpn_biformer_s_{n}') for n in ('160k', '80k'))
    assert ours.model == full.model
    assert ours.train_dataloader == full.train_dataloader
    assert ours.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert ours.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert ours.train_cfg.max_iters == 160000
    warm_up, cosine = ours.param_scheduler
    assert_warm_up(warm_up, 0.1, 1000)
    assert (cosine.type, cosine.begin, cosine.end, cosine.T_max, cosine.eta_min) == (
        'CosineAnnealingLR',
        1000,
        160000,
        159000,
        0.0,
    )


@pytest.mark.parametrize('size', SIZES)
def test_recipe_of_upernet(size):
    cfg = load(f'upernet_biformer_{size}_160k')
    channels = SIZES[size][0]
    assert_common(cfg, size, SIZES[size][3])
    head, auxiliary = cfg.model.decode_head, cfg.model.auxiliary_head
    assert head.type == 'UPerHead' and head.channels == 512
    assert head.in_channels == channels
    assert auxiliary.type == 'FCNHead' and auxiliary.num_classes == 150
    assert auxiliary.in_index == 2 and auxiliary.in_channels == channels[2]

    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, weight_decay=0.01)
    assert cfg.train_cfg.max_iters == 160000
    warm_up, poly = cfg.param_scheduler
    assert_warm_up(warm_up, 1e-6, 1500)
    assert poly == dict(
        type='PolyLR', power=1.0, by_epoch=False, begin=1500, end=160000, eta_min=0.0
    )
    assert cfg.tta_model.type == 'SegTTAModel' and cfg.tta_pipeline


def test_upernet_decays_all_but_norms():
    cfg = load('upernet_biformer_t_160k')
    assert_no_decay_of_norms(build(cfg), cfg.optim_wrapper, 0.01)


@pytest.mark.parametrize(
    'name',
    [
        f'{method}_biformer_{size}_{schedule}'
        for method, schedule in (('semantic_fpn', '80k'), ('upernet', '160k'))
        for size in 'tb'
    ],
)
def test_size_variants_are_small_deltas(name):
    assert_small_delta(name)


def test_mask2former():
    cfg = load('mask2former_biformer_s_160k')
    assert cfg.model.backbone == load('upernet_biformer_s_160k').model.backbone
    assert cfg.model.decode_head.type == 'Mask2FormerHead'
    assert cfg.model.decode_head.in_channels == SIZES['s'][0]
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_iters == 160000
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, 0.05)
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1


@pytest.mark.parametrize('method', ['semantic_fpn', 'upernet'])
def test_tta_is_multi_scale_and_flip(method):
    cfg = load(f'{method}_biformer_s_' + ('80k' if method == 'semantic_fpn' else '160k'))
    (augment,) = (t for t in cfg.tta_pipeline if t.type == 'TestTimeAug')
    scales, flips = augment.transforms[:2]
    assert [t.scale_factor for t in scales] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert [t.prob for t in flips] == [0.0, 1.0]
