"""Make a recipe small: only sizes and lengths change."""

from typing import Any, Callable, Dict, Sequence

from mmengine.config import Config

# By what a training's length is counted in: how long it is, how long when it
# is resumed, and how much of it is warm-up.
LENGTHS = dict(max_epochs=2, max_iters=3)
LONGER = dict(max_epochs=3, max_iters=4)
_WARM_UP = dict(max_epochs=1, max_iters=2)
# Norms over a batch need two pictures; the detectors' are frozen.
_BATCH = dict(mmdet=1, mmseg=2, mmpretrain=2)
# What the sides of images are divided by; the demos' are small as they are.
_DIVISORS = dict(mmdet=8, mmseg=8, mmpretrain=4)
# Boxes and queries, which small images need few of.
_COUNTS = ('num', 'nms_pre', 'max_per_img', 'num_queries')
_COUNT_DIVISOR = 16
_SIDES = ('scale', 'scales', 'crop_size', 'size', 'max_size')


def shrink(cfg: Config) -> Config:
    """Shrink images, numbers of boxes, batches and lengths, and leave all else
    as it is."""
    if not cfg.filename.endswith(('_demo.py', '_demo_zero.py', '_demo_fsdp.py')):
        divisor = _DIVISORS[cfg.default_scope]
        for part in _image_parts(cfg):
            _each_dict(part, lambda x: _divide(x, _SIDES, divisor))
        _each_dict(cfg.model, lambda x: _divide(x, _COUNTS, _COUNT_DIVISOR))
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(batch_size=_BATCH[cfg.default_scope], num_workers=1)
    _each_dict(cfg.param_scheduler, _shorten)
    unit = unit_of(cfg)
    cfg.train_cfg.update({unit: LENGTHS[unit], 'val_interval': LENGTHS[unit]})
    cfg.default_hooks.logger.interval = 1
    if 'checkpoint' in cfg.default_hooks:
        cfg.default_hooks.checkpoint.interval = LENGTHS[unit]
    return cfg


def unit_of(cfg: Config) -> str:
    """The field that says how long a training is."""
    return 'max_epochs' if 'max_epochs' in cfg.train_cfg else 'max_iters'


def _image_parts(cfg: Config) -> list:
    """Pipelines, and what pads to a size before the model."""
    splits = 'train', 'val', 'test'
    return [
        *(cfg[f'{split}_dataloader'].dataset for split in splits),
        cfg.get('tta_pipeline') or [],
        cfg.get('data_preprocessor') or {},
        cfg.model.get('data_preprocessor') or {},
    ]


def _each_dict(part: Any, change: Callable[[Dict], None]) -> None:
    if isinstance(part, dict):
        change(part)
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for inner in part:
            _each_dict(inner, change)


def _divide(part: Dict, keys: Sequence[str], divisor: int) -> None:
    for key in keys:
        if part.get(key):
            part[key] = _divided(part[key], divisor)


def _divided(numbers: Any, divisor: int) -> Any:
    if isinstance(numbers, (list, tuple)):
        return type(numbers)(_divided(x, divisor) for x in numbers)
    return numbers // divisor


def _shorten(scheduler: Dict) -> None:
    """What comes after the warm-up goes on to the end."""
    unit = 'max_epochs' if scheduler.get('by_epoch', True) else 'max_iters'
    whole, warm_up = LENGTHS[unit], _WARM_UP[unit]
    begin = min(scheduler.get('begin', 0), warm_up)
    if begin:
        scheduler.begin = begin
    if 'end' in scheduler:
        scheduler.end = warm_up if scheduler.type == 'LinearLR' else whole
    if 'T_max' in scheduler:
        scheduler.T_max = whole - begin
    if 'milestones' in scheduler:
        scheduler.milestones = [whole - 1 for _ in scheduler.milestones]
