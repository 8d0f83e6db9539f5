"""The strict loader of pretrained backbones: what it takes, refuses, logs."""

import logging
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import golden
import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.model import ExponentialMovingAverage
from mmengine.runner.checkpoint import load_state_dict
from torch import nn

from biformer_mm.checkpoint import (
    CheckpointError,
    convert_state_dict,
    load,
    load_model,
    load_pretrained,
)
from biformer_mm.models import BiFormer


def released():
    """A released backbone's weights and the arch that they fit."""
    state = golden.section(golden.load('backbone_state'), 'state')
    return state, golden.small_arch()[0]


def build(arch, **kwargs):
    torch.manual_seed(0)
    return BiFormer(arch, num_regions=8, **kwargs)


def save(state, tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save(state, path)
    return str(path)


def pretrained(path, **kwargs):
    return dict(type='Pretrained', checkpoint=path, **kwargs)


def whole(state, **parts):
    """A whole model's weights: a backbone's and one tensor for each part."""
    weights = {f'backbone.{name}': value for name, value in state.items()}
    for part, count in parts.items():
        for i in range(count):
            weights[f'{part}.{i}.weight'] = torch.zeros(1)
    return dict(state_dict=weights, meta=dict(CLASSES=('a',)), optimizer={})


@pytest.fixture
def log(monkeypatch):
    """(level, line) of what was logged."""
    lines = []

    def print_log(line, logger, level=logging.INFO):
        lines.append((level, line))

    monkeypatch.setattr(load, 'print_log', print_log)
    monkeypatch.setattr('biformer_mm.models.backbones.biformer.print_log', print_log)
    return lines


def assert_has_released(model):
    for name, value in convert_state_dict(released()[0]).items():
        if name in model.state_dict():
            assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize('ours', [False, True])
def test_takes_a_backbone(ours, tmp_path, log):
    state, arch = released()
    if ours:
        state = convert_state_dict(state)
    model = build(arch, init_cfg=pretrained(save(state, tmp_path)))
    model.init_weights()
    assert_has_released(model)
    ((level, line),) = log
    count = len(model.state_dict())
    assert level == logging.INFO
    assert line.startswith(f'BiFormer: {count} of {count} tensors from ')
    renamed = sum(name not in model.state_dict() for name in state)
    assert (renamed == 0) == ours
    assert f', {renamed} of them renamed' in line
    example = 'renamed, as downsample_layers.0.0.weight -> stem.0.weight;'
    assert (example in line) != ours
    assert line.endswith('left over: none; kept as initialised: none')


def test_takes_a_path_object(tmp_path, log):
    state, arch = released()
    model = build(arch)
    load_pretrained(model, Path(save(state, tmp_path)))
    assert_has_released(model)


@pytest.mark.parametrize(
    'parts, left_over',
    [
        (dict(neck=16, bbox_head=20), 'neck (16 tensors), bbox_head (20 tensors)'),
        (dict(decode_head=3, ema_backbone=2), 'decode_head (3 tensors), ema_* (2 tensors)'),
        (dict(head=2), 'head (2 tensors)'),
    ],
)
def test_takes_part_of_a_whole_model(parts, left_over, tmp_path, log):
    state, arch = released()
    if 'ema_backbone' in parts:  # its names have no dots
        parts = dict(parts)
        count = parts.pop('ema_backbone')
        checkpoint = whole(state, **parts)
        checkpoint['state_dict'].update({f'ema_backbone_{i}': torch.zeros(1) for i in range(count)})
    else:
        checkpoint = whole(state, **parts)
    path = save(checkpoint, tmp_path)
    model = build(arch, init_cfg=pretrained(path))
    model.init_weights()
    assert_has_released(model)
    ((_, line),) = log
    assert f'left over: {left_over}; kept' in line


@pytest.mark.parametrize('prefix', ['teacher.backbone', 'teacher.backbone.'])
def test_takes_what_is_below_a_prefix(prefix, tmp_path, log):
    state, arch = released()
    other = {f'student.{k}': torch.zeros_like(v) for k, v in state.items()}
    path = save({**other, **{f'teacher.backbone.{k}': v for k, v in state.items()}}, tmp_path)
    model = build(arch, init_cfg=pretrained(path, prefix=prefix))
    model.init_weights()
    assert_has_released(model)
    assert f'left over: student ({len(state)} tensors);' in log[0][1]
    model = build(arch, init_cfg=pretrained(path, prefix='encoder'))
    with pytest.raises(
        CheckpointError,
        match=r"no key .* starts with 'encoder\.'; they start with "
        'student, teacher$',
    ):
        model.init_weights()


def test_names_what_a_classifier_leaves_over(tmp_path, log):
    state = golden.section(golden.load('classifier_s7'), 'state')
    state['aux_head.weight'] = torch.zeros(10, 96)
    arch = golden.small_arch()[0]
    model = build(arch, init_cfg=pretrained(save(state, tmp_path)))
    norm = model.out_norms['3'].weight.clone()
    model.init_weights()
    assert torch.equal(model.stem[0].weight, state['downsample_layers.0.0.weight'])
    # A batch norm's weights are not a layer norm's, though they would fit.
    assert torch.equal(model.out_norms['3'].weight, norm)
    ((_, line),) = log
    left_over, fresh = line.split('left over: ')[1].split('kept as initialised: ')
    assert 'head.fc.weight' in left_over and 'aux_head.weight' in left_over
    assert 'out_norms.3.running_mean' in left_over
    assert all(f'out_norms.{i}.bias' in fresh for i in range(4))


MISFITS = [
    (lambda s: s.pop('stages.1.0.norm1.weight'), 'missing: stages.1.0.norm1.weight$'),
    (
        lambda s: s.update({'stages.0.7.mlp.0.bias': torch.zeros(3)}),
        'unexpected: stages.0.7.mlp.fc1.bias$',
    ),
    (
        lambda s: s.update({'stages.0.0.norm1.bias': torch.zeros(3)}),
        r'of another shape: stages.0.0.norm1.bias \(3,\), not \(32,\)$',
    ),
    (lambda s: s.update({'layers.0.weight': torch.zeros(3)}), 'unexpected: layers.0.weight$'),
]


@pytest.mark.parametrize('change, message', MISFITS)
def test_refuses_what_does_not_fit(change, message, tmp_path, log):
    state, arch = released()
    change(state)
    path = save(state, tmp_path)
    model = build(arch, init_cfg=pretrained(path))
    before = model.stem[0].weight.clone()
    with pytest.raises(
        CheckpointError, match=f'{path} does not fit this BiFormer, check its arch .*{message}'
    ):
        model.init_weights()
    assert torch.equal(model.stem[0].weight, before) and not log


@pytest.mark.parametrize('change, message', MISFITS)
def test_passes_misfits_over_when_not_strict(change, message, tmp_path, log):
    state, arch = released()
    change(state)
    model = build(arch)
    kept = model.stages[0][0].norm1.bias.clone()
    load_pretrained(model, save(state, tmp_path), strict=False)
    assert torch.equal(model.stem[0].weight, state['downsample_layers.0.0.weight'])
    given = state['stages.0.0.norm1.bias']
    assert torch.equal(model.stages[0][0].norm1.bias, given if len(given) == 32 else kept)
    ((level, line),) = log
    assert level == logging.WARNING
    expected = 'passed over (strict=False): ' + message.replace('\\', '')
    assert line.endswith(expected.rstrip('$'))


@pytest.mark.parametrize(
    'arch, cure',
    [
        ('tiny', "set arch to 'tiny'$"),
        (dict(BiFormer.arch_zoo['tiny'], depths=(1, 1, 1, 1)), 'set arch to a dict with these$'),
    ],
)
def test_names_another_architecture(arch, cure, tmp_path):
    path = save(build(arch).state_dict(), tmp_path)
    model = build('small', init_cfg=pretrained(path))
    depths = r'\(2, 2, 8, 2\)' if arch == 'tiny' else r'\(1, 1, 1, 1\)'
    with pytest.raises(
        CheckpointError,
        match=f'{path} is of another architecture: embed_dims '
        rf'\(64, 128, 256, 512\) and depths {depths}, the model has '
        rf'\(64, 128, 256, 512\) and \(4, 4, 18, 4\); {cure}',
    ):
        model.init_weights()


def assert_is_the_start_of_the_released(backbone):
    arrays = golden.load('backbone_s8_divisible')
    with torch.no_grad():
        maps = backbone.eval()(arrays['x'])
    assert len(maps) == 3
    for i, out in enumerate(maps):
        golden.assert_close(out, arrays[f'out/{i}'], golden.OUT_RTOL, f'out/{i}')


@pytest.mark.parametrize('ours', [False, True])
def test_leaves_out_stages_that_are_not_built(ours, tmp_path, log):
    state, arch = released()
    if ours:
        state = convert_state_dict(state)
    model = build(arch, out_indices=(0, 1, 2), init_cfg=pretrained(save(state, tmp_path)))
    model.init_weights()
    ((level, line),) = log
    assert level == logging.INFO
    left_over = line.split('left over: ')[1].split('; kept')[0].split(', ')
    count = sum(n.startswith('stages.3.') for n in convert_state_dict(state))
    expected = [
        'downsamples.2 (7 tensors)',
        'out_norms.3 (2 tensors)',
        f'stages.3 ({count} tensors)',
    ]
    assert sorted(left_over) == expected
    assert line.endswith('kept as initialised: none')
    assert_is_the_start_of_the_released(model)


def load_averaged(model, state):
    averaged = ExponentialMovingAverage(model)
    averaged.load_state_dict(
        {'steps': torch.tensor(1), **{f'module.{n}': t for n, t in state.items()}}
    )
    model.load_state_dict(averaged.module.state_dict())


@pytest.mark.parametrize(
    'load_weights, prefix',
    [
        (lambda model, state: model.load_state_dict(state, strict=True), 'backbone.'),
        (lambda model, state: load_state_dict(model, state, strict=True), 'backbone.'),
        (load_averaged, 'module.backbone.'),
    ],
    ids=['torch', 'mmengine', 'ema'],
)
def test_whole_models_load_into_shorter_ones(load_weights, prefix, log):
    state, arch = released()
    state = {f'backbone.{n}': t for n, t in convert_state_dict(state).items()}
    given = list(state)
    model = nn.ModuleDict(dict(backbone=build(arch, out_indices=(0, 1, 2))))
    load_weights(model, state)
    assert list(state) == given  # the caller's own is not changed
    parts = [f'{prefix}{part}' for part in ('downsamples.2', 'out_norms.3', 'stages.3')]
    count = len(state) - len(model.state_dict())
    ((_, line),) = log
    assert line == (
        f'BiFormer: left out {", ".join(parts)} ({count} tensors); '
        'out_indices=(0, 1, 2) needs no later stages'
    )
    assert_is_the_start_of_the_released(model.backbone)
    state['backbone.stages.2.9.norm1.weight'] = torch.zeros(3)
    with pytest.raises(RuntimeError, match='stages.2.9.norm1.weight'):
        model.load_state_dict(state)


@pytest.mark.parametrize('ours', [False, True])
def test_whole_models_are_inferred_by_shorter_ones(ours, tmp_path, log):
    state, arch = released()
    if ours:
        state = convert_state_dict(state)
    checkpoint = whole(state)
    checkpoint['state_dict']['decode_head.weight'] = torch.full((2, 2), 3.0)
    path = save(checkpoint, tmp_path)
    parts = dict(
        backbone=build(arch, out_indices=(0, 1, 2)), decode_head=nn.Linear(2, 2, bias=False)
    )
    model = nn.ModuleDict(parts)
    load_model(model, path)
    assert_is_the_start_of_the_released(model.backbone)
    assert torch.equal(model.decode_head.weight, checkpoint['state_dict']['decode_head.weight'])
    assert [line.partition(' (')[0] for _, line in log] == [
        'BiFormer: left out backbone.downsamples.2, backbone.out_norms.3, backbone.stages.3'
    ]
    checkpoint['state_dict'].pop('decode_head.weight')
    checkpoint['state_dict']['decode_head.bias'] = torch.zeros(2)
    with pytest.raises(
        CheckpointError, match=r': unexpected: decode_head\.bias; missing: decode_head\.weight$'
    ):
        load_model(model, save(checkpoint, tmp_path))


def test_shorter_backbones_check_the_architecture_of_their_stages(tmp_path):
    path = save(build('tiny').state_dict(), tmp_path)
    model = build('small', out_indices=(1, 2), init_cfg=pretrained(path))
    with pytest.raises(
        CheckpointError, match=r"depths \(2, 2, 8\), the model has .*; set arch to 'tiny'$"
    ):
        model.init_weights()


def test_names_stages_that_a_checkpoint_lacks(tmp_path):
    _, arch = released()
    path = save(build(arch, out_indices=(0, 1)).state_dict(), tmp_path)
    model = build(arch, init_cfg=pretrained(path))
    with pytest.raises(
        CheckpointError,
        match=f"{path} has only the first 2 of the model's 4 stages; set out_indices to stages "
        'below 2, or strict=False in init_cfg$',
    ):
        model.init_weights()


@pytest.mark.parametrize('strict', [True, False])
def test_refuses_another_network(strict, tmp_path):
    path = save({'layer1.0.conv1.weight': torch.zeros(4, 4)}, tmp_path)
    with pytest.raises(
        CheckpointError,
        match=f'{path} is not a BiFormer: none of its 1 weights fits, '
        'such as layer1.0.conv1.weight;',
    ):
        load_pretrained(build(released()[1]), path, strict=strict)


def test_another_number_of_regions_and_size_needs_no_change(tmp_path):
    state, arch = released()
    path = save(state, tmp_path)
    for num_regions in (4, 7, 16, 'auto'):
        model = BiFormer(arch, num_regions, init_cfg=pretrained(path))
        model.init_weights()
        assert_has_released(model)
        for size in ((224, 224), (96, 160)):
            outs = model(torch.zeros(1, 3, *size))
            assert outs[0].shape[2:] == (size[0] // 4, size[1] // 4)


def test_init_cfg_passes_its_options_on(tmp_path, log):
    state, arch = released()
    state['layers.0.weight'] = torch.zeros(3)
    path = save(state, tmp_path)
    model = build(arch, init_cfg=pretrained(path, strict=False, trust=True))
    model.init_weights()
    assert_has_released(model)
    assert 'passed over (strict=False): unexpected: layers' in log[0][1]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """URL under which the files of tmp_path / 'site' are served."""
    site = tmp_path / 'site'
    site.mkdir()
    http = HTTPServer(('127.0.0.1', 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{http.server_port}'
    http.shutdown()
    http.server_close()


def test_takes_a_url_and_keeps_the_file(server, tmp_path, monkeypatch, log):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    state, arch = released()
    served = save(state, tmp_path / 'site')
    url = f'{server}/checkpoint.pth?key=t0ken'.replace('//', '//us3r:passw0rd@', 1)
    for _ in range(2):
        model = build(arch, init_cfg=pretrained(url))
        model.init_weights()
        assert_has_released(model)
        open(served, 'w').close()  # must not be asked for again
    assert f'tensors from {server}/checkpoint.pth, ' in log[0][1]  # without credentials


@pytest.mark.parametrize('url', ['{}/gone.pth', 'http://127.0.0.1:9/a.pth'])
def test_a_dead_link_is_named(url, server, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    url = url.format(server)
    with pytest.raises(
        CheckpointError, match=f'^{url} cannot be fetched .*; give the path of a copy$'
    ):
        load_pretrained(build(released()[1]), url)
    assert not list((tmp_path / 'torch').rglob('*.pth'))


def test_takes_what_mmengine_has_storage_for(tmp_path, log):

    class Store(LocalBackend):
        """Files of tmp_path by the name in the URL."""

        def get_local_path(self, filepath):
            return super().get_local_path(tmp_path / filepath.partition('://')[2])

    register_backend('biformer_test', Store, prefixes='bifstore', force=True)
    state, arch = released()
    save(state, tmp_path)
    model = build(arch, init_cfg=pretrained('bifstore://checkpoint.pth'))
    model.init_weights()
    assert_has_released(model)
    assert 'tensors from bifstore://checkpoint.pth' in log[0][1]
