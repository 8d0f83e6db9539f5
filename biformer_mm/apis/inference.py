"""Predict with OpenMMLab's inferencers and return plain data and pictures.

H and W are the height and width of the original image in pixels, C is its channels: blue,
green, red, and any others.
"""

import colorsys
from copy import deepcopy
from functools import lru_cache
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.structures import InstanceData, PixelData
from torch import nn

from biformer_mm.datasets.reading import PictureReader, to_bgr8
from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError, explained

from .model import build_model
from .slicing import in_slices

_SCOPES = dict(det='mmdet', seg='mmseg', cls='mmpretrain')
# Text on a smaller image is not legible, so it is enlarged for drawing.
_MIN_SIDE, _MAX_SIDE = 320, 4096


class Prediction(NamedTuple):
    """The predictions on one image.

    Attributes:
        result: Plain data, see docs/inference.md.
        overlay: The image with the predictions drawn on it, (H, W, 3) uint8;
            a small image is enlarged.
        label_map: For a segmentor, the class of each pixel, (H, W) uint8
            (uint16 above 256 classes); otherwise None.
    """

    result: Dict[str, Any]
    overlay: np.ndarray
    label_map: Optional[np.ndarray] = None


class Predictor:
    """Predict on one image, as the config's pipeline loads it.

    Attributes:
        names: The names of the classes.
        read: Reads a file as the pipeline does; raises
            :class:`biformer_mm.datasets.reading.Unreadable`.
    """

    names: List[str]
    read: PictureReader

    def __call__(self, image: np.ndarray) -> Prediction:
        """Predict on an image, (H, W) or (H, W, C), as ``read`` returns it."""
        raise NotImplementedError


def build_predictor(
    cfg: Config,
    checkpoint: str,
    task: str = 'auto',
    device: str = 'cpu',
    score_thr: float = 0.3,
    trust: bool = False,
    slice_size: Optional[int] = None,
    overlap: float = 0.2,
) -> Tuple[Predictor, str]:
    """Build a function that predicts on one image, and that reads images for it.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        checkpoint: Path or URL of the whole model's weights.
        task: 'det' (with masks if the model has them), 'seg', 'cls', or 'auto'
            for the task of the config's framework.
        device: Device of the model.
        score_thr: Detections with a lower score are dropped.
        trust: See :func:`biformer_mm.checkpoint.load_model`.
        slice_size: For big pictures: predict on overlapping squares of this
            many pixels, see docs/inference.md. A detector needs the package
            sahi; a classifier cannot.
        overlap: The part of a slice that it shares with the next one, from 0
            to 0.9.

    Returns:
        The function, and a text that says where the class names come from.

    Raises:
        UsageError: The config is for another task or has no test pipeline,
            the checkpoint does not fit, or slices are not possible.
    """
    cfg = deepcopy(cfg)
    task = _choose_task(cfg, task)
    if slice_size is not None:
        _check_slices(task, slice_size, overlap)
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    if 'pipeline' not in (dataset or {}):
        raise UsageError(
            'the images are read as in testing, and the config '
            f'{cfg.filename or ""} has no '
            'test_dataloader.dataset.pipeline; set it'
        )
    if not cfg.get('default_scope'):
        cfg.default_scope = _SCOPES[task]
    # The tool writes the pictures, no tracker does.
    kind = 'Det' if task == 'det' else 'Seg'
    visualizer = cfg.get('visualizer') or dict(type=f'{kind}LocalVisualizer')
    cfg.visualizer = dict(visualizer, vis_backends=None, save_dir=None)
    if slice_size is not None and task == 'seg':
        _slide(cfg, slice_size, overlap)
    model, dataset_meta = build_model(cfg, checkpoint, device, trust)
    with explained(
        f'test_dataloader of {cfg.filename or "the config"} must be one that images can be read by',
        'correct it',
    ):
        read = PictureReader(dataset.pipeline)
        # The frameworks look for transforms by their names.
        dataset.pipeline = [dict(step, type=type_name(step)) for step in dataset.pipeline]
        names, palette, source = class_names(model, cfg, dataset_meta)
        model.dataset_meta = dict(classes=names, palette=palette)
        if task == 'det':
            predictor = _Detector(cfg, model, device, score_thr)
            if slice_size is not None:
                predictor.slice(slice_size, overlap)
        else:
            predictor = (_Segmentor if task == 'seg' else _Classifier)(cfg, model, device)
        predictor.read = read
        return predictor, source


