import gc
import os
import shutil
import sys
import weakref
from types import ModuleType

import pytest
import torch
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from process_runner import launcher_variables
from torch import distributed as torch_distributed
from torch import nn

from biformer_mm.engine.runner import distributed, launch
from biformer_mm.utils.errors import UsageError

CPU_WRAPPER = 'CPUDistributedDataParallel'


@pytest.fixture
def environ(monkeypatch):
    """An environment of no launcher."""
    variables = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('SLURM_', 'OMPI_', 'MASTER_'))
        and key not in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    }
    monkeypatch.setattr(os, 'environ', variables)
    return variables


@pytest.fixture(autouse=True)
def at_exit(monkeypatch):
    """What is registered to run at exit, instead of running it."""
    functions = []
    monkeypatch.setattr(distributed.atexit, 'register', functions.append)
    return functions


@pytest.fixture
def process_group():
    torch_distributed.init_process_group(
        'gloo', store=torch_distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch_distributed.destroy_process_group()


@pytest.mark.parametrize(
    'launcher, port', [('pytorch', '29500'), ('slurm', '20007'), ('mpi', '29500')]
)
def test_launchers_tell_what_pytorch_reads(launcher, port, environ):
    environ.update(launcher_variables(launcher, rank=1, world_size=2), MASTER_ADDR='node0')
    distributed.read_launcher(launcher)
    assert (environ['RANK'], environ['LOCAL_RANK'], environ['WORLD_SIZE']) == ('1', '1', '2')
    assert environ['MASTER_ADDR'] == 'node0'
    assert environ['MASTER_PORT'] == port


def test_given_port_stays(environ):
    environ.update(launcher_variables('slurm', 0, 2), MASTER_ADDR='node0', MASTER_PORT='29511')
    distributed.read_launcher('slurm')
    assert environ['MASTER_PORT'] == '29511'


def test_no_launcher_reads_nothing(environ):
    before = dict(environ)
    distributed.read_launcher('none')
    assert environ == before


@pytest.mark.parametrize(
    'launcher, variable, cure',
    [
        ('pytorch', 'WORLD_SIZE', 'start with tools/dist_train.sh'),
        ('slurm', 'SLURM_NTASKS', 'start with tools/slurm_train.sh'),
        ('mpi', 'OMPI_COMM_WORLD_SIZE', "start with Open MPI's mpirun"),
    ],
)
def test_missing_launcher_is_a_usage_error(launcher, variable, cure, environ):
    environ.update(launcher_variables(launcher, 0, 2), MASTER_ADDR='node0')
    del environ[variable]
    with pytest.raises(UsageError) as error:
        distributed.read_launcher(launcher)
    assert f' {variable} are not set: {cure}' in str(error.value)
    assert 'or leave --launcher out' in str(error.value)


def test_address_of_the_first_machine(environ, monkeypatch):
    environ.update(launcher_variables('mpi', 0, 2))
    distributed.read_launcher('mpi')
    assert environ.pop('MASTER_ADDR') == '127.0.0.1'
    environ['OMPI_COMM_WORLD_LOCAL_SIZE'] = '1'  # of two: other machines
    with pytest.raises(UsageError, match='mpi needs .*: set MASTER_ADDR in'):
        distributed.read_launcher('mpi')
    environ.update(launcher_variables('slurm', 0, 2))
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    with pytest.raises(UsageError, match='slurm needs .*: set MASTER_ADDR in'):
        distributed.read_launcher('slurm')
    monkeypatch.setattr(shutil, 'which', lambda name: '/bin/scontrol')
    monkeypatch.setattr(
        distributed.subprocess,
        'check_output',
        lambda command, text: {'localhost': 'node3\nnode4\n'}[command[-1]],
    )
    distributed.read_launcher('slurm')
    assert environ['MASTER_ADDR'] == 'node3'


@pytest.mark.parametrize(
    'given, wrapper',
    [
        (dict(), dict(type=CPU_WRAPPER, broadcast_buffers=False, find_unused_parameters=False)),
        (
            dict(find_unused_parameters=True),
            dict(type=CPU_WRAPPER, broadcast_buffers=False, find_unused_parameters=True),
        ),
        (
            dict(model_wrapper_cfg=dict(static_graph=True)),
            dict(type=CPU_WRAPPER, static_graph=True),
        ),
        (dict(model_wrapper_cfg=dict(type='Mine')), dict(type='Mine')),
    ],
)
def test_cpus_keep_the_wrappers_settings(given, wrapper, monkeypatch, at_exit):
    calls = []
    monkeypatch.setattr(
        distributed, 'init_process_group', lambda *args, **kwargs: calls.append((args, kwargs))
    )
    cfg = Config(given)
    distributed.use_cpus(cfg)
    assert cfg.model_wrapper_cfg == wrapper
    assert calls == [(('gloo',), {})]
    monkeypatch.setattr(distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(distributed, 'destroy_process_group', lambda: calls.append('destroyed'))
    for function in at_exit:
        function()
    assert calls[1:] == ['destroyed']


def test_the_strategy_of_a_flexible_runner_wraps_as_well(monkeypatch):
    monkeypatch.setattr(distributed, 'init_process_group', lambda *_, **__: 0)
    cfg = Config(dict(strategy=dict(type='DDPStrategy')))
    distributed.use_cpus(cfg)
    assert cfg.strategy.model_wrapper == cfg.model_wrapper_cfg
    other = Config(dict(strategy=dict(type='DeepSpeedStrategy')))
    distributed.use_cpus(other)
    assert other.strategy == dict(type='DeepSpeedStrategy')


def sharding(strategy, launcher='pytorch', **fields):
    return Config(
        dict(runner_type='FlexibleRunner', strategy=strategy, launcher=launcher, **fields)
    )


@pytest.fixture
def deepspeed(monkeypatch):
    """What MMEngine imports of DeepSpeed, by the names of the modules."""
    names = {
        'ops.adam': ('DeepSpeedCPUAdam', 'FusedAdam'),
        'ops.lamb': ('FusedLamb',),
        'runtime.fp16.onebit': ('OnebitAdam', 'OnebitLamb', 'ZeroOneAdam'),
    }
    for name in ('', '.ops', '.runtime', '.runtime.fp16'):
        monkeypatch.setitem(sys.modules, f'deepspeed{name}', ModuleType(f'deepspeed{name}'))
    for name, content in names.items():
        module = ModuleType(f'deepspeed.{name}')
        vars(module).update(dict.fromkeys(content))
        monkeypatch.setitem(sys.modules, f'deepspeed.{name}', module)


def test_deepspeed_is_refused_where_mmengine_cannot_import_it(deepspeed, monkeypatch):
    cfg = sharding(dict(type='DeepSpeedStrategy'))
    distributed.check_sharding(cfg)
    del sys.modules['deepspeed.ops.lamb'].FusedLamb  # as in a newer version
    with pytest.raises(UsageError, match='FusedLamb.*; pip install deepspeed==0.16.9'):
        distributed.check_sharding(cfg)
    monkeypatch.setitem(sys.modules, 'deepspeed.ops.adam', None)  # as if not installed
    with pytest.raises(UsageError, match='pip install deepspeed==0.16.9'):
        distributed.check_sharding(cfg)


@pytest.mark.parametrize('kind', ['DeepSpeedStrategy', 'FSDPStrategy'])
def test_a_sharded_run_needs_a_launcher(kind, deepspeed):
    cfg = sharding(dict(type=kind), launcher='none')
    with pytest.raises(UsageError, match='needs a launcher, .* start it with tools/dist_train.sh'):
        distributed.check_sharding(cfg)
    launch.leave_out_sharding(cfg)  # as a test does
    assert cfg.runner_type == 'Runner' and 'strategy' not in cfg
    distributed.check_sharding(cfg)
    distributed.check_sharding(Config(dict(launcher='none')))


@pytest.mark.parametrize(
    'strategy, refused',
    [
        (dict(type='FSDPStrategy'), True),
        (dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=3)), True),
        (dict(type='DeepSpeedStrategy', zero_optimization=dict(stage=2)), False),
        (dict(type='DDPStrategy'), False),
    ],
)
def test_averages_of_sharded_weights_are_refused(strategy, refused, deepspeed):
    cfg = sharding(strategy, custom_hooks=[dict(type='mmdet.EMAHook')])
    if refused:
        with pytest.raises(UsageError, match='EMAHook must not .*; leave it out, or use DeepSpeed'):
            distributed.check_sharding(cfg)
    else:
        distributed.check_sharding(cfg)


