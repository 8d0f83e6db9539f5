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


def test_usage_errors_end_in_one_line(monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    with pytest.raises(SystemExit) as error:
        with launch.usage_errors('train.py'):
            raise UsageError('no such thing')
    assert error.value.code == 'train.py: error: no such thing'


def test_usage_errors_are_printed_by_one_process_of_a_machine(monkeypatch):
    monkeypatch.setattr(launch.time, 'sleep', lambda seconds: None)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as error:
        with launch.usage_errors('train.py'):
            raise UsageError('no such thing')
    assert error.value.code == 1


def test_resume(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    launch.set_resume(cfg, None)
    assert 'resume' not in cfg
    with pytest.raises(
            UsageError,
            match=f'no checkpoint in {tmp_path}; leave --resume out'):
        launch.set_resume(cfg, 'auto')
    with pytest.raises(UsageError, match='no checkpoint nowhere.pth; name'):
        launch.set_resume(cfg, 'nowhere.pth')
    checkpoint = tmp_path / 'epoch_1.pth'
    (tmp_path / 'last_checkpoint').write_text(str(checkpoint))
    with pytest.raises(UsageError, match=f'no checkpoint {checkpoint}'):
        launch.set_resume(cfg, 'auto')
    checkpoint.touch()
    sharded = tmp_path / 'epoch_2.pth'  # DeepSpeed's are folders
    sharded.mkdir()
    for resume in ('auto', str(sharded), 'https://example.org/a.pth'):
        launch.set_resume(cfg, resume)
        assert cfg.resume
        assert cfg.load_from == (
            str(checkpoint) if resume == 'auto' else resume)


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
    with pytest.raises(UsageError, match='set auto_scale_lr.base_batch_size'):
        launch.set_auto_scale_lr(Config(dict()))


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
