"""examples/mmdeploy/: files that mmdeploy exports, end to end, against PyTorch."""

import sys

import cv2
import numpy as np
import onnx
import pytest
import random_models
import torch
from mmdeploy.apis import torch2onnx
from mmdeploy.apis.utils import build_task_processor
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from tool_runner import ROOT, load_module

FOLDER = ROOT / 'examples' / 'mmdeploy'
# deploy config: kind of model
TASKS = dict(
    detection='det', instance_segmentation='mask', segmentation='seg', classification='cls'
)
SIZE = (102, 104)  # every map that is cut into regions is padded at both sides
OTHER_SIZES = [(90, 70), (80, 240)]  # detectors pad no map of the second
export = load_module(FOLDER / 'export.py')


@pytest.fixture(scope='module', autouse=True)
def rewriters():
    """The folder of the rewriters is on the path, as where export.py runs."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Random weights by kind of model; detectors have scores that differ, and boxes by class."""
    paths = random_models.save_checkpoints(tmp_path_factory.mktemp('weights'))
    checkpoint = torch.load(paths['mask'])
    for name, factor in {
        'rpn_head.rpn_cls': 30,
        'rpn_head.rpn_reg': 10,
        'roi_head.bbox_head.fc_cls': 30,
        'roi_head.bbox_head.fc_reg': 100,
    }.items():
        checkpoint['state_dict'][f'{name}.weight'] *= factor
    torch.save(checkpoint, paths['mask'])
    return {kind: str(path) for kind, path in paths.items()}


def images(count, size):
    """Noise of several coarsenesses, (H, W, 3) each."""
    random = np.random.RandomState(0)
    coarse = (random.randint(0, 256, (4 + 3 * i, 5 + 2 * i, 3), np.uint8) for i in range(count))
    return [cv2.resize(image, size[::-1]) for image in coarse]


def configs(task):
    """Deploy config and config of the model, which takes images as they are."""
    name = random_models.CONFIGS[TASKS[task]]
    model_cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    for transform in model_cfg.test_pipeline:
        if transform['type'] == 'Resize':
            del transform['scale']
            transform.update(scale_factor=1.0, keep_ratio=False)
    return Config.fromfile(FOLDER / f'{task}.py'), model_cfg


@pytest.fixture(scope='module')
def files(weights, tmp_path_factory):
    """A function: task -> a file for any batch and size, exported once."""
    folder, made = tmp_path_factory.mktemp('dynamic'), {}

    def get(task):
        if task not in made:
            made[task] = folder / f'{task}.onnx'
            deploy_cfg, model_cfg = configs(task)
            torch2onnx(
                images(1, SIZE)[0],
                str(folder),
                made[task].name,
                deploy_cfg,
                model_cfg,
                weights[TASKS[task]],
                'cpu',
            )
        return made[task]

    return get


@pytest.mark.parametrize('task', TASKS)
def test_dynamic_file_gives_the_predictions_of_pytorch(task, files, weights):
    batches = [images(1, SIZE), *(images(2, size) for size in OTHER_SIZES)]
    pairs = export.predict(*configs(task), weights[TASKS[task]], files(task), batches)
    assert len(pairs) == 5
    for expected, found in pairs:
        if 'pred_instances' in expected:
            assert len(expected.pred_instances) >= 10
            assert len(expected.pred_instances.labels.unique()) > 1
        differences = export.difference(expected, found)
        assert max(differences.values()) <= 1e-3, differences


def test_dynamic_file_gives_the_scores_of_each_pixel(files, weights):
    """Not only the classes, which hide small differences."""
    task = build_task_processor(*reversed(configs('segmentation')), 'cpu')
    model = task.build_pytorch_model(weights['seg'])
    file = task.build_backend_model([str(files('segmentation'))])
    for size in (SIZE, *OTHER_SIZES):
        data, _ = task.create_input(images(2, size), None, model.data_preprocessor)
        with torch.no_grad():
            expected = model.predict(**data)
            found = file.wrapper(dict(input=data['inputs']))['output']
        expected = torch.stack([sample.seg_logits.data for sample in expected])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize('task', TASKS)
def test_tool_exports_for_one_size(task, weights, tmp_path, monkeypatch, capsys):
    deploy_cfg, model_cfg = configs(task)
    model_cfg.dump(tmp_path / 'model.py')
    cv2.imwrite(str(tmp_path / 'image.png'), images(1, (80, 100))[0])
    command = [FOLDER / f'{task}.py', 'model.py', weights[TASKS[task]], 'image.png']
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', list(map(str, ['export.py', *command, '--shape', 80, 100])))
    export.main()
    graph = onnx.load('end2end.onnx').graph
    assert [x.dim_value for x in graph.input[0].type.tensor_type.shape.dim] == [1, 3, 80, 100]
    assert not {node.domain for node in graph.node} - {''}


def test_tool_fails_where_the_file_differs(files, weights, tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / 'image.png'), images(1, SIZE)[0])
    checkpoint = torch.load(weights['cls'])
    checkpoint['state_dict']['head.fc.bias'] += torch.tensor([1.0, 0, 0, 0])
    torch.save(checkpoint, tmp_path / 'other.pth')
    deploy_cfg, model_cfg = configs('classification')
    model_cfg.dump(tmp_path / 'model.py')
    monkeypatch.setattr(export, 'torch2onnx', lambda *args: None)
    command = [
        *('export.py', FOLDER / 'classification.py', tmp_path / 'model.py', tmp_path / 'other.pth'),
        *(tmp_path / 'image.png', '--out', files('classification')),
    ]
    monkeypatch.setattr(sys, 'argv', list(map(str, command)))
    with pytest.raises(SystemExit, match=r'classification.onnx differs .* more than 0.001'):
        export.main()


def detections(boxes, scores, labels, masks):
    instances = InstanceData(
        bboxes=torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
        masks=torch.tensor(masks),
    )
    return DetDataSample(pred_instances=instances)


A, B = [0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 4.0, 4.0]
FULL, HALF = [[True, True]], [[True, False]]
EXPECTED = detections([A, B], [0.9, 0.8], [0, 1], [FULL, FULL])


@pytest.mark.parametrize(
    'found, differences',
    [
        # the order is free
        (detections([B, A], [0.8, 0.9], [1, 0], [FULL, FULL]), {}),
        (detections([A, [1.0, 1.0, 4.0, 4.5]], [0.9, 0.8], [0, 1], [FULL, FULL]), dict(boxes=0.5)),
        (detections([A, B], [0.65, 0.8], [0, 1], [FULL, FULL]), dict(scores=0.25)),
        (detections([A, B], [0.9, 0.8], [0, 1], [FULL, HALF]), dict(masks=0.5)),
        (detections([A, B], [0.9, 0.8], [0, 2], [FULL, FULL]), dict(unmatched=1)),
        (detections([A, B, B], [0.9, 0.8, 0.8], [0, 1, 1], [FULL] * 3), dict(unmatched=1)),
    ],
)
def test_difference_of_detections(found, differences):
    names = dict.fromkeys(('boxes', 'scores', 'masks', 'unmatched'), 0)
    assert export.difference(EXPECTED, found) == pytest.approx({**names, **differences})