def class_names(
    model: nn.Module, cfg: Config, dataset_meta: Dict[str, Any]
) -> Tuple[List[str], List[Tuple[int, int, int]], str]:
    """Find the names and colours of a model's classes.

    They come from the checkpoint, else from the config's test data set, else
    the names are numbers. Names that do not match the number of classes are
    ignored.

    Args:
        model: Detector, segmentor or classifier.
        cfg: Its config.
        dataset_meta: Names and colours from the checkpoint.

    Returns:
        Names; RGB colours, generated if the source has none; and the source of
        the names, as text.
    """
    head = model
    for part in ('roi_head', 'bbox_head', 'mask_head', 'decode_head', 'head'):
        head = getattr(head, part, head)
    if isinstance(head, nn.ModuleList):  # a cascade
        head = head[-1]
    count = getattr(head, 'num_classes', None)
    if count is None:
        raise UsageError(
            'the model must have a head that says num_classes; '
            f'{type(head).__name__} does not; give a detector, '
            'segmentor or classifier'
        )
    dataset = cfg.test_dataloader.dataset
    for meta, origin in (
        (dataset_meta, 'the checkpoint'),
        (_metainfo(dataset, cfg.default_scope), f'{type_name(dataset)} of the config'),
    ):
        names = meta.get('classes')
        if isinstance(names, (list, tuple)) and len(names) == count:
            palette, source = meta.get('palette'), origin
            break
    else:
        names, palette = [str(i) for i in range(count)], None
        source = f'numbers, as neither checkpoint nor config has {count}'
    if not isinstance(palette, (list, tuple)) or len(palette) != count:
        palette = _colours(count)
    # mmdet takes a tuple as one colour for all classes.
    return list(names), [tuple(colour) for colour in palette], source


class _Detector(Predictor):
    def __init__(self, cfg: Config, model: nn.Module, device: str, score_thr: float) -> None:
        from mmdet.apis import DetInferencer

        self.inferencer = _with_model(DetInferencer, model)(
            cfg, device=device, scope=cfg.default_scope
        )
        self.names = model.dataset_meta['classes']
        self.score_thr = score_thr
        self.slice_size = None

    def slice(self, size: int, overlap: float) -> None:
        """Detect in slices from now on."""
        self.slice_size = size
        self.find = in_slices(self.find, size, overlap)

    def find(self, image: np.ndarray) -> InstanceData:
        """Return the detections of a sufficient score, on the CPU."""
        ((_, data),) = self.inferencer.preprocess([image])
        (sample,) = self.inferencer.forward(data)
        _check(sample, 'pred_instances', 'boxes')
        if image.shape[:2] == (self.slice_size,) * 2:
            height, width = sample.img_shape
            _say_once(
                f'slices of {self.slice_size} x {self.slice_size} pixels enter the network '
                f'as {width} x {height}'
            )
        found = sample.pred_instances
        return found[found.scores >= self.score_thr].cpu()

    def __call__(self, image: np.ndarray) -> Prediction:
        from mmdet.structures import DetDataSample

        found = self.find(image)
        sample = DetDataSample(pred_instances=found[found.scores.argsort(descending=True)])
        plain = self.inferencer.pred2dict(sample)
        instances = [
            {
                'label': label,
                'class': self.names[label],
                'score': round(score, 4),
                'box': [round(side, 2) for side in box],
            }
            for label, score, box in zip(plain['labels'], plain['scores'], plain['bboxes'])
        ]
        for instance, mask in zip(instances, plain.get('masks', ())):
            instance['mask'] = mask
        np.random.seed(0)  # noqa: NPY002  mmdet draws the colours of masks from it
        factor = _factor(image)
        found = sample.pred_instances
        found.bboxes = found.bboxes * factor
        if 'masks' in found:
            found.masks = _enlarge(found.masks.numpy(), factor, axis=1)
        (overlay,) = self.inferencer.visualize(
            [_enlarge(_swap(to_bgr8(image)), factor)], [sample], return_vis=True, pred_score_thr=-1
        )
        return Prediction(_result('detection', image, instances=instances), _swap(overlay))


class _Segmentor(Predictor):
    def __init__(self, cfg: Config, model: nn.Module, device: str) -> None:
        from mmseg.apis import MMSegInferencer

        self.inferencer = _with_model(MMSegInferencer, model)(
            cfg, device=device, scope=cfg.default_scope
        )
        self.names = model.dataset_meta['classes']

    def __call__(self, image: np.ndarray) -> Prediction:
        (data,) = self.inferencer.preprocess([image])
        (sample,) = self.inferencer.forward(data)
        _check(sample, 'pred_sem_seg', 'classes of pixels')
        label_map = (
            sample.pred_sem_seg.data[0]
            .cpu()
            .numpy()
            .astype(np.uint8 if len(self.names) <= 256 else np.uint16)
        )
        classes = [
            {'label': int(label), 'class': self.names[label], 'pixels': int(pixels)}
            for label, pixels in zip(*np.unique(label_map, return_counts=True))
        ]
        factor = _factor(image)
        sample.pred_sem_seg = PixelData(
            data=torch.from_numpy(_enlarge(label_map[None].astype(int), factor, axis=1))
        )
        (overlay,) = self.inferencer.visualize(
            [_enlarge(_swap(to_bgr8(image)), factor)], [sample], return_vis=True, opacity=0.6
        )
        return Prediction(
            _result('segmentation', image, classes=classes), _swap(overlay), label_map
        )


