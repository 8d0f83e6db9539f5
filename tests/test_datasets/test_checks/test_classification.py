import shutil

import pytest
from broken_data import IMAGES
from data_checks import config, kinds, problems


@pytest.fixture
def pictures(healthy, tmp_path):
    """Two classes' folders, a and b, in train and val."""
    source = sorted(healthy['imagenet'].glob('train/*/*.jpg'))
    for split in ('train', 'val'):
        for path, name in zip(source, ('a/0.jpg', 'a/1.jpg', 'b/0.jpg')):
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
        ('label', f'{pictures}/train/b'),
        ('truncated', f'{pictures}/train/a/1.jpg'),
        ('empty-class', f'{pictures}/val/b'),
        ('label', f'{pictures}/val/b'),
    ]


def test_folders_unlike_the_classes(pictures):
    cfg = config('biformer', pictures, metainfo=dict(classes=('a', 'b', 'c')))
    found = problems(cfg, ['train'])
    assert kinds(found) == ['label']
    assert '2 folders, but 3 classes' in found[0].detail


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
        ('empty-class', 'list.txt'),
        ('missing', 'train/b/9.jpg'),
    ]
    assert "line 3 is not PATH LABEL: 'b/0.jpg'" in found[0].detail
    assert 'label 4, but there are 4 classes (line 5 of' in found[1].detail
