"""The matrix changes sizes and lengths of recipes, and nothing else."""

from copy import deepcopy

import pytest
from config_checks import load
from matrix.shrink import LENGTHS, shrink
from matrix.tiers import CONFIGS, marks

LENGTH_KEYS = {
    'max_epochs',
    'max_iters',
    'val_interval',
    'interval',
    'begin',
    'end',
    'T_max',
    'milestones',
    'batch_size',
    'num_workers',
}
SIZE_KEYS = {
    'scale',
    'scales',
    'crop_size',
    'size',
    'max_size',
    'num',
    'nms_pre',
    'max_per_img',
    'num_queries',
}


def changes(old, new, place=()):
    """Yield (place, old, new) wherever two configs differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        assert list(old) == list(new), place
        for key in old:
            yield from changes(old[key], new[key], (*place, key))
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        assert type(old) is type(new) and len(old) == len(new), place
        for key, values in enumerate(zip(old, new)):
            yield from changes(*values, (*place, key))
    elif old != new:
        yield place, old, new


@pytest.fixture(scope='module', params=[pytest.param(name, marks=marks(name)) for name in CONFIGS])
def found(request):
    """A config, and what of it changes."""
    old = load(request.param)
    new = shrink(deepcopy(old))
    return old, list(changes(old.to_dict(), new.to_dict()))


def test_only_sizes_and_lengths_change(found):
    for place, *_ in found[1]:
        assert (LENGTH_KEYS | SIZE_KEYS) & set(place), place


def test_sizes_are_divided_once(found):
    cfg, places = found
    divisors = {dict(mmdet=8, mmseg=8, mmpretrain=4)[cfg.default_scope], 16}
    for place, old, new in places:
        if SIZE_KEYS & set(place):
            assert new in {old // divisor for divisor in divisors}, place


def test_schedule_fills_the_training(found):
    for place, _, new in found[1]:
        if place[0] == 'param_scheduler':
            assert new <= max(LENGTHS.values()), place


def test_recipes_become_small():
    cfg = shrink(load('mask_rcnn_biformer_s_1x'))
    (resize,) = (x for x in cfg.train_dataloader.dataset.pipeline if x.type == 'Resize')
    assert resize.scale == (166, 100)
    assert cfg.train_cfg.max_epochs == cfg.default_hooks.checkpoint.interval
    assert cfg.model.test_cfg.rpn.max_per_img == 62
