import pytest
from matplotlib.figure import Figure

from biformer_mm.analysis import plotting
from biformer_mm.utils.errors import UsageError


def test_lines_differ_in_colour_or_dashes():
    looks = [plotting.line(i) for i in range(36)]
    assert len({(x['color'], x['linestyle']) for x in looks}) == 36


def test_other_formats_are_refused():
    with pytest.raises(UsageError, match='must end in one of .png, .svg, .pdf; got a.jpg'):
        plotting.check_format('a.jpg')


def test_the_suffix_is_the_format_in_either_case(tmp_path):
    path = tmp_path / 'new' / 'a.PDF'
    plotting.check_format(str(path))
    assert not path.parent.exists()
    plotting.save(Figure(), str(path))
    assert path.read_bytes().startswith(b'%PDF')
    assert list(path.parent.iterdir()) == [path]


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'a.png'
    path.write_text('older')

    def full(figure, file, **options):
        with open(file, 'w') as out:
            out.write('half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Figure, 'savefig', full)
    with pytest.raises(UsageError, match='a.png cannot be written: .*No space'):
        plotting.save(Figure(), str(path))
    assert [p.read_text() for p in tmp_path.iterdir()] == ['older']
