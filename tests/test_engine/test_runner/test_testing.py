from importlib import import_module
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope
from mmengine.visualization import Visualizer

from biformer_mm.engine.runner import testing
from biformer_mm.utils.errors import UsageError

BASES = {  # where each framework configures its visualisation
    'mmdet': ['BASE/default_runtime.py'],
    'mmseg': ['BASE/default_runtime.py', 'BASE/schedules/schedule_80k.py'],
    'mmpretrain': ['BASE/default_runtime.py'],
}


@pytest.mark.parametrize('scope', BASES)
def test_show_dir_is_what_the_frameworks_hook_takes(scope, tmp_path, monkeypatch):
    package = Path(import_module(scope).__file__).parent
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {BASES[scope]}'.replace('BASE', str(package / '.mim' / 'configs' / '_base_'))
    )
    cfg = Config.fromfile(config)
    monkeypatch.chdir(tmp_path)
    testing.set_show_dir(cfg, 'pictures')
    init_default_scope(scope)
    Visualizer.get_instance(f'test_{scope}')
    hook = HOOKS.build(cfg.default_hooks.visualization)
    written_to = {
        'mmdet': lambda: hook.draw and hook.test_out_dir,
        'mmseg': lambda: hook.draw and cfg.visualizer.save_dir,
        'mmpretrain': lambda: hook.enable and hook.out_dir,
    }[scope]()
    assert written_to == str(tmp_path / 'pictures')


def test_show_dir_needs_a_hook():
    with pytest.raises(UsageError, match='default_hooks.visualization'):
        testing.set_show_dir(Config(dict(default_hooks={})), 'pictures')


def pipeline():
    return [dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=('img_id',))]


def tta_config(scope, model=None, **kwargs):
    dataset = dict(type='Repeat', dataset=dict(pipeline=pipeline()))
    return Config(
        dict(
            default_scope=scope,
            model=model or dict(type='RetinaNet'),
            test_dataloader=dict(dataset=dataset),
            **kwargs,
        )
    )


def test_tta_flips_by_default():
    cfg = tta_config('mmdet')
    testing.set_tta(cfg)
    assert cfg.model.type == 'DetTTAModel'
    assert cfg.model.module == dict(type='RetinaNet')
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    flips, (pack,) = augment['transforms']
    assert load['type'] == 'LoadImageFromFile'
    assert [flip['prob'] for flip in flips] == [1.0, 0.0]
    assert pack['meta_keys'] == ('img_id', 'flip', 'flip_direction')


@pytest.mark.parametrize('first', ['LoadAnnotations', 'mmdet.Pad'])
def test_tta_flips_before_annotations_and_padding(first):
    cfg = tta_config('mmdet')
    load, pack = pipeline()
    steps = [load, dict(type='Resize'), dict(type=first), dict(type='Other'), pack]
    cfg.test_dataloader.dataset.dataset.pipeline = steps
    testing.set_tta(cfg)
    *before, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert before == steps[:2]
    flips, *after = augment['transforms']
    assert [flip['type'] for flip in flips] == ['RandomFlip'] * 2
    assert [[step['type'] for step in steps] for steps in after] == [
        [first],
        ['Other'],
        ['PackDetInputs'],
    ]


def test_tta_flips_where_the_config_leaves_out_its_pipeline():
    cfg = tta_config('mmdet', tta_pipeline=None)
    testing.set_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline[-1]['type'] == 'TestTimeAug'


def test_tta_of_the_config_comes_first():
    steps = [dict(type='Mine')]
    cfg = tta_config('mmseg', tta_model=dict(type='SegTTAModel'), tta_pipeline=steps)
    testing.set_tta(cfg)
    assert cfg.model.type == 'SegTTAModel'
    assert cfg.test_dataloader.dataset.dataset.pipeline == steps


def test_tta_without_a_default():
    with pytest.raises(UsageError, match='tta_model and tta_pipeline in a config of mmseg'):
        testing.set_tta(tta_config('mmseg'))


@pytest.mark.parametrize(
    'model',
    [
        dict(type='MaskRCNN', roi_head=dict(mask_head=dict(type='FCNMaskHead'))),
        dict(type='CascadeRCNN', roi_head=dict(mask_head=[dict(type='FCNMaskHead')] * 3)),
        dict(type='SOLO', mask_head=dict(type='SOLOHead')),
        dict(type='Mask2Former', panoptic_head=dict(type='Mask2FormerHead')),
        dict(type='RTMDet', bbox_head=dict(type='RTMDetInsSepBNHead')),
    ],
)
def test_tta_of_masks_is_refused(model):
    with pytest.raises(UsageError, match='--tta is for boxes only'):
        testing.set_tta(tta_config('mmdet', model))
    own = dict(tta_model=dict(type='Mine'), tta_pipeline=[])
    testing.set_tta(tta_config('mmdet', model, **own))  # who knows how
