"""Histories, arrays and numbers are made anew from data, or not at all."""

import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from biformer_mm.checkpoint import CheckpointError, read_checkpoint
from biformer_mm.checkpoint.read import Placeholder
from biformer_mm.checkpoint.training_statistics import restore_statistics

pytestmark = pytest.mark.skipif(
    not hasattr(torch.serialization, 'add_safe_globals'),
    reason='torch before 2.4 reads no placeholders',
)


def reread(value, tmp_path):
    """A value after it was saved, read as data, and restored."""
    path = str(tmp_path / 'a.pth')
    torch.save(dict(w=torch.ones(1), value=value), path)
    return restore_statistics(read_checkpoint(path), path)['value']


def test_a_history_goes_on(tmp_path):
    history = HistoryBuffer([1.5, 2.5], [1, 4], max_length=3)
    found = reread(history, tmp_path)
    assert type(found) is HistoryBuffer
    for a, b in zip(found.data, history.data):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    for buffer in (found, history):
        for value in (3.5, 4.5):
            buffer.update(value)
    assert found.mean(2) == history.mean(2) == 4
    assert found.statistics('min') == 2.5  # the length is limited as before


@pytest.mark.parametrize(
    'value',
    [
        np.float64(0.1),
        np.float32(-2),
        np.bool_(True),
        np.int64(-3),
        np.complex64(1j),
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype='u1').reshape(2, 3)),
        np.arange(3, dtype='>i4'),
        np.zeros((0, 2)),
        np.float16([[1]]),
    ],
)
def test_numbers_are_the_same(value, tmp_path):
    found = reread(value, tmp_path)
    assert type(found) is type(value)
    assert found.dtype == value.dtype and found.shape == value.shape
    np.testing.assert_array_equal(found, value)
    if isinstance(value, np.ndarray):
        assert found.flags.writeable
        assert found.flags.f_contiguous == value.flags.f_contiguous


def test_containers_are_kept(tmp_path):
    value = OrderedDict(
        a=[np.float64(1), (np.int32(2), dict(b=np.float32(3)))],
        c=(1, 'text', None),
        d=torch.arange(3),
    )
    value._metadata = dict(version=2)  # as state dicts have it
    found = reread(value, tmp_path)
    assert type(found) is OrderedDict and found._metadata == value._metadata
    assert list(found) == ['a', 'c', 'd']
    assert found['a'] == value['a'] and found['c'] == value['c']
    assert torch.equal(found['d'], value['d'])


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


def test_nothing_else_is_made(tmp_path):
    found = reread(
        dict(
            called=Calls(getattr, 'text', 'upper'),
            options=argparse.Namespace(lr=1),
            objects=np.array([None, 'a']),
            names=np.array(['a']),
            kept=1,
        ),
        tmp_path,
    )
    assert found == dict(called=None, options=None, objects=None, names=None, kept=1)
    pickle.dumps(found)  # MMEngine compares so


def placeholder(name, args=(), state=None):
    made = type('X', (Placeholder,), dict(name=name))(*args)
    made.state = state
    return made


F8 = placeholder('numpy.dtype', ('f8', False, True), (3, '<'))
ONE, NONE = (
    placeholder(
        'numpy._core.multiarray._reconstruct', state=(1, (size,), F8, False, size * b'12345678')
    )
    for size in (1, 0)
)
OBJECTS = placeholder('numpy.dtype', ('O8', False, True), (3, '|'))


@pytest.mark.parametrize(
    'name, args, state',
    [
        ('numpy._core.multiarray.scalar', (F8, b'1234'), None),
        ('numpy._core.multiarray.scalar', (OBJECTS, b'12345678'), None),
        ('numpy._core.multiarray.scalar', ('f8', b'12345678'), None),
        ('numpy._core.multiarray.scalar', (), None),
        ('numpy._core.multiarray._reconstruct', (), None),
        ('numpy._core.multiarray._reconstruct', (), (1, (10**9,), F8, False, b'12345678')),
        ('numpy._core.multiarray._reconstruct', (), (1, (1,), OBJECTS, False, b'12345678')),
        ('mmengine.logging.history_buffer.HistoryBuffer', (), None),
        (
            'mmengine.logging.history_buffer.HistoryBuffer',
            (),
            dict(_log_history=1, _count_history=[], max_length=3),
        ),
        ('numpy._core.multiarray._reconstruct', (), (1, (2**70,), F8, False, b'12345678')),
        (
            'mmengine.logging.history_buffer.HistoryBuffer',
            (),
            dict(_log_history=ONE, _count_history=NONE, max_length=3),
        ),
    ],
)
def test_what_makes_no_sense_is_none(name, args, state):
    given = dict(value=placeholder(name, args, state))
    assert restore_statistics(given, 'a.pth') == dict(value=None)


def test_a_loop_ends_and_depth_is_refused():
    loop = dict(value=placeholder('builtins.getattr'))
    loop['again'] = [loop]
    assert restore_statistics(loop, 'a.pth')['again'][0]['value'] is None
    deep = ()
    for _ in range(10**5):
        deep = (deep,)
    with pytest.raises(CheckpointError, match='^a.pth is nested too deeply'):
        restore_statistics([deep], 'a.pth')
    while deep:  # a recursive end would be too deep, too
        (deep,) = deep
