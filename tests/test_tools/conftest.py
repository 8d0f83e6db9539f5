import pytest

from biformer_mm.datasets import make_shapes


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small data set of the demo's kind."""
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, num_train=8, num_val=4)
