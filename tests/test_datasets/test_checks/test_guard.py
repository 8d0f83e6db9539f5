"""Pipelines that name the file; tests/faults trains on broken data."""

import pickle

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from tool_runner import ROOT

from biformer_mm.datasets.checks.guard import DataError, GuardedPipeline
from biformer_mm.engine.runner.guarded_runner import GuardedRun


class LoaderBuilder:
    """The part of a runner that builds loaders."""

    build_dataloader = staticmethod(Runner.build_dataloader)


class FakeRunner(GuardedRun, LoaderBuilder):
    def __init__(self, cfg):
        self.cfg = cfg


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
    loader = FakeRunner(cfg).build_dataloader(cfg.train_dataloader)
    leaf = loader.dataset.datasets[0].dataset
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
        FakeRunner(cfg).build_dataloader(cfg.train_dataloader)
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
    dataset = FakeRunner(cfg).build_dataloader(cfg.train_dataloader).dataset
    with pytest.raises(DataError) as error:
        dataset.pipeline({**dataset.get_data_info(0), **change})
    assert '000000.jpg: ' in str(error.value)
    assert message in str(error.value)
