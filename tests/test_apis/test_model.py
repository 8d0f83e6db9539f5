"""From a config and a checkpoint to a model that infers."""

import golden
import pytest
import torch
from mmengine.config import Config
from tool_runner import ROOT

from biformer_mm.apis.model import build_model
from biformer_mm.checkpoint import CheckpointError


@pytest.fixture
def cfg():
    """A classifier with the golden network for its backbone."""
    cfg = Config.fromfile(ROOT / 'configs' / 'biformer_s_in1k.py')
    arch = golden.small_arch()[0]
    cfg.model.backbone.arch = arch
    cfg.model.head.in_channels = arch['embed_dims'][-1]
    cfg.model.head.num_classes = 10
    return cfg


def save(path, model, **options):
    torch.save(dict(state_dict=model.state_dict(), **options), path)
    return str(path)


def test_initialises_as_the_config_says(cfg):
    torch.manual_seed(0)
    model, dataset_meta = build_model(cfg)
    assert not model.training and dataset_meta == {}
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    # Of the config's top level, which MMEngine's runner merges, too.
    assert model.data_preprocessor._enable_normalize


def test_takes_own_checkpoints_and_their_class_names(cfg, tmp_path):
    torch.manual_seed(0)
    model, _ = build_model(cfg)
    meta = dict(classes=['a', 'b'], palette=[[1, 2, 3], [4, 5, 6]])
    path = save(tmp_path / 'own.pth', model, meta=dict(dataset_meta=meta))
    loaded, dataset_meta = build_model(cfg, path)
    assert dataset_meta == meta
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_takes_released_checkpoints_exactly(cfg, tmp_path):
    arrays = golden.load('classifier_s7')
    path = tmp_path / 'released.pth'
    torch.save(dict(model=golden.section(arrays, 'state')), path)
    model, _ = build_model(cfg, str(path))
    with torch.no_grad():
        golden.assert_close(model(arrays['x']), arrays['out'], golden.OUT_RTOL, 'logits')


def test_names_what_does_not_fit(cfg, tmp_path):
    model, _ = build_model(cfg)
    state = model.state_dict()
    state['odd'] = state.pop('head.fc.bias')
    state['head.fc.weight'] = state['head.fc.weight'][:3]
    path = tmp_path / 'other.pth'
    torch.save(state, path)
    with pytest.raises(CheckpointError) as error:
        build_model(cfg, str(path))
    assert str(error.value) == (
        f'{path} does not fit the model of the config, give the one that it '
        'was trained with: unexpected: odd; missing: head.fc.bias; of another '
        f'shape: head.fc.weight (3, {state["head.fc.weight"].shape[1]}), not '
        f'(10, {state["head.fc.weight"].shape[1]})'
    )


def test_a_backbone_alone_is_no_whole_model(cfg, tmp_path):
    model, _ = build_model(cfg)
    path = save(tmp_path / 'backbone.pth', model.backbone)
    with pytest.raises(CheckpointError, match='missing: backbone.stem'):
        build_model(cfg, path)


def test_the_config_is_left_as_it_was(cfg):
    before = cfg.to_dict()
    build_model(cfg)
    assert cfg.to_dict() == before
