"""Compare COCO's evaluators on generated pictures: time, and every figure.

mmdet's CocoMetric runs pycocotools, its FasterCocoMetric faster-coco-eval.
Both get the same annotations and detections, of boxes and masks, and take
turns.
"""

import argparse
import contextlib
import io
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import report
import torch
from mmdet.evaluation import CocoMetric, FasterCocoMetric
from mmengine.logging import MMLogger
from pycocotools import mask as mask_api

METRICS = (CocoMetric, FasterCocoMetric)
WIDTH, HEIGHT = 640, 480
CLASSES = tuple(f'class {i}' for i in range(80))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--detections', type=int, default=50, help='on each image')
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--out', default=report.DEFAULT_OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    MMLogger.get_current_instance().setLevel(logging.ERROR)

    truth, samples = generate(args.images, args.detections)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'truth.json'
        path.write_text(json.dumps(truth))
        for kind in ('bbox', 'segm'):
            rows += compare(str(path), samples, kind, args.repeats)
    settings = dict(
        images=args.images,
        detections=args.images * args.detections,
        annotations=len(truth['annotations']),
        classes=len(CLASSES),
    )
    report.write(
        dict(
            benchmark='coco_metric',
            environment=report.environment('cpu', 1),
            settings=settings,
            rows=rows,
        ),
        f'coco_metric_{args.images}',
        [table(rows)],
        args.out,
    )


def generate(images: int, detections: int) -> Tuple[Dict, List[Dict]]:
    """Make annotations in COCO's format and detections of them.

    The detections are shifted objects and false ones, some with a wrong class.
    """
    rng = np.random.default_rng(0)
    annotations, samples = [], []
    for image in range(images):
        objects = [(draw_polygon(rng), draw_class(rng)) for _ in range(rng.poisson(7))]
        for polygon, label in objects:
            rle = mask_api.frPyObjects([polygon.ravel().tolist()], HEIGHT, WIDTH)
            crowd = bool(rng.random() < 0.01)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image,
                    category_id=label + 1,
                    bbox=box_of(polygon),
                    area=float(mask_api.area(rle)[0]),
                    iscrowd=int(crowd),
                    segmentation=dict(size=[HEIGHT, WIDTH], counts=rle[0]['counts'].decode())
                    if crowd
                    else [polygon.ravel().tolist()],
                )
            )
        samples.append(detect(rng, image, objects, detections))
    return dict(
        images=[
            dict(id=i, width=WIDTH, height=HEIGHT, file_name=f'{i}.jpg') for i in range(images)
        ],
        annotations=annotations,
        categories=[dict(id=i + 1, name=x) for i, x in enumerate(CLASSES)],
    ), samples


def detect(rng, image: int, objects: List, count: int) -> Dict:
    """A data sample as mmdet's metrics take it."""
    boxes, scores, labels, masks = [], [], [], []
    for _ in range(count):
        if objects and rng.random() < 0.4:
            polygon, label = objects[rng.integers(len(objects))]
            size = np.ptp(polygon, axis=0)
            polygon = (
                polygon
                + rng.normal(0, 0.07, 2) * size
                + rng.normal(0, 0.02, polygon.shape) * size.max()
            )
            polygon = polygon.clip(0, (WIDTH - 1, HEIGHT - 1))
            label = draw_class(rng) if rng.random() < 0.2 else label
            score = rng.beta(3, 2)
        else:
            polygon, label = draw_polygon(rng), draw_class(rng)
            score = rng.beta(1, 8)
        x, y, width, height = box_of(polygon)
        boxes.append((x, y, x + width, y + height))
        scores.append(round(score, 3))  # some are equal
        labels.append(label)
        masks += mask_api.frPyObjects([polygon.ravel().tolist()], HEIGHT, WIDTH)
    return dict(
        img_id=image,
        ori_shape=(HEIGHT, WIDTH),
        pred_instances=dict(
            bboxes=torch.tensor(boxes),
            scores=torch.tensor(scores),
            labels=torch.tensor(labels),
            masks=masks,
        ),
    )


def draw_polygon(rng, corners: int = 12) -> np.ndarray:
    """Something round, of any size that COCO tells apart: (corners, 2)."""
    side = np.exp(rng.uniform(np.log(10), np.log(350)))
    size = np.minimum(side * rng.uniform(0.6, 1.5, 2), (WIDTH - 2, HEIGHT - 2))
    centre = rng.uniform(size / 2, (WIDTH, HEIGHT) - size / 2)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    radii = rng.uniform(0.7, 1, (corners, 1)) * size / 2
    return (centre + radii * around).clip(0, (WIDTH - 1, HEIGHT - 1))


def draw_class(rng) -> int:
    """Few are frequent."""
    return int(min(rng.exponential(12), len(CLASSES) - 1))


def box_of(polygon: np.ndarray) -> List[float]:
    """x, y, width and height."""
    return [*polygon.min(axis=0).tolist(), *np.ptp(polygon, axis=0).tolist()]


def compare(path: str, samples: List[Dict], kind: str, repeats: int) -> List[Dict]:
    """A row for each metric; they take turns."""
    seconds = {metric: [] for metric in METRICS}
    figures = {}
    for _ in range(repeats):
        for metric in METRICS:
            figures[metric], time_taken = evaluate(metric, path, samples, kind)
            seconds[metric].append(time_taken)
    # As text, for a class without objects is nan.
    equal = str(figures[METRICS[0]]) == str(figures[METRICS[1]])
    return [
        dict(
            kind=kind,
            metric=metric.__name__,
            seconds=min(seconds[metric]),
            all_seconds=seconds[metric],
            ratio=min(seconds[METRICS[0]]) / min(seconds[metric]),
            equal=equal,
            mean_average_precision=figures[metric][f'{kind}_mAP'],
        )
        for metric in METRICS
    ]


def evaluate(metric_type, path: str, samples: List[Dict], kind: str) -> Tuple[Dict, float]:
    """Return the figures, by class too, and the seconds to compute them.

    Reading the annotations does not count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        metric = metric_type(ann_file=path, metric=kind, classwise=True)
        metric.dataset_meta = dict(classes=CLASSES)
        metric.process({}, samples)
        start = time.perf_counter()
        figures = metric.compute_metrics(metric.results)
        return dict(figures), time.perf_counter() - start


def table(rows: List[Dict]) -> str:
    lines = [
        '| figures | metric | seconds | faster | mAP | figures equal |',
        '|---|---|---|---|---|---|',
    ]
    for row in rows:
        lines.append(
            f'| {row["kind"]} | {row["metric"]} | {row["seconds"]:.1f} | '
            f'{row["ratio"]:.1f} x | {row["mean_average_precision"]:.3f} | '
            f'{"yes" if row["equal"] else "no"} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
