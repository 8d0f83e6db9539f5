"""Prepare distributed runs: launchers' variables, and runs without a GPU.

MMEngine does the work. This module adds the checks that it leaves out, and
runs on CPUs: MMEngine would select a GPU for every launcher.
"""

import atexit
import gc
import os
import shutil
import subprocess
from datetime import timedelta

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed import destroy_process_group, init_process_group, is_initialized

from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError

# By launcher: the variables of a process's rank, the number of processes and
# the rank within the machine; and what sets them.
_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
_CURES = {
    'pytorch': 'start with tools/dist_train.sh, dist_test.sh or torchrun',
    'slurm': 'start with tools/slurm_train.sh, slurm_test.sh or srun',
    'mpi': "start with Open MPI's mpirun",
}

_FSDP = ('FSDPStrategy', 'WholeFSDPStrategy')  # the second in configs that a run has written
SHARDING = ('DeepSpeedStrategy', *_FSDP)


def read_launcher(launcher: str) -> None:
    """Set the variables that PyTorch reads from those of the launcher.

    They are RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. An
    address or port that is already set is kept.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.

    Raises:
        UsageError: The process was not started by that launcher, or the address
            of the first machine is not known.
    """
    if launcher == 'none':
        return
    env = os.environ
    missing = [name for name in _VARIABLES[launcher] if name not in env]
    if missing:
        raise UsageError(
            f'--launcher {launcher} reads environment variables of its '
            f'launcher, and {", ".join(missing)} are not set: '
            f'{_CURES[launcher]}, or leave --launcher out for one process'
        )
    for name, source in zip(_VARIABLES['pytorch'], _VARIABLES[launcher]):
        env[name] = env[source]
    if launcher == 'slurm':
        # Jobs may share a machine: each gets a port of its own.
        job = int(env.get('SLURM_JOB_ID', 0))
        env.setdefault('MASTER_PORT', str(20000 + job % 10000))
    env.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in env:
        env['MASTER_ADDR'] = _master_address(launcher)


def world_size(launcher: str) -> int:
    """Return the number of processes; call :func:`read_launcher` first."""
    return 1 if launcher == 'none' else int(os.environ['WORLD_SIZE'])


def _master_address(launcher: str) -> str:
    """Return the address of the machine of rank 0."""
    env = os.environ
    if launcher == 'slurm' and shutil.which('scontrol'):
        command = ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']]
        return subprocess.check_output(command, text=True).split()[0]
    if launcher == 'mpi' and env.get('OMPI_COMM_WORLD_LOCAL_SIZE') == env['OMPI_COMM_WORLD_SIZE']:
        return '127.0.0.1'
    raise UsageError(
        f'--launcher {launcher} needs the address of the machine of rank 0 '
        'and cannot find it out here: set MASTER_ADDR in the environment of '
        'every process'
    )


def use_cpus(cfg: Config) -> None:
    """Set up a distributed run on CPUs, with gloo and a wrapper without devices.

    Args:
        cfg: Config to change. Its model wrapper's other settings and the time
            limit of its ``env_cfg.dist_cfg`` are kept.
    """
    limit = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    options = dict(timeout=timedelta(seconds=limit)) if limit else {}
    init_process_group('gloo', **options)
    atexit.register(_leave_group)
    cfg.pop('sync_bn', None)
    wrapper = dict(
        cfg.get('model_wrapper_cfg')
        or dict(
            broadcast_buffers=False, find_unused_parameters=cfg.get('find_unused_parameters', False)
        )
    )
    usual = 'MMDistributedDataParallel'
    if (type_name(wrapper) or usual) == usual:
        wrapper['type'] = 'CPUDistributedDataParallel'
    cfg.model_wrapper_cfg = wrapper
    strategy = cfg.get('strategy')
    if type_name(strategy) == 'DDPStrategy':
        strategy.setdefault('model_wrapper', wrapper)


def check_sharding(cfg: Config) -> None:
    """Refuse a sharded training that would fail, hang or average shards.

    Raises:
        UsageError: DeepSpeed is missing or too new, there is no launcher, or
            a hook or an optimiser does not work with sharding.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer')
    saving = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if bare_type_name(optimizer) == 'ZeroRedundancyOptimizer' and saving.get(
        'save_optimizer', True
    ):
        raise UsageError(
            'ZeroRedundancyOptimizer must not be saved: all processes gather its state, and only '
            'one saves, so the first checkpoint would hang; use DeepSpeed '
            '(configs/retinanet_biformer_demo_zero.py), or set '
            'default_hooks.checkpoint.save_optimizer=False and do without --resume'
        )
    strategy = cfg.get('strategy') or {}
    kind = type_name(strategy)
    runner = bare_type_name(dict(type=cfg.get('runner_type')))
    if kind not in SHARDING or runner != 'FlexibleRunner':
        return
    if kind == 'DeepSpeedStrategy':
        _check_deepspeed()
    if cfg.launcher == 'none':
        raise UsageError(
            f'strategy.type={kind} needs a launcher, with one process too; '
            f'start it with tools/dist_train.sh {cfg.filename} 1'
        )
    shards_weights = kind in _FSDP or ((strategy.get('zero_optimization') or {}).get('stage') == 3)
    hooks = cfg.get('custom_hooks') or ()
    if shards_weights and any(bare_type_name(hook) == 'EMAHook' for hook in hooks):
        raise UsageError(
            f'EMAHook must not be used with strategy.type={kind}, which shards the weights that '
            'it averages; leave it out, or use DeepSpeed with zero_optimization.stage=1'
        )


def _check_deepspeed() -> None:
    """Import what MMEngine imports of DeepSpeed when it builds the strategy."""
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam, FusedAdam  # noqa: F401
        from deepspeed.ops.lamb import FusedLamb  # noqa: F401
        from deepspeed.runtime.fp16.onebit import OnebitAdam, OnebitLamb, ZeroOneAdam  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f'strategy.type=DeepSpeedStrategy needs DeepSpeed as MMEngine knows it ({error}); pip '
            'install deepspeed==0.16.9, see docs/distributed.md'
        ) from error


def _leave_group() -> None:
    """Join gloo's threads, before one releases a tensor at exit and aborts the process.

    They end with the last reference to their group. The model's wrapper, by
    now part of garbage cycles, holds one.
    """
    if is_initialized():
        destroy_process_group()
    gc.collect()


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Wrap a model on CPUs, where SyncBN cannot train and becomes BN.

    Args:
        module: Model to wrap.
        device_ids: Not used: MMEngine gives GPUs to every wrapper.
        **kwargs: As for ``MMDistributedDataParallel``.
    """

    def __init__(self, module: nn.Module, device_ids=None, **kwargs) -> None:
        super().__init__(module=revert_sync_bn(module), **kwargs)


def revert_sync_bn(module: nn.Module) -> nn.Module:
    """Replace SyncBN, which cannot train on CPUs, by BN."""
    # Of PyTorch or of mmcv: their classes have one name.
    if any(type(m).__name__ == 'SyncBatchNorm' for m in module.modules()):
        print_log(
            'No GPU: SyncBN trains as BN, on the statistics of each process.', logger='current'
        )
        module = revert_sync_batchnorm(module)
    return module
