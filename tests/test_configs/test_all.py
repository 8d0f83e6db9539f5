"""Every config that people run: it trains, predicts, saves and loads."""

import pytest
import torch
from config_checks import NAMES, assert_trains, build, load, predict
from matrix.tiers import marks
from mmdet.testing import demo_mm_inputs
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

SIZE = 96, 128


def pixels():
    return torch.randint(0, 255, (3, *SIZE), dtype=torch.uint8)


def detection_inputs(cfg):
    return demo_mm_inputs(1, [(3, *SIZE)], num_items=[2], num_classes=4, with_mask=True)


def segmentation_inputs(cfg):
    samples = []
    for _ in range(2):  # batch norms want two
        sample = SegDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE))
        labels = torch.randint(0, cfg.model.decode_head.num_classes, (1, *SIZE))
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=[pixels(), pixels()], data_samples=samples)


def classification_inputs(cfg):
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    if cfg.model.head.type == 'TokenLabelHead':
        for sample in samples:
            scores = torch.randn(cfg.model.head.num_classes, SIZE[0] // 32, SIZE[1] // 32)
            sample.set_field(scores.softmax(0), 'gt_token_scores', dtype=torch.Tensor)
    return dict(inputs=torch.stack([pixels(), pixels()]), data_samples=samples)


INPUTS = dict(mmdet=detection_inputs, mmseg=segmentation_inputs, mmpretrain=classification_inputs)


@pytest.mark.parametrize('name', [pytest.param(name, marks=marks(name)) for name in NAMES])
def test_trains_predicts_saves_and_loads(name, tmp_path):
    cfg = load(name)
    if cfg.default_scope == 'mmseg':
        cfg.model.data_preprocessor.size = SIZE
    for test_cfg in (cfg.model.get('test_cfg'), (cfg.model.get('test_cfg') or {}).get('rcnn')):
        if 'score_thr' in (test_cfg or {}):
            test_cfg.score_thr = 0.0  # an untrained model is sure of nothing
    if 'num_queries' in cfg.model:
        cfg.model.num_queries = 100  # fewer than the small maps have places
    assert not cfg.get('find_unused_parameters')
    model = build(cfg)
    inputs = INPUTS[cfg.default_scope](cfg)
    assert_trains(model, inputs)
    torch.manual_seed(0)  # some heads sample
    prediction = predict(model, inputs)
    assert prediction.numel() > 0 and prediction.isfinite().all()

    torch.save(model.state_dict(), tmp_path / 'model.pth')
    loaded = build(cfg, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / 'model.pth'), strict=True)
    torch.manual_seed(0)
    assert torch.equal(predict(loaded, inputs), prediction)
