"""Set up what differs between the frameworks in testing."""

import os.path as osp
from copy import deepcopy
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import METRICS
from mmengine.runner import Runner

from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError

_TTA_MODELS = {
    'mmdet': dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    ),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}
_AFTER_FLIPS = ('LoadAnnotations', 'Pad')


def set_show_dir(cfg: Config, show_dir: str) -> None:
    """Let the framework's visualisation hook write pictures.

    Args:
        cfg: Config to change.
        show_dir: Folder, relative to the current directory; created if
            needed.

    Raises:
        UsageError: The config has no visualisation hook.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise UsageError(
            '--show-dir needs a visualisation hook; set default_hooks.visualization in the config'
        )
    show_dir = osp.abspath(show_dir)
    if cfg.get('default_scope') == 'mmpretrain':
        hook.enable, hook.interval, hook.out_dir = True, 1, show_dir
    elif cfg.get('default_scope') == 'mmseg':
        hook.draw, hook.interval = True, 1
        cfg.visualizer.save_dir = show_dir
    else:
        hook.draw, hook.test_out_dir = True, show_dir


def set_tta(cfg: Config) -> None:
    """Test with the config's test-time augmentation, or with flips.

    Raises:
        UsageError: The config has none and its framework no default.
    """
    if 'tta_model' not in cfg:
        if cfg.get('default_scope') not in _TTA_MODELS:
            raise UsageError(
                f'--tta needs tta_model and tta_pipeline in a config of {cfg.get("default_scope")}'
            )
        if cfg.get('default_scope') == 'mmdet' and finds_masks(cfg.model):
            raise UsageError(
                '--tta is for boxes only, as mmdet cannot merge masks, and '
                f'the model of {cfg.filename} finds masks; leave --tta out, '
                'or set a tta_model of your own'
            )
        cfg.tta_model = _TTA_MODELS[cfg.default_scope]
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    while 'dataset' in dataset:
        dataset = dataset.dataset
    if cfg.get('tta_pipeline') is None:
        cfg.tta_pipeline = _flip_pipeline(dataset.pipeline)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def finds_masks(model: Any) -> bool:
    """Return whether a detector of mmdet, given by its config, finds masks."""
    if isinstance(model, dict):
        if model.get('mask_head') or model.get('panoptic_head'):
            return True
        # RTMDet has its instance heads in place of the box head.
        name = type_name(model)
        if 'Ins' in name and 'Head' in name:
            return True
        model = list(model.values())
    return isinstance(model, (list, tuple)) and any(map(finds_masks, model))


def _flip_pipeline(pipeline: list) -> list:
    """Pack each image with and without a flip.

    Images are flipped before annotations are loaded, because the truth must
    not be flipped, and before padding, which is at the right and the bottom.
    """
    *steps, pack = deepcopy(pipeline)
    if 'meta_keys' in pack:
        pack.meta_keys = (*pack.meta_keys, 'flip', 'flip_direction')
    names = [bare_type_name(step) for step in steps]
    before = min([*(names.index(name) for name in _AFTER_FLIPS if name in names), len(steps)])
    flips = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    later = [[step] for step in (*steps[before:], pack)]
    return [*steps[:before], dict(type='TestTimeAug', transforms=[flips, *later])]


def dump_predictions(runner: Runner, path: str) -> None:
    """Let the runner's test also pickle the predictions to ``path``.

    Raises:
        UsageError: The test cannot be set up.
    """
    scope = runner.cfg.get('default_scope')
    dump = METRICS.build(
        dict(type='mmdet.DumpDetResults' if scope == 'mmdet' else DumpResults, out_file_path=path)
    )
    with runner.setting_up():  # it builds the loop of the test
        runner.test_evaluator.metrics.append(dump)
