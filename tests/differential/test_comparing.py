"""The comparison itself sees what differs."""

import json
import pickle

import pytest
import torch
from differential import comparing

LOG = """
Hooks will be executed in the following order:
before_train:
(VERY_HIGH   ) RuntimeInfoHook
{hooks}
 --------------------
Load checkpoint
"""


def write_hooks(folder, *hooks):
    (folder / 'run').mkdir(parents=True)
    (folder / 'run' / 'run.log').write_text(LOG.format(hooks='\n'.join(hooks)))
    return folder


def test_hooks_of_ours_are_passed_over(tmp_path):
    comparing.compare_hooks(
        write_hooks(tmp_path / 'theirs', '(VERY_LOW    ) CheckpointHook'),
        write_hooks(
            tmp_path / 'ours', '(NORMAL      ) HangHook', '(VERY_LOW    ) WholeCheckpointHook'
        ),
    )


@pytest.mark.parametrize(
    'hook',
    ['(NORMAL      ) UnknownHook', '(NORMAL      ) IterTimerHook\n(NORMAL      ) IterTimerHook'],
)
def test_other_hooks_are_seen(tmp_path, hook):
    theirs = write_hooks(tmp_path / 'theirs', '(NORMAL      ) IterTimerHook')
    ours = write_hooks(tmp_path / 'ours', hook)
    with pytest.raises(AssertionError, match='hooks'):
        comparing.compare_hooks(theirs, ours)


def test_missing_hooks_are_seen(tmp_path):
    theirs = write_hooks(tmp_path / 'theirs', '(NORMAL      ) IterTimerHook')
    with pytest.raises(AssertionError, match='hooks'):
        comparing.compare_hooks(theirs, write_hooks(tmp_path / 'ours'))


def test_another_loss_is_seen(tmp_path):
    for side, loss in (('theirs', 0.5), ('ours', 0.5000001)):
        folder = tmp_path / side / 'run' / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'scalars.json').write_text(json.dumps(dict(loss=loss)))
    with pytest.raises(AssertionError, match='loss'):
        comparing.compare_scalars(tmp_path / 'theirs', tmp_path / 'ours')


def write_checkpoint(folder, weight):
    folder.mkdir()
    path = folder / 'epoch_1.pth'
    torch.save(dict(state_dict=dict(weight=weight), meta=dict(epoch=1, iter=2)), path)
    (folder / 'last_checkpoint').write_text(str(path))
    return folder


def test_another_weight_is_seen(tmp_path):
    theirs = write_checkpoint(tmp_path / 'theirs', torch.tensor([1.0, 2.0]))
    ours = write_checkpoint(tmp_path / 'ours', torch.tensor([1.0, 2.000001]))
    comparing.compare_checkpoints(theirs, theirs)
    with pytest.raises(AssertionError, match='state_dict.weight'):
        comparing.compare_checkpoints(theirs, ours)


@pytest.mark.parametrize('score, same', [(0.50001, True), (0.501, False)])
def test_predictions_agree_to_the_tolerance(tmp_path, score, same):
    for side, value in (('theirs', 0.5), ('ours', score)):
        (tmp_path / side).write_bytes(pickle.dumps([dict(pred_score=torch.tensor([value]))]))
    files = tmp_path / 'theirs', tmp_path / 'ours'
    if same:
        comparing.compare_predictions(*files)
    else:
        with pytest.raises(AssertionError, match='pred_score'):
            comparing.compare_predictions(*files)
