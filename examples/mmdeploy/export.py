"""Export a model with mmdeploy, and compare onnxruntime's predictions with PyTorch's."""

import argparse
import copy
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmdeploy.apis import torch2onnx
from mmdeploy.apis.utils import build_task_processor
from mmengine.config import Config, DictAction

from biformer_mm.utils import register_all_modules

TOLERANCE = 1e-3


def predict(
    deploy_cfg: Config, model_cfg: Config, checkpoint: str, path: Path, batches: Sequence[Any]
) -> List[Tuple[Any, Any]]:
    """Run a model and its exported file.

    Args:
        deploy_cfg: One of the configs beside this file.
        model_cfg: Config of the model.
        checkpoint: Its weights.
        path: The file that mmdeploy made.
        batches: Lists of images, which are paths or arrays (H, W, 3) in BGR.

    Returns:
        For each image the predictions of PyTorch and of onnxruntime.
    """
    task = build_task_processor(model_cfg, deploy_cfg, 'cpu')
    models = task.build_pytorch_model(checkpoint), task.build_backend_model([str(path)])
    pairs = []
    for images in batches:
        data, _ = task.create_input(images, deploy_cfg.onnx_config.input_shape)
        with torch.no_grad():
            pairs += zip(*(model.test_step(copy.deepcopy(data)) for model in models))
    return pairs


def difference(expected: Any, found: Any) -> Dict[str, float]:
    """Return the largest differences of two predictions of an image, by name.

    They are boxes in pixels of the image, scores, masks as 1 - IoU, detections without a
    counterpart, and for segmentors the share of pixels with another class.
    """
    if 'pred_instances' in expected:
        return _difference_of_detections(expected.pred_instances, found.pred_instances)
    if 'pred_sem_seg' in expected:
        other = expected.pred_sem_seg.data != found.pred_sem_seg.data
        return dict(pixels=other.float().mean().item())
    return dict(scores=(expected.pred_score - found.pred_score).abs().max().item())


def _difference_of_detections(expected: Any, found: Any) -> Dict[str, float]:
    """Compare each detection with the most similar one of the same class."""
    if not len(expected) or not len(found):
        return dict(unmatched=float(len(expected) + len(found)))
    boxes = (expected.bboxes[:, None] - found.bboxes).abs().amax(-1)
    scores = (expected.scores[:, None] - found.scores).abs()
    apart = (boxes + scores).masked_fill(expected.labels[:, None] != found.labels, float('inf'))
    distance, match = apart.min(1)
    rows = distance.isfinite().nonzero().flatten()
    match = match[rows]
    result = dict(unmatched=float(max(len(expected), len(found)) - len(match.unique())))
    if len(rows):
        result['boxes'] = boxes[rows, match].max().item()
        result['scores'] = scores[rows, match].max().item()
    if len(rows) and 'masks' in expected:
        masks, others = expected.masks.bool()[rows], found.masks.bool()[match]
        union = (masks | others).sum((1, 2)).clamp(min=1)
        result['masks'] = ((masks ^ others).sum((1, 2)) / union).max().item()
    return result


def main() -> None:
    """Export the model of the command line; exit with 1 where the file differs from PyTorch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('deploy_config', help='detection.py or another one beside this file')
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help='its weights; they are unpickled, so trust their source')
    parser.add_argument('images', nargs='+', help='the first is traced, all are compared')
    parser.add_argument('--out', type=Path, default=Path('end2end.onnx'), help='file to write')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='export for one image of this size, instead of any batch and size',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='change the config of the model, e.g. model.test_cfg.score_thr=0.3',
    )
    args = parser.parse_args()

    register_all_modules()  # finds the bases of configs in OpenMMLab's forks, too
    deploy_cfg = Config.fromfile(args.deploy_config)
    if args.shape:
        deploy_cfg.onnx_config.input_shape = args.shape[::-1]
        del deploy_cfg.onnx_config.dynamic_axes
    model_cfg = Config.fromfile(args.config)
    model_cfg.merge_from_dict(args.cfg_options)
    torch2onnx(
        args.images[0],
        str(args.out.parent),
        args.out.name,
        deploy_cfg,
        model_cfg,
        args.checkpoint,
        'cpu',
    )
    batches = [[image] for image in args.images]
    differences = [
        difference(*pair)
        for pair in predict(deploy_cfg, model_cfg, args.checkpoint, args.out, batches)
    ]
    for name in sorted(set().union(*differences)):
        print(f'{name:<10} {max(x.get(name, 0.0) for x in differences):.1e}')
    if not all(value <= TOLERANCE for x in differences for value in x.values()):
        raise SystemExit(f'{args.out} differs from PyTorch by more than {TOLERANCE}')


if __name__ == '__main__':
    main()
