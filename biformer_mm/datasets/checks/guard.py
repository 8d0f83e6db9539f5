"""Name the file when data cannot be loaded or must not be trained on."""

import traceback
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, FrozenSet, Iterator, Optional, Set

import numpy as np
from mmengine.dataset import Compose

from biformer_mm.utils.config_types import type_name
from biformer_mm.utils.errors import UsageError, describe

from .coco_objects import FARTHEST, are_near
from .paths import leaves
from .segmentation import ignored_labels

_CURE = 'tools/misc/check_dataset.py CONFIG lists all such files'


class DataError(UsageError):
    """A file of a data set cannot be used; the text names it.

    PyTorch raises an error of a loader's worker again, with the traceback as
    its text. Only the text of the original error is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f'{__name__}.DataError: ')[2].strip())


@contextmanager
def naming_sources(dataloader: Any, name: str = 'the dataloader') -> Iterator[None]:
    """Name what is to blame if building a loader fails: its data or its options.

    Args:
        dataloader: A loader's config. Anything else is a loader already, whose
            errors pass through.
        name: The config's key of the loader.

    Raises:
        DataError: The data set cannot be built.
        UsageError: What samples, collates or loads cannot be built.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(dataloader, dict):
            raise
        option = _failed_option(error)
        if option is None:
            raise DataError(
                f'{_sources(dataloader.get("dataset"))}: loading failed: {describe(error)}; {_CURE}'
            ) from error
        raise UsageError(
            f'{name}{option} must be one that can be built ({describe(error)}); correct it'
        ) from error


def _failed_option(error: BaseException) -> Optional[str]:
    """Return '.sampler' or the like, '' for another option, or None if the data set failed.

    MMEngine builds one after the other: the first variable that is missing tells.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    done = [f.f_locals for f in frames if f.f_code.co_name == 'build_dataloader'][-1:]
    if not done or 'num_batch_per_epoch' not in done[0]:  # which follows the data set
        return None
    options = dict(
        sampler='.sampler',
        batch_sampler='.batch_sampler',
        init_fn='.worker_init_fn',
        collate_fn='.collate_fn',
    )
    return next((option for name, option in options.items() if name not in done[0]), '')


def _sources(dataset: Any) -> str:
    """Return where a config's data comes from."""
    if not isinstance(dataset, dict):
        return type(dataset).__name__
    found = [
        leaf.get('ann_file') or leaf.get('data_prefix') or type_name(leaf)
        for _, leaf in leaves('', dataset)
    ]
    roots = [leaf.get('data_root') or '' for _, leaf in leaves('', dataset)]
    return ', '.join(f'{path} in {root}' if root else f'{path}' for path, root in zip(found, roots))


def guard_data(dataset: Any, cfg: Dict) -> None:
    """Make a data set, and those that it wraps, name the file on an error.

    Also refuse data that a model would learn wrongly from, or fail on later
    where the file is not known: images of another size than their annotations
    say; segmentation maps of another size than their image or with labels of no
    class; coordinates that are not finite; annotation files that lack a class.

    Args:
        dataset: The data set of a loader whose workers have not started.
        cfg: The run's config, for the classes of the model.

    Raises:
        DataError: The annotation file lacks a class.
    """
    inner = getattr(dataset, 'datasets', None)
    for part in inner or [getattr(dataset, 'dataset', None)]:
        if part is not None:
            guard_data(part, cfg)
    pipeline = getattr(dataset, 'pipeline', None)
    if type(pipeline) is Compose:
        _check_categories(dataset)
        dataset.pipeline = GuardedPipeline(pipeline, _checks(dataset, cfg))


def _check_categories(dataset: Any) -> None:
    """Refuse annotations in which a class is missing or occurs twice.

    mmdet numbers only the classes that the file has, so that labels shift.

    Raises:
        DataError: A class is missing or occurs twice.
    """
    classes = dataset.metainfo.get('classes')
    found = getattr(dataset, 'cat_ids', classes)
    if classes and len(found) != len(classes):
        raise DataError(
            f'{dataset.ann_file}: {len(found)} of its categories are among '
            f"the config's {len(classes)} classes; each class must be the name of "
            'one category, or labels are shifted'
        )


