"""Whole models of the forks of mmdet 2 and mmseg 0.x, by their names.

The names below are those of mmdet 2.28.2 and mmseg 0.30.0.
"""

import golden
import pytest
import torch
from config_checks import build, load

from biformer_mm.checkpoint import CheckpointError, convert_model, load_model

CLASSES = ('cat', 'dog')


def affine(*layers):
    return {f'{layer}.{kind}' for layer in layers for kind in ('weight', 'bias')}


def normed(*layers):
    """A convolution without bias and its batch norm."""
    norm = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    return {
        f'{layer}.{name}'
        for layer in layers
        for name in ('conv.weight', *(f'bn.{kind}' for kind in norm))
    }


def numbered(layer, count):
    return [layer.format(i) for i in range(count)]


def fpn(levels_in, levels_out):
    return affine(
        *numbered('neck.lateral_convs.{}.conv', levels_in),
        *numbered('neck.fpn_convs.{}.conv', levels_out),
    )


OLD_NAMES = {
    'retinanet_biformer_s_1x': fpn(3, 5)
    | affine(
        *numbered('bbox_head.cls_convs.{}.conv', 4),
        *numbered('bbox_head.reg_convs.{}.conv', 4),
        'bbox_head.retina_cls',
        'bbox_head.retina_reg',
    ),
    'mask_rcnn_biformer_s_1x': fpn(4, 4)
    | affine(
        'rpn_head.rpn_conv',
        'rpn_head.rpn_cls',
        'rpn_head.rpn_reg',
        *numbered('roi_head.bbox_head.shared_fcs.{}', 2),
        'roi_head.bbox_head.fc_cls',
        'roi_head.bbox_head.fc_reg',
        *numbered('roi_head.mask_head.convs.{}.conv', 4),
        'roi_head.mask_head.upsample',
        'roi_head.mask_head.conv_logits',
    ),
    'semantic_fpn_biformer_s_80k': fpn(4, 4)
    | affine('decode_head.conv_seg')
    | normed(
        'decode_head.scale_heads.0.0',
        'decode_head.scale_heads.1.0',
        *numbered('decode_head.scale_heads.2.{}', 3)[::2],
        *numbered('decode_head.scale_heads.3.{}', 5)[::2],
    ),
    'upernet_biformer_s_160k': affine('decode_head.conv_seg', 'auxiliary_head.conv_seg')
    | normed(
        *numbered('decode_head.psp_modules.{}.1', 4),
        'decode_head.bottleneck',
        *numbered('decode_head.lateral_convs.{}', 3),
        *numbered('decode_head.fpn_convs.{}', 3),
        'decode_head.fpn_bottleneck',
        'auxiliary_head.convs.0',
    ),
}


def small(name, layout=0):
    """A recipe's config with the golden network for its backbone."""
    cfg = load(name)
    arch = golden.small_arch()[layout]
    dims = list(arch['embed_dims'])
    cfg.model.backbone.arch = arch
    if 'retinanet' in name:
        cfg.model.neck.in_channels = dims[1:]
    elif (cfg.model.get('neck') or {}).get('type') == 'FPN':
        cfg.model.neck.in_channels = dims
    elif 'decode_head' in cfg.model:
        cfg.model.decode_head.in_channels = dims
        cfg.model.auxiliary_head.in_channels = dims[2]
    else:
        cfg.model.head.in_channels = dims[3]
        cfg.model.head.num_classes = 10
    return cfg


