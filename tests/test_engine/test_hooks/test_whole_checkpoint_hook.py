"""Checkpoints are whole or absent."""

import errno
import io
import os
import struct
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import get_file_backend

from biformer_mm.engine.hooks import whole_checkpoint_hook
from biformer_mm.engine.hooks.whole_checkpoint_hook import (
    WholeCheckpointHook,
    WholeFileBackend,
    find_whole_checkpoint,
    is_whole,
    remove_unfinished,
)
from biformer_mm.utils.errors import UsageError


@pytest.fixture
def full_disk(monkeypatch):
    """Every write ends in the middle."""

    def fsync(descriptor):
        os.ftruncate(descriptor, 10)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(whole_checkpoint_hook.os, 'fsync', fsync)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(path):
    torch.save(dict(state_dict=dict(a=torch.rand(9))), path)
    return path


def test_files_appear_whole(tmp_path):
    backend = get_file_backend(backend_args=dict(backend=whole_checkpoint_hook._BACKEND))
    backend.put(b'content', tmp_path / 'new' / 'file')
    assert (tmp_path / 'new' / 'file').read_bytes() == b'content'
    assert names(tmp_path / 'new') == ['file']


def test_a_failed_write_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / 'file'
    path.write_bytes(b'before')
    with pytest.raises(OSError, match='No space left'):
        WholeFileBackend().put(b'after', path)
    assert path.read_bytes() == b'before' and names(tmp_path) == ['file']


def test_what_is_outdated_stays_until_a_checkpoint_is_saved(tmp_path):
    old, new = tmp_path / 'old', tmp_path / 'new'
    for path in (old, new):
        path.write_bytes(b'old')
        WholeFileBackend().remove(path)
    WholeFileBackend().put(b'new', new)  # so that it is not outdated
    assert names(tmp_path) == ['new', 'old']
    run(WholeCheckpointHook(), Runner(tmp_path), [1])
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint', 'new']


def test_the_last_whole_checkpoint_is_found(tmp_path):
    assert find_whole_checkpoint(str(tmp_path / 'nowhere')) is None
    assert find_whole_checkpoint(str(tmp_path)) is None
    for epoch in (2, 9, 10):
        save(tmp_path / f'epoch_{epoch}.pth')
    # Killed before last_checkpoint was written.
    within = save(tmp_path / 'epoch_10_iter_73.pth')
    assert find_whole_checkpoint(str(tmp_path)) == str(within)
    within.unlink()
    last = tmp_path / 'last_checkpoint'
    last.write_text(str(tmp_path / 'epoch_9.pth'))
    found = [find_whole_checkpoint(str(tmp_path))]
    last.write_text('')  # killed while it was written
    found.append(find_whole_checkpoint(str(tmp_path)))
    broken = tmp_path / 'epoch_10.pth'
    broken.write_bytes(broken.read_bytes()[:-20])
    last.write_text(str(broken))
    found.append(find_whole_checkpoint(str(tmp_path)))
    assert found == [str(tmp_path / f'epoch_{epoch}.pth') for epoch in (9, 10, 9)]


def test_every_truncation_is_seen(tmp_path):
    path = save(tmp_path / 'epoch_1.pth')
    content = path.read_bytes()
    assert is_whole(str(path))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert not is_whole(str(path)), length


def test_a_folder_of_deepspeed_has_a_whole_file_of_each_process(tmp_path):
    folder = tmp_path / 'epoch_1.pth'
    folder.mkdir()
    assert not is_whole(str(folder))
    save(folder / 'mp_rank_00_model_states.pt')
    assert is_whole(str(folder))  # all that ZeRO stage 0 writes
    states = [folder / f'zero_pp_rank_{rank}_mp_rank_00_optim_states.pt' for rank in range(3)]
    for path in states:
        save(path)
    assert is_whole(str(folder))
    content = states[1].read_bytes()
    states[1].write_bytes(content[:-1])
    assert not is_whole(str(folder))
    states[1].unlink()
    assert not is_whole(str(folder))


def test_an_end_of_a_part_is_none(tmp_path):
    path = save(tmp_path / 'epoch_1.pth')
    content = path.read_bytes()
    of_three = struct.pack('<4sLQL', b'PK\6\7', 0, 0, 3)
    path.write_bytes(content[:-22] + of_three + content[-22:])
    assert not is_whole(str(path))


def test_what_killed_runs_left_is_removed(tmp_path):
    kept = ['epoch_1.pth', 'epoch_2.pth.tmp', 'notes.1.tmp']
    for name in (*kept, 'epoch_2.pth.4711.tmp'):
        (tmp_path / name).touch()
    remove_unfinished(str(tmp_path))
    assert names(tmp_path) == kept


