"""Read all files of a config's data sets and list their problems."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
from mmengine.registry import DATASETS, init_default_scope

from biformer_mm.datasets.checks.paths import leaves
from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError, explained

from .classification import read_classification
from .coco import read_coco
from .items import Item, Rules, check_item
from .pictures import Loading
from .problems import Problem
from .segmentation import allowed_labels, ignored_labels, read_segmentation
from .token_labels import LabelMaps, check_label_map, read_label_maps

# Data sets whose way of loading is known, unless a subclass overrides one of the
# methods below.
_KNOWN = ('CocoDataset', 'BaseSegDataset', 'CustomDataset')
_METHODS = ('load_data_list', 'parse_data_info', '_find_samples')

# Images that can be read while a process starts.
_WORTH_A_PROCESS = 200


class Found(NamedTuple):
    """A problem and its split."""

    split: str
    problem: Problem


class Job(NamedTuple):
    """A data set to read: its files, how to read them, and the problems so far."""

    split: str
    rules: Rules
    items: List[Item]
    problems: List[Problem]
    label_maps: Optional[LabelMaps] = None


def plan(cfg: Any, splits: Sequence[str]) -> Iterator[Job]:
    """Read the annotations of a config's data sets, but not yet the images.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain whose paths exist, see
            :func:`biformer_mm.datasets.checks.paths.check_data`.
        splits: Of 'train', 'val' and 'test'.

    Raises:
        UsageError: A data set's type is unknown, its files are remote, or its
            arguments are wrong.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if not loader:
            continue
        for option, leaf in leaves(f'{split}_dataloader.dataset', loader.get('dataset')):
            with explained(f'{option} must be a data set that can be read', 'correct it'):
                job = _plan_one(split, option, leaf, cfg)
            yield job


def _plan_one(split: str, option: str, leaf: Dict, cfg: Any) -> Job:
    dataset, kind = build_lazily(option, leaf)
    pipeline = leaf.get('pipeline') or []
    rules = Rules(_loading(pipeline, 'LoadImageFromFile', 'color', 'cv2'))
    model = cfg.get('model') or {}
    outputs = dict(_num_classes('model', model))
    label_maps = None
    classes = dataset.metainfo.get('classes')
    if not classes and kind != 'CustomDataset':  # whose folders may name them
        raise UsageError(f'{option} must name its classes; set {option}.metainfo.classes')
    if kind == 'CocoDataset':
        with_masks = _step(pipeline, 'LoadAnnotations').get('with_mask', False)
        items, problems = read_coco(dataset, with_masks)
    elif kind == 'BaseSegDataset':
        labels, unlabelled = allowed_labels(dataset, ignored_labels(dataset, model))
        rules = rules._replace(
            seg_map=_loading(pipeline, 'LoadAnnotations', 'unchanged', 'pillow'),
            labels=labels,
            unlabelled=unlabelled,
        )
        items, problems = read_segmentation(dataset)
    else:
        items, problems = read_classification(dataset, min(outputs.values(), default=None))
        step = _step(pipeline, 'LoadTokenLabels')
        if step:
            label_maps = LabelMaps(**{k: v for k, v in step.items() if k in LabelMaps._fields})
            items, more = read_label_maps(label_maps, items)
            problems += more
    for name, count in outputs.items():
        if classes and count < len(classes):
            problems.append(
                Problem(
                    'class-count',
                    cfg.filename or option,
                    f'{name}={count}, but {option} has {len(classes)} classes',
                )
            )
    if not items and not any(p.severity == 'error' for p in problems):
        problems.append(
            Problem(
                'no-images',
                dataset.ann_file or ' '.join(dataset.data_prefix.values()),
                'there is no image',
            )
        )
    return Job(split, rules, items, problems, label_maps)


