"""Architectures as data; test_biformer.py has the errors, as the backbone raises them."""

import copy

import pytest

from biformer_mm.models.backbones.arch import ARCHS, parse_arch, parse_num_regions, parse_outputs
from biformer_mm.models.layers import ROUTING

ROUTED = ((ROUTING, {}),) * 4


@pytest.mark.parametrize('name', ARCHS)
def test_a_name_stands_for_its_entry(name):
    expected = dict(ARCHS[name], attention=ROUTED)
    assert parse_arch(name) == parse_arch(dict(ARCHS[name])) == expected


def test_attention_may_be_left_out():
    arch = {key: value for key, value in ARCHS['tiny'].items() if key != 'attention'}
    assert parse_arch(arch) == parse_arch('tiny')


@pytest.mark.parametrize(
    'given, expected',
    [
        ('full', (('full', {}),) * 4),
        (dict(type='quadtree', topk=4), (('quadtree', dict(topk=4)),) * 4),
        (
            ['full', ROUTING, dict(type='shifted_window', window_size=5), 'full'],
            (('full', {}), (ROUTING, {}), ('shifted_window', dict(window_size=5)), ('full', {})),
        ),
    ],
)
def test_attention_is_of_each_stage(given, expected):
    assert parse_arch(dict(base='stl', attention=given))['attention'] == expected


def test_arch_that_differs_from_another():
    found = parse_arch(dict(base='stl', stem='conv', depths=[1, 2, 3, 4]))
    assert found == dict(ARCHS['stl'], stem='conv', depths=(1, 2, 3, 4), attention=ROUTED)
    assert ARCHS['stl']['stem'] == 'patch'


def test_topks_replace_those_of_the_arch():
    before = copy.deepcopy(ARCHS['tiny'])
    assert parse_arch('tiny', [2, 8, 16, 1]) == dict(before, topks=(2, 8, 16, 1), attention=ROUTED)
    assert ARCHS['tiny'] == before


@pytest.mark.parametrize(
    'given, expected', [(7, (7, 7, 7)), ('auto', ('auto',) * 3), ([8, 'auto', 1], (8, 'auto', 1))]
)
def test_regions_are_of_each_stage(given, expected):
    assert parse_num_regions(given, num_stages=3) == expected


@pytest.mark.parametrize('indices', [(2, 1), (1, 1)])
def test_outputs_must_ascend(indices):
    assert parse_outputs([0, 2], 'LN', num_stages=3) == (0, 2)
    with pytest.raises(ValueError, match='ascending stages between 0 and 2'):
        parse_outputs(indices, 'LN', num_stages=3)
