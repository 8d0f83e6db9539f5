import shutil

import pytest
from broken_data import IMAGES
from data_checks import config, kinds, problems
from mmpretrain.datasets import CustomDataset, ImageNet

from biformer_mm.datasets.checks.classification import folder_rules


@pytest.fixture
def pictures(healthy, tmp_path):
    """Two classes' folders, a and b, in train and val."""
    source = iter(sorted(healthy['imagenet'].glob('*/*/*.jpg')))  # each is used once
    for split in ('train', 'val'):
        for name, path in zip(('a/0.jpg', 'a/1.jpg', 'b/0.jpg'), source):
            (tmp_path / split / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / split / name)
    return tmp_path


def test_class_folders(pictures):
    cfg = config('biformer', pictures)
    assert problems(cfg) == []
    cfg.model.head.num_classes = 1
    IMAGES['truncated'](pictures / 'train' / 'a' / '1.jpg')
    (pictures / 'val' / 'b' / '0.jpg').unlink()
    found = problems(cfg)
    assert [(p.kind, p.file) for p in found] == [
        ('label', f'{pictures}/train'),
        ('truncated', f'{pictures}/train/a/1.jpg'),
        ('label', f'{pictures}/val'),
        ('absent-class', f'{pictures}/val'),
    ]
    assert found[0].detail.startswith('2 class folders, but the model has 1 outputs; set')
    assert found[3].detail == '1 of 2 classes do not occur: b; they count in no figure'


def test_list_of_images(pictures):
    (pictures / 'list.txt').write_text(
        'a/0.jpg 0\na/1.jpg 1\nb/0.jpg\nb/9.jpg 3\nb/0.jpg 4\nb/0.jpg -1\n'
    )
    cfg = config('biformer', pictures, ann_file='list.txt')  # 4 classes
    found = problems(cfg, ['train'])
    assert [(p.kind, p.file.replace(f'{pictures}/', '')) for p in found] == [
        ('list-line', 'list.txt'),
        ('label', 'train/b/0.jpg'),
        ('list-line', 'list.txt'),
        ('absent-class', 'list.txt'),
        ('missing', 'train/b/9.jpg'),
    ]
    assert "line 3 is not PATH LABEL: 'b/0.jpg'" in found[0].detail
    assert 'label 4, but there are 4 classes (line 5 of' in found[1].detail


def test_list_that_counts_from_1_is_one_problem(pictures):
    (pictures / 'list.txt').write_text('a/0.jpg 1\na/1.jpg 2\nb/0.jpg 2\n')
    classes = dict(metainfo=dict(classes=('cat', 'dog')))
    (problem,) = problems(config('biformer', pictures, ann_file='list.txt', **classes), ['train'])
    assert problem[:2] == ('convention', f'{pictures}/list.txt')
    assert 'they are 1 to 2, so they count from 1; subtract 1' in problem.detail


# Rules about whole splits: names only, no picture is opened


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def rules(root, evaluated=False, built=False, kind=CustomDataset, num_classes=None, **dataset):
    """(kind, file, detail) of all problems."""
    dataset = kind(**{'data_prefix': str(root), **dataset}, lazy_init=not built)
    return [tuple(problem) for problem in folder_rules(dataset, evaluated, num_classes)]


HEALTHY = {
    'folders': (['a/1.jpg', 'b/2.JPG', 'b/deep/3.png'], {}),
    # Wnids, with texts as classes.
    'other names': (['n01/1.JPEG', 'n02/2.JPEG'], dict(metainfo=dict(classes=('tench', 'shark')))),
    'classes in order': (['10/1.jpg', '2/1.jpg'], dict(metainfo=dict(classes=('10', '2')))),
    'one renamed': (['a/1.jpg', 'b/1.jpg'], dict(metainfo=dict(classes=('a', 'beech')))),
    'no labels': (['1.jpg', 'deep/2.jpg'], dict(with_label=False)),
    'no file in a hidden folder': (['a/1.jpg', 'b/1.jpg', 'a/.cache/index'], {}),
    'other files': (['a/1.jpg', 'b/1.jpg', 'a/notes.txt', 'a/.1.webp', 'labels.csv'], {}),
    'a second file of a picture': (['a/1.jpg', 'a/1.webp', 'b/1.jpg'], {}),
    'one picture each': ([f'c{i}/1.jpg' for i in range(7)], {}),
}


@pytest.mark.parametrize('built', [False, True])
@pytest.mark.parametrize('names, dataset', HEALTHY.values(), ids=HEALTHY)
def test_healthy_folders(tmp_path, names, dataset, built):
    assert rules(tree(tmp_path, *names), built=built, **dataset) == []


