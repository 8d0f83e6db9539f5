"""Turn a command line into a config that MMEngine's runner can run."""

import argparse
import os.path as osp
from contextlib import contextmanager
from pathlib import Path
from typing import Collection, Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import Runner

from biformer_mm.datasets.checks.problems import enforce
from biformer_mm.engine.config_rules import check_config
from biformer_mm.engine.config_rules.tta import check_tta
from biformer_mm.engine.runner import distributed
from biformer_mm.utils.config_types import bare_type_name, type_name
from biformer_mm.utils.errors import UsageError, explained

from ...utils.cli import add_allow, add_cfg_options, check_writable
from ...utils.config_file import read_config
from ..hooks.whole_checkpoint_hook import find_whole_checkpoint, is_whole
from . import sharding  # noqa: F401  registers WholeFSDPStrategy
from .guarded_runner import guarded

_RESUMABLE = dict(EpochBasedTrainLoop='ResumableEpochLoop', IterBasedTrainLoop='ResumableIterLoop')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test share with mmdet's tools."""
    parser.add_argument('--work-dir', help='where logs and results go')
    add_allow(parser)
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started',
    )


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the common arguments to it.

    Raises:
        UsageError: The file does not exist, or the process was not started by
            the launcher.
    """
    distributed.read_launcher(args.launcher)
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = osp.join('work_dirs', Path(args.config).stem)
    check_writable('--work-dir', cfg.work_dir, folder=True)
    allow_no_workers(cfg)
    if cfg.get('default_scope') == 'mmpretrain':
        _set_loader_defaults(cfg)
    return cfg


def allow_no_workers(cfg: Config) -> None:
    """Drop the options that need workers from the loaders that have none.

    PyTorch refuses them, and they are often inherited.
    """
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None and not loader.get('num_workers'):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)


def _set_loader_defaults(cfg: Config) -> None:
    """Complete the loaders as mmpretrain's own tools do."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.setdefault('collate_fn', dict(type='default_collate'))
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', bool(loader.get('num_workers')))


def set_resume(cfg: Config, resume: Optional[str], trust: bool = False) -> None:
    """Resume from the work directory's last checkpoint or from a given one.

    A config with ``resume = True`` and no ``load_from`` resumes from the last
    checkpoint if there is one.

    Args:
        cfg: Config to change.
        resume: None, 'auto', or a checkpoint's path or URL.
        trust: Whether it may be one that runs code.

    Raises:
        UsageError: There is nothing to resume from, or it may run code.
    """
    checkpoint = resume
    if resume == 'auto':
        checkpoint = find_whole_checkpoint(cfg.work_dir)
        if checkpoint is None:
            raise UsageError(
                f'--resume: there is no checkpoint in {cfg.work_dir}; leave '
                '--resume out to start anew, or name one: --resume PATH'
            )
    elif resume is None:
        checkpoint = cfg.get('load_from')
        if cfg.get('resume') and checkpoint is None:
            checkpoint = find_whole_checkpoint(cfg.work_dir)
            cfg.resume, cfg.load_from = checkpoint is not None, checkpoint
    elif '://' not in resume and not is_whole(resume):
        what = 'is truncated or no checkpoint' if osp.exists(resume) else 'does not exist'
        raise UsageError(f'--resume: {resume} {what}; name another: --resume PATH')
    if checkpoint is not None and osp.isdir(checkpoint) and not trust:
        raise UsageError(
            f'{checkpoint} is a folder of DeepSpeed, which unpickles what is '
            'in it; if you trust who made it, set --trust'
        )
    if resume is not None:
        cfg.resume, cfg.load_from = True, checkpoint


def survive_interruptions(cfg: Config) -> None:
    """Add the hooks and loops that make a run safe to interrupt.

    Checkpoints are written atomically, also on the signals that end a run;
    random numbers resume; losses that are not finite never reach the weights;
    losses that teach nothing are named; processes that hang are ended.

    Args:
        cfg: Config to change; MMEngine's CheckpointHook and training loops
            become ours.
    """
    cfg.default_hooks = cfg.get('default_hooks') or {}
    if 'checkpoint' not in cfg.default_hooks:  # MMEngine would add it
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    saving = cfg.default_hooks.checkpoint or {}
    if type_name(saving) == 'CheckpointHook':
        saving.type = 'WholeCheckpointHook'
    hooks = cfg.get('custom_hooks') or []
    given = {bare_type_name(hook) for hook in hooks}
    cfg.custom_hooks = [
        *hooks,
        *(
            dict(type=name)
            for name in (
                'ResumableSeedHook',
                'NonFiniteLossHook',
                'GradientCheckHook',
                'PreemptionHook',
                'HangHook',
            )
            if name not in given
        ),
    ]
    loop = cfg.get('train_cfg') or {}
    if 'type' not in loop and 'by_epoch' in loop:
        loop.type = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
    if type_name(loop) in _RESUMABLE:
        loop.type = _RESUMABLE[type_name(loop)]


def leave_out_sharding(cfg: Config) -> None:
    """Let a test run as without a strategy: weights that are not trained need little room."""
    if type_name(cfg.get('strategy')) in distributed.SHARDING:
        cfg.runner_type = 'Runner'
        cfg.pop('strategy')


