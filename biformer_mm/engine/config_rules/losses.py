"""Find losses that teach nothing, whatever the data."""

from typing import Any, Dict, Iterator, List, Sequence

from mmengine.registry import MODELS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import Part, class_of, classes_of, count, data_sets, default_of, each, heads

_BINARY = 'num_classes=2 (the background first), out_channels=1 and loss_decode.use_sigmoid=True'


def check_one_output(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse a softmax over one output: the loss and its gradient are always 0.

    Detectors are left out: theirs have an output for the background or use a sigmoid.
    """
    if 'train' not in splits:
        return
    for key, head in heads(cfg):
        if key == 'model.head':
            yield from _classifier(key, head)
        elif 'decode_head' in key or 'auxiliary_head' in key:
            yield from _segmentor(cfg, key, head)


def _classifier(key: str, head: Dict) -> Iterator[Problem]:
    name, loss = bare_type_name(head), head.get('loss')
    if count(head, 'num_classes') != 1:
        return
    if loss is None:
        constant = name in ('LinearClsHead', 'StackedLinearClsHead', 'VisionTransformerClsHead')
    else:
        constant = not name.startswith('MultiLabel') and _is_softmax(loss)
    if constant or name == 'TokenLabelHead':
        yield Problem(
            'constant-loss',
            f'{key}.num_classes',
            '1, and a softmax over one output is always 1: the loss is 0 from the start; set it '
            'to the number of classes, 2 to tell one class from all else',
        )


def _segmentor(cfg: Dict, key: str, head: Dict) -> Iterator[Problem]:
    classes, losses = count(head, 'num_classes'), head.get('loss_decode')
    if losses is None:
        losses = default_of(class_of(cfg, head, MODELS), 'loss_decode')
    losses = [loss for _, loss in each('', losses)]
    if (count(head, 'out_channels') or classes) != 1 or not losses:
        return
    if all(map(_is_softmax, losses)):
        yield Problem(
            'constant-loss',
            f'{key}.loss_decode',
            'a softmax over one output, which is always 1: the loss is 0 from the start; for '
            f'one class and background set {_BINARY}',
        )
    elif classes == 1 and _data_classes(cfg) == {1}:
        yield Problem(
            'constant-loss',
            f'{key}.num_classes',
            '1, so all labels are 0 and the head learns a constant; name the background as a '
            f'class of the data, too, and set {_BINARY}',
        )


def _is_softmax(loss: Any) -> bool:
    """Return whether a loss is known to compare a softmax with the labels."""
    if not isinstance(loss, dict) or loss.get('use_sigmoid') or loss.get('use_mask'):
        return False
    name = bare_type_name(loss)
    if name == 'LabelSmoothLoss':
        return loss.get('mode') != 'multi_label'
    return name in ('CrossEntropyLoss', 'SeesawLoss')


def _data_classes(cfg: Dict) -> set:
    return {len(classes_of(cfg, dataset) or ()) for _, dataset in data_sets(cfg, ['train'])}


def check_weights(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse losses that are all weighted by 0."""
    if 'train' not in splits:
        return
    losses = _losses('model', cfg.get('model'))
    if losses and all(loss.get('loss_weight', 1) == 0 for _, loss in losses):
        yield Problem(
            'constant-loss',
            f'{losses[0][0]}.loss_weight',
            f'{losses[0][1]["loss_weight"]}, as of all losses of the model: nothing is learnt; '
            'give one a weight above 0',
        )
    for key, loss in losses:
        weights = loss.get('class_weight')
        if isinstance(weights, (list, tuple)) and weights and not any(weights):
            yield Problem(
                'constant-loss',
                f'{key}.class_weight',
                'all are 0: no class is learnt; give each class a weight above 0',
            )


def _losses(key: str, part: Any) -> List[Part]:
    """List the losses below a part of the model: dicts with a type under a name in loss*."""
    found: List[Part] = []
    for option, inner in each(key, part):
        for name, value in inner.items():
            option_of_value = f'{option}.{name}'
            if name.startswith('loss'):
                found += [x for x in each(option_of_value, value) if 'type' in x[1]]
            else:
                found += _losses(option_of_value, value)
    return found


def check_optimizer(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse a learning rate of 0."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    rate = optimizer.get('lr') if isinstance(optimizer, dict) else None
    if 'train' in splits and isinstance(rate, (int, float)) and rate == 0:
        yield Problem(
            'idle-optimizer',
            'optim_wrapper.optimizer.lr',
            '0: no weight ever changes; set a rate above 0',
        )


RULES = (check_one_output, check_weights, check_optimizer)