def test_imagenet_with_its_list(tmp_path):
    """The validation pictures lie flat; other lists beside it do not matter."""
    tree(tmp_path, *(f'val/ILSVRC2012_val_{i:08d}.JPEG' for i in range(3)))
    (tmp_path / 'meta').mkdir()
    lines = [f'ILSVRC2012_val_{i % 3:08d}.JPEG {i}\n' for i in range(1000)]
    (tmp_path / 'meta/val.txt').write_text(''.join(lines))
    dataset = dict(kind=ImageNet, data_root=str(tmp_path), data_prefix='', split='val')
    assert rules(tmp_path, True, **dataset) == []


@pytest.mark.parametrize('built', [False, True])
@pytest.mark.parametrize('hidden', ['.ipynb_checkpoints', '__MACOSX', '@eaDir', 'lost+found'])
def test_hidden_folder_between_the_classes(tmp_path, hidden, built):
    """It shifts the labels, with pictures in it or not."""
    tree(tmp_path, 'a/1.jpg', 'b/1.jpg')
    (tmp_path / hidden).mkdir()
    ((kind, file, detail),) = rules(tmp_path, built=built)
    assert (kind, file) == ('hidden-folder', f'{tmp_path}/{hidden}')
    assert 'shift the labels of the folders after it; delete it' in detail


def test_hidden_folders_with_pictures_in_a_class(tmp_path):
    tree(tmp_path, 'a/1.jpg', 'b/1.jpg', 'a/@eaDir/x/1.jpg', 'a/@eaDir/2.jpg', 'b/@eaDir/1.jpg')
    ((kind, file, detail),) = rules(tmp_path)
    assert (kind, file) == ('hidden-folder', f'{tmp_path}/a/@eaDir')
    assert '3 pictures of 2 folders named @eaDir' in detail


def test_classes_in_another_order_than_the_folders(tmp_path):
    tree(tmp_path, *(f'{i}/1.jpg' for i in range(1, 11)))
    classes = tuple(str(i) for i in range(1, 11))
    ((kind, file, detail),) = rules(tmp_path, built=True, metainfo=dict(classes=classes))
    assert (kind, file) == ('folder-classes', str(tmp_path))
    assert '2 is number 1, its folder 2' in detail and 'alphabetical order' in detail


def test_another_number_of_folders_than_of_classes(tmp_path):
    tree(tmp_path, 'a/1.jpg', 'Bee/1.jpg')
    found = rules(tmp_path, metainfo=dict(classes=('a', 'bee', 'c')))
    assert found == [
        (
            'folder-classes',
            str(tmp_path),
            '2 folders, but 3 classes; each class must have one; no class: Bee; no folder: bee, c',
        )
    ]


def test_pictures_with_another_extension(tmp_path):
    tree(tmp_path, 'a/1.jpg', 'a/2.webp', 'b/1.jpg', 'b/3.GIF', 'b/4.GIF')
    ((kind, file, detail),) = rules(tmp_path)
    assert (kind, file) == ('passed-over', str(tmp_path))
    assert '3 do not and are not read (2 .GIF, 1 .webp), such as a/2.webp' in detail


def test_classes_without_pictures(tmp_path):
    tree(tmp_path, *(f'c{i}/1.jpg' for i in range(2)))
    for i in range(2, 9):
        (tmp_path / f'c{i}').mkdir()
    said = '7 of 9 classes do not occur: c2, c3, c4, c5, c6 and 2 more; they '
    assert rules(tmp_path) == [('absent-class', str(tmp_path), f'{said}are never learnt')]
    assert rules(tmp_path, True) == [('absent-class', str(tmp_path), f'{said}count in no figure')]


@pytest.mark.parametrize('built', [False, True])
def test_only_one_class_has_pictures(tmp_path, built):
    tree(tmp_path, *(f'a/{i}.jpg' for i in range(5)))
    assert rules(tmp_path, built=built) == []  # there need not be a classifier
    ((kind, file, detail),) = rules(tmp_path, built=built, num_classes=2)
    assert (kind, file) == ('only-one-class', str(tmp_path))
    assert 'all 5 pictures are in a' in detail
    (tmp_path / 'b').mkdir()
    ((kind, file, detail),) = rules(tmp_path, built=built)
    assert (kind, file) == ('only-one-class', str(tmp_path))
    assert detail.endswith('of its 2 classes only a occurs; add pictures of the others')


def test_list_of_one_class(tmp_path):
    (tmp_path / 'list.txt').write_text('1.jpg 1\n' * 5)
    dataset = dict(ann_file=str(tmp_path / 'list.txt'))
    assert rules(tmp_path, **dataset) == []  # the number of classes is not known
    found = rules(tmp_path, metainfo=dict(classes=('a', 'b', 'c')), **dataset)
    assert [problem[:2] for problem in found] == [('only-one-class', f'{tmp_path}/list.txt')]


def test_reading_all_pictures_finds_the_same(pictures):
    (pictures / 'train/.git').mkdir()
    (pictures / 'val/a/5.webp').touch()
    assert kinds(problems(config('biformer', pictures))) == ['hidden-folder', 'passed-over']