def set_amp(cfg: Config, dtype: Optional[str]) -> None:
    """Set up automatic mixed precision, where asked for and possible.

    Without a GPU, a config that asks for it is run in fp32; an explicit
    ``dtype`` is refused.

    Args:
        cfg: Config to change.
        dtype: None (as the config says), 'float16' or 'bfloat16'.

    Raises:
        UsageError: ``dtype`` is given and there is no GPU.
    """
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        return  # MMEngine says that it is missing
    if dtype is not None:
        if not torch.cuda.is_available():
            raise UsageError('--amp needs a GPU and none is visible; leave it out to train in fp32')
        wrapper.type, wrapper.dtype = 'AmpOptimWrapper', dtype
    elif type_name(wrapper) == 'AmpOptimWrapper' and (not torch.cuda.is_available()):
        print_log('No GPU: training in fp32 instead of mixed precision.')
        wrapper.type = 'OptimWrapper'
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)


def scale_rate(cfg: Config, asked: bool) -> Optional[str]:
    """Scale the learning rate by the batch of a step over the recipe's.

    The batch of a step counts all processes and accumulated gradients. MMEngine
    leaves the latter out, so this replaces its scaling.

    Args:
        cfg: Config to change, where ``asked``, or where its
            ``auto_scale_lr.enable`` is set.
        asked: Whether ``--auto-scale-lr`` is given.

    Returns:
        A line that says what was done; None if scaling was not asked for.

    Raises:
        UsageError: The config names no rate, or no batch that it is meant
            for.
    """
    scaling = cfg.get('auto_scale_lr') or ConfigDict()
    if not asked and not scaling.get('enable'):
        return None
    base = scaling.get('base_batch_size')
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    rate, total = optimizer.get('lr'), batch_of_a_step(cfg)
    if None in (base, rate, total):
        raise UsageError(
            'scaling the rate needs the batch that it is meant for, the rate '
            'and the batch; set auto_scale_lr.base_batch_size, '
            'optim_wrapper.optimizer.lr and train_dataloader.batch_size in '
            'the config, or leave --auto-scale-lr out'
        )
    optimizer.lr = rate * total / base
    scaling.enable = False
    return (
        f'The rate is scaled, {rate:.4g} -> {optimizer.lr:.4g}: it is meant '
        f'for a total batch of {base}, and this run has {total}.'
    )


def batch_of_a_step(cfg: Config) -> Optional[int]:
    """Count the images between two updates of the weights.

    All processes count, and all iterations whose gradients are accumulated.
    Return None if the config has no batch size.
    """
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    if batch is None:
        return None
    wrapper, strategy = cfg.get('optim_wrapper'), cfg.get('strategy')
    accumulated = (wrapper or {}).get('accumulative_counts', 1)
    sharded = (strategy or {}).get('gradient_accumulation_steps', 1)
    return batch * accumulated * sharded * distributed.world_size(cfg.launcher)


def refuse_config(cfg: Config, splits: Sequence[str], args: argparse.Namespace) -> List[str]:
    """Refuse a config that contradicts itself.

    Args:
        cfg: The config.
        splits: The splits that the run uses.
        args: The command line, with ``--cfg-options``, ``--allow`` and maybe ``--tta``.

    Returns:
        Warnings, of one line each.

    Raises:
        UsageError: A rule is broken that ``--allow`` does not name.
    """
    warnings: List[str] = []
    problems = list(check_config(cfg, splits, list(args.cfg_options)))
    if getattr(args, 'tta', False):
        problems += check_tta(cfg)
    enforce(problems, args.allow, warnings.append)
    return warnings


def build_runner(cfg: Config, allowed: Collection[str] = ()) -> Runner:
    """Build a config's runner, with :class:`GuardedRun` before it.

    Without a GPU, distributed runs use gloo.

    Args:
        cfg: The config.
        allowed: Rules about data that only warn.

    Raises:
        UsageError: The config is not one that can be run.
    """
    distributed.check_sharding(cfg)
    if type_name(cfg.get('strategy')) == 'FSDPStrategy':
        cfg.strategy.type = 'WholeFSDPStrategy'
    if cfg.launcher != 'none' and get_device() == 'cpu':
        distributed.use_cpus(cfg)
    with explained(f'{cfg.filename} must be what a run can use', 'change it, or --cfg-options'):
        kind = guarded(cfg.get('runner_type', 'Runner'), cfg.get('default_scope'), allowed)
        return kind.from_cfg(cfg)


@contextmanager
def out_of_memory_advice() -> Iterator[None]:
    """Say what to do when memory is insufficient.

    Raises:
        UsageError: In place of PyTorch's and Python's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).splitlines() or ['MemoryError'])[0]
        if not isinstance(error, MemoryError) and not any(
            text in reason for text in ('out of memory', "can't allocate memory")
        ):
            raise
        raise UsageError(
            f'memory does not suffice ({reason}); lower '
            'train_dataloader.batch_size, recompute activations with '
            '--cfg-options model.backbone.with_cp=True, or train in half '
            'precision with --amp'
        ) from error


def warn_of_other_batch(runner: Runner, options: Dict) -> None:
    """Warn in one line if the batch is not the one that the rate is meant for.

    Args:
        runner: Runner of a training.
        options: The user's ``--cfg-options``; a rate among them is taken as
            scaled on purpose.
    """
    base = (runner.cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    total = batch_of_a_step(runner.cfg)
    if (
        base
        and total not in (None, base)
        and not any(key.endswith('optimizer.lr') for key in options)
    ):
        runner.logger.warning(
            f'The rate is meant for a total batch of {base} but this run has '
            f'{total}: scale the rate (--auto-scale-lr), or keep batch x '
            f'iterations by training {base / total:g} times as many.'
        )
