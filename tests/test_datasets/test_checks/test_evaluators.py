"""Repaired evaluators against pycocotools on files that are written right."""

import copy
import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from biformer_mm.datasets.checks.coco_rules import coco_rules
from biformer_mm.datasets.checks.evaluators import repair

CLASSES = ('cat', 'dog', 'bird')
ITEMS = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']


def make(images=8, objects=4):
    """A healthy file: categories ascend, annotations count from 1."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(images * objects):
        x, y = rng.integers(0, 100, 2).tolist()
        w, h = rng.integers(10, 100, 2).tolist()
        annotations.append(
            dict(
                id=number + 1,
                image_id=number // objects,
                category_id=number % 3 + 1,
                bbox=[x, y, w, h],
                area=w * h,
                iscrowd=int(number % 9 == 8),
            )
        )
    return dict(
        images=[dict(id=i, file_name=f'{i}.jpg', width=200, height=200) for i in range(images)],
        annotations=annotations,
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)],
    )


def predict(content, images=None):
    """Detections near most objects, some of another class, in mmdet's form."""
    rng = np.random.default_rng(1)
    samples = []
    for image in content['images'][:images]:
        own = [a for a in content['annotations'] if a['image_id'] == image['id']]
        boxes = np.array([a['bbox'] for a in own], float)
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.uniform(-6, 6, boxes.shape)
        labels = np.array([(a['category_id'] - 1) for a in own])
        labels = np.where(rng.random(len(own)) < 0.15, (labels + 1) % 3, labels)
        scores = rng.random(len(own))
        if not samples:  # the first object is found best, so that losing it shows
            boxes[0] = [*own[0]['bbox'][:2], *np.add(own[0]['bbox'][:2], own[0]['bbox'][2:])]
            labels[0], scores[0] = own[0]['category_id'] - 1, 1
        samples.append(
            dict(
                img_id=image['id'],
                ori_shape=(200, 200),
                pred_instances=dict(
                    bboxes=torch.tensor(boxes),
                    scores=torch.tensor(scores),
                    labels=torch.tensor(labels),
                ),
            )
        )
    return samples


def evaluate(metric, samples):
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def by_pycocotools(path, samples, images=None):
    """The figures of a file that is written right, without mmdet."""
    truth = COCO(str(path))
    detections = [
        dict(
            image_id=sample['img_id'],
            category_id=int(label) + 1,
            score=float(score),
            bbox=[*box[:2].tolist(), *(box[2:] - box[:2]).tolist()],
        )
        for sample in samples
        for box, score, label in zip(*(sample['pred_instances'][key] for key in KEYS))
    ]
    evaluation = COCOeval(truth, truth.loadRes(detections), 'bbox')
    evaluation.params.maxDets = [100, 300, 1000]
    if images is not None:
        evaluation.params.imgIds = images
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found = {f'coco/bbox_{item}': evaluation.stats[i] for i, item in enumerate(ITEMS)}
    for i, name in enumerate(CLASSES):
        precision = evaluation.eval['precision'][:, :, i, 0, -1]
        found[f'coco/{name}_precision'] = precision[precision > -1].mean()
    return {key: round(value, 3) for key, value in found.items()}


KEYS = 'bboxes', 'scores', 'labels'


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def count_from_zero(content):
    for annotation in content['annotations']:
        annotation['id'] -= 1


def all_ids(value):
    def change(content):
        for annotation in content['annotations']:
            annotation['id'] = value(annotation['id'])

    return change


def drop_crowd(content):
    """Leave iscrowd out where it is 0, as many programs do."""
    for annotation in content['annotations']:
        if not annotation['iscrowd']:
            del annotation['iscrowd']


def number_categories(*ids):
    def change(content):
        for annotation in content['annotations']:
            annotation['category_id'] = ids[annotation['category_id'] - 1]
        for category, new in zip(content['categories'], ids):
            category['id'] = new

    return change


WRONG = {
    'an id of 0': count_from_zero,
    'only ids of 0': all_ids(lambda i: 0),
    'an id given twice': all_ids(lambda i: max(i, 2)),
    'text ids from 0 on': all_ids(lambda i: str(i - 1)),
    'text ids': all_ids(lambda i: f'object {i}'),
    'no iscrowd': drop_crowd,
    'categories in no order': number_categories(9, 4, 7),
    'text categories': number_categories('10', '2', '1'),
    'mixed categories': number_categories(1, '2', 3),
    'all of it': lambda content: [f(content) for f in (count_from_zero, drop_crowd)],
}


@pytest.fixture
def right(tmp_path):
    content = make()
    return content, write(tmp_path / 'right.json', content), predict(content)


@pytest.mark.parametrize('case', WRONG)
def test_a_repaired_evaluation_is_that_of_a_right_file(tmp_path, right, case):
    content, path, samples = right
    expected = by_pycocotools(path, samples)
    content = copy.deepcopy(content)
    WRONG[case](content)
    wrong = write(tmp_path / 'wrong.json', content)
    metric = CocoMetric(wrong, classwise=True)
    assert repair(metric) != []
    found = evaluate(metric, samples)
    assert {key: found[key] for key in expected} == expected
    try:
        unrepaired = evaluate(CocoMetric(wrong, classwise=True), samples)
    except (KeyError, ValueError, TypeError):
        return  # after the whole run
    assert {key: unrepaired.get(key) for key in expected} != expected


