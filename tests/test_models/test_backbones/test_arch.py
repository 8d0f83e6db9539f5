"""Architectures as data; test_biformer.py has the errors, as the backbone raises them."""

import copy

import pytest

from biformer_mm.models.backbones.arch import ARCHS, parse_arch, parse_num_regions, parse_outputs


@pytest.mark.parametrize('name', ARCHS)
def test_a_name_stands_for_its_entry(name):
    assert parse_arch(name) == parse_arch(dict(ARCHS[name])) == ARCHS[name]


def test_arch_that_differs_from_another():
    found = parse_arch(dict(base='stl', stem='conv', depths=[1, 2, 3, 4]))
    assert found == dict(ARCHS['stl'], stem='conv', depths=(1, 2, 3, 4))
    assert ARCHS['stl']['stem'] == 'patch'


def test_topks_replace_those_of_the_arch():
    before = copy.deepcopy(ARCHS['tiny'])
    assert parse_arch('tiny', [2, 8, 16, 1]) == dict(before, topks=(2, 8, 16, 1))
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