class Runner:
    """As much of one as the hook asks for."""

    def __init__(self, work_dir):
        self.work_dir, self.epoch, self.iter = str(work_dir), 1, 10
        self.errors = []
        self.logger = SimpleNamespace(info=lambda text: None, error=self.errors.append)
        self.message_hub = SimpleNamespace(runtime_info={})

        self.message_hub.update_info = self.message_hub.runtime_info.__setitem__
        self.message_hub.get_info = self.message_hub.runtime_info.__getitem__

    def save_checkpoint(self, out_dir, filename, *args, backend_args, **kwargs):
        file = io.BytesIO()
        torch.save(dict(a=torch.rand(3)), file)
        backend = get_file_backend(out_dir, backend_args=backend_args)
        backend.put(file.getvalue(), f'{out_dir}/{filename}')


def run(hook, runner, steps):
    hook.before_train(runner)
    for step in steps:
        hook._save_checkpoint_with_step(runner, step, {})


def test_old_checkpoints_are_removed_after_the_new_one_is_there(tmp_path):
    run(WholeCheckpointHook(max_keep_ckpts=2), Runner(tmp_path), range(5))
    assert names(tmp_path) == ['epoch_3.pth', 'epoch_4.pth', 'last_checkpoint']


def test_last_checkpoint_names_one_that_is_there(tmp_path, monkeypatch):
    """Whenever the run is killed: before the old one goes, too."""
    named = []

    def remove(path):
        named.append((tmp_path / 'last_checkpoint').read_text())
        assert named[-1] != path and os.path.exists(named[-1])
        os.unlink(path)

    monkeypatch.setattr(whole_checkpoint_hook.os, 'remove', remove)
    run(WholeCheckpointHook(max_keep_ckpts=1), Runner(tmp_path), range(3))
    assert len(named) == 2


def test_a_full_disk_keeps_what_there_is_and_stops(tmp_path, full_disk, monkeypatch):
    runner, hook = Runner(tmp_path), WholeCheckpointHook(max_keep_ckpts=1)
    with monkeypatch.context() as context:
        context.setattr(whole_checkpoint_hook.os, 'fsync', lambda descriptor: None)
        run(hook, runner, [1])
    with pytest.raises(UsageError) as error:
        hook._save_checkpoint_with_step(runner, 2, {})
    assert str(error.value) == (
        f'the checkpoint of step 2 cannot be written to {tmp_path} (No space '
        f'left on device); the last whole one is {tmp_path}/epoch_1.pth; free '
        'space and go on with --resume'
    )
    assert names(tmp_path) == ['epoch_1.pth', 'last_checkpoint']
    assert find_whole_checkpoint(str(tmp_path)).endswith('epoch_1.pth')


def test_a_full_disk_is_passed_over_if_so_told(tmp_path, full_disk):
    runner = Runner(tmp_path)
    run(WholeCheckpointHook(on_failure='go_on'), runner, [1, 2])
    assert len(runner.errors) == 2 and 'is none' in runner.errors[0]
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    'full, kept, told',
    [
        ('epoch_2.pth', ['best_a_epoch_2.pth', 'epoch_1.pth'], 2),
        ('best_a_epoch_2.pth', ['best_a_epoch_1.pth', 'epoch_2.pth'], 1),
    ],
)
def test_a_failure_removes_neither_the_last_nor_the_best(full, kept, told, tmp_path, monkeypatch):
    """One may have room where the other, of another size, has none."""
    runner = Runner(tmp_path)
    hook = WholeCheckpointHook(on_failure='go_on', max_keep_ckpts=1, save_best='a', rule='greater')
    hook.before_train(runner)
    put = WholeFileBackend.put

    def put_if_it_fits(backend, obj, filepath):
        if filepath.endswith(f'/{full}'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        put(backend, obj, filepath)

    monkeypatch.setattr(WholeFileBackend, 'put', put_if_it_fits)

    def end_epoch(epoch, score):
        runner.epoch = epoch
        hook._save_checkpoint_with_step(runner, epoch, {})
        hook.after_val_epoch(runner, dict(a=score))
        return names(tmp_path)[:-1]  # last_checkpoint

    assert end_epoch(1, 0.1) == ['best_a_epoch_1.pth', 'epoch_1.pth']
    assert end_epoch(2, 0.3) == kept
    assert len(runner.errors) == told and kept[1] in runner.errors[0]
    assert find_whole_checkpoint(str(tmp_path)) == str(tmp_path / kept[1])
    # Better than the best that could be saved.
    score = 0.4 if 'best_a_epoch_2.pth' in kept else 0.2
    assert end_epoch(3, score) == ['best_a_epoch_3.pth', 'epoch_3.pth']


def test_a_full_disk_at_the_best_checkpoint_stops(tmp_path, full_disk):
    runner = Runner(tmp_path)
    hook = WholeCheckpointHook(save_best='a', rule='less')
    hook.before_train(runner)
    with pytest.raises(UsageError, match='^the best checkpoint cannot be wri'):
        hook.after_val_epoch(runner, dict(a=0.5))


def test_other_choices_are_refused():
    with pytest.raises(ValueError, match="'stop' or 'go_on'; got 'panic'"):
        WholeCheckpointHook(on_failure='panic')
