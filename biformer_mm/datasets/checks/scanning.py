"""Read all files of a config's data sets and list their problems."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import cv2
from mmengine.registry import DATASETS, init_default_scope

from biformer_mm.datasets.checks.paths import evaluators_of, leaves
from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError, explained

from .agreement import compare_splits
from .classification import read_classification
from .coco import read_coco
from .copies import check_copies
from .facts import SplitFacts, facts_of, known_base
from .folders import is_hidden
from .items import Item, Read, Rules, read_item
from .pictures import Loading, channels_taken, picture_loading
from .problems import Problem
from .segmentation import allowed_labels, ignored_labels, read_segmentation, value_rules
from .sparse_maps import check_sparse
from .token_labels import LabelMaps, check_label_map, read_label_maps

# Problems of single files that follow from one of the whole split.
_FOLLOWS = {
    'convention': ('label', 'map-label', 'map-unlabelled'),
    'only-one-class': ('map-unlabelled',),
}

# Images that can be read while a process starts.
_WORTH_A_PROCESS = 200


class Found(NamedTuple):
    """A problem and its split."""

    split: str
    problem: Problem


def _no_rule(found: Any) -> Iterable[Problem]:
    return ()


class Job(NamedTuple):
    """A data set to read: its files, how to read them, and the problems so far.

    ``judge`` takes the number of pixels with each value of all segmentation maps,
    and returns the problems of the whole split; ``judge_shares`` takes the share of
    ignored pixels of each. ``facts`` are compared with those of other splits.
    """

    split: str
    rules: Rules
    items: List[Item]
    problems: List[Problem]
    label_maps: Optional[LabelMaps] = None
    judge: Callable[[Mapping[int, int]], Iterable[Problem]] = _no_rule
    judge_shares: Callable[[Sequence[float]], Iterable[Problem]] = _no_rule
    facts: Optional[SplitFacts] = None


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
    rules = Rules(picture_loading(pipeline), channels=channels_taken(cfg, pipeline))
    model = cfg.get('model') or {}
    label_maps, judge, judge_shares = None, _no_rule, _no_rule
    classes = dataset.metainfo.get('classes')
    if not classes and kind != 'CustomDataset':  # whose folders may name them
        raise UsageError(f'{option} must name its classes; set {option}.metainfo.classes')
    if kind == 'CocoDataset':
        items, problems = read_coco(dataset, pipeline)
    elif kind == 'BaseSegDataset':
        metrics = [metric for _, metric in evaluators_of(cfg, split)]
        ignored = ignored_labels(model, metrics)
        labels, unlabelled = allowed_labels(dataset, ignored)
        rules = rules._replace(
            seg_map=_loading(pipeline, 'LoadAnnotations', 'unchanged', 'pillow'),
            labels=labels,
            unlabelled=unlabelled,
        )
        items, problems = read_segmentation(dataset)
        judge = partial(value_rules, dataset, ignored, maps=len(items))
        if split == 'train':
            judge_shares = partial(check_sparse, dataset.data_prefix['seg_map_path'], model)
    else:
        items, problems = read_classification(dataset, outputs_of(model), split != 'train')
        step = _step(pipeline, 'LoadTokenLabels')
        if step:
            label_maps = LabelMaps(**{k: v for k, v in step.items() if k in LabelMaps._fields})
            items, more = read_label_maps(label_maps, items)
            problems += more
    if not items and not any(p.severity == 'error' for p in problems):
        problems.append(
            Problem(
                'no-images',
                dataset.ann_file or ' '.join(dataset.data_prefix.values()),
                'there is no image',
            )
        )
    facts = facts_of(option, dataset)
    return Job(split, rules, items, problems, label_maps, judge, judge_shares, facts)


def outputs_of(model: Dict) -> Optional[int]:
    """Return the number of outputs of a model of mmpretrain with one head; None for others."""
    head = model.get('head')
    return head.get('num_classes') if isinstance(head, dict) else None


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
    kind = known_base(dataset)
    if kind is None:
        raise UsageError(
            f'{option} must be a CocoDataset, BaseSegDataset, CustomDataset or a subclass that '
            f'loads as they do; got {type(dataset).__name__}; leave its split out of splits'
        )
    return dataset, kind


def _step(pipeline: Sequence[Dict], kind: str) -> Dict:
    for step in pipeline:
        if isinstance(step, dict) and bare_type_name(step) == kind:
            return step
    return {}


def _loading(pipeline: Sequence[Dict], kind: str, flag: str, backend: str) -> Loading:
    """Return how a step decodes; ``flag`` and ``backend`` are its class's defaults."""
    step = _step(pipeline, kind)
    return Loading(step.get('color_type', flag), step.get('imdecode_backend', backend))


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
    pictures: List[Dict[bytes, str]] = []  # of each job: paths by content
    for job in jobs:
        problems, values, shares = list(job.problems), Counter(), []
        pictures.append({})
        check = partial(_check_one, job.rules, job.label_maps)
        for item, read in zip(job.items, map_items(check, job.items)):
            problems += read.problems
            values.update(read.values)
            if read.values:
                ignored = sum(read.values.get(value, 0) for value in job.rules.unlabelled)
                shares.append(ignored / sum(read.values.values()))
            if read.digest:
                pictures[-1][read.digest] = item.image
            progress()
        problems += job.judge(values)
        problems += job.judge_shares(shares)
        follow = {kind for problem in problems for kind in _FOLLOWS.get(problem.kind, ())}
        for problem in problems:
            if problem.kind not in follow:
                yield Found(job.split, problem)
    yield from compare([job.facts for job in jobs if job.facts])
    yield from _copies(jobs, pictures)


def _copies(jobs: Sequence[Job], pictures: Sequence[Dict[bytes, str]]) -> Iterator[Found]:
    """Yield which splits have pictures of the training.

    One that reads the training's own files is left out: ``same-data`` says so.
    """
    trained = [job.facts and job.facts.source for job in jobs if job.split == 'train']
    contents: Dict[str, Dict[bytes, str]] = {}
    for job, found in zip(jobs, pictures):
        if job.split == 'train' or (job.facts and job.facts.source) not in trained:
            contents.setdefault(job.split, {}).update(found)
    train = contents.pop('train', {})
    for split, found in contents.items():
        for problem in check_copies(train, found):
            yield Found(split, problem)


def compare(facts: Sequence[SplitFacts]) -> Iterator[Found]:
    """Yield where splits give other labels than the first data set of the training.

    Hidden folders, which are problems of their own, are left out.
    """
    facts = [
        fact._replace(numbering=tuple(name for name in fact.numbering if not is_hidden(name)))
        if fact.numbered_by == 'folders'
        else fact
        for fact in facts
    ]
    for split in ('train', 'val', 'test'):
        own = [fact for fact in facts if fact.option.startswith(split)]
        first = [fact for fact in facts if fact.option.startswith('train')][:1]
        for problem in compare_splits(own if split == 'train' else first + own):
            yield Found(split, problem)


def _check_one(rules: Rules, label_maps: Optional[LabelMaps], item: Item) -> Read:
    read = read_item(rules, item)
    if item.label_map is not None:
        read.problems.extend(check_label_map(label_maps, item.label_map))
    return read


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes share the cores