def released(name):
    """A fork's checkpoint, and the model whose head it has."""
    model = build(small(name), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
        for key, buffer in model.named_buffers():
            if 'running' in key:
                buffer.uniform_(0.5, 1.5)
    state = model.state_dict()
    # Today's names are the old ones.
    assert {k for k in state if not k.startswith('backbone.')} == OLD_NAMES[name]
    weights = {
        f'backbone.{key}': value
        for key, value in golden.section(golden.load('backbone_state'), 'state').items()
    }
    weights.update((key, state[key]) for key in sorted(OLD_NAMES[name]))
    return dict(
        state_dict=weights, meta=dict(mmcv_version='1.7', CLASSES=CLASSES), optimizer=dict(state={})
    ), model


def head_outputs(name, model, maps):
    """What necks and heads make of the backbone's maps, before decoding."""
    maps = model.neck(maps) if model.with_neck else maps
    if name.startswith('retinanet'):
        return [x for level in model.bbox_head(maps) for x in level]
    if name.startswith('mask_rcnn'):
        pooled = torch.randn(2, 256, 14, 14, generator=torch.Generator().manual_seed(0))
        return [
            *(x for level in model.rpn_head(maps) for x in level),
            *model.roi_head.bbox_head(pooled[..., ::2, ::2]),
            model.roi_head.mask_head(pooled),
        ]
    heads = [model.decode_head]
    if model.with_auxiliary_head:
        heads.append(model.auxiliary_head)
    return [head(maps) for head in heads]


@pytest.mark.first_tier(2)
@pytest.mark.parametrize('name', OLD_NAMES)
@torch.no_grad()
def test_whole_models_are_exact(name):
    checkpoint, model = released(name)
    converted = convert_model(checkpoint)
    assert converted.task == (
        'seg' if 'decode_head.conv_seg.weight' in checkpoint['state_dict'] else 'det'
    )
    assert converted.meta == dict(dataset_meta=dict(classes=CLASSES))
    cfg = small(name)
    arrays = golden.load('backbone_s8_divisible')
    cfg.model.backbone.num_regions = arrays['n_win'].item()
    ours = build(cfg).eval()
    ours.load_state_dict(converted.weights, strict=True)

    maps = ours.backbone(arrays['x'])
    stages = ours.backbone.out_indices
    assert len(maps) == len(stages) >= 3
    for stage, out in zip(stages, maps):
        golden.assert_close(out, arrays[f'out/{stage}'], golden.OUT_RTOL, f'out/{stage}')
    expected = head_outputs(name, model, maps)
    actual = head_outputs(name, ours, maps)
    assert len(actual) == len(expected) > 0
    for out, wanted in zip(actual, expected):
        assert out.std() > 0 and torch.equal(out, wanted)


@pytest.mark.parametrize('golden_name, layout', [('classifier_s7', 0), ('classifier_stl_s7', 1)])
@pytest.mark.parametrize('token_labelling', [False, True])
@torch.no_grad()
def test_classifiers_are_exact(golden_name, layout, token_labelling):
    arrays = golden.load(golden_name)
    weights = golden.section(arrays, 'state')
    if token_labelling:
        weights['aux_head.weight'] = torch.zeros(10, 96)
    converted = convert_model(dict(model=weights, epoch=300))
    assert converted.task == 'cls' and converted.meta == {}
    assert ('epoch', 'training state') in converted.dropped
    assert (('aux_head.weight', "token labelling's head") in converted.dropped) == token_labelling
    model = build(small('biformer_s_in1k', layout)).eval()
    model.load_state_dict(converted.weights, strict=True)
    logits = model.head(model.extract_feat(arrays['x']))
    golden.assert_close(logits, arrays['out'], golden.OUT_RTOL, 'logits')


@torch.no_grad()
def test_heads_of_token_labelling_are_kept_for_their_classifier(tmp_path):
    arrays = golden.load('classifier_s7')
    weights = golden.section(arrays, 'state')
    classes, channels = weights['head.weight'].shape
    weights['aux_head.weight'] = torch.randn(classes, channels)
    weights['aux_head.bias'] = torch.randn(classes)
    converted = convert_model(weights, token_head=True)
    assert converted.task == 'cls' and not converted.dropped
    assert converted.origins['head.aux_head.weight'] == 'aux_head.weight'
    model = build(small('biformer_s_token_label_in1k')).eval()
    model.load_state_dict(converted.weights, strict=True)
    # The released classifier's logits, and half the best of its tokens.
    tokens = model.backbone(arrays['x'])[-1].flatten(2).transpose(1, 2)
    dense = tokens @ weights['aux_head.weight'].T + weights['aux_head.bias']
    expected = arrays['out'] + 0.5 * dense.amax(1)
    golden.assert_close(model(arrays['x']), expected, golden.OUT_RTOL, 'logits')
    again = convert_model(converted.weights, token_head=True)
    assert again.weights.keys() == converted.weights.keys()
    path = str(tmp_path / 'released.pth')
    torch.save(weights, path)
    loaded = build(small('biformer_s_token_label_in1k'), seed=1).eval()
    load_model(loaded, path)
    assert torch.equal(loaded(arrays['x']), model(arrays['x']))
    del weights['aux_head.weight']
    torch.save(weights, path)
    with pytest.raises(CheckpointError, match=r': missing: head\.aux_head\.weight$'):
        load_model(loaded, path)


def test_everything_is_accounted_for():
    checkpoint, _ = released('retinanet_biformer_s_1x')
    weights = checkpoint['state_dict']
    ema = {f'ema_{k.replace(".", "_")}': v for k, v in weights.items()}
    checkpoint['state_dict'] = {**weights, **ema}
    before = set(checkpoint['state_dict'])
    converted = convert_model(checkpoint)
    assert set(checkpoint['state_dict']) == before  # it was not changed
    assert set(converted.origins) == set(converted.weights)
    dropped = dict(converted.dropped)
    assert len(dropped) == len(converted.dropped)
    assert {*converted.origins.values(), *dropped} == before | {'optimizer'}
    assert not dropped.keys() & set(converted.origins.values())
    assert dropped['optimizer'] == 'training state'
    assert all(dropped[key] == 'running average (EMA)' for key in ema)
    # RetinaNet's neck starts at stride 8.
    assert {k for k in dropped if k.startswith('backbone.')} == {
        'backbone.extra_norms.0.weight',
        'backbone.extra_norms.0.bias',
    }
    for name, origin in converted.origins.items():
        assert torch.equal(
            converted.weights[name], weights[origin].reshape(converted.weights[name].shape)
        )


def test_a_backbone_alone_keeps_our_names():
    weights = golden.section(golden.load('backbone_state'), 'state')
    for given in (weights, {f'backbone.{k}': v for k, v in weights.items()}):
        converted = convert_model(given)
        assert converted.task is None
        assert torch.equal(
            converted.weights['stem.0.weight'], weights['downsample_layers.0.0.weight']
        )
        assert set(converted.origins.values()) == set(given)


def test_our_own_models_pass_unchanged():
    checkpoint, _ = released('upernet_biformer_s_160k')
    once = convert_model(checkpoint)
    again = convert_model(
        dict(
            state_dict=once.weights,
            meta=dict(once.meta, epoch=3),
            message_hub={},
            ema_state_dict={},
        )
    )
    assert list(again.weights) == list(once.weights)
    assert all(again.weights[k] is v for k, v in once.weights.items())
    assert all(ours == theirs for ours, theirs in again.origins.items())
    assert again.meta == once.meta
    assert again.dropped == [
        ('message_hub', 'training state'),
        ('ema_state_dict', 'running average (EMA)'),
    ]


def test_task_must_be_what_is_there():
    weights = golden.section(golden.load('classifier_s7'), 'state')
    assert convert_model(weights, 'cls').task == 'cls'
    with pytest.raises(
        CheckpointError, match='^a.pth is a classifier, not a detector; leave the task '
    ):
        convert_model(weights, 'det', 'a.pth')
    del weights['head.weight'], weights['head.bias']
    with pytest.raises(CheckpointError, match='is only a backbone, not a cl'):
        convert_model(weights, 'cls')


@pytest.mark.parametrize('name', ['encoder.layers.0.weight', 'bbox.weight'])
def test_unknown_parts_are_named(name):
    checkpoint, _ = released('retinanet_biformer_s_1x')
    checkpoint['state_dict'][name] = torch.zeros(1)
    with pytest.raises(
        CheckpointError,
        match=rf'^a.pth is not a BiFormer classifier, .* 1 of its \d+ '
        f'names are of none: {name}; give',
    ):
        convert_model(checkpoint, source='a.pth')
