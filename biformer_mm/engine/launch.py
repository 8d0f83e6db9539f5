"""From a command line to a config that MMEngine's runner can run."""
import argparse
import os.path as osp
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from biformer_mm.engine import distributed
from biformer_mm.errors import UsageError
from .command_line import add_cfg_options, check_writable, read_config
from .full_disk import watch_disk
from .loaders import watch_loaders
from .saving import find_whole_checkpoint, is_whole
from .starting import Start

_RESUMABLE = dict(
    EpochBasedTrainLoop='ResumableEpochLoop',
    IterBasedTrainLoop='ResumableIterLoop')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test share with mmdet's tools."""
    parser.add_argument('--work-dir', help='where logs and results go')
    add_cfg_options(parser)
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed run were started')


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
    return cfg


def check_complete(cfg: Config, split: str) -> None:
    """Check that a config has what a run needs.

    Args:
        cfg: Config, as :func:`load_config` reads it.
        split: 'train' or 'test'.

    Raises:
        UsageError: It has not, or only a part of what belongs together.
    """
    parts = {
        name:
        tuple(f'{name}_{part}' for part in ('dataloader', 'cfg', 'evaluator'))
        for name in ('val', 'test')
    }
    parts['train'] = 'train_dataloader', 'train_cfg', 'optim_wrapper'
    missing = [x for x in ('model', *parts[split]) if not cfg.get(x)]
    if missing:
        raise UsageError(f'{split}.py needs {", ".join(missing)} in the '
                         f'config, and {cfg.filename} has none; add them, or '
                         'start from one of configs/')
    for names in parts.values():
        missing = [name for name in names if cfg.get(name) is None]
        if 0 < len(missing) < len(names):
            raise UsageError(f'a config must have all of {", ".join(names)} '
                             f'or none; {cfg.filename} has no '
                             f'{", ".join(missing)}; add it, or set the '
                             'others to None')


def set_resume(cfg: Config,
               resume: Optional[str],
               trust: bool = False) -> None:
    """Resume from the work directory's last checkpoint or from a given one.

    Args:
        cfg: Config to change.
        resume: None, 'auto', or a checkpoint's path or URL.
        trust: Whether it may be one that runs code.

    Raises:
        UsageError: There is nothing to resume from, or it may run code.
    """
    if resume is None:
        return
    checkpoint = resume
    if resume == 'auto':
        checkpoint = find_whole_checkpoint(cfg.work_dir)
        if checkpoint is None:
            raise UsageError(
                f'--resume: there is no checkpoint in {cfg.work_dir}; leave '
                '--resume out to start anew, or name one: --resume PATH')
    if '://' not in checkpoint and not is_whole(checkpoint):
        what = ('is truncated or no checkpoint'
                if osp.exists(checkpoint) else 'does not exist')
        raise UsageError(f'--resume: {checkpoint} {what}; name another: '
                         '--resume PATH')
    if osp.isdir(checkpoint) and not trust:
        raise UsageError(
            f'--resume: {checkpoint} is a folder of DeepSpeed, which '
            'unpickles what is in it; if you trust who made it, set --trust')
    cfg.resume, cfg.load_from = True, checkpoint


def survive_interruptions(cfg: Config) -> None:
    """Have checkpoints written whole, and on the signals that end a run,
    random numbers resumed, and weights kept from losses that are not finite.

    Args:
        cfg: Config to change; MMEngine's CheckpointHook and training loops
            become ours.
    """
    cfg.default_hooks = cfg.get('default_hooks') or {}
    if 'checkpoint' not in cfg.default_hooks:  # MMEngine would add it
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    saving = cfg.default_hooks.checkpoint or {}
    if saving.get('type') == 'CheckpointHook':
        saving.type = 'WholeCheckpointHook'
    hooks = cfg.get('custom_hooks') or []
    given = {hook.get('type') for hook in hooks}
    cfg.custom_hooks = [
        *hooks,
        *(dict(type=name)
          for name in ('ResumableSeedHook', 'NonFiniteLossHook',
                       'PreemptionHook', 'HangHook') if name not in given)
    ]
    loop = cfg.get('train_cfg') or {}
    if 'type' not in loop and 'by_epoch' in loop:
        loop.type = ('EpochBasedTrainLoop'
                     if loop.pop('by_epoch') else 'IterBasedTrainLoop')
    if loop.get('type') in _RESUMABLE:
        loop.type = _RESUMABLE[loop.type]


def set_amp(cfg: Config, dtype: Optional[str]) -> None:
    """Train with automatic mixed precision, where asked for and possible.

    A config that asks for it is run in fp32 where there is no GPU; a user who
    does is told.

    Args:
        cfg: Config to change.
        dtype: None (as the config says), 'float16' or 'bfloat16'.

    Raises:
        UsageError: ``dtype`` is given and there is no GPU.
    """
    wrapper = cfg.optim_wrapper
    if dtype is not None:
        if not torch.cuda.is_available():
            raise UsageError(
                '--amp needs a GPU and none is visible; leave it out to train '
                'in fp32')
        wrapper.type, wrapper.dtype = 'AmpOptimWrapper', dtype
    elif wrapper.get('type') == 'AmpOptimWrapper' and (
            not torch.cuda.is_available()):
        print_log('No GPU: training in fp32 instead of mixed precision.')
        wrapper.type = 'OptimWrapper'
        for key in ('dtype', 'loss_scale', 'use_fsdp'):
            wrapper.pop(key, None)


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the rate with the total batch.

    Raises:
        UsageError: The config does not name the batch its rate is meant for.
    """
    if not (cfg.get('auto_scale_lr') or {}).get('base_batch_size'):
        raise UsageError(
            '--auto-scale-lr needs the batch size that the rate is meant for; '
            'set auto_scale_lr.base_batch_size in the config')
    cfg.auto_scale_lr.enable = True


def build_runner(cfg: Config) -> Runner:
    """Build the runner; without a GPU, distributed runs use gloo.

    Its data sets name the file when they fail, signals to all processes spare
    their workers, and a full disk is told in one line.

    Raises:
        UsageError: The config is not one that can be run; what the runner
            builds later on tells so, too.
    """
    if cfg.launcher != 'none' and get_device() == 'cpu':
        distributed.use_cpus(cfg)
    start = Start(cfg)
    with start.step():
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
    watch_loaders(runner)
    watch_disk(runner)
    start.watch(runner)
    return runner


@contextmanager
def out_of_memory_advice() -> Iterator[None]:
    """Say what to do when memory does not suffice.

    Raises:
        UsageError: In place of PyTorch's and Python's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = (str(error).splitlines() or ['MemoryError'])[0]
        if not isinstance(error, MemoryError) and not any(
                text in reason
                for text in ('out of memory', "can't allocate memory")):
            raise
        raise UsageError(
            f'memory does not suffice ({reason}); lower '
            'train_dataloader.batch_size, recompute activations with '
            '--cfg-options model.backbone.with_cp=True, or train in half '
            'precision with --amp') from error


def warn_of_other_batch(runner: Runner, options: Dict) -> None:
    """Warn, in one line, if the batch is not the one the rate is meant for.

    Args:
        runner: Runner of a training.
        options: The user's ``--cfg-options``; a rate among them is taken as
            scaled on purpose.
    """
    cfg = runner.cfg
    scaling = cfg.get('auto_scale_lr') or {}
    base = scaling.get('base_batch_size')
    per_gpu = cfg.train_dataloader.get('batch_size')
    if not base or not per_gpu or scaling.get('enable') or any(
            key.endswith('optimizer.lr') for key in options):
        return
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    total = per_gpu * runner.world_size * steps
    if total != base:
        runner.logger.warning(
            f'The rate is meant for a total batch of {base} but this run has '
            f'{total}: scale the rate (--auto-scale-lr), or keep batch x '
            f'iterations by training {base / total:g} times as many.')
