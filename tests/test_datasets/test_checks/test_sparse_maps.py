"""Losses that are averaged over ignored pixels."""

import cv2
import numpy as np
import pytest
import torch
from data_checks import config, problems
from mmseg.models.losses import CrossEntropyLoss

from biformer_mm.datasets.checks.sparse_maps import check_sparse

LOSS = dict(type='CrossEntropyLoss', loss_weight=1.0)
RIGHT = dict(LOSS, avg_non_ignore=True)


def keys(model, shares=(0.9, 0.9, 0.1)):
    return [
        problem.detail.partition('; set ')[2].split()
        for problem in check_sparse('maps', model, shares)
    ]


@pytest.mark.parametrize(
    'model, expected',
    [
        (dict(decode_head=dict(loss_decode=LOSS)), ['model.decode_head.loss_decode']),
        (
            dict(
                decode_head=[dict(loss_decode=RIGHT), dict(loss_decode=[dict(type='Dice'), LOSS])],
                auxiliary_head=dict(loss_decode=dict(LOSS, type='mmseg.CrossEntropyLoss')),
            ),
            ['model.decode_head.1.loss_decode.1', 'model.auxiliary_head.loss_decode'],
        ),
        (dict(decode_head=dict(loss_decode=RIGHT)), None),
        (dict(decode_head=dict(loss_decode=dict(type='DiceLoss'))), None),
        (dict(decode_head=dict()), None),
        (dict(), None),
    ],
)
def test_losses_that_average_over_all_pixels(model, expected):
    wanted = [[f'{key}.avg_non_ignore=True' for key in expected]] if expected else []
    assert keys(model) == wanted


def test_the_median_of_the_maps_counts():
    model = dict(decode_head=dict(loss_decode=LOSS))
    for shares in ((), (0.8,), (1.0, 0.3, 0.4), (0.1, 0.1, 0.95)):
        assert keys(model, shares) == []
    (problem,) = check_sparse('maps', model, (0.95, 0.9, 1.0))
    assert problem[:2] == ('mostly-unlabelled', 'maps')
    assert '95% of their pixels' in problem.detail and '20 times too small' in problem.detail
    assert 'times too small' in next(check_sparse('maps', model, (1.0,))).detail


def test_the_loss_of_mmseg_is_as_much_too_small_as_said():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 4, 20, 20), torch.randint(4, (1, 20, 20))
    labels[:, 1:] = 255  # 95 % ignored
    small, right = (
        CrossEntropyLoss(avg_non_ignore=average)(logits, labels, ignore_index=255)
        for average in (False, True)
    )
    assert right / small == pytest.approx(20)


def test_sparse_maps_are_found_by_reading(copy):
    root = copy('ade20k')
    for path in (root / 'annotations' / 'training').glob('*.png'):
        drawn = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        drawn[np.arange(drawn.shape[0]) % 20 > 0] = 0  # unlabelled
        cv2.imwrite(str(path), drawn)
    cfg = config('semantic_fpn_biformer', root)
    (problem,) = (p for p in problems(cfg) if p.kind != 'absent-class')
    assert problem[:2] == ('mostly-unlabelled', f'{root}/annotations/training')
    cfg.model.decode_head.loss_decode.avg_non_ignore = True
    assert {p.kind for p in problems(cfg)} <= {'absent-class'}
