"""A YOLO with attention: train it on generated shapes, predict, export. Needs ultralytics."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO

from biformer_mm.datasets.shapes import SHAPES_CLASSES, make_scene, scene_rng
from biformer_mm.ultralytics import add_attention, register


def write_shapes(root, size, counts):
    """Write pictures and labels as ultralytics reads them, and return the file for `data=`."""
    for split, count in counts.items():
        for folder in ('images', 'labels'):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            scene = make_scene(scene_rng(0, split, i), size)
            lines = []
            for label, mask in scene.instances:
                y, x = np.nonzero(mask)
                x0, y0, x1, y1 = x.min(), y.min(), x.max() + 1, y.max() + 1
                box = np.array([x0 + x1, y0 + y1, 2 * (x1 - x0), 2 * (y1 - y0)]) / (2 * size)
                lines.append(' '.join([str(label), *(f'{value:.6f}' for value in box)]))
            cv2.imwrite(str(root / 'images' / split / f'{i:04d}.png'), scene.image)
            (root / 'labels' / split / f'{i:04d}.txt').write_text('\n'.join(lines))
    data = root / 'shapes.yaml'
    data.write_text(
        f'path: {root.resolve()}\ntrain: images/train\nval: images/val\n'
        f'names: {list(SHAPES_CLASSES)}\n'
    )
    return data


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--scale', default='n', choices=list('nsmlx'))
    parser.add_argument('--size', type=int, default=256, help='side of the pictures, in pixels')
    parser.add_argument('--count', type=int, default=400, help='training pictures')
    parser.add_argument('--epochs', type=int, default=20)
    args = parser.parse_args()

    register()
    # Rows 6 and 10 end the backbone's maps of stride 16 and 32, row 13 is in the neck.
    add_attention('yolo11.yaml', 'yolo11-bra.yaml', after={6: 8, 10: 4, 13: 8})
    data = write_shapes(Path('shapes'), args.size, dict(train=args.count, val=args.count // 5 + 1))

    # Without `project`, results go to a folder that ultralytics chose when it was first imported.
    common = dict(data=data, imgsz=args.size, project=Path('runs').resolve())
    model = YOLO(f'yolo11{args.scale}-bra.yaml')
    model.train(**common, epochs=args.epochs, name='shapes')
    model = YOLO(model.trainer.best)
    print('mAP 50-95:', round(model.val(**common, name='val', verbose=False).box.map, 3))
    found = model.predict('shapes/images/val/0000.png', imgsz=args.size, verbose=False)[0]
    found.save('prediction.png')
    print('found:', [found.names[int(label)] for label in found.boxes.cls])
    print('ONNX:', model.export(format='onnx', imgsz=args.size, dynamic=True))


if __name__ == '__main__':
    main()
