"""A training that cannot write says so in one line."""
import errno
import logging
import os
from types import SimpleNamespace

import pytest

from biformer_mm.engine.full_disk import watch_disk
from biformer_mm.errors import UsageError


def watched(tmp_path, train):
    runner = SimpleNamespace(
        logger=logging.Logger('test'), work_dir=str(tmp_path), train=train)
    watch_disk(runner)
    return runner


@pytest.mark.skipif(
    not os.path.exists('/dev/full'), reason='a device of Linux')
def test_a_line_of_the_log_that_has_no_room_ends_the_run(tmp_path, capfd):
    runner = watched(tmp_path, lambda: runner.logger.info('a line'))
    handler = logging.FileHandler('/dev/full')
    runner.logger.addHandler(handler)
    with pytest.raises(UsageError) as error:
        runner.train()
    assert str(error.value) == (
        f'{tmp_path} cannot be written (No space left on device); the last '
        'whole checkpoint is none; free space and go on with --resume')
    with pytest.raises(OSError):
        handler.close()  # what is still to be written
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('number, kind', [
    (errno.ENOSPC, UsageError),
    (errno.EDQUOT, UsageError),
    (errno.ENOENT, FileNotFoundError),
])
def test_other_errors_are_left_alone(number, kind, tmp_path):

    def train():
        raise OSError(number, os.strerror(number), 'scalars.json')

    with pytest.raises(
            kind,
            match='^scalars.json cannot be written'
            if kind is UsageError else None):
        watched(tmp_path, train).train()
