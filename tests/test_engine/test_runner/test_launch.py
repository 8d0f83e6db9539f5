import argparse
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from biformer_mm.engine.runner import launch
from biformer_mm.utils.errors import UsageError


def parse(*argv):
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    launch.add_common_arguments(parser)
    return parser.parse_args([str(arg) for arg in argv])


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'my_config.py'
    path.write_text('a = dict(b=1)')
    return path


def test_load_config(config, monkeypatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '0')
    monkeypatch.setenv('MASTER_PORT', '29500')
    cfg = launch.load_config(parse(config, '--cfg-options', 'a.b=2', '--launcher', 'pytorch'))
    assert cfg.a.b == 2 and cfg.launcher == 'pytorch'
    assert cfg.work_dir == 'work_dirs/my_config'
    assert launch.load_config(parse(config, '--work-dir', 'x')).work_dir == 'x'


def test_missing_config_names_the_closest(config, tmp_path):
    with pytest.raises(UsageError) as error:
        launch.load_config(parse(tmp_path / 'my_confg.py'))
    assert str(error.value) == (
        f'there is no config {tmp_path}/my_confg.py; did you mean {config}?'
    )
    with pytest.raises(UsageError, match='configs are in configs/'):
        launch.load_config(parse(tmp_path / 'else' / 'zzz.py'))


