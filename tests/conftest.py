import os
import shutil

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads it when the kernels are defined, on import of the ops.
    os.environ.setdefault('TRITON_INTERPRET', '1')
# Its telemetry begins when it is imported.
os.environ['ORT_DISABLE_TELEMETRY'] = '1'


@pytest.fixture(scope='session')
def shapes(tmp_path_factory):
    """A small data set of the demo's kind."""
    from biformer_mm.datasets import make_shapes
    root = tmp_path_factory.mktemp('data') / 'shapes'
    return make_shapes(root, num_train=8, num_val=4)


@pytest.fixture(scope='session')
def healthy(tmp_path_factory):
    """Small data sets by layout, which nothing is wrong with."""
    from biformer_mm.datasets import make_shapes
    root = tmp_path_factory.mktemp('healthy')
    return {
        layout: make_shapes(root / layout, layout, 4, 2, image_size=64)
        for layout in ('coco', 'ade20k', 'imagenet')
    }


@pytest.fixture
def copy(healthy, tmp_path):
    """Copies of a layout's healthy data, to be broken."""

    def make(layout):
        return shutil.copytree(healthy[layout], tmp_path / layout)

    return make