def test_zero_redundancy_optimizer_is_refused_unless_it_is_not_saved():
    cfg = Config(
        dict(
            optim_wrapper=dict(
                optimizer=dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')
            ),
            default_hooks=dict(checkpoint=dict(type='CheckpointHook')),
        )
    )
    with pytest.raises(UsageError, match='the first checkpoint would hang; use DeepSpeed'):
        distributed.check_sharding(cfg)
    cfg.default_hooks.checkpoint.save_optimizer = False
    distributed.check_sharding(cfg)


def test_a_group_ends_though_garbage_holds_it(monkeypatch):
    """As the model's wrapper does, which is part of cycles."""
    monkeypatch.setattr(distributed, 'destroy_process_group', lambda: None)

    class Wrapper:
        def __init__(self):
            self.itself = self

    gc.disable()
    try:
        wrapper = weakref.ref(Wrapper())
        assert wrapper() is not None
        distributed._leave_group()
        assert wrapper() is None
    finally:
        gc.enable()


def test_cpus_keep_the_time_limit(monkeypatch):
    limits = []
    monkeypatch.setattr(
        distributed,
        'init_process_group',
        lambda backend, timeout: limits.append(timeout.total_seconds()),
    )
    distributed.use_cpus(Config(dict(env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=90)))))
    assert limits == [90]


