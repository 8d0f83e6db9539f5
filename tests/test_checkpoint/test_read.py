"""Checkpoint files are read as data, and refused with the cause."""

import argparse
import io
import os
import pickle
import struct
import tarfile
import threading
from collections import OrderedDict

import golden
import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from plain_runner import run_without_openmmlab
from torch import nn

from biformer_mm.checkpoint import CheckpointError, read_checkpoint
from biformer_mm.checkpoint.read import Placeholder

# Before, torch reads weights and nothing beside them.
HAS_SAFE_GLOBALS = hasattr(torch.serialization, 'add_safe_globals')


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, x, mode):
        return dict(loss=self.fc(x).mean())


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A checkpoint as MMEngine's runner writes it."""
    work_dir = tmp_path_factory.mktemp('work_dir')
    data = [dict(x=torch.ones(2)) for _ in range(2)]
    Runner(
        Toy(),
        str(work_dir),
        train_dataloader=dict(
            dataset=data,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
            batch_size=1,
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW')),
        param_scheduler=dict(type='LinearLR', start_factor=0.1),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        experiment_name='toy',
    ).train()
    return str(work_dir / 'epoch_1.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_reads_weights(zipped, tmp_path):
    path = tmp_path / 'a.pth'
    state = dict(model={'w': torch.randn(3, 4)}, epoch=7)
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    loaded = read_checkpoint(str(path))
    assert loaded['epoch'] == 7
    assert torch.equal(loaded['model']['w'], state['model']['w'])


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch before 2.4')
def test_reads_a_training_checkpoint_without_trust(trained):
    expected = torch.load(trained, weights_only=False)
    history = expected['message_hub']['log_scalars']['train/loss']
    assert len(history.data[0]) == 2
    loaded = read_checkpoint(trained)
    assert loaded['meta']['iter'] == 2
    for name, value in expected['state_dict'].items():
        assert torch.equal(loaded['state_dict'][name], value)
    # Statistics are not revived, whatever their names call.
    placeholder = loaded['message_hub']['log_scalars']['train/loss']
    assert isinstance(placeholder, Placeholder)
    assert placeholder.name.endswith('HistoryBuffer')
    assert not hasattr(placeholder, 'data')


@pytest.mark.skipif(HAS_SAFE_GLOBALS, reason='torch 2.4 and later read it')
def test_old_torch_reads_a_training_checkpoint_with_trust(trained):
    with pytest.raises(
        CheckpointError,
        match=f'{trained} holds .*HistoryBuffer beside weights, which '
        'torch .* cannot read as data; use torch >= 2.6',
    ):
        read_checkpoint(trained)
    assert read_checkpoint(trained, trust=True)['meta']['iter'] == 2


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch before 2.4')
def test_names_beside_weights_are_placeholders(tmp_path):
    path = str(tmp_path / 'a.pth')
    beside = dict(
        args=argparse.Namespace(lr=1),
        best=np.float64(0.5),
        counts=np.arange(3),
        called=Calls(getattr, 'text', 'upper'),
    )
    torch.save(dict(model={'w': torch.ones(1)}, **beside), path)
    loaded = read_checkpoint(path)
    assert loaded['model']['w'] == 1
    for name, value in beside.items():
        assert isinstance(loaded[name], Placeholder), name
        assert not isinstance(loaded[name], type(value)), name
        assert not callable(loaded[name]), name
    # What its name was to be called with, which it was not.
    assert loaded['called'].name == 'builtins.getattr'
    assert loaded['called'].args == ('text', 'upper')
    assert loaded['args'].state == dict(lr=1)


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch before 2.4')
def test_what_others_allow_stays_theirs(tmp_path):
    path = str(tmp_path / 'a.pth')
    torch.save(dict(w=torch.ones(1), text=Calls(getattr, 'a', 'upper')), path)
    before = set(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals([getattr])
    try:
        assert not callable(read_checkpoint(path)['text'])
        after = set(torch.serialization.get_safe_globals())
        assert after == before | {getattr}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


@pytest.mark.parametrize('zipped', [True, False])
def test_only_trust_runs_code(zipped, tmp_path):
    path, proof = str(tmp_path / 'a.pth'), tmp_path / 'proof'
    torch.save(
        dict(model={'w': torch.ones(1)}, args=Runs(f'touch {proof}')),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(
        CheckpointError,
        match=f'^{path} would run code when read: its pickle asks for '
        r'posix\.system; .*set trust=True in the call or in init_cfg$',
    ):
        read_checkpoint(path)
    assert not proof.exists()
    assert read_checkpoint(path, trust=True)['args'] == 0
    assert proof.exists()


def test_another_protocol_is_refused(tmp_path):
    path, proof = str(tmp_path / 'a.pth'), tmp_path / 'proof'
    torch.save(dict(w=torch.ones(1), args=Runs(f'touch {proof}')), path, pickle_protocol=4)
    with pytest.raises(CheckpointError, match='goes beyond weights; get a'):
        read_checkpoint(path)
    assert not proof.exists()


def saved(state, **kwargs):
    file = io.BytesIO()
    torch.save(state, file, **kwargs)
    return file.getvalue()


def archive(name):
    """A tar file whose first member has that name."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=tarfile.GNU_FORMAT, encoding='latin-1') as tar:
        tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def scripted():
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
    return file.getvalue()


def two_directories():
    """TorchScript to torch, which goes by the offset at the end; to zipfile,
    which takes the directory before the end, a checkpoint."""
    content = scripted()
    start = content.index(b'PK\x01\x02')
    directory = content[start : content.index(b'PK\x06\x06')]
    count = directory.count(b'PK\x01\x02')
    end = struct.pack('<4s4H2IH', b'PK\x05\x06', 0, 0, count, count, len(directory), start, 0)
    other = directory.replace(b'constants.pkl', b'constants.txt')
    return content[:start] + directory + other + end


WEIGHTS = dict(w=torch.arange(9999.0))
ZIP = saved(WEIGHTS)
LEGACY = saved(WEIGHTS, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'is empty; get it again$'),
        (
            b'\n <!DOCTYPE html><html>Not Found</html>',
            'is a web page, not a checkpoint: .* dead or wants a login',
        ),
        (b'not a checkpoint', 'is no checkpoint: it must be a file written by'),
        (pickle.dumps(dict(w=1)), 'is no checkpoint'),
        (scripted(), r'is no checkpoint: .*\(TorchScript, .* are not\); give one'),
        (two_directories(), 'is no checkpoint'),
        (archive('pickle'), 'is no checkpoint'),
        (archive(LEGACY[:15].decode('latin-1')), 'is no checkpoint'),
        (ZIP[:3000], 'is truncated: its end is missing; compare'),
        (ZIP[:-1], 'is truncated'),
        (
            ZIP.replace(b'PK\x01\x02', b'PK\x00\x00'),
            r'is truncated or damaged \(Bad magic number .*\); compare',
        ),
        (
            ZIP.replace(b'data.pkl', b'data\xff\xff\xff\xff'),
            r'is truncated or damaged \(.+\); compare',
        ),
        # A disk of several, and a version that no zip file has.
        (
            ZIP.replace(b'PK\x06\x07' + bytes(4), b'PK\x06\x07\2' + bytes(3)),
            r'is truncated or damaged \(.+\); compare',
        ),
        (
            ZIP.replace(b'PK\x01\x02' + bytes(4), b'PK\x01\x02' + 4 * b'\xff'),
            r'is truncated or damaged \(.+\); compare',
        ),
        *(
            (LEGACY[:n], r'is truncated or damaged \(.+\); compare its size or sha')
            for n in (1, 15, 60, 200, len(LEGACY) // 2, len(LEGACY) - 1)
        ),
        (saved([1, 2]), 'holds no weights but a list; give a checkpoint$'),
    ],
)
def test_every_bad_file_has_its_message(content, message, tmp_path):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    for trust in (False, True):
        with pytest.raises(CheckpointError, match=message) as error:
            read_checkpoint(str(path), trust)
        assert str(error.value).startswith(str(path))
        assert '\n' not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(CheckpointError, match='no checkpoint nowhere.pth;'):
        read_checkpoint('nowhere.pth')
    with pytest.raises(CheckpointError, match=f'^{tmp_path} is a folder, .*; give the'):
        read_checkpoint(str(tmp_path))


def test_no_attribute_hides_a_method(tmp_path):
    """A pickle can set some, to a class that weights may name, too."""
    path = str(tmp_path / 'a.pth')
    state, inner = OrderedDict(w=torch.ones(1)), OrderedDict()
    state._metadata = OrderedDict(version=2)
    outer = OrderedDict(state_dict=state, more=[(inner,)])
    for container in (state, state._metadata, inner, outer):
        vars(container)['get'] = OrderedDict
    torch.save(outer, path)
    loaded = read_checkpoint(path)
    found = loaded['state_dict']
    for container in (loaded, found, found._metadata, loaded['more'][0][0]):
        assert container.get('none') is None
    assert found._metadata == dict(version=2)


@pytest.mark.skipif(not HAS_SAFE_GLOBALS, reason='torch before 2.4')
def test_threads_do_not_mix_what_they_allow(trained):
    before = set(torch.serialization.get_safe_globals())
    failures = []

    def read():
        try:
            for _ in range(30):
                read_checkpoint(trained)
        except CheckpointError as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(torch.serialization.get_safe_globals()) == before


def test_works_without_mmengine(tmp_path):
    state = golden.section(golden.load('backbone_state'), 'state')
    torch.save(dict(model=state), tmp_path / 'a.pth')
    output = run_without_openmmlab(
        """
from biformer_mm.checkpoint import (CheckpointError, convert_model,
                                    convert_state_dict, read_checkpoint)
checkpoint = read_checkpoint('a.pth')
print(len(convert_state_dict(checkpoint)))
print(len(convert_model(checkpoint).weights))
try:
    read_checkpoint('b.pth')
except CheckpointError as error:
    print(error)
""",
        cwd=tmp_path,
    )
    count, again, error = output.splitlines()
    assert int(count) == int(again) == len(state)
    assert error.startswith('there is no checkpoint b.pth')
