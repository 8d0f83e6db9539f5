"""Write a small data set of stick figures with COCO's 17 key points: data/figures."""

import json
from pathlib import Path

import cv2
import numpy as np

SIZE = 128
# Nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles; of a figure that faces the
# viewer, so that its left side is on the right. x and y in units of its height.
JOINTS = np.array(
    [(0, -0.42)]
    + [(0.03, -0.45), (-0.03, -0.45), (0.06, -0.43), (-0.06, -0.43)]
    + [(0.12, -0.28), (-0.12, -0.28), (0.2, -0.12), (-0.2, -0.12), (0.24, 0.04), (-0.24, 0.04)]
    + [(0.08, 0.02), (-0.08, 0.02), (0.1, 0.25), (-0.1, 0.25), (0.11, 0.48), (-0.11, 0.48)]
)
LIMBS = [(5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12)] + [
    (11, 13), (13, 15), (12, 14), (14, 16)
]  # fmt: skip


def draw(rng: np.random.Generator) -> tuple:
    """Return a picture and its figure's joints, (17, 2) in pixels."""
    picture = rng.normal(rng.uniform(60, 130), 10, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
    moved = JOINTS + rng.uniform(-0.05, 0.05, JOINTS.shape) * (np.arange(17) >= 7)[:, None]
    turn = np.deg2rad(rng.uniform(-20, 20))
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    joints = moved @ rotation * rng.uniform(70, 95) + SIZE / 2 + rng.uniform(-8, 8, 2)
    points = [tuple(map(int, point)) for point in joints.round()]
    colour = rng.uniform(170, 255, 3).tolist()
    cv2.circle(picture, points[0], 8, colour, -1, cv2.LINE_AA)
    for start, end in LIMBS:
        cv2.line(picture, points[start], points[end], colour, 4, cv2.LINE_AA)
    for point in points[:5]:
        cv2.circle(picture, point, 1, (30, 30, 30), -1, cv2.LINE_AA)
    return picture, joints


def main() -> None:
    root = Path('data/figures')
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    for split, count, seed in (('train', 96, 0), ('val', 24, 1)):
        rng = np.random.default_rng(seed)
        (root / split).mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(1, count + 1):
            picture, joints = draw(rng)
            name = f'{i:03}.png'
            cv2.imwrite(str(root / split / name), picture)
            images.append(dict(id=i, file_name=name, width=SIZE, height=SIZE))
            low, high = joints.min(0) - 6, joints.max(0) + 6
            box = [*low.tolist(), *(high - low).tolist()]
            keypoints = np.insert(joints, 2, 2, axis=1)  # 2: visible
            annotations.append(
                dict(
                    id=i,
                    image_id=i,
                    category_id=1,
                    iscrowd=0,
                    bbox=box,
                    area=box[2] * box[3],
                    num_keypoints=len(joints),
                    keypoints=keypoints.ravel().tolist(),
                )
            )
        content = dict(
            images=images, annotations=annotations, categories=[dict(id=1, name='person')]
        )
        (root / 'annotations' / f'{split}.json').write_text(json.dumps(content))


if __name__ == '__main__':
    main()
