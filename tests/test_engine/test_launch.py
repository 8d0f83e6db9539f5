import argparse
import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from biformer_mm.engine import launch
from biformer_mm.errors import UsageError


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
    cfg = launch.load_config(
        parse(config, '--cfg-options', 'a.b=2', '--launcher', 'pytorch'))
    assert cfg.a.b == 2 and cfg.launcher == 'pytorch'
    assert cfg.work_dir == 'work_dirs/my_config'
    assert launch.load_config(parse(config, '--work-dir', 'x')).work_dir == 'x'


def test_missing_config_names_the_closest(config, tmp_path):
    with pytest.raises(UsageError) as error:
        launch.load_config(parse(tmp_path / 'my_confg.py'))
    assert str(error.value) == (f'there is no config {tmp_path}/my_confg.py; '
                                f'did you mean {config}?')
    with pytest.raises(UsageError, match='configs are in configs/'):
        launch.load_config(parse(tmp_path / 'else' / 'zzz.py'))


def test_resume(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    launch.set_resume(cfg, None)
    assert 'resume' not in cfg
    with pytest.raises(
            UsageError,
            match=f'no checkpoint in {tmp_path}; leave --resume out'):
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
    with pytest.raises(UsageError, match='of DeepSpeed, .* set --trust'):
        launch.set_resume(cfg, str(sharded))
    for resume in ('auto', str(sharded), 'https://example.org/a.pth'):
        launch.set_resume(cfg, resume, trust=resume == str(sharded))
        assert cfg.resume
        assert cfg.load_from == (
            str(checkpoint) if resume == 'auto' else resume)


def test_runs_survive_interruptions():
    cfg = Config(
        dict(
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', interval=2)),
            custom_hooks=[dict(type='EMAHook')]))
    launch.survive_interruptions(cfg)
    assert cfg.default_hooks.checkpoint == dict(
        type='WholeCheckpointHook', interval=2)
    names = [
        'EMAHook', 'ResumableSeedHook', 'NonFiniteLossHook', 'PreemptionHook',
        'HangHook'
    ]
    assert [hook.type for hook in cfg.custom_hooks] == names
    own = dict(type='NonFiniteLossHook', max_skips=3)
    cfg = Config(dict(custom_hooks=[own]))
    launch.survive_interruptions(cfg)
    assert cfg.custom_hooks == [
        own,
        dict(type='ResumableSeedHook'),
        dict(type='PreemptionHook'),
        dict(type='HangHook')
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
        (dict(type='MyLoop', by_epoch=True), dict(type='MyLoop',
                                                  by_epoch=True)),
    ]:
        cfg = Config(dict(train_cfg=loop))
        launch.survive_interruptions(cfg)
        assert cfg.train_cfg == expected


def test_out_of_memory_names_the_levers():
    with pytest.raises(UsageError) as error:
        with launch.out_of_memory_advice():
            torch.empty(1 << 58)
    for lever in ('batch_size', 'with_cp=True', '--amp', 'allocate memory'):
        assert lever in str(error.value)
    with pytest.raises(UsageError, match='CUDA out of memory'):
        with launch.out_of_memory_advice():
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried')
    with pytest.raises(UsageError, match='MemoryError'):
        with launch.out_of_memory_advice():
            raise MemoryError
    with pytest.raises(RuntimeError, match='something else'):
        with launch.out_of_memory_advice():
            raise RuntimeError('something else')


def amp_config():
    return Config(
        dict(
            optim_wrapper=dict(
                type='AmpOptimWrapper', dtype='float16',
                loss_scale='dynamic')))


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


def test_auto_scale_lr():
    cfg = Config(dict(auto_scale_lr=dict(enable=False, base_batch_size=16)))
    launch.set_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    for other in (dict(), dict(auto_scale_lr=None)):
        with pytest.raises(
                UsageError, match='set auto_scale_lr.base_batch_size'):
            launch.set_auto_scale_lr(Config(other))


@pytest.mark.parametrize('batch, world_size, steps, enable, options, warns', [
    (2, 8, 1, False, {}, False),
    (2, 4, 2, False, {}, False),
    (2, 1, 1, False, {}, True),
    (2, 1, 1, True, {}, False),
    (2, 1, 1, False, {
        'optim_wrapper.optimizer.lr': 1e-5
    }, False),
])
def test_warning_of_another_batch(batch, world_size, steps, enable, options,
                                  warns, caplog):
    cfg = Config(
        dict(
            train_dataloader=dict(batch_size=batch),
            optim_wrapper=dict(accumulative_counts=steps),
            auto_scale_lr=dict(enable=enable, base_batch_size=16)))
    runner = SimpleNamespace(
        cfg=cfg, world_size=world_size, logger=logging.getLogger('test'))
    launch.warn_of_other_batch(runner, options)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        'The rate is meant for a total batch of 16 but this run has 2: scale '
        'the rate (--auto-scale-lr), or keep batch x iterations by training 8 '
        'times as many.'
    ] * warns
