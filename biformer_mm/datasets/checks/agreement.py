"""Compare what the parts of a run must have in common: splits, evaluators, checkpoints."""

import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence

from .evaluators import is_coco_metric
from .facts import SplitFacts, boxes_of
from .problems import Problem

_MOST_NAMES = 5
# Share of the boxes that two versions of one file have in common at least.
_SAME_BOXES = 0.1


def compare_splits(facts: Sequence[SplitFacts]) -> Iterator[Problem]:
    """Yield where data sets give other labels than those that are trained on.

    Args:
        facts: Of all data sets of all splits. Without a training split, the data
            sets of a split are compared with each other.
    """
    training = [fact for fact in facts if fact.option.startswith('train')]
    for split in ('train', 'val', 'test'):
        own = [fact for fact in facts if fact.option.startswith(split)]
        for fact in own:
            yield from _compare(fact, (training or own)[0])


def _compare(fact: SplitFacts, first: SplitFacts) -> Iterator[Problem]:
    places = f'in {fact.option}', f'in {first.option}'
    if fact.numbered_by == first.numbered_by == 'folders':
        yield from _compare_folders(fact, first)
    elif fact.classes and first.classes and _disagree(fact, first):
        yield Problem(
            'split-classes',
            f'{fact.option}.metainfo.classes',
            f'must be the classes of {first.option}, in their order: '
            f'{_difference(fact.classes, first.classes, *places)}; labels mean other classes; make '
            'them equal',
        )
    elif fact.classes and first.classes and _disagree_in_order(fact, first):
        yield Problem(
            'category-order',
            fact.source,
            f'its categories must have the order of those of {first.source}, which number the '
            f'labels: {_difference(fact.numbering, first.numbering, *places)}; '
            'reorder them in one of the files',
        )
    # Other classes of data sets may mark what has no class otherwise.
    if fact.type_name == first.type_name and fact.reduce_zero_label != first.reduce_zero_label:
        yield Problem(
            'reduce-zero-label',
            f'{fact.option}.reduce_zero_label',
            f'is {fact.reduce_zero_label}, and {first.option}.reduce_zero_label is '
            f'{first.reduce_zero_label}: all labels differ by one; make them equal',
        )


def _disagree(fact: SplitFacts, first: SplitFacts) -> bool:
    """Return whether classes of two data sets number labels otherwise.

    Lists and folders of classification give the labels; names are only shown.
    """
    if fact.base != 'CustomDataset':
        return fact.classes != first.classes
    if fact.numbered_by or first.numbered_by:
        return False
    return len(fact.classes) != len(first.classes) or _moved(fact.classes, first.classes) != []


def _disagree_in_order(fact: SplitFacts, first: SplitFacts) -> bool:
    by_files = fact.numbered_by == first.numbered_by == 'categories'
    return by_files and fact.numbering != first.numbering


def _compare_folders(fact: SplitFacts, first: SplitFacts) -> Iterator[Problem]:
    here, there = fact.numbering, first.numbering
    if here == there:
        return
    if here == there[: len(here)]:  # the labels are right
        yield Problem(
            'absent-class', fact.source, f'has no folder of {_listed(there[len(here) :])}'
        )
        return
    letters = {_letters(name): name for name in there}
    alike = [
        f'; {name} and {letters[_letters(name)]} look like one class'
        for name in here
        if name not in there and _letters(name) in letters
    ]
    yield Problem(
        'split-folders',
        fact.source,
        f'must have the class folders of {first.source}, as their sorted names number the labels: '
        f'{_difference(here, there, "here", "there")}'
        f'{"".join(alike[:1])}; make the same folders in both, empty ones where '
        'there is no picture',
    )


def _letters(name: str) -> str:
    return ''.join(filter(str.isalnum, name.casefold()))


def compare_evaluator(
    facts: Sequence[SplitFacts], option: str, metric: Any, ann_file: str = ''
) -> Iterator[Problem]:
    """Yield why a COCO evaluator cannot judge the results of a split.

    An evaluator's file may list more images than the data set uses of that same
    file, see :func:`~biformer_mm.datasets.checks.evaluators.repair`.

    Args:
        facts: Of all data sets of the split.
        option: The evaluator's place in the config, such as 'val_evaluator'.
        metric: The evaluator. Others than mmdet's for COCO are passed over.
        ann_file: Its file, as the config has it.
    """
    if not facts or not is_coco_metric(metric) or any(f.images is None for f in facts):
        return
    repeated = sum(n > 1 for n in Counter(i for f in facts for i in f.image_ids).values())
    if repeated:
        yield Problem(
            'evaluator-file',
            option,
            f'an evaluator knows images by their ids, and {repeated} are in more than one of '
            f'{_sources(facts)}; renumber the images, or evaluate the data sets one by one',
        )
    if repeated or metric._coco_api is None:
        return
    reason = _evaluates_others(facts, metric)
    if reason:
        yield Problem(
            'evaluator-file',
            f'{option}.ann_file',
            f'{f"is {ann_file}, and " if ann_file else ""}must be the file of its data set, '
            f'{_sources(facts)}: {reason}; set it to that file'
            + (', or to one that holds all these images' if facts[1:] else ''),
        )


