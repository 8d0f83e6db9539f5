import pytest
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.engine.runner.checkpoint_config import compare_config, read_config_text

CONFIGS = ROOT / 'configs'
NAMES = ['retinanet_biformer_demo', 'semantic_fpn_biformer_demo', 'biformer_demo']


def config(name='retinanet_biformer_demo', **options):
    cfg = Config.fromfile(str(CONFIGS / f'{name}.py'))
    cfg.merge_from_dict(options)
    return cfg


@pytest.fixture(scope='module')
def text():
    """The text that MMEngine saves in a checkpoint."""
    return config().pretty_text


def differing(text, cfg):
    return [problem.detail for problem in compare_config('a.pth', text, cfg)]


@pytest.mark.parametrize('name', NAMES)
def test_an_unchanged_config_is_the_same(name):
    cfg = config(name)
    assert differing(cfg.pretty_text, cfg) == []


@pytest.mark.parametrize(
    'key, value, said',
    [
        ('model.backbone.num_regions', 4, 'model.backbone.num_regions='),
        ('model.backbone.arch.topks', [1, 1, 1, None], 'model.backbone.arch.topks='),
        ('model.data_preprocessor.bgr_to_rgb', False, 'data_preprocessor.bgr_to_rgb=True (here'),
        ('model.data_preprocessor.mean', (0, 0, 0), 'data_preprocessor.mean=[123.675, '),
        ('model.neck.type', 'PAFPN', 'model.neck.type=FPN (here PAFPN)'),
        ('model.backbone.padding', 'masked', 'model.backbone.padding=the default (here masked)'),
    ],
)
def test_what_the_weights_do_not_show(text, key, value, said):
    (detail,) = differing(text, config(**{key: value}))
    assert detail.startswith(f'was trained with {said}')
    assert detail.count('(here') == 1


def test_at_most_five_are_shown(text):
    changed = {f'model.neck.key{i}': i for i in range(7)}
    (detail,) = differing(text, config(**changed))
    assert detail.count('(here') == 5
    assert ' and 2 more;' in detail


@pytest.mark.parametrize(
    'key, value',
    [
        ('model.backbone.drop_path_rate', 0.7),
        ('model.backbone.frozen_stages', 2),
        ('model.backbone.with_cp', True),
        ('model.backbone.attn_backend', 'reference'),
        ('model.backbone.init_cfg.checkpoint', 'other.pth'),
        ('model.backbone.norm_eval', True),
        ('model.test_cfg.score_thr', 0.3),
        ('model.train_cfg.allowed_border', 1),
        ('model.bbox_head.loss_cls.gamma', 1.0),
        ('model.type', 'mmdet.RetinaNet'),
        ('compile', True),
        ('optim_wrapper.optimizer.lr', 0.5),
    ],
)
def test_what_does_not_change_the_model(text, key, value):
    assert differing(text, config(**{key: value})) == []


def test_test_time_augmentation_and_a_preprocessor_outside_are_the_same(text):
    cfg = config()
    cfg.model = dict(type='DetTTAModel', tta_cfg=dict(max_per_img=100), module=cfg.model)
    assert differing(text, cfg) == []
    cfg = config()
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    assert differing(text, cfg) == []


def test_batch_norms_of_one_and_many_processes_are_the_same():
    trained = config(**{'model.neck.norm_cfg': dict(type='SyncBN', eps=1e-3)})
    assert differing(trained.pretty_text, config(**{'model.neck.norm_cfg': dict(type='BN')}))
    same = config(**{'model.neck.norm_cfg': dict(type='BN', eps=1e-3)})
    assert differing(trained.pretty_text, same) == []


@pytest.mark.parametrize('text', [None, 7, '', 'a = (', 'import os', 'a = f(1)', 'a = [1] * 9'])
def test_what_cannot_be_read_is_passed_over(text):
    assert differing(text, config()) == []


def test_a_text_is_read_and_not_run(tmp_path):
    text = (
        "a = dict(b=(1, -2.5), c=[dict(d=None)], e={'f.g': 'x', 0: True})\n"
        'kind = mmdet.models.RetinaNet\nend = inf\n'
    )
    assert read_config_text(text) == dict(
        a={'b': [1, -2.5], 'c': [dict(d=None)], 'e': {'f.g': 'x', 0: True}},
        kind='mmdet.models.RetinaNet',
        end='inf',
    )
    file = tmp_path / 'made'
    with pytest.raises(ValueError):
        read_config_text(f'a = open({str(file)!r}, "w")')
    assert not file.exists()


def test_numbers_and_classes_of_any_config_are_read():
    cfg = Config(dict(a=[float('inf'), 1e-8, (1,)], b=dict(type=Config), c=dict(type=dict)))
    assert read_config_text(cfg.pretty_text) == dict(
        a=['inf', 1e-8, [1]], b=dict(type='mmengine.config.config.Config'), c=dict(type='dict')
    )
