import pytest

from biformer_mm.datasets import make_shapes


@pytest.fixture(scope='session')
def data_options(tmp_path_factory):
    """--cfg-options for two pictures to train on and three, an odd number, to
    evaluate."""
    root = make_shapes(
        tmp_path_factory.mktemp('data') / 'shapes',
        layout='ade20k',
        num_train=2,
        num_val=3,
        image_size=64,
    )
    return [
        '--cfg-options',
        *(f'{split}_dataloader.dataset.data_root={root}' for split in ('train', 'val', 'test')),
    ]