def _sources(facts: Sequence[SplitFacts]) -> str:
    return ' and '.join(f'{fact.option}.ann_file={fact.source}' for fact in facts)


def _evaluates_others(facts: Sequence[SplitFacts], metric: Any) -> Optional[str]:
    """Return how an evaluator's file differs from the files of its data sets."""
    coco = metric._coco_api
    theirs = {key: _base(image.get('file_name', '')) for key, image in coco.imgs.items()}
    ours = {key: _base(name) for fact in facts for key, name in fact.images.items()}
    unknown = sum(key not in theirs for fact in facts for key in fact.image_ids)
    extra = sum(key not in ours for key in theirs)
    other = [key for key in theirs if key in ours and ours[key] != theirs[key]]
    if not metric.format_only:
        if unknown:
            return f'{unknown} images of the data set are not in it'
        if extra:
            return f'{extra} of {len(theirs)} images are only in it, and would count as missed'
    if other:
        key = other[0]
        return f'image {key!r} is {theirs[key]} in it, and {ours[key]} in the data set'
    boxes = frozenset().union(*(fact.boxes or () for fact in facts))
    same = len(boxes & boxes_of(coco.dataset))
    if same < _SAME_BOXES * len(boxes):
        return f'{same} of {len(boxes)} boxes are in both, so its images are others of the same ids'
    classes = facts[0].classes
    if classes and facts[0].numbering is not None:
        named = tuple(c['name'] for c in coco.dataset.get('categories', ()) if c['name'] in classes)
        if named != facts[0].numbering:
            difference = _difference(named, facts[0].numbering, 'in it', 'in the data set')
            return f'its categories number other classes: {difference}'
    return None


def _base(name: str) -> str:
    """Return a file's name; folders depend on what the paths are joined to."""
    return osp.basename(str(name))


def compare_checkpoint(
    facts: Sequence[SplitFacts], path: str, dataset_meta: Optional[Dict]
) -> Iterator[Problem]:
    """Yield where a checkpoint was trained on other classes than data sets have.

    Args:
        facts: Of the data sets that are tested, or trained on further.
        path: The checkpoint.
        dataset_meta: Its ``meta['dataset_meta']``; nothing is compared without.
    """
    dataset_meta = dataset_meta or {}
    learnt = dataset_meta.get('classes')
    for fact in facts:
        if isinstance(learnt, (list, tuple)) and _names(fact):
            yield from _compare_learnt(fact, path, tuple(learnt))
        reduced = dataset_meta.get('reduce_zero_label')
        if None not in (reduced, fact.reduce_zero_label) and reduced != fact.reduce_zero_label:
            yield Problem(
                'reduce-zero-label',
                f'{fact.option}.reduce_zero_label',
                f'is {fact.reduce_zero_label}, and {path} was trained with {reduced}: all labels '
                f'differ by one; set it to {reduced}',
            )


def _compare_learnt(fact: SplitFacts, path: str, learnt: Sequence[str]) -> Iterator[Problem]:
    names = _names(fact)
    difference = _difference(names, learnt, f'in {fact.option}', 'in the checkpoint')
    by_folders = fact.numbered_by == 'folders' and names == tuple(learnt[: len(names)])
    if _moved(names, learnt) or (len(names) != len(learnt) and not by_folders):
        yield Problem(
            'checkpoint-classes',
            path,
            f'was trained on other classes than {fact.option} has: {difference}; use its own data, '
            'or set metainfo.classes to its classes',
        )
    elif [_short(n) for n in names] != [_short(n) for n in learnt] and not by_folders:
        yield Problem('checkpoint-names', path, f'names its classes otherwise: {difference}')


def _names(fact: SplitFacts) -> Optional[Sequence[str]]:
    """Return the classes of a data set; of one that is built lazily, its folders."""
    return fact.classes or (fact.numbering if fact.numbered_by == 'folders' else None)


def _short(name: str) -> str:
    """Return a class's first name; ImageNet's has several, which differ by source."""
    return str(name).partition(',')[0].strip().casefold()


def _moved(ours: Sequence[str], theirs: Sequence[str]) -> List[str]:
    """Return the names that are in both at another place; repeated ones are passed over."""
    here, there = [_short(n) for n in ours], [_short(n) for n in theirs]
    once = _once(here) & _once(there)
    return [name for name in here if name in once and here.index(name) != there.index(name)]


def _once(names: Sequence[str]) -> set:
    return {name for name, count in Counter(names).items() if count == 1}


def _difference(ours: Sequence[str], theirs: Sequence[str], here: str, there: str) -> str:
    """Return in words how two numberings differ."""
    parts = []
    if len(ours) != len(theirs):
        parts.append(f'{len(ours)} {here}, {len(theirs)} {there}')
    for names, others, where in ((ours, theirs, here), (theirs, ours, there)):
        only = [name for name in names if name not in others]
        if only:
            parts.append(f'only {where}: {_listed(only)}')
    theirs = list(theirs)
    moved = [
        f'{name} has label {label} {here} and {theirs.index(name)} {there}'
        for label, name in enumerate(ours)
        if name in theirs and theirs.index(name) != label
    ]
    return '; '.join(parts + moved[:1])


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f' and {len(names) - _MOST_NAMES} more' if len(names) > _MOST_NAMES else ''
    return ', '.join(names[:_MOST_NAMES]) + more
