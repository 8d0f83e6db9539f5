"""Evaluators of COCO beside the data sets of their split, without a run."""

import shutil

import pytest
from data_checks import config

from biformer_mm.datasets.checks.evaluator_files import check_evaluator_files


@pytest.fixture
def find(copy):
    """Find what is wrong with an evaluator of a file, given below the annotations."""
    root = copy('coco')
    folder = root / 'annotations'
    shutil.copy(folder / 'instances_val.json', folder / 'copy.json')

    def check(name, **changes):
        cfg = config('retinanet_biformer', root)
        cfg.val_evaluator.ann_file = str(folder / name)
        cfg.update(changes)
        return list(check_evaluator_files(cfg, ['train', 'val']))

    return check


@pytest.mark.parametrize('name', ['instances_val.json', 'copy.json', '../annotations/copy.json'])
def test_the_file_of_the_data_set_and_its_copies_are_right(name, find):
    assert find(name) == []


def test_another_file_is_found(find):
    ((split, problem),) = find('instances_train.json')
    assert (split, problem.kind) == ('val', 'evaluator-file')
    assert problem.file == 'val_evaluator.ann_file'


def test_files_that_cannot_be_read_and_splits_without_data_are_passed_over(find):
    assert find('gone.json') == []
    assert find('instances_train.json', val_dataloader=None) == []
