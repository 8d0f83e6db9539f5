"""``--tta`` of each framework, against loops over flipped images."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModule
from mmengine.registry import DATASETS, MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import nn

from biformer_mm.engine.runner import testing

HEIGHT, WIDTH, CLASSES = 20, 32, 3


@MODELS.register_module(name='TTATestConv', force=True)
class Conv(BaseModule):
    """A backbone of one convolution; of size 1, it sees no difference between left and right."""

    def __init__(self, size, channels, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, size, stride, size // 2)

    def forward(self, x):
        return (self.conv(x).sin(),)


@pytest.fixture(autouse=True)
def scope():
    """End the scope that a test sets."""
    before = DefaultScope.get_current_instance()
    yield
    init_default_scope(before.scope_name if before else 'mmengine')


@pytest.fixture
def images(tmp_path):
    """Random images, and maps with labels that are no mirror images."""
    rng = np.random.default_rng(0)
    (tmp_path / 'img').mkdir()
    (tmp_path / 'map').mkdir()
    pairs = []
    for i in range(3):
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        labels = rng.integers(0, CLASSES, (HEIGHT, WIDTH), np.uint8)
        cv2.imwrite(str(tmp_path / 'img' / f'{i}.png'), image)
        cv2.imwrite(str(tmp_path / 'map' / f'{i}.png'), labels)
        pairs.append((image, labels))
    return pairs


def segmentor(folder, size):
    """A config of a test of mmseg."""
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[100.0] * 3, std=[20.0] * 3),
        backbone=dict(type='mmengine.TTATestConv', size=size, channels=8),
        decode_head=dict(
            type='FCNHead',
            num_convs=0,
            concat_input=False,
            dropout_ratio=0.0,
            in_channels=8,
            channels=8,
            num_classes=CLASSES,
        ),
        test_cfg=dict(mode='whole'),
    )
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(folder),
        data_prefix=dict(img_path='img', seg_map_path='map'),
        img_suffix='.png',
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    return Config(
        dict(
            default_scope='mmseg',
            work_dir=str(folder / 'work'),
            model=model,
            tta_model=dict(type='SegTTAModel'),
            test_dataloader=dict(
                dataset=dataset,
                batch_size=2,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
            ),
            test_cfg=dict(type='TestLoop'),
            test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            log_level='ERROR',
        )
    )


def run(cfg, name):
    """Test a segmentor; return its metrics and the model, of fixed weights."""
    cfg.experiment_name = f'{cfg.work_dir} {name}'  # MMEngine keeps visualizers by it
    runner = Runner.from_cfg(cfg)
    model = getattr(runner.model, 'module', runner.model)
    torch.manual_seed(1)
    for param in model.parameters():
        param.data.normal_()
    return runner.test(), model


def mean_iou(predicted, truth):
    """Return the mean IoU in percent, counted class by class."""
    ious = []
    for label in range(CLASSES):
        both = sum(((p == label) & (t == label)).sum() for p, t in zip(predicted, truth))
        either = sum(((p == label) | (t == label)).sum() for p, t in zip(predicted, truth))
        ious.append(both / either)
    return 100 * float(np.mean(ious))


def test_a_segmentor_that_sees_no_difference_scores_the_same(images, tmp_path):
    plain, _ = run(segmentor(tmp_path, size=1), 'plain')
    cfg = segmentor(tmp_path, size=1)
    testing.set_tta(cfg)
    assert run(cfg, 'tta')[0] == plain


def test_a_segmentor_against_a_loop(images, tmp_path):
    cfg = segmentor(tmp_path, size=3)
    testing.set_tta(cfg)
    metrics, model = run(cfg, 'tta')
    conv, head = model.backbone.conv.double(), model.decode_head.conv_seg.double()

    def scores(image):
        x = torch.tensor((image.astype(float) - 100) / 20).permute(2, 0, 1)[None]
        return head(conv(x).sin()).softmax(1)[0].detach().numpy()

    predicted = [
        (scores(image) + scores(image[:, ::-1])[:, :, ::-1]).argmax(0) for image, _ in images
    ]
    truth = [labels for _, labels in images]
    assert metrics['mIoU'] == pytest.approx(mean_iou(predicted, truth), abs=0.006)
    once = [scores(image).argmax(0) for image, _ in images]
    assert abs(metrics['mIoU'] - mean_iou(once, truth)) > 0.1  # the flips count


def config(scope, model, dataset):
    return Config(dict(default_scope=scope, model=model, test_dataloader=dict(dataset=dataset)))


def predict_both(cfg):
    """Return predictions with TTA, and of each image and of its mirror image without."""
    init_default_scope(cfg.default_scope)
    plain = cfg.test_dataloader.dataset.pipeline
    testing.set_tta(cfg)
    model, dataset = MODELS.build(cfg.model), DATASETS.build(cfg.test_dataloader.dataset)
    torch.manual_seed(1)
    for param in model.parameters():
        param.data.normal_(std=0.1)
    model.eval()
    with torch.no_grad():
        merged = model.test_step(pseudo_collate([dataset[i] for i in range(len(dataset))]))
        steps = DATASETS.build(dict(cfg.test_dataloader.dataset, pipeline=plain)).pipeline
        single = []
        for i in range(len(dataset)):
            sample = steps.transforms[0](dataset.get_data_info(i))  # loads the image
            for image in (sample['img'], sample['img'][:, ::-1].copy()):
                packed = dict(sample, img=image)
                for step in steps.transforms[1:]:
                    packed = step(packed)
                single.append(model.module.test_step(pseudo_collate([packed]))[0])
    return merged, single


def test_a_classifier_against_a_loop(images, tmp_path):
    pytest.importorskip('mmpretrain')
    (tmp_path / 'list.txt').write_text(''.join(f'{i}.png {i}\n' for i in range(3)))
    model = dict(
        type='ImageClassifier',
        data_preprocessor=dict(num_classes=3, mean=[100.0] * 3, std=[20.0] * 3, to_rgb=False),
        backbone=dict(type='mmengine.TTATestConv', size=3, channels=8, stride=2),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
    )
    dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path),
        ann_file='list.txt',
        data_prefix='img',
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    merged, single = predict_both(config('mmpretrain', model, dataset))
    for i, sample in enumerate(merged):
        first, second = (one.pred_score for one in single[2 * i : 2 * i + 2])
        torch.testing.assert_close(sample.pred_score, (first + second) / 2)
        assert not torch.allclose(first, second)
        assert sample.gt_label.item() == i


def iou(a, b):
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(width, 0) * max(height, 0)
    either = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - both
    return both / either if either else 0.0


def merge(views):
    """Join detections of an image and of its mirror image; drop what overlaps by 50 %."""
    found = []
    for flipped, sample in enumerate(views):
        boxes = sample.pred_instances
        for box, score, label in zip(
            boxes.bboxes.tolist(), boxes.scores.tolist(), boxes.labels.tolist()
        ):
            if flipped:
                box = [WIDTH - box[2], box[1], WIDTH - box[0], box[3]]
            found.append((score, label, box))
    kept = []
    for score, label, box in sorted(found, reverse=True):
        if all(label != other or iou(box, taken) <= 0.5 for _, other, taken in kept):
            kept.append((score, label, box))
    return kept[:100]


@pytest.mark.parametrize('padded', [False, True])
def test_a_detector_against_a_loop(padded, images, tmp_path):
    """Also with padding, which a flip must not move to the other side."""
    pytest.importorskip('mmdet')
    annotations = dict(
        images=[dict(id=i, file_name=f'{i}.png', height=HEIGHT, width=WIDTH) for i in range(3)],
        annotations=[],
        categories=[dict(id=1, name='a'), dict(id=2, name='b')],
    )
    (tmp_path / 'coco.json').write_text(str(annotations).replace("'", '"'))
    model = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[100.0] * 3, std=[20.0] * 3),
        backbone=dict(type='mmengine.TTATestConv', size=9, channels=8, stride=8),
        neck=None,
        bbox_head=dict(
            type='RetinaHead',
            num_classes=2,
            in_channels=8,
            feat_channels=8,
            stacked_convs=1,
            anchor_generator=dict(
                type='AnchorGenerator',
                octave_base_scale=1,
                scales_per_octave=1,
                ratios=[1.0],
                strides=[8],
            ),
        ),
        test_cfg=dict(
            nms_pre=100, score_thr=0.3, nms=dict(type='nms', iou_threshold=0.6), max_per_img=20
        ),
    )
    dataset = dict(
        type='CocoDataset',
        data_root=str(tmp_path),
        ann_file='coco.json',
        data_prefix=dict(img='img'),
        metainfo=dict(classes=('a', 'b')),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(2 * WIDTH, 2 * HEIGHT), keep_ratio=True),
            *[dict(type='Pad', size_divisor=56)] * padded,
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='PackDetInputs'),
        ],
    )
    merged, single = predict_both(config('mmdet', model, dataset))
    for i, sample in enumerate(merged):
        expected = merge(single[2 * i : 2 * i + 2])
        boxes = sample.pred_instances
        assert len(expected) > 5
        assert boxes.labels.tolist() == [label for _, label, _ in expected]
        torch.testing.assert_close(boxes.scores, torch.tensor([score for score, _, _ in expected]))
        torch.testing.assert_close(boxes.bboxes, torch.tensor([box for _, _, box in expected]))
