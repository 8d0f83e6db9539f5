import pytest

from biformer_mm.utils.atomic_file import whole_file


def test_a_file_appears_at_the_end(tmp_path):
    path = tmp_path / 'new' / 'folder' / 'a.txt'
    with whole_file(path) as unfinished:
        with open(unfinished, 'w') as file:
            file.write('new')
        assert not path.exists()
    assert path.read_text() == 'new'
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_a_failure_leaves_the_older_file(error, tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('older')
    with pytest.raises(error), whole_file(path) as unfinished:
        with open(unfinished, 'w') as file:
            file.write('half')
        raise error
    assert path.read_text() == 'older'
    assert list(tmp_path.iterdir()) == [path]


def test_a_bare_name_is_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_file('a.txt') as unfinished, open(unfinished, 'w') as file:
        file.write('new')
    assert (tmp_path / 'a.txt').read_text() == 'new'
