"""Build a config's model for inference."""

import logging
from copy import deepcopy
from typing import Any, Dict, Optional, Tuple

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from biformer_mm.checkpoint import load_model
from biformer_mm.utils.errors import UsageError, explained


def build_model(
    cfg: Config, checkpoint: Optional[str] = None, device: str = 'cpu', trust: bool = False
) -> Tuple[nn.Module, Dict[str, Any]]:
    """Build a config's whole model for inference.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.
        checkpoint: Path or URL of its weights. None initialises the model as
            its config says.
        device: Device of the model.
        trust: See :func:`biformer_mm.checkpoint.load_model`.

    Returns:
        The model, in evaluation mode; and ``dataset_meta``, the names and
        colours of the classes that the checkpoint has.

    Raises:
        CheckpointError: The checkpoint does not fit.
        UsageError: The config has no model, or it cannot be built.
    """
    model = build_network(cfg)
    dataset_meta = {}
    if checkpoint is None:
        with explained(
            'the model must be one that can be initialised', 'correct init_cfg in the config'
        ):
            _init_quietly(model)
    else:
        dataset_meta = load_model(model, checkpoint, trust)
    return model.to(device).eval(), dataset_meta


def build_network(cfg: Config) -> nn.Module:
    """Build a config's whole model, without its weights.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain.

    Raises:
        UsageError: The config has no model, or it cannot be built.
    """
    if not cfg.get('model'):
        raise UsageError(
            'the config must have a model; '
            f'{cfg.filename or "this one"} has none: give one '
            'that tools/train.py takes'
        )
    with explained(
        f'the model of {cfg.filename or "the config"} must be one that can be built',
        'correct it, or start from one of configs/',
    ):
        # As MMEngine's runner does, here and below.
        init_default_scope(cfg.get('default_scope') or 'mmengine')
        model_cfg = deepcopy(cfg.model)
        if cfg.get('data_preprocessor'):
            model_cfg.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
        return revert_sync_batchnorm(MODELS.build(model_cfg))


def _init_quietly(model: nn.Module) -> None:
    """Initialise without MMEngine's log line for every parameter."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)
