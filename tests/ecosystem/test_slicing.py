"""Big pictures with sahi: each object is found once."""

import json
import sys

import cv2
import numpy as np
import pytest
import sahi.slicing  # noqa: F401  fail here, not in the tool
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from pycocotools import mask as rle
from random_models import CONFIGS
from scipy import ndimage
from tool_runner import ROOT, load_module

from biformer_mm.apis.inference import build_predictor
from biformer_mm.apis.slicing import in_slices
from biformer_mm.utils.errors import UsageError

# Slices of 1024 with an overlap of 0.2 start at multiples of 820.
SIZE, OVERLAP = 1024, 0.2


def boxes_in(ids):
    """The box x1, y1, x2, y2 and the number of each object in an image of their numbers."""
    found = enumerate(ndimage.find_objects(ids), 1)
    return [((s[1].start, s[0].start, s[1].stop, s[0].stop), i) for i, s in found if s]


class Finder:
    """Find the visible part of each object in an image whose pixels are the objects' numbers.

    In an image of more than a slice, boxes are 8 pixels too large at each side, and scores are
    lower. Class 0 has the odd numbers, class 1 the even ones.
    """

    def __init__(self, masks=False):
        self.masks = masks
        self.seen = []

    def __call__(self, image):
        self.seen.append(image)
        ids = image if image.ndim == 2 else image[..., 3]
        found = boxes_in(ids)
        big = max(ids.shape) > SIZE
        boxes = torch.tensor([box for box, _ in found], dtype=torch.float32).reshape(-1, 4)
        result = InstanceData(
            bboxes=boxes + 8 * big * torch.tensor([-1, -1, 1, 1]),
            scores=torch.full((len(found),), 0.5 if big else 0.9),
            labels=torch.tensor([i % 2 for _, i in found], dtype=torch.long),
        )
        if self.masks:
            masks = np.array([ids == i for _, i in found]).reshape(-1, *ids.shape)
            result.masks = torch.from_numpy(masks)
        return result


def picture(*boxes, size=(4000, 4000)):
    ids = np.zeros(size, np.int32)
    for i, (x1, y1, x2, y2) in enumerate(boxes, 1):
        ids[y1:y2, x1:x2] = i
    return ids


@pytest.mark.parametrize(
    'x, y',
    [
        (300, 300),  # in one slice
        (1014, 300),  # on a border
        (814, 400),  # on the next slice's border
        (900, 2000),  # in the overlap of two slices
        (900, 900),  # in the overlap of four
        (1014, 1014),  # on the corner of a slice, in the overlap of four
        (3980, 3980),  # in the picture's corner
    ],
)
def test_a_small_object_in_a_big_picture_is_found_once(x, y):
    box = [x, y, x + 20, y + 20]
    found = in_slices(Finder(), SIZE, OVERLAP)(picture(box))
    assert found.bboxes.tolist() == [box]  # not the larger one of the whole picture
    assert found.scores.tolist() == [pytest.approx(0.9)]
    assert found.labels.tolist() == [1]


def test_an_object_larger_than_a_slice_is_found_once():
    """The whole picture joins its parts, though their score is higher."""
    box = np.array([700, 500, 3500, 2900])
    found = in_slices(Finder(), SIZE, OVERLAP)(picture(box))
    np.testing.assert_array_equal(found.bboxes, [box + [-8, -8, 8, 8]])
    assert found.scores.tolist() == [pytest.approx(0.9)]


def test_a_union_is_merged_with_what_only_it_covers():
    # 14 of the third box's 29 rows are in the first, all are in the union of the first two.
    boxes = [[100, 100, 180, 165], [100, 120, 140, 180], [150, 151, 180, 180]]

    def find(image):
        corner = (image.ctypes.data - picture.ctypes.data) == 0 and image is not picture
        return InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32)[: 3 * corner],
            scores=torch.tensor([0.5, 0.7, 0.6])[: 3 * corner],
            labels=torch.zeros(3, dtype=torch.long)[: 3 * corner],
        )

    picture = np.zeros((300, 1500), np.uint8)
    found = in_slices(find, SIZE, OVERLAP)(picture)
    assert found.bboxes.tolist() == [[100, 100, 180, 180]]
    assert found.scores.tolist() == [pytest.approx(0.7)]