def test_faster_evaluator_is_repaired_too(tmp_path, right):
    pytest.importorskip('faster_coco_eval')
    from mmdet.evaluation import FasterCocoMetric

    content, path, samples = right
    expected = by_pycocotools(path, samples)
    count_from_zero(content)
    number_categories(9, 4, 7)(content)
    metric = FasterCocoMetric(write(tmp_path / 'wrong.json', content), classwise=True)
    assert len(repair(metric)) == 2
    found = evaluate(metric, samples)
    assert {key: found[key] for key in expected} == expected


def test_metrics_of_others_stay_as_they_are():
    """mmpose's metric of the same name has no iou_thrs."""
    metric = type('CocoMetric', (), {'__module__': 'mmpose.evaluation.metrics.coco_metric'})()
    assert repair(metric) == []
    assert vars(metric) == {}


def test_a_right_file_stays_as_it_is(right):
    content, path, samples = right
    metric = CocoMetric(path)
    assert repair(metric) == repair(metric, [image['id'] for image in content['images']]) == []
    assert metric._coco_api.dataset == content
    assert metric.img_ids is None


def test_images_that_the_data_set_leaves_out_do_not_count_as_missed(right):
    content, path, samples = right
    ids = [5, 1, 2]
    samples = [samples[i] for i in ids]
    expected = by_pycocotools(path, samples, ids)
    metric = CocoMetric(path, classwise=True)
    (line,) = repair(metric, ids)
    assert line == '3 of 8 images are evaluated, those of the data set'
    found = evaluate(metric, samples)
    assert {key: found[key] for key in expected} == expected
    assert evaluate(CocoMetric(path), samples)['coco/bbox_mAP'] < expected['coco/bbox_mAP']


def test_recall_of_proposals_pairs_the_images_in_order(right):
    content, path, samples = right
    for annotation in content['annotations']:
        annotation['iscrowd'] = 0  # mmdet stacks the boxes, so all images must have as many
    path = write_beside(path, content)
    metric = CocoMetric(path, metric='proposal_fast', proposal_nums=(1, 10, 100))
    ids = [5, 1, 2]
    repair(metric, ids)
    found = evaluate(metric, [samples[i] for i in ids])
    alone = dict(content, images=[content['images'][i] for i in ids])
    other = write_beside(path, alone)
    again = CocoMetric(other, metric='proposal_fast', proposal_nums=(1, 10, 100))
    assert found == evaluate(again, [samples[i] for i in ids])
    assert found['coco/AR@100'] > 0.4


def write_beside(path, content):
    other = f'{path}.other'
    with open(other, 'w') as file:
        json.dump(content, file)
    return other


@pytest.mark.parametrize('thresholds', [[0.5, 0.75], 0.5])
def test_thresholds_may_be_a_list_or_a_number(right, thresholds):
    _, path, samples = right
    metric = CocoMetric(path, iou_thrs=thresholds)
    assert len(repair(metric)) == 1
    found = evaluate(metric, samples)['coco/bbox_mAP_50']
    assert found == evaluate(CocoMetric(path), samples)['coco/bbox_mAP_50'] > 0


def test_saved_results_keep_the_categories_of_the_file(tmp_path, right):
    content, _, samples = right
    number_categories(9, 4, 7)(content)
    count_from_zero(content)
    path = write(tmp_path / 'wrong.json', content)
    metric = CocoMetric(path, outfile_prefix=str(tmp_path / 'results'))
    (line,) = repair(metric)
    assert line.startswith('annotations are numbered')
    evaluate(metric, samples)
    saved = json.loads((tmp_path / 'results.bbox.json').read_text())
    assert {detection['category_id'] for detection in saved} == {9, 4, 7}


@pytest.mark.parametrize('ids', [(9, 9, 7), (9, 4, 7)])
def test_categories_that_are_ambiguous_are_left_alone(tmp_path, ids):
    content = make()
    number_categories(*ids)(content)
    content['annotations'][0]['category_id'] = 9 if ids[1] == 9 else 5
    metric = CocoMetric(write(tmp_path / 'a.json', content))
    assert repair(metric) == []
    assert metric._coco_api.dataset == content


def test_other_metrics_are_left_alone(tmp_path):
    class Other(CocoMetric):
        pass

    content = make()
    count_from_zero(content)
    metric = Other(write(tmp_path / 'a.json', content))
    assert repair(metric, [0]) == []
    assert metric._coco_api.dataset == content
    assert repair(object()) == []
    assert repair(CocoMetric()) == []  # the truth is that of the data set


def test_objects_of_huge_image_ids_are_lost(tmp_path, right):
    """The reason for `image-ids`, which no renumbering of the evaluator repairs."""
    content, path, samples = right
    expected = by_pycocotools(path, samples)['coco/bbox_mAP']
    huge = 2**63 + 1
    content['images'][0]['id'] = samples[0]['img_id'] = huge
    for annotation in content['annotations']:
        if annotation['image_id'] == 0:
            annotation['image_id'] = huge
    wrong = write(tmp_path / 'a.json', content)
    assert evaluate(CocoMetric(wrong), samples)['coco/bbox_mAP'] != expected
    assert 'image-ids' in [p.kind for p in coco_rules(wrong, content, CLASSES, True)]
