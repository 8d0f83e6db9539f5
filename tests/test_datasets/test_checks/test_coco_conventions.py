"""Files whose boxes are all in another convention, and healthy ones that look alike."""

import numpy as np
import pytest

from biformer_mm.datasets.checks.coco_conventions import check_boxes

WIDTH, HEIGHT = 640, 480


def file_of(boxes, width=WIDTH, height=HEIGHT, objects=3):
    """Annotations of boxes, and their images, with some objects each."""
    images = {}
    annotations = []
    for i, box in enumerate(boxes):
        key = i // objects
        images[key] = dict(id=key, width=width, height=height)
        annotations.append(dict(id=i + 1, image_id=key, bbox=[float(x) for x in box]))
    return annotations, images


def healthy(count, seed=0):
    rng = np.random.default_rng(seed)
    w, h = rng.uniform(8, WIDTH / 2, count), rng.uniform(8, HEIGHT / 2, count)
    return np.stack([rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h), w, h], 1)


def corners(boxes):
    x, y, w, h = boxes.T
    return np.stack([x, y, x + w, y + h], 1)


def centres(boxes):
    x, y, w, h = boxes.T
    return np.stack([x + w / 2, y + h / 2, w, h], 1)


WRITTEN = {
    '[x1, y1, x2, y2]': corners,
    '[centre x, centre y, width, height]': centres,
    '[y, x, height, width]': lambda boxes: boxes[:, [1, 0, 3, 2]],
    'shares of width and height': lambda boxes: boxes / [WIDTH, HEIGHT, WIDTH, HEIGHT],
}


def found(boxes, **kwargs):
    return list(check_boxes('a.json', *file_of(boxes, **kwargs)))


@pytest.mark.parametrize('count', [40, 1000])
@pytest.mark.parametrize('convention', WRITTEN)
def test_another_convention_is_one_problem_that_names_it(convention, count):
    boxes = WRITTEN[convention](healthy(count))
    (problem,) = found(boxes)
    assert problem.kind == 'convention'
    assert f'{count} fit as {convention}' in problem.detail
    assert ('leave their image' in problem.detail) == ('shares' not in convention)


def test_the_example_is_a_box_of_the_file():
    boxes = corners(healthy(100))
    (problem,) = found(boxes)
    example = problem.detail.partition('such as ')[2].partition(' in an image of 640x480')[0]
    assert [float(x) for x in example.strip('[]').split(',')] in boxes.tolist()


def test_a_tenth_of_wrong_boxes_does_not_hide_the_convention():
    boxes = corners(healthy(1000))
    boxes[::30] = [9, 9, 5, 5]
    assert [problem.kind for problem in found(boxes)] == ['convention']


@pytest.mark.parametrize('seed', range(5))
def test_healthy_boxes_are_silent(seed):
    assert found(healthy(500, seed)) == []


def test_centred_objects_are_silent():
    """One object in the middle of each picture can be read as corners, too."""
    rng = np.random.default_rng(0)
    boxes = np.stack(
        [
            rng.uniform(0.1, 0.2, 300) * WIDTH,
            rng.uniform(0.1, 0.2, 300) * HEIGHT,
            rng.uniform(0.6, 0.79, 300) * WIDTH,
            rng.uniform(0.5, 0.7, 300) * HEIGHT,
        ],
        1,
    )
    assert ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).all()
    assert found(boxes, objects=1) == []
    boxes[::5, 2] = WIDTH * 1.03 - boxes[::5, 0]  # drawn a little over the edge
    assert [problem.kind for problem in found(boxes, objects=1)] == ['boxes-over-edge']


def test_boxes_of_a_larger_copy_are_warned_of():
    (problem,) = found(healthy(200) * 1.7)
    assert problem.kind == 'boxes-over-edge'


def test_boxes_of_a_smaller_copy_are_warned_of():
    (problem,) = found(healthy(600) / 2)
    assert problem.kind == 'resized-boxes'
    assert 'beyond 50% of the width and 50% of the height' in problem.detail
    # Objects in a lower band, as on a road, reach the right edge.
    assert found(healthy(600) * [1, 0.5, 1, 0.5]) == []


def test_few_boxes_must_all_agree():
    boxes = corners(healthy(12))
    assert [problem.kind for problem in found(boxes)] == ['convention']
    boxes[0] = [9, 9, 5, 5]
    assert 'convention' not in [problem.kind for problem in found(boxes)]
    assert found(corners(healthy(4))) == []


def test_rows_that_are_no_boxes_are_passed_over():
    annotations, images = file_of(corners(healthy(50)))
    for annotation, box in zip(annotations, (None, [1, 2, 3], ['a', 0, 0, 0], [0, 0, 1e400, 1])):
        annotation['bbox'] = box
    images[5]['width'] = None
    (problem,) = check_boxes('a.json', annotations, images)
    assert '43 fit as [x1, y1, x2, y2]' in problem.detail
    annotations, images = file_of(healthy(50))
    images[0]['width'] = 'wide'
    assert list(check_boxes('a.json', annotations, images)) == []
