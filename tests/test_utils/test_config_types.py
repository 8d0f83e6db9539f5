"""Types of configs as texts and as classes."""

import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.models import RetinaNet
from mmengine.hooks import CheckpointHook
from mmengine.model import PretrainedInit

from biformer_mm.utils.config_types import bare_type_name, framework_of, is_pretrained, type_name


@pytest.mark.parametrize(
    'given, name, bare',
    [
        ('CocoDataset', 'CocoDataset', 'CocoDataset'),
        ('mmdet.CocoDataset', 'mmdet.CocoDataset', 'CocoDataset'),
        ('mmengine.CheckpointHook', 'CheckpointHook', 'CheckpointHook'),
        (CocoDataset, 'mmdet.CocoDataset', 'CocoDataset'),
        (LoadImageFromFile, 'mmcv.LoadImageFromFile', 'LoadImageFromFile'),
        (CheckpointHook, 'CheckpointHook', 'CheckpointHook'),
        # As the config that a run dumps has it.
        ('mmdet.datasets.CocoDataset', 'mmdet.CocoDataset', 'CocoDataset'),
        ('mmengine.hooks.CheckpointHook', 'CheckpointHook', 'CheckpointHook'),
        (None, '', ''),
    ],
)
def test_type_name(given, name, bare):
    assert type_name(dict(type=given)) == name
    assert bare_type_name(dict(type=given)) == bare


def test_without_a_type():
    for part in (None, {}, dict(lr=1)):
        assert type_name(part) == bare_type_name(part) == ''


@pytest.mark.parametrize(
    'kind, expected', [('Pretrained', True), (PretrainedInit, True), ('Kaiming', False)]
)
def test_is_pretrained(kind, expected):
    assert is_pretrained(dict(type=kind)) is expected
    assert is_pretrained(None) is False


def test_framework_of():
    assert framework_of(dict(type=RetinaNet)) == 'mmdet'
    assert framework_of(dict(type=PretrainedInit)) is None
    assert framework_of(dict(type='RetinaNet')) is None
    assert framework_of(None) is None
