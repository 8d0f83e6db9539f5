import cv2
import numpy as np
import pytest

from biformer_mm.datasets import SHAPES_CLASSES, make_scene, scene_rng, shapes

SIZE = 96


def scenes(count, image_size=SIZE, split='train'):
    return [make_scene(scene_rng(0, split, i), image_size) for i in range(count)]


@pytest.mark.parametrize('image_size', [32, 97])
def test_shapes_stay_visible(image_size):
    """Every shape that is drawn is annotated and at least MIN_VISIBLE of it
    can be seen, in few pieces."""
    for index in range(60):
        placed, visible = shapes._place_shapes(scene_rng(0, 'train', index), image_size)
        assert 2 <= len(placed) == len(visible) <= 6
        for shape, mask in zip(placed, visible):
            assert mask.sum() >= shapes.MIN_VISIBLE * shape.mask.sum() > 0
            pieces = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2][
                1:, cv2.CC_STAT_AREA
            ]
            assert pieces.min() >= shapes.MIN_PIECE * shape.mask.sum()
        np.testing.assert_array_equal(
            np.any(visible, axis=0), np.any([shape.mask for shape in placed], axis=0)
        )


def test_shapes_overlap_and_vary_in_size():
    sides, hidden = [], 0
    for index in range(100):
        placed, visible = shapes._place_shapes(scene_rng(0, 'train', index), SIZE)
        sides += [2 * shape.radius / SIZE for shape in placed]
        hidden += sum(mask.sum() < shape.mask.sum() for shape, mask in zip(placed, visible))
    assert 1 / 8 < min(sides) < 0.17 and 0.43 < max(sides) <= 1 / 2
    assert 0.15 < hidden / len(sides) < 0.7


def test_classes_are_equally_frequent():
    counts = np.zeros(len(SHAPES_CLASSES))
    for index in range(250):
        placed, _ = shapes._place_shapes(scene_rng(0, 'train', index), 64)
        for shape in placed:
            counts[shape.label] += 1
    assert counts.min() > 0.8 * counts.mean() and counts.max() < 1.2 * counts.mean()


def test_shapes_contrast_with_the_background():
    """The colour on either side of nearly every visible edge to the background
    differs clearly (CIE Lab)."""
    kernel, contrasts = np.ones((7, 7), np.uint8), []
    for scene in scenes(30):
        lab = cv2.cvtColor(scene.image.astype(np.float32) / 255, cv2.COLOR_BGR2Lab)
        background = ~np.any([mask for _, mask in scene.instances], axis=0)
        for _, mask in scene.instances:
            around = background & (cv2.dilate(mask.astype(np.uint8), kernel) > 0)
            if around.sum() > 20:
                contrasts.append(np.linalg.norm(lab[mask].mean(axis=0) - lab[around].mean(axis=0)))
    assert np.quantile(contrasts, 0.05) > 20


def test_seed_split_and_index_change_the_picture():
    images = [
        make_scene(scene_rng(*key), 32).image.tobytes()
        for key in [
            (0, 'train', 0),
            (0, 'train', 1),
            (0, 'val', 0),
            (0, 'val', 1),
            (1, 'train', 0),
            (1, 'val', 0),
        ]
    ]
    assert len(set(images)) == len(images)
