"""Load, build and run the configs of the suite."""

import copy

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from tool_runner import ROOT

CONFIGS = ROOT / 'configs'
# All that people run: names, without .py, those in ablation/ and attention/ with the folder.
NAMES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(''))
    for folder in ('.', 'ablation', 'attention')
    for path in (CONFIGS / folder).glob('*.py')
)


def load(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def build(cfg, seed=0):
    """The initialised model, put together as the runner does it, on a CPU."""
    torch.manual_seed(seed)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    init_default_scope(cfg.default_scope)
    model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    model.init_weights()
    return model


def assert_trains(model, inputs):
    """One step gives every trainable parameter a gradient and changes it."""
    before = copy.deepcopy(model.state_dict())
    model.train()
    data = model.data_preprocessor(copy.deepcopy(inputs), training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    for name, param in model.named_parameters():
        if param.requires_grad:  # none is left out: DDP needs no search
            assert param.grad is not None, name
    torch.optim.AdamW(model.parameters(), 1e-4).step()
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())


def predict(model, inputs):
    """Every number that the model predicts, in one vector."""
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(copy.deepcopy(inputs))
        samples = model(**data, mode='predict')
    return torch.cat([x.flatten().double() for x in _predicted(samples)])


def _predicted(samples):
    for sample in samples:
        if 'pred_instances' in sample:
            yield sample.pred_instances.bboxes
            yield sample.pred_instances.scores
            if 'masks' in sample.pred_instances:
                yield sample.pred_instances.masks
        elif 'seg_logits' in sample:
            yield sample.seg_logits.data
        else:
            yield sample.pred_score


def assert_small_delta(name):
    """A size variant changes only what differs."""
    text = (CONFIGS / f'{name}.py').read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    assert len(lines) <= 15


def assert_no_decay_of_norms(model, optim_wrapper, weight_decay):
    """Norm layers alone are free of weight decay."""
    optim_wrapper.type = 'OptimWrapper'  # AMP needs a GPU
    optimizer = build_optim_wrapper(model, optim_wrapper).optimizer
    decay = {
        id(p): group['weight_decay'] for group in optimizer.param_groups for p in group['params']
    }
    norms = {id(p) for m in model.modules() if 'Norm' in type(m).__name__ for p in m.parameters()}
    for name, param in model.named_parameters():
        expected = 0 if id(param) in norms else weight_decay
        assert decay[id(param)] == expected, name
