"""Pictures that are in two splits, whatever their names."""

import shutil

import pytest
from data_checks import config, problems

from biformer_mm.datasets.checks.copies import check_copies


def pictures(split, numbers):
    return {bytes([number]): f'{split}/{number}.jpg' for number in numbers}


@pytest.mark.parametrize(
    'shared, of, kind',
    [
        (1, 100, 'in-two-splits'),
        (9, 100, 'in-two-splits'),
        (4, 4, 'in-two-splits'),  # too few to say
        (10, 100, 'many-in-two-splits'),
        (5, 5, 'many-in-two-splits'),
    ],
)
def test_pictures_in_two_splits(shared, of, kind):
    train, other = pictures('train', range(100)), pictures('val', range(100 - shared, 255))
    other = dict(list(other.items())[:of])
    (problem,) = check_copies(train, other)
    assert problem[:2] == (kind, f'val/{100 - shared}.jpg')
    assert f'{shared} of {of} are in the training' in problem.detail
    assert f'train/{100 - shared}.jpg' in problem.detail


def test_splits_without_a_common_picture():
    assert list(check_copies(pictures('train', range(5)), pictures('val', range(5, 9)))) == []
    assert list(check_copies({}, pictures('val', range(5)))) == []


def test_a_copy_is_found_by_reading(copy):
    root = copy('ade20k')
    one = root / 'images' / 'validation' / '000000.jpg'
    shutil.copy(root / 'images' / 'training' / '000003.jpg', one)
    (problem,) = problems(config('semantic_fpn_biformer', root))
    assert problem[:2] == ('in-two-splits', str(one))
    assert 'training/000003.jpg' in problem.detail


def test_a_split_that_reads_the_training_is_not_compared(copy):
    """The config's rule same-data says so."""
    cfg = config('semantic_fpn_biformer', copy('ade20k'))
    cfg.val_dataloader.dataset.data_prefix = cfg.train_dataloader.dataset.data_prefix
    assert problems(cfg) == []
