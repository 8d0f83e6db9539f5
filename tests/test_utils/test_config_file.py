import pytest

from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError


@pytest.mark.parametrize('options', [{'a.b.c': 1}, {'c.9': 1}, {'c.x.y': 1}])
def test_options_that_do_not_fit_are_refused(options, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('a = dict(b=1)\nc = [1, 2]')
    with pytest.raises(UsageError, match='do not fit .*config.py'):
        read_config(str(config), options)


@pytest.mark.parametrize(
    'field',
    ['train_cfg.val_interval', 'optim_wrapper.accumulative_counts', 'train_dataloader.batch_size'],
)
def test_intervals_must_be_positive(field, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text('train_cfg = dict()\noptim_wrapper = dict()')
    read_config(str(config), {field: 1})
    with pytest.raises(UsageError, match=f'{field} .* must be 1 or more'):
        read_config(str(config), {field: 0})


def test_files_of_another_kind_are_no_configs(tmp_path):
    path = tmp_path / 'config.txt'
    path.touch()
    with pytest.raises(UsageError, match='.py, .json or .yaml file; got'):
        read_config(str(path), {})
