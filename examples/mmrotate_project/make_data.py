"""Write a small data set of turned shapes in DOTA's format: data/turned/{train,val}."""

from pathlib import Path

import cv2
import numpy as np

SIZE = 128
# Width and height in pixels, and colour (BGR).
KINDS = {'plank': (44, 12, (60, 120, 190)), 'tile': (24, 20, (200, 90, 60))}


def draw(rng: np.random.Generator) -> tuple:
    """Return a picture and its annotations, one line for each shape.

    A line has the four corners, the class and the difficulty.
    """
    picture = rng.normal(128, 12, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
    lines = []
    # A shape in each quarter, so that none hides another.
    for centre in np.array([(32, 32), (96, 32), (32, 96), (96, 96)]):
        kind = str(rng.choice(list(KINDS)))
        width, height, colour = KINDS[kind]
        scale, angle = rng.uniform(0.8, 1.1), rng.uniform(0, 180)
        place = (centre + rng.uniform(-6, 6, 2)).tolist()
        corners = cv2.boxPoints((place, (width * scale, height * scale), angle))
        cv2.fillPoly(picture, [np.rint(corners).astype(int)], colour, cv2.LINE_AA)
        lines.append(' '.join(f'{x:.1f}' for x in corners.ravel()) + f' {kind} 0')
    return picture, lines


def main() -> None:
    for split, count, seed in (('train', 96, 0), ('val', 24, 1)):
        rng = np.random.default_rng(seed)
        root = Path('data/turned') / split
        for folder in ('images', 'annfiles'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture, lines = draw(rng)
            cv2.imwrite(str(root / 'images' / f'{i:03}.png'), picture)
            (root / 'annfiles' / f'{i:03}.txt').write_text('\n'.join(lines) + '\n')


if __name__ == '__main__':
    main()
