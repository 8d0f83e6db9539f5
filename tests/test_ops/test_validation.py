"""Values that each check accepts, and the messages for those that it refuses."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from biformer_mm.ops.validation import (
    check_bool,
    check_choice,
    check_int,
    check_multiple,
    check_number,
)

NO_INTEGERS = (True, 2.0, '2', None, np.float32(2), [2])


@pytest.mark.parametrize('value', [2, np.int64(2), np.uint8(2), torch.tensor(2)])
def test_integers_become_int(value):
    found = check_int('topk', value, 2)
    assert found == 2 and type(found) is int


@pytest.mark.parametrize('value', NO_INTEGERS)
def test_other_values_are_no_integers(value):
    with pytest.raises(ValueError, match=re.escape(f'topk must be an integer; got {value!r}')):
        check_int('topk', value)


def test_integers_below_the_minimum_are_refused():
    with pytest.raises(ValueError, match='topk must be an integer of at least 3; got 2'):
        check_int('topk', 2, 3)


def test_a_traced_size_stays_symbolic():
    trace = torch.jit.trace(lambda x: x.new_zeros(check_int('n', x.shape[0])), torch.ones(2))
    assert trace(torch.ones(5)).shape == (5,)


@pytest.mark.parametrize('value', [2, 2.0, np.float32(2), Fraction(2)])
def test_numbers_become_float(value):
    found = check_number('scale', value)
    assert found == 2.0 and type(found) is float


@pytest.mark.parametrize('value', [True, '2', None, float('nan'), float('-inf'), 10**400, 2j])
def test_other_values_are_no_finite_numbers(value):
    message = re.escape(f'scale must be a finite number; got {value!r}')
    with pytest.raises(ValueError, match=message):
        check_number('scale', value)


def test_bools_pass_and_nothing_else():
    assert check_bool('masked', True) is True and check_bool('masked', False) is False
    for value in (1, 'False', None, np.bool_(True)):
        message = re.escape(f'masked must be True or False; got {value!r}')
        with pytest.raises(ValueError, match=message):
            check_bool('masked', value)


@pytest.mark.parametrize('choices', [('a', 'b'), dict(a=1, b=2)])
def test_a_choice_is_one_of_the_choices(choices):
    check_choice('stem', 'b', choices)
    for value in ('c', ['a'], None):  # a list is unhashable
        message = re.escape(f"stem must be one of ('a', 'b'); got {value!r}")
        with pytest.raises(ValueError, match=message):
            check_choice('stem', value, choices)


def test_multiples_of_a_divisor():
    found = check_multiple('channels', np.int64(64), 'heads', 4)
    assert found == (64, 4) and all(type(x) is int for x in found)


@pytest.mark.parametrize('channels, heads', [(64, 5), (0, 4), (-64, 4), (64, 0), (64, -4)])
def test_what_is_no_multiple(channels, heads):
    message = f'channels must be a multiple of heads; got channels={channels} and heads={heads}'
    with pytest.raises(ValueError, match=message):
        check_multiple('channels', channels, 'heads', heads)
