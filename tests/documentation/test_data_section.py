"""The folders that docs/get_started.md shows are those that the configs read."""

import re

import pytest
from config_checks import load
from mmengine.registry import DATASETS, init_default_scope
from tool_runner import ROOT

from biformer_mm.datasets.checks import quick
from biformer_mm.datasets.checks.paths import find_missing

PAGE = (ROOT / 'docs' / 'get_started.md').read_text(encoding='utf-8')
SPLITS = ('train', 'val', 'test')
# One of each framework: their bases name the data.
RECIPES = ['mask_rcnn_biformer_s_1x', 'upernet_biformer_s_160k', 'biformer_s_in1k']


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """The printed folders, with one file where `*` stands."""
    root = tmp_path_factory.mktemp('tree')
    shown = re.search(r'```\n(data/\n.*?)```', PAGE, re.DOTALL)[1]
    parents = []
    for line in shown.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        path = root / ''.join(parents)
        if name.endswith('/'):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path = path.with_name(path.name.replace('*', 'one'))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


@pytest.mark.parametrize('name', RECIPES)
def test_configs_find_what_the_tree_shows(name, tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert find_missing(load(name), SPLITS) == []


def test_mmseg_reads_pictures_and_their_maps(tree, monkeypatch):
    monkeypatch.chdir(tree)
    cfg = load('upernet_biformer_s_160k')
    init_default_scope(cfg.default_scope)
    for split in SPLITS:
        leaf = cfg[f'{split}_dataloader'].dataset
        (picture,) = DATASETS.build({**leaf, 'pipeline': []}).load_data_list()
        for key in ('img_path', 'seg_map_path'):
            assert (tree / picture[key]).is_file()


def test_mmpretrain_reads_folders_or_the_list(tree, monkeypatch):
    monkeypatch.chdir(tree)
    cfg = load('biformer_s_in1k')
    init_default_scope(cfg.default_scope)
    leaf = {
        **cfg.val_dataloader.dataset,
        'pipeline': [],
        'lazy_init': True,
        # Of which the tree shows one.
        'metainfo': dict(classes=['tench']),
    }
    (picture,) = DATASETS.build(leaf).load_data_list()
    assert picture['gt_label'] == 0 and (tree / picture['img_path']).is_file()
    line = re.search(r'`(\S+\.JPEG \d+)`', PAGE)[1]
    meta = tree / 'data' / 'imagenet' / 'meta'
    meta.mkdir()
    (meta / 'val.txt').write_text(line)
    (picture,) = DATASETS.build(leaf).load_data_list()
    assert picture['img_path'] == f'data/imagenet/val/{line.split()[0]}'
    assert picture['gt_label'] == int(line.split()[1])


def test_the_page_has_the_numbers_that_are_counted():
    for splits in quick.PUBLISHED.values():
        for split in splits.values():
            for number in filter(None, (split.objects, split.folders)):
                assert f'{number:,} ' in PAGE
    for number in ('118,287', '5,000', '20,210', '2,000', '1,281,167'):
        assert f'{number} pictures' in PAGE
