"""Whose fault an error is: the user's is explained in one line, a bug of ours
keeps its traceback."""

import traceback
from pathlib import Path

import pytest

import biformer_mm
from biformer_mm.utils.errors import UsageError, describe, explained

OURS = Path(biformer_mm.__file__).parent / 'models' / 'layers' / 'new_layer.py'
BUGS = {
    'assert 1 > 2': AssertionError,
    'None.shape': AttributeError,
    '[][0]': IndexError,
    '{}["stem"]': KeyError,
    'no_such_name': NameError,
    'def f():\n  x += 1\nf()': UnboundLocalError,
    '1 / 0': ZeroDivisionError,
}


def run(code, file):
    """Run code that stands in a file, as far as its traceback says."""
    with explained('the model must be one that can be built', 'correct it'):
        exec(compile(code, str(file), 'exec'))


@pytest.mark.parametrize('code', BUGS)
def test_a_bug_of_ours_passes_with_its_traceback(code):
    with pytest.raises(BUGS[code]) as error:
        run(code, OURS)
    assert error.type is BUGS[code]
    assert traceback.extract_tb(error.tb)[-1].filename == str(OURS)


@pytest.mark.parametrize('code', BUGS)
def test_the_same_in_the_users_code_is_explained(tmp_path, code):
    with pytest.raises(UsageError, match=f'{BUGS[code].__name__}.*; correct it') as error:
        run(code, tmp_path / 'my_model.py')
    assert 'my_model.py line' in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'code', ['raise ValueError("padding")', 'raise TypeError("padding")', 'open("/none/such")']
)
def test_our_refusals_of_an_argument_are_explained(code):
    with pytest.raises(UsageError, match='must be one that can be built'):
        run(code, OURS)


def test_what_our_code_calls_is_not_our_bug(tmp_path):
    """Such as a transform of the user's that our pipeline runs."""
    users = compile('{}["img"]', str(tmp_path / 'my_transform.py'), 'exec')
    ours = compile('exec(code)', str(OURS), 'exec')
    with pytest.raises(UsageError, match='KeyError: img, in .*my_transform.py line 1'), explained(
        'the data must be right', 'correct it'
    ):
        exec(ours, dict(code=users))


def test_a_bug_that_a_registry_raises_again_passes(tmp_path):
    again = 'try:\n  build()\nexcept KeyError as e:\n  raise KeyError(f"class Net: {e}")'

    def build():
        exec(compile('{}["stem"]', str(OURS), 'exec'))

    registry = compile(again, str(tmp_path / 'registry.py'), 'exec')
    with pytest.raises(KeyError, match='class Net'), explained('the model must be right', 'no'):
        exec(registry, dict(build=build))


def test_a_usage_error_stays_as_it_is():
    with pytest.raises(UsageError) as error, explained('a', 'b'):
        raise UsageError('give another path')
    assert str(error.value) == 'give another path'


def test_description_is_short_and_one_line():
    assert describe(ValueError('a\n b')) == 'ValueError: a b'
    assert describe(KeyError('img')) == 'KeyError: img'
    assert describe(ValueError()) == 'ValueError'
    assert describe(ValueError('x' * 400)) == f'ValueError: {"x" * 300}...'
