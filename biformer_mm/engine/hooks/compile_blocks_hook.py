"""Compile a run's BiFormer block by block."""

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from biformer_mm.models import BiFormer
from biformer_mm.utils.config_types import bare_type_name
from biformer_mm.utils.errors import UsageError


@HOOKS.register_module()
class CompileBlocksHook(Hook):
    """Compile the blocks of each BiFormer in the model before a run."""

    def before_run(self, runner: Runner) -> None:
        """Compile, in place.

        Raises:
            UsageError: The model has no BiFormer, or PyTorch is too old.
        """
        backbones = [module for module in runner.model.modules() if isinstance(module, BiFormer)]
        if not backbones:
            raise UsageError(
                "compile='blocks' needs a BiFormer in the model, and there is none; leave it out"
            )
        for backbone in backbones:
            try:
                backbone.compile_blocks()
            except RuntimeError as error:
                raise UsageError(f"compile='blocks': {error}") from error
        runner.logger.info(
            'The blocks of BiFormer are compiled one by one, which makes the first iterations slow.'
        )


def set_compile(cfg: Config, asked: bool = False) -> None:
    """Turn ``compile='blocks'`` of a config into :class:`CompileBlocksHook`.

    Other values of ``compile``, a bool or a dict, are left to MMEngine.

    Args:
        cfg: Config to change.
        asked: Whether the command line asks for it, whatever the config says.

    Raises:
        UsageError: ``compile`` is neither 'blocks', a bool nor a dict.
    """
    value = 'blocks' if asked else cfg.get('compile', False)
    if value is None or isinstance(value, (bool, dict)):
        return
    if value != 'blocks':
        raise UsageError(
            "compile must be 'blocks', True, False or a dict of "
            f"torch.compile's options; got {value!r}"
        )
    cfg.pop('compile', None)
    hooks = cfg.get('custom_hooks') or []
    if 'CompileBlocksHook' not in map(bare_type_name, hooks):
        cfg.custom_hooks = [*hooks, dict(type='CompileBlocksHook')]
