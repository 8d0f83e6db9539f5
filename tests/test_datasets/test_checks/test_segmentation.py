import shutil

import pytest
from data_checks import config, kinds, problems

from biformer_mm.datasets.checks import plan


@pytest.mark.parametrize(
    'reduce_zero_label, ignore_index, allowed',
    [
        (True, 255, {0, 1, 2, 3, 4, 5, 255}),
        (False, 255, {0, 1, 2, 3, 4, 255}),
        (True, 99, {0, 1, 2, 3, 4, 5, 100, 255}),
        (False, 99, {0, 1, 2, 3, 4, 99, 255}),
    ],
)
def test_allowed_labels(healthy, reduce_zero_label, ignore_index, allowed):
    cfg = config('semantic_fpn_biformer', healthy['ade20k'], reduce_zero_label=reduce_zero_label)
    cfg.model.decode_head.ignore_index = ignore_index
    (job,) = plan(cfg, ['train'])
    assert job.rules.labels == allowed


def test_a_subset_of_the_classes_ignores_the_others(healthy):
    """ADE20K's 150 classes, of which the model is taught two."""
    cfg = config('semantic_fpn_biformer', healthy['ade20k'])
    cfg.model.decode_head.num_classes = 2
    dataset = cfg.train_dataloader.dataset
    dataset.type = 'ADE20KDataset'
    dataset.metainfo = dict(_delete_=True, classes=('wall', 'tree'))
    cfg.train_dataloader.dataset.metainfo.pop('_delete_')
    (job,) = plan(cfg, ['train'])
    assert job.rules.labels == set(range(151)) | {255}
    assert len(job.rules.unlabelled) == len(job.rules.labels) - 2


def test_map_without_an_image_and_no_image_at_all(copy):
    root = copy('ade20k')
    (root / 'images' / 'training' / '000003.jpg').unlink()
    shutil.rmtree(root / 'images' / 'validation')
    (root / 'images' / 'validation').mkdir()
    found = problems(config('semantic_fpn_biformer', root))
    assert kinds(found) == ['map-unused', 'map-unused', 'map-unused', 'no-images']
    assert found[0].file == f'{root}/annotations/training/000003.png'
