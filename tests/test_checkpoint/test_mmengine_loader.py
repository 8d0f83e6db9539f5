"""MMEngine's loader of checkpoints, once tools have replaced it."""

import argparse
import codecs
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint
from mmengine.runner.checkpoint import get_external_models
from torch import nn

from biformer_mm.checkpoint import CheckpointError, mmengine_loader
from biformer_mm.checkpoint.mmengine_loader import read_as_data

HAS_SAFE_GLOBALS = hasattr(torch.serialization, 'add_safe_globals')
# A checkpoint of training is read as data by torch >= 2.6 only.
TRUST = not HAS_SAFE_GLOBALS


class Runs:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, x, mode):
        return dict(loss=self.fc(x).mean())


@pytest.fixture(autouse=True)
def schemes():
    """MMEngine's loaders, as they are put back."""
    before = CheckpointLoader._schemes
    CheckpointLoader._schemes = before.copy()
    yield CheckpointLoader._schemes
    CheckpointLoader._schemes = before


def train(work_dir, max_epochs=2, **kwargs):
    """4 iterations in each epoch, with an average and a schedule.

    Returns:
        The runner.
    """
    runner = Runner(
        Toy(),
        str(work_dir),
        train_dataloader=dict(
            dataset=[dict(x=torch.ones(2)) for _ in range(4)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW')),
        param_scheduler=dict(type='LinearLR', start_factor=0.1),
        custom_hooks=[dict(type='EMAHook')],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
        **kwargs,
    )
    runner.train()
    return runner


def test_none_of_mmengines_loaders_is_left(schemes):
    read_as_data(Config())
    left = {
        loader.__module__
        for prefix, loader in CheckpointLoader._schemes.items()
        if prefix in schemes
    }
    assert left == {mmengine_loader.__name__}


@pytest.mark.parametrize('scheme', ['', 'http', 'mmcls', 'open-mmlab'])
def test_only_trust_runs_code(scheme, tmp_path, monkeypatch):
    path, proof = tmp_path / 'a.pth', tmp_path / 'proof'
    model = Toy()
    weights = {f'backbone.{k}': v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=weights, more=Runs(proof)), path)
    name = str(path)
    if scheme:
        monkeypatch.setattr('biformer_mm.checkpoint.download.download', lambda *args: str(path))
        name = 'http://example.org/a.pth'
    if scheme in ('mmcls', 'open-mmlab'):
        monkeypatch.setitem(
            mmengine_loader._LISTS, scheme, lambda: dict(toy='https://example.org/a.pth')
        )
        name = f'{scheme}://toy'
    read_as_data(Config())
    with pytest.raises(CheckpointError, match='would run code.* trust=True'):
        load_checkpoint(model, name)
    assert not proof.exists()
    read_as_data(Config(), trust=True)
    content = load_checkpoint(model, name)
    assert proof.exists()
    prefix = '' if scheme == 'mmcls' else 'backbone.'  # as MMEngine has it
    assert f'{prefix}fc.weight' in content['state_dict']


def test_paths_in_mmengines_home(tmp_path, monkeypatch):
    (tmp_path / 'open_mmlab.json').write_text('{"toy": "toys/toy.pth"}')
    (tmp_path / 'toys').mkdir()
    torch.save(Toy().state_dict(), tmp_path / 'toys' / 'toy.pth')
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    read_as_data(Config())
    assert 'fc.weight' in load_checkpoint(Toy(), 'open-mmlab://toy')


@pytest.mark.parametrize(
    'name, message',
    [
        ('torchvision://resnet5O', "got 'resnet5O': give another, .*resnet50"),
        ('open-mmlab://' + 'x' * 9, 'give another, such as '),
        ('pavi://a.pth', '^pavi://a.pth cannot be fetched '),
        ('s3://bucket/a.pth', '^s3://bucket/a.pth cannot be fetched '),
        ('nowhere.pth', 'there is no checkpoint nowhere.pth'),
    ],
)
def test_what_is_not_there_is_one_line(name, message):
    read_as_data(Config())
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(Toy(), name)
    assert '\n' not in str(error.value)


def test_deprecated_names_still_count(monkeypatch):
    monkeypatch.setattr(mmengine_loader, 'get_deprecated_model_names', lambda: dict(old='new'))
    monkeypatch.setitem(
        mmengine_loader._LISTS, 'openmmlab', lambda: dict(new='https://example.org/a.pth')
    )
    resolve = mmengine_loader._resolve
    assert resolve('openmmlab://old') == 'https://example.org/a.pth'
    name, url = next(iter(get_external_models().items()))
    assert resolve(f'open-mmlab://{name}') == url
    assert resolve('torchvision://resnet50').endswith('.pth')


def test_a_training_resumes_as_a_whole(tmp_path):
    whole = train(tmp_path / 'whole')
    expected = torch.load(tmp_path / 'whole/epoch_2.pth', weights_only=False)
    read_as_data(Config(), TRUST)
    again = train(
        tmp_path / 'again', load_from=str(tmp_path / 'whole' / 'epoch_1.pth'), resume=True
    )
    assert not (tmp_path / 'again' / 'epoch_1.pth').exists()
    found = torch.load(tmp_path / 'again/epoch_2.pth', weights_only=False)
    assert found['meta']['iter'] == 8
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), name
    assert found['param_schedulers'] == expected['param_schedulers']
    for key, state in expected['optimizer']['state'].items():
        for name, value in state.items():
            torch.testing.assert_close(
                found['optimizer']['state'][key][name], value, rtol=0, atol=0
            )
    resumed, history = (run.message_hub.get_scalar('train/loss') for run in (again, whole))
    assert type(resumed) is HistoryBuffer and len(resumed.data[0]) == 8
    for a, b in zip(resumed.data, history.data):
        np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch before 2.4')
