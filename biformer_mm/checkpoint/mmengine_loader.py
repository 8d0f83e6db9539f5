"""Replace MMEngine's checkpoint loader by one that does not run code.

OpenMMLab's runners, hooks and models load checkpoints through this loader.
"""

import difflib
import os.path as osp
import re
from typing import Any, Dict

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from biformer_mm.utils.config_types import bare_type_name, is_pretrained

from .download import local_path, without_secrets
from .read import CheckpointError, read_checkpoint, split_weights
from .training_statistics import restore_statistics
from .whole_model import split_backbone

# Scheme -> the function that returns MMEngine's URL for each name.
_LISTS = {
    'torchvision': get_torchvision_models,
    'modelzoo': get_torchvision_models,
    'open-mmlab': get_external_models,
    'openmmlab': get_external_models,
    'mmcls': get_mmcls_models,
}
_SCHEMES = (
    '',
    'http://',
    'https://',
    r'(\S+\:)?s3://',
    r'(\S+\:)?petrel://',
    'pavi://',
    *(f'{scheme}://' for scheme in _LISTS),
)


def read_as_data(cfg: Config, trust: bool = False) -> None:
    """Make MMEngine read every checkpoint with :func:`read_checkpoint`.

    MMEngine's own loader unpickles files that are not plain data. It stays
    replaced until the process ends, so call this in a program, never on import.

    Args:
        cfg: The program's config. With ``trust``, ``trust=True`` is set in the
            ``init_cfg`` of its BiFormers, too.
        trust: Unpickle whatever a file holds. A pickle can run any code.
    """

    def load_from_biformer_mm(filename: str, map_location: Any = None) -> Dict[str, Any]:
        return _load(filename, map_location, trust)

    CheckpointLoader.register_scheme(_SCHEMES, load_from_biformer_mm, force=True)
    if trust:
        _trust_backbones(cfg.get('model'))


def _load(filename: str, map_location: Any, trust: bool) -> Dict[str, Any]:
    """Load a checkpoint as MMEngine's loaders do.

    Raises:
        CheckpointError: See :func:`read_checkpoint`; or MMEngine's list has no
            such name.
    """
    with local_path(_resolve(filename)) as path:
        content = read_checkpoint(path, trust, map_location)
    if not trust:
        content = restore_statistics(content, without_secrets(filename))
        _disarm(content, osp.dirname(filename))
    if filename.startswith('mmcls://'):
        weights, _ = split_weights(content, filename)
        content = dict(state_dict=split_backbone(weights)[0])
    return content


def _disarm(content: Dict[str, Any], folder: str) -> None:
    """Remove what makes MMEngine run code or delete files when it resumes.

    Args:
        content: The content of a checkpoint, changed in place.
        folder: Where the checkpoint and the best one of its training are.
    """
    # MMEngine runs the text in 'config'. What it writes itself is called 'cfg'.
    meta = content.get('meta')
    if isinstance(meta, dict):
        meta.pop('config', None)
    # Its CheckpointHook deletes the files that these name once there are
    # better or enough others.
    hub = content.get('message_hub')
    info = hub.get('runtime_info') if isinstance(hub, dict) else None
    for name in list(info) if isinstance(info, dict) else ():
        if str(name).startswith('best_ckpt') and not _is_best_in(folder, info[name]):
            info[name] = None
        elif name == 'keep_ckpt_ids' and not _are_integers(info[name]):
            info[name] = []


def _is_best_in(folder: str, path: Any) -> bool:
    """Return whether MMEngine saves its best checkpoint under such a path."""
    return (
        isinstance(path, str)
        and re.fullmatch(r'best_.+\.pth', osp.basename(path)) is not None
        and osp.realpath(osp.dirname(path)) == osp.realpath(folder)
    )


def _are_integers(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, int) for value in values)


def _resolve(name: str) -> str:
    """Return the path or URL for a name such as torchvision://resnet50."""
    scheme, separator, model = name.partition('://')
    if not separator or scheme not in _LISTS:
        return name
    places = _LISTS[scheme]()
    if 'mmlab' in scheme:
        model = get_deprecated_model_names().get(model, model)
    if model not in places:
        close = difflib.get_close_matches(model, places) or list(places)[:3]
        raise CheckpointError(
            f"{scheme}:// takes a name of MMEngine's list; got {model!r}: "
            f'give another, such as {", ".join(close)}'
        )
    place = places[model]
    return place if '://' in place else osp.join(_get_mmengine_home(), place)


def _trust_backbones(node: Any) -> None:
    """Set trust=True in the init_cfg of each BiFormer of a config."""
    if isinstance(node, dict):
        init_cfg = node.get('init_cfg')
        if (
            isinstance(init_cfg, dict)
            and bare_type_name(node) == 'BiFormer'
            and is_pretrained(init_cfg)
        ):
            init_cfg['trust'] = True
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _trust_backbones(part)