@pytest.mark.parametrize('norm, notices', [(nn.SyncBatchNorm, 1), (nn.BatchNorm2d, 0)])
def test_sync_bn_becomes_bn_on_cpus(norm, notices, process_group, monkeypatch):
    lines = []
    monkeypatch.setattr(distributed, 'print_log', lambda message, logger: lines.append(message))
    model = distributed.CPUDistributedDataParallel(
        nn.Sequential(nn.Conv2d(3, 4, 1), norm(4)), device_ids=[0]
    )
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert isinstance(model, MMDistributedDataParallel)
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    assert len(lines) == notices


@pytest.mark.parametrize(
    'launcher, device, on_cpus',
    [
        ('pytorch', 'cuda', False),
        ('slurm', 'cuda', False),
        ('mpi', 'cuda', False),
        ('pytorch', 'cpu', True),
        ('slurm', 'cpu', True),
        ('mpi', 'cpu', True),
        ('none', 'cpu', False),
        ('none', 'cuda', False),
    ],
)
def test_runner_is_mmengines_own_with_a_gpu(launcher, device, on_cpus, monkeypatch, tmp_path):
    """Only CPUs get a process group and a wrapper from us; with a GPU the
    runner has what MMEngine gives it, SyncBN included."""
    monkeypatch.setattr(launch, 'get_device', lambda: device)
    groups = []
    monkeypatch.setattr(distributed, 'init_process_group', groups.append)
    monkeypatch.setattr(launch, 'guarded', lambda kind, scope, allowed: kind)
    monkeypatch.setattr(launch.Runner, 'from_cfg', lambda cfg: cfg)
    norm = dict(type='SyncBN')
    cfg = launch.build_runner(
        Config(
            dict(
                launcher=launcher,
                runner_type=launch.Runner,
                work_dir=str(tmp_path),
                model=dict(norm_cfg=norm),
            )
        )
    )
    assert groups == ['gloo'] * on_cpus
    assert ('model_wrapper_cfg' in cfg) == on_cpus
    assert cfg.model.norm_cfg == norm
