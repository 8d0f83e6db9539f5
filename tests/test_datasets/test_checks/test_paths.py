import pytest

from biformer_mm.datasets.checks.paths import check_data
from biformer_mm.utils.errors import UsageError


def config(root, kind='CocoDataset', **dataset):
    dataset = {
        **dict(type=kind, data_root=str(root), ann_file='ann.json', data_prefix=dict(img='img/')),
        **dataset,
    }
    return dict(
        train_dataloader=dict(dataset=dataset),
        val_dataloader=dict(dataset=dict(dataset, ann_file='val.json')),
        val_evaluator=dict(ann_file=f'{root}/val.json'),
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'img').mkdir()
    for name in ('ann.json', 'val.json'):
        (tmp_path / name).touch()
    return tmp_path


def error_of(cfg, splits=('train', 'val')):
    with pytest.raises(UsageError) as error:
        check_data(cfg, splits)
    message = str(error.value)
    assert '\n' not in message
    return message


def test_complete_data_passes(root):
    check_data(config(root), ['train', 'val'])
    check_data(dict(train_dataloader=None), ['train', 'val', 'test'])


def test_missing_root_names_path_source_and_options(tmp_path):
    message = error_of(config(tmp_path / 'coco'))
    assert message.startswith(f'data not found: {tmp_path}/coco, ')
    assert 'get COCO 2017 from https://cocodataset.org/#download' in message
    assert message.endswith(
        'point elsewhere with train_dataloader.dataset.data_root=PATH '
        'val_dataloader.dataset.data_root=PATH val_evaluator.ann_file=PATH'
    )


def test_missing_part_names_its_own_option(root):
    (root / 'ann.json').unlink()
    (root / 'img').rmdir()
    message = error_of(config(root, kind='MyDataset'), ['train'])
    assert f'{root}/ann.json, {root}/img/ ' in message
    assert message.endswith(
        'train_dataloader.dataset.ann_file=PATH train_dataloader.dataset.data_prefix.img=PATH'
    )
    assert 'get ' not in message


def test_only_the_splits_of_the_run_are_checked(root):
    (root / 'val.json').unlink()
    check_data(config(root), ['train'])
    assert 'val_evaluator.ann_file' in error_of(config(root), ['val'])


def test_wrapped_absolute_and_remote_paths(root):
    leaf = dict(type='A', data_root=str(root), ann_file='/nowhere/a.json')
    remote = dict(type='B', data_root='s3://bucket/coco', ann_file='a.json')
    cfg = dict(
        train_dataloader=dict(
            dataset=dict(
                type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[remote, leaf])
            )
        )
    )
    message = error_of(cfg, ['train'])
    assert message.startswith('data not found: /nowhere/a.json ')
    assert message.endswith('train_dataloader.dataset.dataset.datasets.1.ann_file=PATH')


def test_folders_of_imagenets_splits_are_looked_for(tmp_path):
    (tmp_path / 'train').mkdir()
    dataset = dict(type='mmpretrain.ImageNet', data_root=str(tmp_path), split='train')
    cfg = dict(
        train_dataloader=dict(dataset=dataset),
        val_dataloader=dict(dataset=dict(dataset, split='val')),
    )
    message = error_of(cfg)
    assert message.startswith(f'data not found: {tmp_path}/val (from')
    assert message.endswith('val_dataloader.dataset.data_prefix=PATH')


def test_types_may_be_classes(root):
    """As in configs in pure Python."""

    class CocoDataset:
        pass

    (root / 'ann.json').unlink()
    message = error_of(config(root, kind=CocoDataset), ['train'])
    assert 'get COCO 2017 from' in message


@pytest.mark.parametrize(
    'change, option',
    [
        (dict(metainfo=dict(classes=('person'))), 'metainfo.classes'),
        (dict(classes='person'), 'classes'),
    ],
)
def test_a_text_is_no_list_of_classes(root, change, option):
    message = error_of(config(root, **change), ['train'])
    assert message == (
        f'train_dataloader.dataset.{option} must be a tuple or a list of '
        'names, or the path of a file with one name a line; got the text '
        "'person'; one class is written with a comma: ('person', )"
    )


@pytest.mark.parametrize('classes', [('person',), ['person'], None])
def test_classes_that_are_none_or_a_list_pass(root, classes):
    check_data(config(root, metainfo=dict(classes=classes)), ['train'])


def test_classes_may_be_the_path_of_a_file(root):
    path = root / 'classes.txt'
    path.write_text('person\n')
    check_data(config(root, metainfo=dict(classes=str(path))), ['train'])
    path.unlink()
    assert f'got the text {str(path)!r}' in error_of(
        config(root, metainfo=dict(classes=str(path))), ['train']
    )
