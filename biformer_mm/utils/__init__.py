"""Register what importing biformer_mm leaves out, because it changes MMEngine."""


def register_all_modules() -> None:
    """Register everything of biformer_mm in MMEngine, as the tools do.

    Importing ``biformer_mm`` only registers its models. This function adds,
    for the whole process:

    - the hooks and loops that tools/train.py puts into a run;
    - the prefix 'biformer_mm::' in ``_base_`` and in mmengine.hub, and
      'mmseg::' for the maintained fork of mmseg, as MMEngine has a fixed table
      of packages;
    - fused attention in MMEngine's FLOP counter, which otherwise does not
      count it, in any network.

    Calling it again changes nothing.
    """
    from ..analysis.flops import register_flop_handles
    from ..engine.hooks import (  # noqa: F401
        compile_blocks_hook,
        gradient_check_hook,
        hang_hook,
        nonfinite_loss_hook,
        preemption_hook,
        resumable_seed_hook,
        whole_checkpoint_hook,
    )
    from .packages import find_mmseg_configs, find_own_configs

    register_flop_handles()
    find_mmseg_configs()
    find_own_configs()
