"""Evaluation by two processes is evaluation by one."""

import json
import pickle

import numpy as np
import pytest
import torch
from config_checks import build
from mmengine.config import Config
from process_runner import SEGMENTOR
from tool_runner import run_tool


def evaluate(tool, *processes, checkpoint, work_dir, options):
    """Metrics and predictions of the pictures."""
    dump = work_dir / 'predictions.pkl'
    run_tool(
        tool,
        SEGMENTOR,
        checkpoint,
        *processes,
        '--work-dir',
        work_dir,
        '--out',
        dump,
        *options,
        cwd=checkpoint.parent,
    )
    (scores,) = work_dir.glob('*/*.json')
    scores = json.loads(scores.read_text())
    return (
        {name: scores[name] for name in ('aAcc', 'mIoU', 'mAcc')},
        pickle.loads(dump.read_bytes()),
    )


@pytest.mark.slow
def test_two_ranks_evaluate_as_one(data_options, tmp_path, monkeypatch):
    # As many threads for one process as torchrun gives to each of two: sums
    # of several threads are rounded otherwise.
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    checkpoint = tmp_path / 'untrained.pth'
    model = build(Config.fromfile(SEGMENTOR))
    torch.save(dict(state_dict=model.state_dict()), checkpoint)
    common = dict(checkpoint=checkpoint, options=data_options)
    metrics, predictions = evaluate('test.py', work_dir=tmp_path / 'one', **common)
    metrics_of_two, predictions_of_two = evaluate(
        'dist_test.sh', 2, work_dir=tmp_path / 'two', **common
    )
    assert metrics == metrics_of_two and metrics['mIoU'] > 0
    # Three pictures: the fourth, which makes both ranks equally busy, is gone.
    assert len(predictions) == len(predictions_of_two) == 3
    for one, two in zip(predictions, predictions_of_two):
        assert one['img_path'] == two['img_path']
        np.testing.assert_array_equal(one['seg_logits']['data'], two['seg_logits']['data'])
