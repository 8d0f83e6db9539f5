"""The weights that training begins with, heads and necks included."""

import pytest
from config_checks import NAMES, build, load
from first_weights import find_outliers

# One of each family first; sizes, schedules and ablations in the second tier.
CASES = [
    pytest.param(name, marks=() if '_s_' in name and '/' not in name else pytest.mark.slow)
    for name in NAMES
]


@pytest.mark.parametrize('name', CASES)
def test_no_outlier(name):
    assert find_outliers(build(load(name))) == {}
