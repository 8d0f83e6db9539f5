"""The classifiers' configs against the recipe and the paper's ablations."""

import pytest
from config_checks import assert_small_delta, load

from biformer_mm.models import BiFormer, BiLevelRoutingAttention
from biformer_mm.models.backbones.arch import parse_arch
from biformer_mm.models.layers.attention import FullAttention

SIZES = {
    # arch, channels of the last stage, drop-path rate
    't': ('tiny', 512, 0.1),
    's': ('small', 512, 0.15),
    'b': ('base', 768, 0.4),
    'stl': ('stl', 768, 0.2),
}


@pytest.mark.parametrize('size', SIZES)
def test_recipe(size):
    cfg = load(f'biformer_{size}_in1k')
    arch, channels, drop_path_rate = SIZES[size]
    assert cfg.model.backbone == dict(
        type='BiFormer',
        arch=arch,
        num_regions=7,
        out_indices=(3,),
        out_norm='BN',
        drop_path_rate=drop_path_rate,
    )
    assert cfg.model.neck.type == 'GlobalAveragePooling'
    head = cfg.model.head
    assert head.type == 'LinearClsHead'
    assert (head.in_channels, head.num_classes) == (channels, 1000)
    assert head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert cfg.model.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]

    pipeline = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
    assert pipeline['RandomResizedCrop'].scale == 224
    augment = pipeline['RandAugment']
    assert augment.policies == 'timm_increasing'
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert pipeline['RandomErasing'].erase_prob == 0.25
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'

    assert cfg.train_dataloader.batch_size == 128
    assert cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-3, weight_decay=0.05)
    assert cfg.optim_wrapper.get('paramwise_cfg') is None
    assert cfg.train_cfg.max_epochs == 300
    warm_up, cosine = cfg.param_scheduler
    assert (warm_up.type, warm_up.end, warm_up.by_epoch) == ('LinearLR', 5, True)
    assert (cosine.type, cosine.begin, cosine.by_epoch) == ('CosineAnnealingLR', 5, True)


@pytest.mark.parametrize(
    'name',
    ['biformer_t_in1k', 'biformer_b_in1k', 'biformer_stl_in1k', 'biformer_b_token_label_in1k'],
)
def test_size_variants_are_small_deltas(name):
    assert_small_delta(name)


@pytest.mark.parametrize('size', ['s', 'b'])
def test_token_labelling_recipe(size):
    cfg, base = load(f'biformer_{size}_token_label_in1k'), load(f'biformer_{size}_in1k')
    assert cfg.model.backbone == base.model.backbone
    assert cfg.model.type == 'TokenLabelClassifier'
    assert cfg.model.neck is None and cfg.model.train_cfg is None
    head = dict(cfg.model.head, type='LinearClsHead')
    assert (cfg.model.head.type, head.pop('token_weight')) == ('TokenLabelHead', 0.5)
    assert head == base.model.head

    steps = cfg.train_dataloader.dataset.pipeline
    theirs = {t.type: t for t in base.train_dataloader.dataset.pipeline}
    assert [t.type for t in steps] == [
        'LoadImageFromFile',
        'TokenLabelRandomResizedCrop',
        'RandomFlip',
        'LoadTokenLabels',
        'RandAugment',
        'RandomErasing',
        'PackInputs',
    ]
    for step in steps:
        step.pop('_scope_', None)
        if step.type in ('RandomFlip', 'RandAugment', 'RandomErasing'):
            assert step == theirs[step.type]
    assert dict(steps[1], type='RandomResizedCrop') == theirs['RandomResizedCrop']
    assert (steps[3].num_classes, steps[3].grid) == (1000, (18, 18))
    assert steps[-1].algorithm_keys == ('gt_token_scores',)
    assert cfg.train_dataloader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert cfg.val_dataloader == base.val_dataloader

    assert cfg.optim_wrapper == base.optim_wrapper
    assert cfg.train_dataloader.batch_size == 128 and cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_cfg.max_epochs == 310
    warm_up, cosine = cfg.param_scheduler
    assert warm_up == base.param_scheduler[0]
    assert dict(cosine, end=None) == dict(base.param_scheduler[1], end=None)
    assert cosine.end == 300


# Paper, table 7: regions per side and routed regions, per stage.
@pytest.mark.parametrize(
    'name, num_regions, topks',
    [
        ('biformer_stl_in1k', (7, 7, 7, 7), (1, 4, 16, 49)),
        ('ablation/biformer_stl_k1-2-8-32_in1k', (7, 7, 7, 7), (1, 2, 8, 32)),
        ('ablation/biformer_stl_k2-8-32-49_in1k', (7, 7, 7, 7), (2, 8, 32, 49)),
        ('ablation/biformer_stl_s8-4-2-1_in1k', (8, 4, 2, 1), (2, 2, 2, 1)),
    ],
)
def test_rows_of_table_7(name, num_regions, topks):
    cfg = load(name).model.backbone
    cfg.pop('type')
    model = BiFormer(**cfg)
    for stage, regions, topk in zip(model.stages, num_regions, topks):
        for block in stage:
            if topk == regions**2 and type(block.attn) is FullAttention:
                continue
            assert type(block.attn) is BiLevelRoutingAttention
            assert (block.attn.num_regions, block.attn.topk) == (regions, topk)


# What one ablation changes of the config that it inherits.
@pytest.mark.parametrize(
    'name, base, change',
    [
        ('biformer_stl_conv-stem_in1k', 'stl', dict(stem='conv')),
        ('biformer_stl_pos-conv_in1k', 'stl', dict(pos_conv=True)),
        (
            'biformer_stl_deep_in1k',
            'stl',
            dict(embed_dims=(64, 128, 256, 512), depths=(4, 4, 18, 4), mlp_ratio=3),
        ),
        ('biformer_s_patch-stem_in1k', 'small', dict(stem='patch')),
        ('biformer_s_no-pos-conv_in1k', 'small', dict(pos_conv=False)),
    ],
)
def test_ablations_change_one_thing(name, base, change):
    arch = load(f'ablation/{name}').model.backbone.arch
    assert parse_arch(arch) == parse_arch(dict(BiFormer.arch_zoo[base], **change))
