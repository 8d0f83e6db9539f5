"""Pipelines that name the file; tests/faults trains on broken data."""

import pickle

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from tool_runner import ROOT

from biformer_mm.datasets.checks.guard import DataError, GuardedPipeline, guard_data, naming_sources
from biformer_mm.utils.errors import UsageError


def build(cfg, **options):
    """Build the data set of a training as a run does."""
    with naming_sources(cfg.train_dataloader, 'train_dataloader'):
        loader = Runner.build_dataloader(cfg.train_dataloader, **options)
    guard_data(loader.dataset, cfg)
    return loader.dataset


@pytest.fixture
def cfg(shapes):
    cfg = Config.fromfile(ROOT / 'configs' / 'mask_rcnn_biformer_demo.py')
    init_default_scope(cfg.default_scope)
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset.data_root = str(shapes)
    return cfg


def fail(data):
    raise KeyError('mask')


def same(data):
    return data


def test_wrapped_data_sets_are_guarded_and_load_as_before(cfg):
    plain = Runner.build_dataloader(cfg.train_dataloader).dataset
    dataset = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[dict(type='RepeatDataset', times=2, dataset=dataset)]
    )
    leaf = build(cfg).datasets[0].dataset
    assert isinstance(leaf.pipeline, GuardedPipeline)
    assert leaf.pipeline.transforms[0].__class__.__name__ == ('LoadImageFromFile')
    image = pickle.loads(pickle.dumps(leaf))[0]['inputs']
    expected = plain[0]['inputs']  # flipped at random, as the other
    flips = [expected.flip(axes) for axes in ([], [1], [2], [1, 2])]
    assert any((image == flip).all() for flip in flips)


def test_the_step_and_the_file_are_named():
    pipeline = GuardedPipeline(Compose([same, fail]), {})
    with pytest.raises(DataError) as error:
        pipeline(dict(img_path='a.jpg', seg_map_path='a.png'))
    assert str(error.value).startswith('a.jpg, a.png: function failed: KeyErr')
    assert isinstance(error.value.__cause__, KeyError)


def test_none_still_asks_for_another_sample():
    pipeline = GuardedPipeline(Compose([lambda data: None, fail]), {})
    assert pipeline(dict(img_path='a.jpg')) is None


def test_a_key_is_checked_once_when_it_comes_up():
    seen = []

    def check(data):
        seen.append(dict(data))

    pipeline = GuardedPipeline(
        Compose([lambda data: dict(data, b=1), lambda data: dict(data, b=2)]),
        dict(b=check, c=check),
    )
    assert pipeline(dict(a=0)) == dict(a=0, b=2)
    assert seen == [dict(a=0, b=1)]


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(ann_file='nowhere.json'), 'nowhere.json in '),
        (
            dict(metainfo=dict(classes=('circle', 'cube'))),
            "1 of its categories are among the config's 2 classes",
        ),
    ],
)
def test_a_data_set_that_cannot_be_loaded_is_named(cfg, change, message):
    cfg.train_dataloader.dataset.update(change)
    with pytest.raises(DataError) as error:
        build(cfg)
    assert message in str(error.value)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(width=99), 'the image is 160 x 160 pixels, by its annotations 99 x'),
        (dict(instances=[dict(bbox=[0, 0, np.nan, 1])]), 'not of finite numbers'),
        (
            dict(instances=[dict(bbox=[0, 0, 9, 9], mask=[[0, 0, 9, 1e9, 5, 9]])]),
            'not of 0 or more numbers within 1000000',
        ),
    ],
)
def test_samples_that_are_refused(cfg, change, message):
    dataset = build(cfg)
    with pytest.raises(DataError) as error:
        dataset.pipeline({**dataset.get_data_info(0), **change})
    assert '000000.jpg: ' in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(sampler=dict(type='NoSuch')), 'train_dataloader.sampler must be .*NoSuch'),
        (dict(sampler=dict(type='DefaultSampler', shuffled=True)), '.sampler must be .*shuffled'),
        (dict(batch_sampler=dict(type='AspectRatioBatchSampler', by=3)), '.batch_sampler .*by'),
        (dict(worker_init_fn=3), '.worker_init_fn must be '),
        (dict(collate_fn=3), '.collate_fn must be .*got 3'),
        (dict(num_workers=-1), 'train_dataloader must be .*num_workers option'),
        (dict(persistent_workers=True), 'train_dataloader must be .*persistent_workers option'),
        (dict(prefetch_factor=2), 'train_dataloader must be .*prefetch_factor option'),
        (dict(batch_size=0), 'train_dataloader must be .*batch_size should be'),
        (dict(bach_size=3), "train_dataloader must be .*'bach_size'"),
    ],
)
def test_options_of_a_loader_are_not_taken_for_data(cfg, change, message):
    cfg.train_dataloader.update(change)
    with pytest.raises(UsageError, match=message) as error:
        build(cfg, seed=0)
    assert not isinstance(error.value, DataError)
    assert 'check_dataset' not in str(error.value)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(type='NoSuchDataset'), 'NoSuchDataset'),
        (dict(no_such=3), 'no_such'),
        (dict(pipeline=[dict(type='NoSuchStep')]), 'NoSuchStep'),
        (dict(ann_file='nowhere.json'), 'nowhere.json in '),
        (dict(type='RepeatDataset', times=2), 'RepeatDataset'),
    ],
)
def test_data_sets_of_a_loader_are_not_taken_for_options(cfg, change, message):
    cfg.train_dataloader.dataset.update(change)
    with pytest.raises(DataError, match=message) as error:
        build(cfg, seed=0)
    assert 'loading failed: ' in str(error.value)
