from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from biformer_mm.engine.runner.traces import Traces


@pytest.fixture
def start(monkeypatch):
    """Write what a runner writes before it trains."""

    def start(folder):
        log = folder / '20300102_000000' / '20300102_000000.log'
        log.parent.mkdir(parents=True)
        log.touch()
        (folder / 'config.py').write_text('new')
        monkeypatch.setattr(
            MMLogger, 'get_current_instance', lambda: SimpleNamespace(_log_file=str(log))
        )

    return start


def test_a_new_folder_is_removed_with_its_parents(tmp_path, start):
    folder = tmp_path / 'a' / 'b'
    traces = Traces(Config(dict(work_dir=str(folder))))
    start(folder)
    traces.remove()
    assert list(tmp_path.iterdir()) == []


def test_older_files_and_those_of_others_stay(tmp_path, start):
    older = tmp_path / '20300101_000000' / 'a.log'
    older.parent.mkdir()
    older.touch()
    (tmp_path / 'config.py').write_text('old')
    traces = Traces(Config(dict(work_dir=str(tmp_path))))
    start(tmp_path)
    other = tmp_path / '20300103_000000' / 'a.log'
    other.parent.mkdir()
    other.touch()
    traces.remove()
    assert sorted(p for p in tmp_path.rglob('*') if p.is_file()) == [
        older,
        other,
        tmp_path / 'config.py',
    ]
    assert (tmp_path / 'config.py').read_text() == 'old'
    assert not (tmp_path / '20300102_000000').exists()


def test_the_log_of_an_earlier_run_stays(tmp_path, start):
    """It is the current one if the run fails before it has a log of its own."""
    start(tmp_path)
    before = sorted(tmp_path.rglob('*'))
    Traces(Config(dict(work_dir=str(tmp_path)))).remove()
    assert sorted(tmp_path.rglob('*')) == before