def test_resume(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    launch.set_resume(cfg, None)
    assert 'resume' not in cfg
    with pytest.raises(UsageError, match=f'no checkpoint in {tmp_path}; leave --resume out'):
        launch.set_resume(cfg, 'auto')
    with pytest.raises(UsageError, match='nowhere.pth does not exist; name'):
        launch.set_resume(cfg, 'nowhere.pth')
    checkpoint = tmp_path / 'epoch_1.pth'
    (tmp_path / 'last_checkpoint').write_text(str(checkpoint))
    with pytest.raises(UsageError, match=f'no checkpoint in {tmp_path};'):
        launch.set_resume(cfg, 'auto')
    torch.save(dict(a=torch.zeros(3)), checkpoint)
    truncated = tmp_path / 'epoch_3.pth'
    truncated.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(UsageError, match='epoch_3.pth is truncated or no'):
        launch.set_resume(cfg, str(truncated))
    sharded = tmp_path / 'epoch_2.pth'  # DeepSpeed's are folders
    sharded.mkdir()
    torch.save({}, sharded / 'zero_pp_rank_0_mp_rank_00_optim_states.pt')
    for given in (cfg, Config(dict(load_from=str(sharded)))):
        with pytest.raises(UsageError, match='of DeepSpeed, .* set --trust'):
            launch.set_resume(given, str(sharded) if given is cfg else None)
    for resume in ('auto', str(sharded), 'https://example.org/a.pth'):
        launch.set_resume(cfg, resume, trust=resume == str(sharded))
        assert cfg.resume
        assert cfg.load_from == (str(checkpoint) if resume == 'auto' else resume)


def test_a_config_resumes_if_there_is_something(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    launch.set_resume(cfg, None)
    assert not cfg.resume and cfg.load_from is None
    torch.save(dict(a=torch.zeros(3)), tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_2.pth').write_bytes(b'half')
    cfg = Config(dict(work_dir=str(tmp_path), resume=True))
    launch.set_resume(cfg, None)
    assert cfg.resume and cfg.load_from == str(tmp_path / 'epoch_1.pth')


def test_runs_survive_interruptions():
    cfg = Config(
        dict(
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2)),
            custom_hooks=[dict(type='EMAHook')],
        )
    )
    launch.survive_interruptions(cfg)
    assert cfg.default_hooks.checkpoint == dict(type='WholeCheckpointHook', interval=2)
    names = [
        'EMAHook',
        'ResumableSeedHook',
        'NonFiniteLossHook',
        'GradientCheckHook',
        'PreemptionHook',
        'HangHook',
    ]
    assert [hook.type for hook in cfg.custom_hooks] == names
    own = dict(type='NonFiniteLossHook', max_skips=3)
    cfg = Config(dict(custom_hooks=[own]))
    launch.survive_interruptions(cfg)
    assert cfg.custom_hooks == [
        own,
        dict(type='ResumableSeedHook'),
        dict(type='GradientCheckHook'),
        dict(type='PreemptionHook'),
        dict(type='HangHook'),
    ]
    # None is for no checkpoints; without a word MMEngine saves each epoch.
    for given, expected in [
        (dict(checkpoint=dict(type='Mine')), dict(type='Mine')),
        (dict(checkpoint=None), None),
        (dict(), dict(type='WholeCheckpointHook', interval=1)),
        (None, dict(type='WholeCheckpointHook', interval=1)),
    ]:
        cfg = Config(dict(default_hooks=given))
        launch.survive_interruptions(cfg)
        assert cfg.default_hooks.checkpoint == expected


def test_loops_become_resumable():
    epochs = dict(type='ResumableEpochLoop', max_epochs=3)
    iterations = dict(type='ResumableIterLoop', max_iters=3)
    for loop, expected in [
        (dict(type='EpochBasedTrainLoop', max_epochs=3), epochs),
        (dict(by_epoch=True, max_epochs=3), epochs),
        (dict(type='IterBasedTrainLoop', max_iters=3), iterations),
        (dict(by_epoch=False, max_iters=3), iterations),
        (dict(type='MyLoop', by_epoch=True), dict(type='MyLoop', by_epoch=True)),
    ]:
        cfg = Config(dict(train_cfg=loop))
        launch.survive_interruptions(cfg)
        assert cfg.train_cfg == expected


def test_out_of_memory_names_the_levers():
    with pytest.raises(UsageError) as error, launch.out_of_memory_advice():
        torch.empty(1 << 58)
    for lever in ('batch_size', 'with_cp=True', '--amp', 'allocate memory'):
        assert lever in str(error.value)
    with pytest.raises(UsageError, match='CUDA out of memory'), launch.out_of_memory_advice():
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried')
    with pytest.raises(UsageError, match='MemoryError'), launch.out_of_memory_advice():
        raise MemoryError
    with pytest.raises(RuntimeError, match='something else'), launch.out_of_memory_advice():
        raise RuntimeError('something else')


def amp_config():
    return Config(
        dict(optim_wrapper=dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic'))
    )


def test_amp_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = amp_config()
    launch.set_amp(cfg, None)
    assert cfg.optim_wrapper == dict(type='OptimWrapper')
    with pytest.raises(UsageError, match='--amp needs a GPU'):
        launch.set_amp(cfg, 'float16')


def test_amp_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = amp_config()
    launch.set_amp(cfg, None)
    assert cfg.optim_wrapper == amp_config().optim_wrapper
    cfg = Config(dict(optim_wrapper=dict(type='OptimWrapper')))
    launch.set_amp(cfg, 'bfloat16')
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', dtype='bfloat16')


def rate_config(batch=2, steps=1, enable=False, base=16, **kwargs):
    return Config(
        dict(
            launcher='none',
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(accumulative_counts=steps, optimizer=dict(lr=0.01)),
            auto_scale_lr=dict(enable=enable, base_batch_size=base),
            **kwargs,
        )
    )


@pytest.mark.parametrize(
    'processes, kwargs, total',
    [
        (1, dict(), 2),
        (4, dict(), 8),
        (4, dict(steps=8), 64),
        (2, dict(strategy=dict(gradient_accumulation_steps=3)), 12),
    ],
)
def test_the_rate_is_scaled_by_what_a_step_has(processes, kwargs, total, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', str(processes))
    for asked, enable in ((True, False), (False, True)):
        cfg = rate_config(enable=enable, **kwargs)
        cfg.launcher = 'pytorch' if processes > 1 else 'none'
        line = launch.scale_rate(cfg, asked)
        assert cfg.optim_wrapper.optimizer.lr == 0.01 * total / 16
        assert not cfg.auto_scale_lr.enable  # MMEngine would scale again
        assert line == (
            f'The rate is scaled, 0.01 -> {0.01 * total / 16:.4g}: '
            'it is meant for a total batch of 16, and this run '
            f'has {total}.'
        )


def test_the_rate_stays_if_not_asked_for():
    cfg = rate_config()
    assert launch.scale_rate(cfg, False) is None
    assert cfg.optim_wrapper.optimizer.lr == 0.01


def test_scaling_needs_a_rate_and_its_batch():
    without_rate = rate_config()
    del without_rate.optim_wrapper.optimizer['lr']
    for cfg in (rate_config(base=None), without_rate, Config(dict(auto_scale_lr=None))):
        with pytest.raises(UsageError, match='set auto_scale_lr.base_batch_size'):
            launch.scale_rate(cfg, True)


@pytest.mark.parametrize(
    'batch, processes, steps, options, warns',
    [
        (2, 8, 1, {}, False),
        (2, 4, 2, {}, False),
        (2, 1, 1, {}, True),
        (None, 1, 1, {}, False),
        (2, 1, 1, {'optim_wrapper.optimizer.lr': 1e-5}, False),
    ],
)
def test_warning_of_another_batch(batch, processes, steps, options, warns, caplog, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', str(processes))
    cfg = rate_config(batch, steps)
    cfg.launcher = 'pytorch'
    runner = SimpleNamespace(cfg=cfg, logger=logging.getLogger('test'))
    launch.warn_of_other_batch(runner, options)
    lines = [record.getMessage() for record in caplog.records]
    assert (
        lines
        == [
            'The rate is meant for a total batch of 16 but this run has 2: scale '
            'the rate (--auto-scale-lr), or keep batch x iterations by training 8 '
            'times as many.'
        ]
        * warns
    )


def test_loaders_of_mmpretrain_are_completed(config):
    config.write_text(
        "default_scope = 'mmpretrain'\n"
        'train_dataloader = dict(num_workers=2)\n'
        "val_dataloader = dict(collate_fn=dict(type='mine'))\n"
        'test_dataloader = None'
    )
    cfg = launch.load_config(parse(config))
    assert cfg.train_dataloader.collate_fn.type == 'default_collate'
    assert cfg.train_dataloader.persistent_workers
    assert cfg.val_dataloader.collate_fn.type == 'mine'
    assert not cfg.val_dataloader.persistent_workers  # which needs workers
    assert cfg.test_dataloader is None


def test_options_that_need_workers_are_dropped_without_workers(config):
    config.write_text(
        'loader = dict(num_workers=2, persistent_workers=True, prefetch_factor=4)\n'
        'train_dataloader = dict(loader)\n'
        'val_dataloader = dict(loader)\n'
        'test_dataloader = dict(persistent_workers=True)'
    )
    cfg = launch.load_config(parse(config, '--cfg-options', 'val_dataloader.num_workers=0'))
    assert cfg.train_dataloader == dict(num_workers=2, persistent_workers=True, prefetch_factor=4)
    assert cfg.val_dataloader == dict(num_workers=0)
    assert cfg.test_dataloader == dict()  # PyTorch's default is none
    for split in ('val', 'test'):
        torch.utils.data.DataLoader(range(3), **cfg[f'{split}_dataloader'])