def _checks(dataset: Any, cfg: Dict) -> Dict:
    """Return the checks of a data set's samples, by key."""
    model, classes = cfg.get('model') or {}, dataset.metainfo.get('classes')
    evaluators = cfg.get('val_evaluator'), cfg.get('test_evaluator')
    # pycocotools, unlike mmdet's loading, fails on shorter polygons.
    least = 6 if dataset.test_mode and 'segm' in str(evaluators) else 0
    checks = dict(
        ori_shape=_check_size,
        instances=partial(_check_instances, least=least),
        gt_seg_map=_check_map_size,
    )
    head = model.get('head')
    if isinstance(head, dict) and head.get('num_classes'):  # mmpretrain's
        checks['gt_label'] = partial(_check_label, num_classes=head['num_classes'])
    if hasattr(dataset, 'reduce_zero_label') and classes:  # mmseg's
        checks['gt_seg_map'] = partial(
            _check_map, num_classes=len(classes), ignored=ignored_labels(model)
        )
    return checks


class GuardedPipeline(Compose):
    """A pipeline whose errors name the file.

    Args:
        pipeline: The pipeline.
        checks: By key, a function that is called when a step adds this key to
            the sample, and returns what is wrong with the sample, or None.
    """

    def __init__(
        self, pipeline: Compose, checks: Dict[str, Callable[[Dict], Optional[str]]]
    ) -> None:
        self.transforms = pipeline.transforms
        self.checks = checks

    def __call__(self, data: Dict) -> Optional[Dict]:
        """Run all steps.

        Raises:
            DataError: A step or a check failed.
        """
        files = ', '.join(str(data[key]) for key in ('img_path', 'seg_map_path') if data.get(key))
        seen = set()
        self._check(data, seen, files)
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                raise DataError(
                    f'{files}: {type(transform).__name__} failed: {describe(error)}; {_CURE}'
                ) from error
            if data is None:
                return None
            self._check(data, seen, files)
        return data

    def _check(self, data: Dict, seen: Set[str], files: str) -> None:
        """Check the keys that are not in ``seen``, and add them."""
        for key in self.checks.keys() & (data.keys() - seen):
            wrong = self.checks[key](data)
            if wrong:
                raise DataError(f'{files}: {wrong}; {_CURE}')
        seen.update(data)


def _check_size(data: Dict) -> Optional[str]:
    """Compare the file's ``ori_shape`` with the annotations' height and width."""
    said = data.get('height'), data.get('width')
    shape = tuple(data['ori_shape'][:2])
    if None in said or said == shape:
        return None
    return f'the image is {shape[1]} x {shape[0]} pixels, by its annotations {said[1]} x {said[0]}'


def _check_instances(data: Dict, least: int) -> Optional[str]:
    """Check mmdet's boxes and polygons; ``least`` is a polygon's fewest coordinates."""
    for instance in data['instances']:
        if not are_near(instance.get('bbox', ())):
            return f'bbox {instance["bbox"]} is not of finite numbers'
        mask = instance.get('mask')
        for polygon in mask if isinstance(mask, list) else ():
            if len(polygon) < least or not are_near(polygon):
                return (
                    f'polygon {polygon[:8]} of the object with bbox '
                    f'{instance.get("bbox")} is not of {least} or more '
                    f'numbers within {FARTHEST}'
                )
    return None


def _check_label(data: Dict, num_classes: int) -> Optional[str]:
    label = data['gt_label']
    if not isinstance(label, int) or 0 <= label < num_classes:
        return None
    return f'label {label}, but the model has {num_classes} classes, from 0 on'


def _check_map_size(data: Dict) -> Optional[str]:
    """Compare the sizes of a map and its image.

    The map may be loaded after the image is resized, and then has the size of
    its file.
    """
    shape = data['gt_seg_map'].shape
    expected = tuple(data.get('ori_shape', shape)[:2])
    if shape == expected:
        return None
    return f'the segmentation map must be {expected} (height, width), as its image; it is {shape}'


def _check_map(data: Dict, num_classes: int, ignored: FrozenSet[int]) -> Optional[str]:
    wrong = _check_map_size(data)
    if wrong:
        return wrong
    found = np.bincount(data['gt_seg_map'].ravel()).nonzero()[0].tolist()
    none = [x for x in found if x >= num_classes and x not in ignored]
    if not none:
        return None
    return (
        f'the segmentation map has labels {none[:5]} for {num_classes} '
        'classes from 0 on, after reduce_zero_label and the like'
    )
