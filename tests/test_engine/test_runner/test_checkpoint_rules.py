import pytest
import torch
from mmengine.hooks import EMAHook, IterTimerHook
from mmengine.model import BaseModule
from mmengine.runner import load_checkpoint
from torch import nn

from biformer_mm.engine.runner.checkpoint_rules import (
    LoadedWeights,
    check_averages,
    noting_missing,
    shapes_of,
)


class Net(BaseModule):
    """A backbone of 6 tensors and a head of 2."""

    def __init__(self, classes=2, backbone=True, width=3):
        super().__init__()
        layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(3)))
        if backbone:
            self.backbone = layers
        else:
            self.layers = layers
        self.bbox_head = nn.Linear(width, classes)


@pytest.fixture
def load(tmp_path):
    """Load weights into a model as MMEngine does."""

    def call(weights, model=None):
        model = Net() if model is None else model
        path = str(tmp_path / 'a.pth')
        torch.save(weights, path)
        bare = getattr(model, 'module', model)
        with noting_missing(model) as missing:
            load_checkpoint(bare, path)
        return LoadedWeights('a.pth', model, shapes_of(weights), missing)

    return call


def kinds(loaded):
    return [problem.kind for problem in loaded.check()]


def prefixed(weights, prefix):
    return {f'{prefix}{name}': value for name, value in weights.items()}


def test_all_weights_load(load):
    for weights in (
        Net().state_dict(),
        dict(state_dict=Net().state_dict(), meta=dict()),
        dict(state_dict=prefixed(Net().state_dict(), 'module.')),  # of DDP
        dict(state_dict=Net().state_dict(), ema_state_dict=dict(steps=torch.tensor(3))),
    ):
        loaded = load(weights)
        assert kinds(loaded) == []
        assert str(loaded) == 'a.pth: 8 of 8 tensors of the model loaded'


def test_another_head_is_new(load):
    loaded = load(dict(state_dict=Net(classes=5).state_dict()))
    assert kinds(loaded) == []
    assert str(loaded) == 'a.pth: 6 of 8 tensors of the model loaded; new: bbox_head (2)'


def test_a_large_head_may_be_new(load):
    """As those of DINO, with more tensors than the backbone."""
    model = Net()
    model.decoder = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    assert kinds(load(Net().state_dict(), model)) == []


def test_a_wrapped_model_is_looked_into(load):
    model = nn.DataParallel(Net())
    assert str(load(Net().state_dict(), model)).startswith('a.pth: 8 of 8')


@pytest.mark.parametrize(
    'change, cure',
    [
        (
            lambda weights: {
                name[9:]: value for name, value in weights.items() if name.startswith('backbone.')
            },
            "its names fit with 'backbone.' before them: set model.backbone.init_cfg.type="
            'Pretrained model.backbone.init_cfg.checkpoint=a.pth in place of load_from',
        ),
        (
            lambda weights: prefixed(weights, 'student.'),
            "its names fit without 'student.': set model.init_cfg.type=Pretrained "
            'model.init_cfg.checkpoint=a.pth model.init_cfg.prefix=student. in place of load_from',
        ),
        (lambda weights: {'other': torch.ones(1)}, 'give weights of this model, or leave '),
    ],
)
def test_weights_of_which_nothing_fits(change, cure, load):
    weights = change(Net().state_dict())
    loaded = load(dict(state_dict=weights))
    (problem,) = loaded.check()
    assert (problem.kind, problem.file) == ('nothing-loaded', 'a.pth')
    name = next(iter(weights))
    assert f'it has {name} {list(weights[name].shape)}' in problem.detail
    assert 'and the model backbone.0.weight [3, 3], backbone.0.bias [3]' in problem.detail
    assert cure in problem.detail


def test_the_cure_for_a_prefix_loads(tmp_path):
    weights = Net().state_dict()
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=prefixed(weights, 'student.')), path)
    model = Net()
    model.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='student.')
    model.init_weights()
    assert torch.equal(model.bbox_head.weight, weights['bbox_head.weight'])


def test_counters_of_batch_norms_are_no_weights(load):
    """PyTorch adds them to a state without versions, so that they are never missing."""
    model = Net()
    model.norm = nn.BatchNorm2d(3)
    loaded = load(dict(state_dict={'other.weight': torch.ones(1)}), model)
    assert loaded.loaded == []
    assert kinds(loaded) == ['nothing-loaded']
    assert str(load(dict(model.state_dict()), model)) == (
        'a.pth: 12 of 12 tensors of the model loaded'
    )


def test_names_that_fit_and_shapes_that_do_not(load):
    loaded = load(dict(state_dict=Net(width=4, classes=3).state_dict()))
    assert kinds(loaded) == ['nothing-loaded']


def test_a_backbone_of_which_little_fits_is_a_warning(load):
    weights = Net().state_dict()
    for name in list(weights)[:4]:
        del weights[name]
    loaded = load(weights)
    (problem,) = loaded.check()
    assert (problem.kind, problem.severity) == ('partly-loaded', 'warning')
    assert '2 of 6 tensors of the backbone fit' in problem.detail
    assert 'such as backbone.0.weight' in problem.detail
    assert str(loaded) == 'a.pth: 4 of 8 tensors of the model loaded; new: backbone (4)'


def test_a_model_without_backbone_of_which_little_fits_is_a_warning(load):
    whole = Net(backbone=False).state_dict()
    weights = {name: value for name, value in whole.items() if name.startswith('bbox')}
    (problem,) = load(weights, Net(backbone=False)).check()
    assert '2 of 8 tensors of the model fit' in problem.detail


class Renaming(Net):
    """Loads old names, as some heads of mmdet do."""

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in list(state_dict):
            if name.startswith('old.'):
                state_dict[f'backbone.{name[4:]}'] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def test_names_that_the_model_translates_count(load):
    weights = {
        name.replace('backbone.', 'old.'): value for name, value in Net().state_dict().items()
    }
    loaded = load(weights, Renaming())
    assert len(loaded.loaded) == 8
    assert kinds(loaded) == []


def test_a_resumed_run_needs_the_hook_of_the_averages():
    class MyEMAHook(EMAHook):
        pass

    (problem,) = check_averages('a.pth', True, [IterTimerHook()])
    assert (problem.kind, problem.severity) == ('ema', 'error')
    assert 'EMAHook, which a resumed run must have, and this one has none' in problem.detail
    for averaged, hooks in ((True, [EMAHook()]), (True, [MyEMAHook()]), (False, [])):
        assert list(check_averages('a.pth', averaged, hooks)) == []
    # MMEngine warns of a hook that is new, and starts its averages from the resumed weights.
    assert list(check_averages('a.pth', False, [EMAHook()])) == []
