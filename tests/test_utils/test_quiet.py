"""What users see of the frameworks' warnings."""

import subprocess
import sys

import pytest
from tool_runner import ROOT, run_tool

from biformer_mm.utils.quiet import KNOWN

# The ways in which the frameworks warn.
OTHERS = """
import logging, warnings
from mmengine.logging import print_log
warnings.warn('a warning of Python')
print_log('a printed warning')
print_log('a logged warning', 'current', logging.WARNING)
"""
SHOWN = (
    'UserWarning: a warning of Python',
    'a printed warning',
    'mmengine - WARNING - a logged warning',
)


@pytest.mark.first_tier(1)
@pytest.mark.parametrize(
    'config, layout',
    [('retinanet_biformer_demo', 'coco'), ('semantic_fpn_biformer_demo', 'ade20k')],
)
def test_training_shows_other_warnings_only(config, layout, healthy, tmp_path, monkeypatch):
    (tmp_path / 'others.py').write_text(OTHERS)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    data = tmp_path / 'data' / 'shapes'
    data.mkdir(parents=True)
    (data / layout).symlink_to(healthy[layout])
    (tmp_path / 'config.py').write_text(f"""
_base_ = {str(ROOT / 'configs' / f'{config}.py')!r}
custom_imports = dict(imports=['biformer_mm', 'others'])
train_cfg = dict(max_epochs=1, val_interval=1)
train_dataloader = dict(batch_size=2)
""")
    said = run_tool('train.py', 'config.py', cwd=tmp_path)
    assert 'Saving checkpoint' in said
    assert [text for text in SHOWN if text not in said] == []
    assert [text for text in KNOWN if text in said] == []


def run(code):
    return subprocess.run(
        [sys.executable, '-u', '-c', code],
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ).stdout


def test_only_exact_texts_are_hidden():
    """Whichever way they come, and called once or twice."""
    said = run("""
import warnings
from biformer_mm.utils.quiet import KNOWN, quiet_known_warnings
quiet_known_warnings()
quiet_known_warnings()
from mmengine.logging import MMLogger, print_log

def emit(text):
    warnings.warn(text)
    print_log(text)
    MMLogger.get_current_instance().warning(text)

print('known:')
for text in KNOWN:
    emit(text)
print('others:')
for text in KNOWN:
    emit(text + ' and more')
    emit('more: ' + text)
print_log(['a list'])
""")
    hidden, shown = said.split('known:\n')[1].split('others:\n')
    assert hidden == ''
    for text in KNOWN:
        # Some texts begin others.
        assert shown.count(f' {text} and more\n') + shown.count(f'\n{text} and more\n') == 3
        assert shown.count(f'more: {text}\n') == 3
    assert shown.endswith("['a list']\n")


def test_importing_the_package_hides_nothing():
    run("""
import warnings
import mmengine.logging
print_log = mmengine.logging.print_log
import biformer_mm.utils.quiet
assert mmengine.logging.print_log is print_log
assert 'filter' not in vars(mmengine.logging.MMLogger)
patterns = [text.pattern for _, text, *_ in warnings.filters if text]
assert not [text for text in patterns if 'OneDL' in text]
""")