def test_classes_and_neighbours_are_kept_apart():
    # 1 and 2 are of different classes and overlap, 1 and 3 are of one class and touch.
    boxes = [[1000, 1000, 1040, 1040], [1010, 1010, 1050, 1050], [960, 1000, 1000, 1040]]
    ids = picture(*boxes)
    found = in_slices(Finder(), SIZE, OVERLAP)(ids)
    found = sorted(zip(found.bboxes.tolist(), found.labels.tolist()))
    assert found == sorted((list(box), i % 2) for box, i in boxes_in(ids))


def test_masks_are_united():
    ids = picture([700, 100, 2400, 1700], size=(1800, 2500))
    cv2.circle(ids, (1200, 600), 400, 2, -1)  # on it, and of the other class
    found = in_slices(Finder(masks=True), SIZE, OVERLAP)(ids)
    assert sorted(found.labels.tolist()) == [0, 1]
    for label, mask in zip(found.labels, found.masks):
        np.testing.assert_array_equal(mask, ids == (1 if label else 2))


def test_a_picture_in_one_slice_is_not_sliced():
    ids = picture([10, 10, 30, 30], size=(1024, 700))
    find = Finder(masks=True)
    found = in_slices(find, SIZE, OVERLAP)(ids)
    assert [image.shape for image in find.seen] == [(1024, 700)]
    assert found.bboxes.tolist() == [[10, 10, 30, 30]]


@pytest.mark.parametrize('masks', [False, True])
def test_a_picture_without_objects(masks):
    found = in_slices(Finder(masks), SIZE, OVERLAP)(picture(size=(1100, 1500)))
    assert len(found) == 0 and found.bboxes.shape == (0, 4)
    assert ('masks' in found) == masks


def test_a_detector_without_boxes_is_refused():
    def find(image):
        return InstanceData(
            bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long)
        )

    with pytest.raises(UsageError, match='need a detector that gives boxes'):
        in_slices(find, SIZE, OVERLAP)(np.zeros((2000, 2000), np.uint8))


def test_slices_have_all_channels_and_bits():
    image = np.random.default_rng(0).integers(300, 2**16, (1100, 1500, 4), np.uint16)
    image[..., 3] = picture([1200, 50, 1240, 90], size=(1100, 1500))
    find = Finder()
    found = in_slices(find, SIZE, OVERLAP)(image)
    assert found.bboxes.tolist() == [[1200, 50, 1240, 90]]
    assert {(part.shape[2], part.dtype) for part in find.seen} == {(4, image.dtype)}
    covered = np.zeros(image.shape, bool)
    _, *slices = find.seen
    assert all(part.shape == (1024, 1024, 4) and np.shares_memory(part, image) for part in slices)
    for part in slices:
        start = (part.ctypes.data - image.ctypes.data) // image.strides[1]
        y, x = divmod(start, image.shape[1])
        np.testing.assert_array_equal(part, image[y : y + 1024, x : x + 1024])
        covered[y : y + 1024, x : x + 1024] = True
    assert covered.all()


