import pytest
from rule_checks import DETECTOR, problems


def _found(classes, **step):
    changes = {
        f'{split}_dataloader.dataset.metainfo.classes': classes for split in ('train', 'val')
    }
    changes['model.bbox_head.num_classes'] = len(classes)
    flip = dict(type='RandomFlip', prob=0.5, **step)
    changes['train_dataloader.dataset.pipeline'] = [dict(type='LoadImageFromFile'), flip]
    return problems(DETECTOR, changes)


@pytest.mark.parametrize('classes', [('left hand', 'right hand'), ('arrow_right', 'Arrow_Left')])
def test_flips_between_two_classes_are_warned_of(classes):
    (problem,) = _found(classes)
    assert problem.kind == 'mirrored-classes'
    assert problem.file == 'train_dataloader.dataset.pipeline.1'
    assert problem.severity == 'warning' and '\n' not in problem.detail


def test_other_classes_and_other_flips_are_right():
    assert _found(('left hand', 'face')) == []
    assert _found(('cat', 'dog')) == []
    assert _found(('left', 'right'), direction='vertical') == []
    assert _found(('left', 'right'), direction=['horizontal', 'vertical']) != []
