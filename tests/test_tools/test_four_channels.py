"""Every tool that reads pictures reads four channels, as training and testing do."""

import json
import pickle
import sys

import cv2
import four_channels
import numpy as np
import pytest
import torch
from random_models import CONFIGS
from tool_runner import ROOT, TRUST, load_module, run_tool

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=list(four_channels.LAYOUTS))
def trained(request, tmp_path_factory):
    """Folder, config, options and task of a model that was trained for an epoch."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    config = ROOT / 'configs' / f'{CONFIGS[task]}.py'
    data = four_channels.make_data(folder / 'data', task, num_train=8, num_val=4, image_size=64)
    options = four_channels.options(task, data)
    for split in ('train', 'val', 'test'):  # persistent_workers=True is inherited
        options += [f'{split}_dataloader.num_workers=0', f'{split}_dataloader.batch_size=4']
    options = ['--cfg-options', *options, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1']
    run_tool('train.py', config, '--work-dir', 'work', *options, cwd=folder)
    return folder, config, options, task


@pytest.fixture
def call(trained, monkeypatch, capsys):
    """Run a tool in this process, in the training's folder; return what it printed."""

    def call(tool, *args):
        monkeypatch.chdir(trained[0])
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        try:
            load_module(ROOT / 'tools' / tool).main()
        except SystemExit as end:
            assert not end.code, end.code
        return capsys.readouterr().out

    return call


def images(folder):
    """The pictures of the validation."""
    found = [*folder.glob('data/val/**/*.png'), *folder.glob('data/images/validation/*.png')]
    return sorted(found)


def test_training_has_four_channels(trained):
    folder, *_ = trained
    weights = torch.load(folder / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    stems = [w.shape[1] for k, w in weights.items() if 'backbone.stem' in k and w.dim() == 4]
    assert stems[0] == 4


def test_inference_predicts_what_testing_does(trained, call):
    folder, config, options, task = trained
    test_options = ['--out', 'predictions.pkl', '--show-dir', 'pictures', '--work-dir', 'work']
    run_tool('test.py', config, 'work/epoch_1.pth', *TRUST, *test_options, *options, cwd=folder)
    with open(folder / 'predictions.pkl', 'rb') as file:
        tested = {sample['img_path']: sample for sample in pickle.load(file)}
    paths = images(folder)
    model = ['--config', config, '--checkpoint', 'work/epoch_1.pth', *TRUST, '--device', 'cpu']
    call('infer.py', *paths, *model, '--score-thr', 0, *options)
    assert len(paths) == len(tested) == 4
    for path in paths:
        (found,) = (folder / 'outputs').rglob(f'{path.name}.json')
        result, sample = json.loads(found.read_text()), tested[str(path)]
        overlay = cv2.imread(str(found.with_name(f'{path.name}.overlay.jpg')))
        assert overlay.shape == (320, 320, 3)
        if task == 'cls':
            scores = {c['label']: c['score'] for c in result['classes']}
            expected = sample['pred_score']
            np.testing.assert_allclose([scores[i] for i in range(4)], expected, atol=1e-4)
        elif task == 'seg':
            labels = cv2.imread(str(found.with_name(result['label_map'])), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(labels, sample['pred_sem_seg']['data'][0])
        else:
            scores = [i['score'] for i in result['instances']]
            expected = sorted(sample['pred_instances']['scores'].tolist(), reverse=True)
            np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_check_finds_nothing_wrong_with_pictures(trained, call):
    _, config, options, _ = trained
    printed = call('misc/check_dataset.py', config, '--workers', 1, *options)
    assert printed.splitlines()[-1].startswith('12 images read, ')
    assert '.png' not in printed


def test_routing_is_drawn(trained, call):
    folder, config, options, _ = trained
    call('analysis_tools/visualize_routing.py', images(folder)[0], '--config', config, *options)
    (drawn,) = (folder / 'outputs' / 'routing').iterdir()
    assert cv2.imread(str(drawn)).shape[1] == 1500


def test_export_is_checked_on_pictures(trained, call):
    folder, config, options, task = trained
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    side = dict(det=160, seg=96, cls=64)[task]
    arguments = ['--shape', side, side, '--out', 'model.onnx', '--image', images(folder)[0]]
    printed = call('deployment/export_onnx.py', config, *arguments, *options)
    assert f'1 x 4 x {side} x {side}' in printed