class _Classifier(Predictor):
    def __init__(self, cfg: Config, model: nn.Module, device: str) -> None:
        from mmpretrain import ImageClassificationInferencer
        from mmpretrain.visualization import UniversalVisualizer

        model._config = cfg  # where the inferencer looks for it
        self.names = model.dataset_meta['classes']
        self.inferencer = ImageClassificationInferencer(model, device=device, classes=self.names)
        self.visualizer = UniversalVisualizer()

    def __call__(self, image: np.ndarray) -> Prediction:
        (data,) = self.inferencer.preprocess([image])
        (sample,) = self.inferencer.forward(data)
        _check(sample, 'pred_score', 'scores of classes')
        scores, labels = sample.pred_score.cpu().topk(min(5, len(self.names)))
        classes = [
            {'label': label, 'class': self.names[label], 'score': round(score, 4)}
            for score, label in zip(scores.tolist(), labels.tolist())
        ]
        overlay = self.visualizer.visualize_cls(
            _enlarge(_swap(to_bgr8(image)), _factor(image)),
            sample.set_pred_label(labels),
            # ImageNet's names are lists of synonyms.
            classes=[name.partition(',')[0] for name in self.names],
            draw_gt=False,
        )
        return Prediction(_result('classification', image, classes=classes), _swap(overlay))


def _choose_task(cfg: Config, task: str) -> str:
    scope = cfg.get('default_scope')
    found = {scope: task for task, scope in _SCOPES.items()}.get(scope)
    if task == 'auto' and not found:
        raise UsageError(
            "task='auto' goes by the config's default_scope, one of "
            f'{", ".join(_SCOPES.values())}; got {scope!r} of '
            f"{cfg.filename or 'it'}; give task='det', 'seg' or 'cls'"
        )
    if found and task not in ('auto', found):
        raise UsageError(
            f'task must be what the config is for, {found} '
            f'by its default_scope {scope!r}; got {task}; leave '
            'task out'
        )
    return found or task


@lru_cache(maxsize=None)
def _say_once(text: str) -> None:
    print_log(text)


def _check_slices(task: str, size: int, overlap: float) -> None:
    if task == 'cls':
        raise UsageError(
            'slice_size is for detectors and segmentors; the config is for classification, of the '
            'whole image; leave slice_size out'
        )
    if size < 32:
        raise UsageError(f'slice_size must be at least 32 pixels; got {size}')
    if not 0 <= overlap <= 0.9:
        raise UsageError(f'overlap must be from 0 to 0.9; got {overlap}')


def _slide(cfg: Config, size: int, overlap: float) -> None:
    """Let a segmentor slide over the image at its full size."""
    stride = size - int(size * overlap)
    cfg.model.test_cfg = dict(
        cfg.model.get('test_cfg') or {},
        mode='slide',
        crop_size=(size, size),
        stride=(stride, stride),
    )
    dataset = cfg.test_dataloader.dataset
    dataset.pipeline = [
        step for step in dataset.pipeline if not bare_type_name(step).startswith('Resize')
    ]


def _metainfo(dataset: Config, scope: str) -> Dict[str, Any]:
    """Return the names and colours of a data set's config, or else of its type."""
    own = dataset.get('metainfo') or {}
    if own.get('classes'):
        return own
    kind = dataset.type
    if isinstance(kind, str):
        kind = DATASETS.get(kind if '.' in kind else f'{scope}.{kind}')
    return getattr(kind, 'METAINFO', {})


def _colours(count: int) -> List[Tuple[int, int, int]]:
    """Make RGB colours whose hues are spread by the golden ratio."""
    hsv = [(i * 0.618 % 1, 0.7, 0.95) for i in range(count)]
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(*x)) for x in hsv]


def _with_model(inferencer: type, model: nn.Module) -> type:
    """Make an inferencer class use a model that is already built.

    Its own loading unpickles checkpoints, and silently skips weights that do
    not fit.
    """

    class WithModel(inferencer):
        def _init_model(self, *args: Any, **kwargs: Any) -> nn.Module:
            return model

    return WithModel


def _result(task: str, image: np.ndarray, **found: List) -> Dict[str, Any]:
    height, width = image.shape[:2]
    return dict(task=task, width=width, height=height, **found)


def _check(sample: Any, key: str, what: str) -> None:
    if key not in sample:
        raise UsageError(
            f'the model must predict {what}; it predicts '
            f'{", ".join(sorted(sample.keys())) or "nothing"}; give another '
            'config'
        )


def _swap(image: np.ndarray) -> np.ndarray:
    """Convert BGR to RGB, or back."""
    return np.ascontiguousarray(image[..., ::-1])


def _factor(image: np.ndarray) -> int:
    """Return the factor by which an image is enlarged for drawing."""
    height, width = image.shape[:2]
    wanted = -(-_MIN_SIDE // min(height, width))
    return max(1, min(wanted, _MAX_SIDE // max(height, width)))


def _enlarge(pixels: np.ndarray, factor: int, axis: int = 0) -> np.ndarray:
    """Repeat pixels along the axis of rows and the next one."""
    return pixels.repeat(factor, axis).repeat(factor, axis + 1)
