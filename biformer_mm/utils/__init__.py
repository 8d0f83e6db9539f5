"""What importing biformer_mm leaves out, as it would change MMEngine."""


def register_all_modules() -> None:
    """Let MMEngine know all of biformer_mm, as the tools of this project do.

    Importing ``biformer_mm`` registers its models. This function adds, for
    the whole process:

    - the hooks and loops that tools/train.py puts into a run;
    - the prefix 'biformer_mm::' in ``_base_`` and in mmengine.hub, and
      'mmseg::' with the maintained fork of mmseg: MMEngine has a fixed table
      of packages;
    - fused attention in MMEngine's FLOP counter, which counts none, for all
      networks.

    Calling it again changes nothing.
    """
    from ..analysis.flops import register_flop_handles
    from ..engine.hooks import (  # noqa: F401
        compile_blocks_hook,
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