@MODELS.register_module()
class BrightSpots(BaseModel):
    """Find bright spots, but no spot of less than 5 pixels in what enters the network."""

    num_classes = 1

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.weight = torch.nn.Parameter(torch.zeros(1))  # a checkpoint without any is refused

    def forward(self, inputs, data_samples, mode):
        (image,), (sample,) = inputs, data_samples
        bright = (image.mean(dim=0) > 0).numpy().astype(np.int32)
        boxes = [box for box, _ in boxes_in(ndimage.label(bright)[0]) if box[2] - box[0] >= 5]
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        sample.pred_instances = InstanceData(
            bboxes=boxes / boxes.new_tensor(sample.scale_factor * 2),
            scores=torch.full((len(boxes),), 0.8),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        )
        return [sample]


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Call the tool; return what it found in a.png."""
    tool = load_module(ROOT / 'tools' / 'infer.py')

    def call(*args):
        args = [tmp_path / 'a.png', *args, '--device', 'cpu', '--out', tmp_path / 'out', '--force']
        monkeypatch.setattr(sys, 'argv', ['infer.py', *map(str, args)])
        tool.main()
        return json.loads((tmp_path / 'out/a.png.json').read_text())['instances']

    return call


def test_the_tool_finds_what_the_whole_picture_does_not_show(call, tmp_path, capsys):
    image = np.zeros((1200, 4000, 3), np.uint8)
    image[1010:1030, 1630:1650] = 255  # cut by the borders of slices
    cv2.imwrite(str(tmp_path / 'a.png'), image)
    (tmp_path / 'config.py').write_text(
        """default_scope = 'mmdet'
preprocessor = dict(type='DetDataPreprocessor', mean=[128] * 3, std=[1] * 3)
model = dict(type='BrightSpots', data_preprocessor=preprocessor)
test_dataloader = dict(
    dataset=dict(
        type='CocoDataset',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(512, 512), keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
        ],
    )
)
"""
    )
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), tmp_path / 'model.pth')
    model = ['--config', tmp_path / 'config.py', '--checkpoint', tmp_path / 'model.pth']
    assert call(*model) == []
    assert 'slices' not in capsys.readouterr().out
    (found,) = call(*model, '--slice', 1024)
    np.testing.assert_allclose(found['box'], [1630, 1010, 1650, 1030], atol=1)
    assert found['score'] == 0.8
    printed = capsys.readouterr().out
    assert printed.count('slices of 1024 x 1024 pixels enter the network as 512 x 512') == 1


@pytest.mark.parametrize('task', ['det', 'mask'])
def test_a_model_sees_each_slice(task, checkpoints):
    """What it finds in the slices is in the result, and nothing else is."""
    cfg = Config.fromfile(ROOT / 'configs' / f'{CONFIGS[task]}.py')
    test_cfg = cfg.model.test_cfg.rcnn if task == 'mask' else cfg.model.test_cfg
    test_cfg.max_per_img = 10
    image = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    image = image.repeat(2, 0).repeat(2, 1)[:90, :150]
    predict, _ = build_predictor(cfg, str(checkpoints[task]), score_thr=0.2)
    # Slices of 80 pixels with an overlap of 40.
    single = [
        (x, y, instance)
        for x in (0, 40, 70)
        for y in (0, 10)
        for instance in predict(image[y : y + 80, x : x + 80]).result['instances']
    ]
    assert single
    whole = [(0, 0, instance) for instance in predict(image).result['instances']]
    sliced, _ = build_predictor(
        cfg, str(checkpoints[task]), score_thr=0.2, slice_size=80, overlap=0.5
    )
    result = sliced(image).result['instances']
    assert 0 < len(result) < len(single)
    assert [i['score'] for i in result] == sorted((i['score'] for i in result), reverse=True)
    masks = [rle.decode(found['mask']) for found in result] if task == 'mask' else []
    for x, y, instance in single:
        x1, y1, x2, y2 = np.add(instance['box'], (x, y, x, y))
        homes = [
            i
            for i, found in enumerate(result)
            if found['label'] == instance['label']
            and found['score'] >= instance['score']
            and (np.array(found['box'][:2]) <= (x1 + 0.02, y1 + 0.02)).all()
            and (np.array(found['box'][2:]) >= (x2 - 0.02, y2 - 0.02)).all()
        ]
        assert homes
        if task == 'mask':
            pixels = np.zeros(image.shape[:2], bool)
            pixels[y : y + 80, x : x + 80] = rle.decode(instance['mask'])
            assert any((pixels <= masks[i]).all() for i in homes)
    sides = [np.add(instance['box'], (x, y, x, y)) for x, y, instance in single + whole]
    for found in result:
        distance = np.abs(np.subtract(sides, found['box']))
        assert (distance.min(axis=0) < 0.02).all()  # each side is that of a detection
