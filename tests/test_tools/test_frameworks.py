"""Training and testing with the demo's config of every framework."""

import os
import pickle

import pytest
import torch
from tool_runner import ROOT, TRUST, run_tool

from biformer_mm.datasets import make_shapes


def options(config, data):
    found = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    for split in ('train', 'val', 'test'):
        loader = f'{split}_dataloader'
        found += [
            f'{loader}.dataset.data_root={data}',
            f'{loader}.batch_size=4',
            f'{loader}.num_workers=0',
            f'{loader}.persistent_workers=False',
        ]
        if config.startswith('mask_rcnn') and split != 'train':
            found.append(f'{split}_evaluator.ann_file={data}/annotations/instances_val.json')
    return ['--cfg-options', *found]


@pytest.mark.slow
@pytest.mark.parametrize(
    'config, layout, metric',
    [
        ('mask_rcnn_biformer_demo', 'coco', 'coco/segm_mAP'),
        ('semantic_fpn_biformer_demo', 'ade20k', 'mIoU'),
        ('upernet_biformer_demo', 'ade20k', 'mIoU'),
        ('biformer_demo', 'imagenet', 'accuracy/top1'),
    ],
)
def test_trains_evaluates_and_shows(config, layout, metric, tmp_path):
    data = make_shapes(tmp_path / 'data', layout, num_train=8, num_val=4, image_size=64)
    path = ROOT / 'configs' / f'{config}.py'
    arguments = options(config, data)
    output = run_tool('train.py', path, '--work-dir', 'work', *arguments, cwd=tmp_path)
    assert 'Epoch(val) [1][1/1]' in output and metric.split('/')[-1] in output
    checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    state = torch.load(checkpoint, weights_only=False)
    assert state['meta']['iter'] == 2

    output = run_tool(
        'test.py',
        path,
        checkpoint,
        *TRUST,
        '--work-dir',
        'work',
        '--show-dir',
        'pictures',
        '--out',
        'predictions.pkl',
        *arguments,
        cwd=tmp_path,
    )
    assert metric.split('/')[-1] in output
    pictures = [
        name
        for _, _, names in os.walk(tmp_path / 'pictures')
        for name in names
        if name.endswith(('.jpg', '.png'))
    ]
    assert len(pictures) == 4
    predictions = pickle.loads((tmp_path / 'predictions.pkl').read_bytes())
    assert len(predictions) == 4
