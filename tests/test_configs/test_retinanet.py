"""RetinaNet's configs against the recipe, and whether they train."""
import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from tools import ROOT

from biformer_mm.datasets import SHAPES_CLASSES, SHAPES_PALETTE

SIZES = {
    # channels from stride 8 on, drop-path rate, arch
    't': ([128, 256, 512], 0.1, 'tiny'),
    's': ([128, 256, 512], 0.2, 'small'),
    'b': ([192, 384, 768], 0.3, 'base'),
}


def load(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


@pytest.mark.parametrize('size', SIZES)
def test_recipe(size):
    channels, drop_path_rate, arch = SIZES[size]
    cfg = load(f'retinanet_biformer_{size}_1x')
    backbone = cfg.model.backbone
    assert backbone.type == 'BiFormer' and backbone.arch == arch
    assert backbone.num_regions == 16
    assert backbone.out_indices == (1, 2, 3)
    assert backbone.drop_path_rate == drop_path_rate
    assert backbone.norm_eval is True
    assert cfg.model.neck == dict(
        type='FPN',
        in_channels=channels,
        out_channels=256,
        start_level=0,
        add_extra_convs='on_input',
        num_outs=5)
    assert cfg.model.bbox_head.anchor_generator.strides == [
        8, 16, 32, 64, 128
    ]

    optim = cfg.optim_wrapper
    assert optim.type == 'AmpOptimWrapper'
    assert optim.optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
    assert 'paramwise_cfg' not in optim

    assert cfg.train_cfg.type == 'EpochBasedTrainLoop'
    assert cfg.train_cfg.max_epochs == 12
    warm_up, steps = cfg.param_scheduler
    assert warm_up.type == 'LinearLR' and warm_up.start_factor == 0.001
    assert (warm_up.begin, warm_up.end, warm_up.by_epoch) == (0, 500, False)
    assert steps.type == 'MultiStepLR' and steps.by_epoch
    assert steps.milestones == [8, 11] and steps.gamma == 0.1

    loader = cfg.train_dataloader
    assert loader.batch_size == 2 and loader.dataset.type == 'CocoDataset'
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    for split in (loader, cfg.val_dataloader, cfg.test_dataloader):
        resize, = (t for t in split.dataset.pipeline if t.type == 'Resize')
        assert resize.scale == (1333, 800) and resize.keep_ratio
    assert cfg.val_evaluator.metric == 'bbox'


@pytest.mark.parametrize('size', ['t', 'b'])
def test_size_variants_are_small_deltas(size):
    path = ROOT / 'configs' / f'retinanet_biformer_{size}_1x.py'
    lines = [line for line in path.read_text().splitlines()
             if line.strip() and not line.startswith('#')]
    assert len(lines) <= 15


def test_demo_names_the_classes_of_its_data():
    metainfo = load('retinanet_biformer_demo').metainfo
    assert metainfo.classes == SHAPES_CLASSES
    assert metainfo.palette == SHAPES_PALETTE


def sample(size):
    from mmdet.structures import DetDataSample
    data = DetDataSample(
        metainfo=dict(
            img_shape=size, ori_shape=size, scale_factor=(1., 1.), img_id=0))
    data.gt_instances = InstanceData(
        bboxes=torch.tensor([[10., 12., 70., 64.]]), labels=torch.tensor([1]))
    return data


@pytest.mark.parametrize('name', [
    'retinanet_biformer_t_1x', 'retinanet_biformer_s_1x',
    'retinanet_biformer_b_1x', 'retinanet_biformer_demo'
])
def test_trains_and_predicts(name):
    torch.manual_seed(0)
    cfg = load(name)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    model.init_weights()
    before = copy.deepcopy(model.state_dict())
    size = (96, 128)
    batch = dict(
        inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8)],
        data_samples=[sample(size)])

    model.train()
    data = model.data_preprocessor(batch, training=True)
    losses, _ = model.parse_losses(model(**data, mode='loss'))
    losses.backward()
    for param_name, param in model.named_parameters():
        if param.requires_grad:  # none is left out: DDP needs no search
            assert param.grad is not None, param_name
    torch.optim.AdamW(model.parameters(), 1e-4).step()
    assert any(
        not torch.equal(v, before[k]) for k, v in model.state_dict().items())

    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(batch)
        prediction, = model(**data, mode='predict')
    assert prediction.pred_instances.bboxes.isfinite().all()
