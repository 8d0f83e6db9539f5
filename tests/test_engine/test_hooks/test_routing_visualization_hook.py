"""The hook in a training, with the local and TensorBoard's backend."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from tool_runner import ROOT

from biformer_mm.engine.hooks.routing_visualization_hook import RoutingVisualizationHook
from biformer_mm.models import BiFormer
from biformer_mm.utils.errors import UsageError
from biformer_mm.visualization import find_backbone, record_routing, routing_statistics

event_accumulator = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator', reason='TensorBoard is not installed'
)


@pytest.fixture(scope='module')
def runner(tmp_path_factory, shapes):
    """After two epochs, each with a validation."""
    cfg = Config.fromfile(ROOT / 'configs' / 'retinanet_biformer_demo.py')
    cfg.work_dir = str(tmp_path_factory.mktemp('work_dir'))
    cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval = 2, 1
    cfg.val_evaluator.ann_file = str(shapes / 'annotations/instances_val.json')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(shapes)
        loader.update(batch_size=3, num_workers=0, persistent_workers=False)
    for part in ('test_dataloader', 'test_evaluator', 'test_cfg'):
        cfg.pop(part)
    cfg.custom_hooks = [dict(type='RoutingVisualizationHook', stages=[1, 3], num_images=4)]
    # MMEngine keeps visualizers by name: another test's is not to be taken
    cfg.visualizer.name = 'hook'
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    cfg.experiment_name = 'hook'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def means(runner, stage):
    """Statistics of the four validation images, one by one."""
    dataset, model = runner.val_dataloader.dataset, runner.model
    found = []
    for i in range(4):
        data = dict(inputs=[dataset[i]['inputs']], data_samples=[dataset[i]['data_samples']])
        inputs = model.data_preprocessor(data, False)['inputs']
        (routing,) = record_routing(find_backbone(model), inputs, stage)
        found.append(routing_statistics(routing))
    return {name: np.mean([f[name] for f in found]) for name in found[0]}


def vis_data(runner):
    return f'{runner.log_dir}/vis_data'


@pytest.fixture(scope='module')
def events(runner):
    accumulator = event_accumulator.EventAccumulator(vis_data(runner))
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_the_means_of_each_validation(runner, events):
    # 8 images, 3 in a batch: 3 iterations an epoch. The last validation saw
    # the model as it is now.
    for stage in (1, 3):
        for name, expected in means(runner, stage).items():
            scalars = events.Scalars(f'routing/stage{stage}_{name}')
            assert [s.step for s in scalars] == [3, 6]
            assert scalars[-1].value == pytest.approx(expected, abs=1e-6)
    tags = events.Tags()['scalars']
    assert not any('stage2' in tag or 'stage4' in tag for tag in tags)


def test_each_image_and_stage_is_drawn(runner, events):
    names = {f'routing_stage{s}_image{i}' for s in (1, 3) for i in range(4)}
    assert set(events.Tags()['images']) == names
    for name in names:
        for step in (3, 6):
            picture = cv2.imread(f'{vis_data(runner)}/vis_image/{name}_{step}.png')
            assert picture.std() > 10


def look(runner, monkeypatch, hook, main=True):
    """Validations, of three, that the hook wrote anything at."""
    dataset, written = runner.val_dataloader.dataset, set()
    monkeypatch.setattr(
        'biformer_mm.engine.hooks.routing_visualization_hook.is_main_process', lambda: main
    )
    batch = {name: [dataset[i][name] for i in range(2)] for name in ('inputs', 'data_samples')}
    for number in range(3):
        for name in ('add_image', 'add_scalars'):
            monkeypatch.setattr(
                runner.visualizer, name, lambda *_, number=number, **__: written.add(number)
            )
        hook.before_val_epoch(runner)
        hook.after_val_iter(runner, 0, batch)
        hook.after_val_epoch(runner)
    return written


def test_interval_counts_validations(runner, monkeypatch):
    hook = RoutingVisualizationHook(stages=[3], interval=2)
    assert look(runner, monkeypatch, hook) == {0, 2}


def test_other_ranks_look_at_nothing(runner, monkeypatch):
    hook = RoutingVisualizationHook(stages=[3])
    assert look(runner, monkeypatch, hook, main=False) == set()


def test_training_goes_on_as_without_it(runner, monkeypatch):
    modes = [module.training for module in runner.model.modules()]
    state = {k: v.clone() for k, v in runner.model.state_dict().items()}
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert look(runner, monkeypatch, RoutingVisualizationHook()) == {0, 1, 2}
    assert [module.training for module in runner.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1] == generators[1]).all()
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('stages', [[4], [3, 9]])
def test_stages_that_do_not_route_are_refused_before_training(runner, stages):
    hook = RoutingVisualizationHook(stages=stages)
    with pytest.raises(UsageError, match=r'of this model \[1, 2, 3\]; got'):
        hook.before_train(runner)


def test_models_without_routing_are_refused_before_training(runner, monkeypatch):
    arch = dict(base='stl', embed_dims=(32,) * 4, depths=(1,) * 4, attention='quadtree')
    monkeypatch.setattr(runner, 'model', BiFormer(arch))
    with pytest.raises(UsageError, match='this model has none; remove the hook'):
        RoutingVisualizationHook().before_train(runner)


def test_other_models_are_refused_before_training(runner, monkeypatch):
    monkeypatch.setattr(runner, 'model', torch.nn.Linear(1, 1))
    with pytest.raises(UsageError, match='Linear has 0'):
        RoutingVisualizationHook().before_train(runner)


@pytest.mark.parametrize('option', ['num_images', 'interval'])
def test_counts_below_one_are_refused(option):
    with pytest.raises(ValueError, match=f'at least 1; got .*{option}=0'):
        RoutingVisualizationHook(**{option: 0})
