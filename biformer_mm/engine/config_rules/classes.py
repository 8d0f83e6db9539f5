"""Compare the classes of the data sets with each other and with the model's outputs."""

from typing import Dict, Iterator, Sequence, Tuple

from mmengine.registry import DATASETS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import (
    base_names,
    class_of,
    classes_of,
    count,
    data_sets,
    each,
    heads,
    preprocessor,
    steps,
    written_classes,
)


def check_heads(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the outputs of each head with the classes of the data.

    A classifier is compared with classes that the config gives, not with those of the data set's
    type: a list of labels may use fewer.
    """
    wanted = _wanted(cfg, splits)
    stages: Dict[str, Tuple[str, int]] = {}
    for key, head in heads(cfg):
        outputs = count(head, 'num_classes')
        if outputs is None or head.get('class_agnostic') or count(head, 'out_channels') == 1:
            continue
        option = f'{key}.num_classes'
        parent, _, last = key.rpartition('.')
        if last.isdigit() and not parent.endswith('auxiliary_head'):
            first, theirs = stages.setdefault(parent, (option, outputs))
            if outputs != theirs:
                yield Problem(
                    'head-classes',
                    option,
                    f'{outputs}, but {first} is {theirs}: all stages must predict the same '
                    f'classes; set {option}={theirs}',
                )
        for classes, dataset in wanted.items():
            if outputs == classes or (outputs == 1 and _uses_sigmoid(key, head)):
                continue
            rule = (
                'labels without an output fail, or count as background'
                if outputs < classes
                else 'nothing teaches the others'
            )
            yield Problem(
                'head-classes' if outputs < classes else 'spare-outputs',
                option,
                f'{outputs}, but {dataset} has {classes} classes: {rule}; set {option}={classes}',
            )


def _wanted(cfg: Dict, splits: Sequence[str]) -> Dict[int, str]:
    """Map the number of classes to the first data set that has it, in the first split with any.

    Panoptic data are left out, as heads share their classes out.
    """
    if 'language_model' in (cfg.get('model') or {}):
        return {}  # outputs are tokens of a text
    classifies = 'head' in (cfg.get('model') or {})
    wanted: Dict[int, str] = {}
    for split in splits:
        for option, dataset in data_sets(cfg, [split]):
            classes = written_classes(dataset) if classifies else classes_of(cfg, dataset)
            panoptic = 'CocoPanopticDataset' in base_names(class_of(cfg, dataset, DATASETS))
            if classes and not panoptic and not dataset.get('return_classes'):
                wanted.setdefault(len(classes), option)
        if wanted:
            break
    return wanted


def _uses_sigmoid(key: str, head: Dict) -> bool:
    """Return whether a segmentor's head tells two classes apart with one output."""
    losses = [loss for _, loss in each('', head.get('loss_decode'))]
    return bool(losses) and all(loss.get('use_sigmoid') for loss in losses)


def check_class_weights(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the lengths of lists of class weights with the number of classes.

    A list may have one weight more, of the background.
    """
    if 'train' not in splits:
        return
    for key, head in heads(cfg):
        classes = count(head, 'num_classes')
        if classes is None:
            continue
        lengths = {classes, classes + 1} | {count(head, 'out_channels') or classes}
        for name, part in head.items():
            for option, loss in each(f'{key}.{name}', part if name.startswith('loss') else None):
                weights = loss.get('class_weight')
                if isinstance(weights, (list, tuple)) and len(weights) not in lengths:
                    yield Problem(
                        'class-weights',
                        f'{option}.class_weight',
                        f'{len(weights)} weights, but {key}.num_classes is {classes}; set it to a '
                        f'list of {classes}, or leave it out',
                    )


def check_label_width(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the width of a classifier's soft labels with its outputs."""
    head = (cfg.get('model') or {}).get('head')
    outputs = count(head, 'num_classes')
    if 'train' not in splits or outputs is None:
        return
    places = dict(_label_widths(cfg))
    loss = head.get('loss')
    places['model.head.loss.num_classes'] = count(loss, 'num_classes')
    for option, width in places.items():
        if width not in (None, outputs):
            yield Problem(
                'preprocessor-classes',
                option,
                f'{width}, but model.head.num_classes is {outputs}: labels and outputs must '
                f'have one width; set {option}={outputs}',
            )


def _label_widths(cfg: Dict) -> Iterator[Tuple[str, object]]:
    key, part = preprocessor(cfg)
    augments = part.get('batch_augments') or (cfg['model'].get('train_cfg') or {}).get('augments')
    if augments or part.get('to_onehot'):  # else nothing reads it
        yield f'{key}.num_classes', count(part, 'num_classes')
    for option, dataset in data_sets(cfg, ['train']):
        for step_key, step in steps(f'{option}.pipeline', dataset.get('pipeline')):
            if bare_type_name(step) == 'LoadTokenLabels':
                yield f'{step_key}.num_classes', count(step, 'num_classes')


def check_splits(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the classes, and their order, of the first split with those of the others."""
    known = [
        (option, classes)
        for option, dataset in data_sets(cfg, splits)
        for classes in [classes_of(cfg, dataset)]
        if classes and not dataset.get('return_classes')
    ]
    split = known[0][0].partition('.')[0] if known else ''
    learnt = [classes for option, classes in known if option.startswith(f'{split}.')]
    for option, classes in known:
        if classes not in learnt:
            yield Problem(
                'split-classes',
                f'{option}.metainfo.classes',
                f'{_difference(classes, learnt[0])} in {known[0][0]}: an output has one meaning '
                'in all splits; give all the same metainfo.classes, in the same order',
            )


def _difference(classes: Sequence[str], others: Sequence[str]) -> str:
    if len(classes) != len(others):
        return f'{len(classes)} classes, but there are {len(others)}'
    i = next(i for i, pair in enumerate(zip(classes, others)) if pair[0] != pair[1])
    return f'class {i} is {classes[i]!r}, but it is {others[i]!r}'


RULES = (check_splits, check_heads, check_class_weights, check_label_width)
