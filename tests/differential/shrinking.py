"""Make a recipe one of seconds: smaller pictures, fewer of them, a narrow
BiFormer, few iterations. All else stays.

The file gets a variable more,
`biformer`: a backbone for recipes without one."""

import sys
from pathlib import Path
from typing import Any, Dict, Iterator

from mmengine.config import Config, ConfigDict

from biformer_mm.utils import register_all_modules

# Fields in pixels, or in boxes; numbers from 100 on are divided, to 64 at
# least.
_SIZES = (
    'scale',
    'scales',
    'img_scale',
    'crop_size',
    'size',
    'stride',
    'random_size_range',
    'border',
    'nms_pre',
    'max_per_img',
    'num',
    'fc_out_channels',
)
_FACTORS = dict(mmdet=10, mmseg=8, mmpretrain=3.5)
_DIMS = {'tiny': (64, 128, 256, 512), 'small': (64, 128, 256, 512), 'stl': (96, 192, 384, 768)}


def shrink(cfg: Config, data: str) -> None:
    """Shrink a config of any framework.

    Args:
        cfg: Config to change.
        data: The folder in place of ``data``.
    """
    for item in _dicts(cfg._cfg_dict):
        for key, value in item.items():
            if key in _SIZES:
                item[key] = _smaller(value, _FACTORS[cfg.default_scope])
            elif isinstance(value, str) and value.startswith('data/'):
                item[key] = data + value[len('data') :]
            elif key == 'pretrained' or (
                key == 'init_cfg' and isinstance(value, dict) and value.get('type') == 'Pretrained'
            ):
                item[key] = None  # a download
        if item.get('type') == 'BiFormer' and isinstance(item.get('arch'), str):
            item.arch = narrow(_DIMS[item.arch])
            item.num_regions = min(item.get('num_regions', 7), 4)
        if 'score_thr' in item and 'nms' in item:
            item['score_thr'] = 0.0  # else nothing is found as yet
        if item.get('type') == 'ImageNet':
            item['indices'] = 4
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    _shorten(cfg)
    if cfg.optim_wrapper.get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'  # theirs needs a GPU
        cfg.optim_wrapper.pop('loss_scale', None)
        cfg.optim_wrapper.pop('dtype', None)
    cfg.randomness = dict(seed=0)
    # Theirs then draws the random numbers that ours does.
    imports = cfg.get('custom_imports') or {}
    seeds = 'biformer_mm.engine.hooks.resumable_seed_hook'
    cfg.custom_imports = dict(
        imports=sorted({*imports.get('imports', []), 'biformer_mm', seeds}),
        allow_failed_imports=False,
    )
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='ResumableSeedHook')]


def narrow(dims: tuple) -> Dict:
    """The architecture of a BiFormer of these widths."""
    return dict(
        embed_dims=dims,
        depths=(1, 1, 1, 1),
        topks=(1, 2, 4, None),
        mlp_ratio=1,
        head_dim=16,
        stem='conv',
        pos_conv=True,
    )


def _shorten(cfg: Config) -> None:
    """Train four iterations, or two epochs of two; log each, validate once."""
    loop = cfg.train_cfg
    loop.pop('dynamic_intervals', None)
    total, name = (4, 'max_iters') if 'max_iters' in loop else (2, 'max_epochs')
    schedulers = cfg.get('param_scheduler') or []
    for item in schedulers if isinstance(schedulers, list) else [schedulers]:
        for key in ('begin', 'end', 'T_max', 'milestones'):
            if key in item:
                item[key] = _sooner(item[key], total, loop[name])
        if 'end' in item and item.end <= item.get('begin', 0):
            item.end = item.begin + 1
    loop[name] = loop.val_interval = total
    hooks = cfg.setdefault('default_hooks', ConfigDict())
    hooks.logger.interval = 1
    if 'checkpoint' in hooks:
        hooks.checkpoint.interval = loop.val_interval
    cfg.log_processor = dict(cfg.get('log_processor') or {}, window_size=1)


def _sooner(moment: Any, total: int, old_total: int) -> Any:
    """Scale a moment to a training of another length."""
    if isinstance(moment, (list, tuple)):
        return [_sooner(item, total, old_total) for item in moment]
    if not 0 < moment < old_total:
        return min(moment, total)
    return min(max(round(moment * total / old_total), 1), total - 1)


def _smaller(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_smaller(item, factor) for item in value)
    if isinstance(value, int) and abs(value) >= 100:
        return max(int(value / factor), 64 if value > 0 else value)
    return value


def _dicts(value: Any) -> Iterator[ConfigDict]:
    """All dicts of a config, itself included."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _dicts(item)


def main() -> None:
    """Write a shrunk config, all in one file.

    The arguments are the recipe, the file to write, and the data folder.
    """
    base, path, data = sys.argv[1:]
    source = Path(path).with_name('recipe.py')
    source.write_text(f'_base_ = {base!r}\n')
    register_all_modules()  # finds mmseg's configs
    cfg = Config.fromfile(source)
    shrink(cfg, data)
    cfg.biformer = dict(type='BiFormer', num_regions=2, arch=narrow((32, 64, 128, 256)))
    cfg.dump(path)


if __name__ == '__main__':
    main()
