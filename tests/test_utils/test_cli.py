import pytest

from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.utils import cli
from biformer_mm.utils.errors import UsageError


def test_usage_errors_end_in_one_line(monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(SystemExit) as error, cli.usage_errors('train.py'):
        raise UsageError('no such thing')
    assert error.value.code == 'train.py: error: no such thing'


def test_usage_errors_name_options_instead_of_arguments():
    with pytest.raises(SystemExit) as error, cli.usage_errors('a.py', {'force=True': '--force'}):
        raise UsageError('b.onnx exists; add force=True to overwrite it')
    assert error.value.code == 'a.py: error: b.onnx exists; add --force to overwrite it'


def test_usage_errors_name_the_option_for_fields_of_a_config():
    cfg = dict(train_dataloader=dict(dataset=dict(type='CocoDataset', data_root='nowhere')))
    with pytest.raises(SystemExit) as error, cli.usage_errors('train.py'):
        check_data(cfg, ['train'])
    assert error.value.code.endswith(
        'or point elsewhere with --cfg-options train_dataloader.dataset.data_root=PATH'
    )


def test_usage_errors_of_other_processes_leave_the_first_time(monkeypatch):
    """To print the line, so that a launcher ends the others before they do."""
    slept = []
    monkeypatch.setattr(cli.time, 'sleep', slept.append)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit, match='no such thing'), cli.usage_errors('train.py'):
        raise UsageError('no such thing')
    assert slept == [10]


def test_device():
    assert cli.pick_device('auto') in ('cpu', 'cuda')
    assert cli.pick_device('cpu') == 'cpu'
    for name in ('cuda:77', 'gpu'):
        with pytest.raises(UsageError, match=f"no '{name}' here .*give cpu"):
            cli.pick_device(name)


@pytest.mark.parametrize('name', ['', 'folder/', 'new/', 'file/x', 'a\0'])
def test_files_that_cannot_be_written_are_refused(name, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').touch()
    with pytest.raises(UsageError, match='--out: .*cannot be written'):
        cli.check_writable('--out', name and f'{tmp_path}/{name}')
    assert not (tmp_path / 'new').exists()


@pytest.fixture
def parse(capsys):
    """Parse --cfg-options."""
    parser = cli.make_parser('A tool.', 'tool')
    cli.add_cfg_options(parser)
    return lambda *words: parser.parse_args(['--cfg-options', *words]).cfg_options


def test_config_options(parse):
    assert parse('a.b=1', 'c=[(1,2)]') == {'a.b': 1, 'c': [(1, 2)]}
    assert parse('a=0.5', 'b=None', 'c=true', "d='1,x'", 'e=(1, 2)') == dict(
        a=0.5, b=None, c=True, d=[1, 'x'], e=(1, 2)
    )


def test_config_options_keep_the_spaces_of_a_path(parse):
    assert parse('a=/my data/coco', "b='/my data'") == dict(a='/my data/coco', b='/my data')


@pytest.mark.parametrize('words', [[''], ['a'], ['a=1', 'b'], ['a', '=', '1']])
def test_config_options_without_a_value_are_refused(words, parse, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*words)
    assert error.value.code == 2
    wrong = next(word for word in words if '=' not in word)
    assert f'takes KEY=VALUE, without spaces around =; got {wrong!r}' in (capsys.readouterr().err)


def test_config_options_need_pairs_of_brackets(parse, capsys):
    with pytest.raises(SystemExit):
        parse('a=[1,(2]')
    assert "brackets must come in pairs; got 'a=[1,(2]'" in (capsys.readouterr().err)


def test_config_options_take_no_dict(parse, capsys):
    with pytest.raises(SystemExit):
        parse('model.backbone.arch=dict(base=stl,stem=conv)')
    assert 'set the fields of a dict one by one: KEY.FIELD=VALUE' in capsys.readouterr().err