def test_what_hooks_keep_is_resumed(tmp_path):
    """The best score, a scaler's state, and numbers wherever they are."""
    path = str(tmp_path / 'a.pth')
    scaler = torch.amp.GradScaler('cpu').state_dict() if hasattr(torch, 'amp') else {}
    torch.save(
        dict(
            state_dict=Toy().state_dict(),
            optimizer=dict(loss_scaler=scaler),
            message_hub=dict(
                runtime_info=dict(best_score=np.float64(0.25)),
                log_scalars={},
                resumed_keys=dict(best_score=True),
            ),
        ),
        path,
    )
    read_as_data(Config())
    content = load_checkpoint(Toy(), path)
    assert content['optimizer']['loss_scaler'] == scaler
    hub = MessageHub('hooks')
    hub.load_state_dict(content['message_hub'])
    assert hub.get_info('best_score') < 0.5


@pytest.mark.parametrize('hide', [None, 'pop', 'get'])
def test_no_config_in_a_checkpoint_is_run(hide, tmp_path):
    """MMEngine's runner would, when it resumes. Nor is it kept by attributes
    that hide the methods of dicts."""
    if hide and not HAS_SAFE_GLOBALS:
        pytest.skip('torch before 2.4 refuses what hides them here')
    train(tmp_path / f'one_{hide}', 1)
    path, proof = tmp_path / f'one_{hide}' / 'epoch_1.pth', tmp_path / 'proof'
    content = OrderedDict(torch.load(path, weights_only=False))
    content['meta'] = OrderedDict(content['meta'], config=f'open({str(proof)!r}, "w").close()')
    if hide == 'pop':
        vars(content['meta'])['pop'] = argparse.Namespace
    elif hide:
        vars(content)['get'] = codecs.encode
    if not HAS_SAFE_GLOBALS:  # which reads no statistics as data
        content['message_hub'].update(log_scalars={}, runtime_info={})
    torch.save(content, path)
    read_as_data(Config())
    again = train(tmp_path / f'two_{hide}', load_from=str(path), resume=True)
    assert again.iter == 8 and not proof.exists()


@pytest.mark.parametrize(
    'best, is_kept',
    [
        ('{here}/best_acc_epoch_3.pth', True),
        ('{here}/../{name}/best_acc_epoch_3.pth', True),
        ('{here}/thesis.pth', False),
        ('{here}/best_acc_epoch_3.pth/../../thesis.pth', False),
        ('{here}/..', False),
        ('{here}/elsewhere/best_acc_epoch_3.pth', False),
        ('/home', False),
        (7, False),
    ],
)
def test_a_checkpoint_names_nothing_else_to_remove(best, is_kept, tmp_path, monkeypatch):
    """MMEngine's CheckpointHook removes the last best one, file or folder,
    and those of too many steps, as the checkpoint it resumes from says."""
    monkeypatch.chdir(tmp_path)
    if isinstance(best, str):
        best = best.format(here=tmp_path, name=tmp_path.name)
    info = dict(best_ckpt=best, best_ckpt_acc=best, best_score=1.0, iter=3)
    names = (
        dict(keep_ckpt_ids=[1, 2]),
        dict(keep_ckpt_ids=['../../a', 2]),
        dict(keep_ckpt_ids='ab'),
    )
    read_as_data(Config())
    for number, ids in enumerate(names):
        hub = dict(runtime_info=dict(info, **ids), log_scalars={}, resumed_keys={})
        torch.save(dict(state_dict=Toy().state_dict(), message_hub=hub), 'a.pth')
        found = load_checkpoint(Toy(), 'a.pth')['message_hub']['runtime_info']
        assert found == dict(
            info,
            best_ckpt=best if is_kept else None,
            best_ckpt_acc=best if is_kept else None,
            keep_ckpt_ids=[1, 2] if number == 0 else [],
        )


def test_trust_reaches_the_backbones():

    def backbone(**init_cfg):
        return dict(type='BiFormer', init_cfg=init_cfg)

    def model():
        return dict(
            backbone=backbone(type='Pretrained', checkpoint='a.pth'),
            teachers=[dict(type='mmengine.BiFormer', init_cfg=dict(type='Pretrained'))],
            other=dict(type='ResNet', init_cfg=dict(type='Pretrained')),
            fresh=backbone(type='Kaiming'),
            none=dict(type='BiFormer', init_cfg=None),
        )

    cfg = Config(dict(model=model()))
    read_as_data(cfg)
    assert cfg.model == model()
    read_as_data(cfg, trust=True)
    expected = model()
    for part in (expected['backbone'], expected['teachers'][0]):
        part['init_cfg']['trust'] = True
    assert cfg.model == expected


def test_the_place_of_the_tensors_is_honoured(tmp_path):
    torch.save(Toy().state_dict(), tmp_path / 'a.pth')
    read_as_data(Config())
    path = os.fspath(tmp_path / 'a.pth')
    content = CheckpointLoader.load_checkpoint(path, map_location='meta')
    assert content['fc.weight'].device.type == 'meta'