def build_lazily(option: str, leaf: Dict) -> Tuple[Any, str]:
    """Build a data set without loading its annotations.

    Args:
        option: Its name in messages.
        leaf: Its config.

    Returns:
        The data set, and the name of the base class that loads its files.

    Raises:
        UsageError: Its type is unknown, its files are remote, or its arguments
            are wrong.
    """
    for key in ('data_root', 'ann_file', 'data_prefix'):
        if '://' in str(leaf.get(key)):
            raise UsageError(
                f'{option}.{key} must be on this machine, got {leaf[key]}; copy the data here'
            )
    try:
        dataset = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': True})
    except Exception as error:  # of many kinds, by data set
        raise UsageError(
            f'{option}: {type_name(leaf)} cannot be built: {error}; correct its arguments'
        ) from error
    return dataset, _known_type(dataset, option)


def _known_type(dataset: Any, option: str) -> str:
    cls = type(dataset)
    for base in cls.__mro__:
        if base.__name__ in _KNOWN and all(
            getattr(cls, method, None) is getattr(base, method, None) for method in _METHODS
        ):
            return base.__name__
    raise UsageError(
        f'{option} must be a {", ".join(_KNOWN)} or a subclass that loads as '
        f'they do; got {cls.__name__}; leave its split out of splits'
    )


def _step(pipeline: Sequence[Dict], kind: str) -> Dict:
    for step in pipeline:
        if isinstance(step, dict) and bare_type_name(step) == kind:
            return step
    return {}


def _loading(pipeline: Sequence[Dict], kind: str, flag: str, backend: str) -> Loading:
    """Return how a step decodes; ``flag`` and ``backend`` are its class's defaults."""
    step = _step(pipeline, kind)
    return Loading(step.get('color_type', flag), step.get('imdecode_backend', backend))


def _num_classes(name: str, part: Any) -> Iterator:
    """Yield (name, value) of each ``num_classes`` in a model's config.

    Region proposal heads are skipped: they have one class.
    """
    if isinstance(part, dict):
        for key, value in part.items():
            if key == 'num_classes' and isinstance(value, int):
                yield f'{name}.{key}', value
            elif key != 'rpn_head':
                yield from _num_classes(f'{name}.{key}', value)
    elif isinstance(part, (list, tuple)):
        for i, value in enumerate(part):
            yield from _num_classes(f'{name}.{i}', value)


def scan(
    jobs: Sequence[Job], workers: int, progress: Callable[[], None] = lambda: None
) -> List[Found]:
    """Read all images of data sets.

    Args:
        jobs: The data sets.
        workers: Most processes to use; few images need fewer.
        progress: Called once for each image that has been read.

    Returns:
        All problems, by data set; those found by :func:`plan` come first.

    Raises:
        UsageError: A process was killed.
    """
    images = sum(len(job.items) for job in jobs)
    workers = min(workers, images // _WORTH_A_PROCESS)
    if workers < 2:
        return list(_scan(jobs, map, progress))
    # A fork may deadlock after OpenCV has started threads.
    with ProcessPoolExecutor(workers, get_context('spawn'), initializer=_one_thread) as pool:
        try:
            return list(_scan(jobs, partial(pool.map, chunksize=8), progress))
        except BrokenProcessPool as error:
            raise UsageError(
                'a process must not end while it reads images, and one did, '
                'by a crash of a decoder or for want of memory; try '
                'workers=1'
            ) from error


def _scan(
    jobs: Sequence[Job], map_items: Callable, progress: Callable[[], None]
) -> Iterator[Found]:
    for job in jobs:
        for problem in job.problems:
            yield Found(job.split, problem)
        for problems in map_items(partial(_check_one, job.rules, job.label_maps), job.items):
            for problem in problems:
                yield Found(job.split, problem)
            progress()


def _check_one(rules: Rules, label_maps: Optional[LabelMaps], item: Item) -> List[Problem]:
    problems = check_item(rules, item)
    if item.label_map is not None:
        problems += check_label_map(label_maps, item.label_map)
    return problems


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores
