"""From a command line to a config that MMEngine's runner can run."""
import argparse
import difflib
import os
import os.path as osp
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from biformer_mm.engine import distributed
from biformer_mm.errors import UsageError


@contextmanager
def usage_errors(prog: str) -> Iterator[None]:
    """End the program with one line, not a traceback, on a UsageError.

    Of a distributed run's processes, one on each machine prints it.
    """
    try:
        yield
    except UsageError as error:
        if int(os.environ.get('LOCAL_RANK', 0)) > 0:
            # A launcher ends all processes when the first has failed: let
            # that be the one that prints.
            time.sleep(10)
            sys.exit(1)
        sys.exit(f'{prog}: error: {error}')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that train and test share with mmdet's tools."""
    parser.add_argument('--work-dir', help='where logs and results go')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        default={},
        metavar='KEY=VALUE',
        help='override fields of the config, such as '
        'train_dataloader.batch_size=4; nested lists in quotes, without '
        'spaces: key="[(a,b),(c,d)]"')
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
    if not osp.isfile(args.config):
        folder = Path(args.config).parent
        close = difflib.get_close_matches(
            Path(args.config).name, [p.name for p in folder.glob('*.py')])
        hint = (f'did you mean {folder / close[0]}?'
                if close else 'the suite\'s configs are in configs/')
        raise UsageError(f'there is no config {args.config}; {hint}')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir:
        cfg.work_dir = args.work_dir
    elif not cfg.get('work_dir'):
        cfg.work_dir = osp.join('work_dirs', Path(args.config).stem)
    return cfg


def set_resume(cfg: Config, resume: Optional[str]) -> None:
    """Resume from the work directory's last checkpoint or from a given one.

    Args:
        cfg: Config to change.
        resume: None, 'auto', or a checkpoint's path or URL.

    Raises:
        UsageError: There is nothing to resume from.
    """
    if resume is None:
        return
    checkpoint = resume
    if resume == 'auto':
        if not osp.isfile(osp.join(cfg.work_dir, 'last_checkpoint')):
            raise UsageError(
                f'--resume: there is no checkpoint in {cfg.work_dir}; leave '
                '--resume out to start anew, or name one: --resume PATH')
        checkpoint = find_latest_checkpoint(cfg.work_dir)
    # DeepSpeed's are folders.
    if '://' not in checkpoint and not osp.exists(checkpoint):
        raise UsageError(f'--resume: there is no checkpoint {checkpoint}; '
                         'name one that exists: --resume PATH')
    cfg.resume, cfg.load_from = True, checkpoint


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
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise UsageError(
            '--auto-scale-lr needs the batch size that the rate is meant for; '
            'set auto_scale_lr.base_batch_size in the config')
    cfg.auto_scale_lr.enable = True


def build_runner(cfg: Config) -> Runner:
    """Build the runner; without a GPU, distributed runs use gloo."""
    if cfg.launcher != 'none' and get_device() == 'cpu':
        distributed.use_cpus(cfg)
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)


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
