"""Breaking files of the demo's data sets on purpose.

``IMAGES`` maps a kind of problem, as tools/misc/check_dataset.py names it, to
a function that makes it out of a healthy JPEG.
"""

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator

import cv2
import numpy as np
from PIL import Image


def _empty(path: Path) -> None:
    path.write_bytes(b'')


def _truncated(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(data))


def _no_image(path: Path) -> None:
    path.write_text('<html>404 Not Found</html>')


def _pillow(mode: str, **options) -> None:
    """A function that writes the picture in another mode of Pillow."""

    def write(path: Path) -> None:
        data = io.BytesIO()
        Image.open(path).convert(mode).save(data, **options)
        path.write_bytes(data.getvalue())

    return write


def _sixteen_bit(path: Path) -> None:
    image = cv2.imread(str(path)).astype(np.uint16) * 257
    path.write_bytes(cv2.imencode('.png', image)[1].tobytes())


def _turned(path: Path) -> None:
    """Say that the camera was held upright, of a picture a third narrower."""
    image = Image.open(path)
    image = image.resize((image.width * 2 // 3, image.height))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, format='JPEG', exif=exif)


def resize(path: Path, width: int, height: int) -> None:
    """Scale a picture or an index map in place."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    cv2.imwrite(str(path), image)


IMAGES = {
    'missing': Path.unlink,
    'empty-file': _empty,
    'truncated': _truncated,
    'corrupt': _corrupt,
    'no-image': _no_image,
    'wrong-extension': _pillow('RGB', format='PNG'),
    'cmyk': _pillow('CMYK', format='JPEG'),
    'grey': _pillow('L', format='JPEG'),
    '16-bit': _sixteen_bit,
    'alpha': _pillow('RGBA', format='PNG'),
    'exif-rotated': _turned,
    'tiny': lambda path: resize(path, 1, 1),
}


@contextmanager
def annotations(path: Path) -> Iterator[Dict]:
    """The content of an annotation file, to be changed in place."""
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


def change_first(**fields):
    """A function that changes fields of the first annotation of a content."""
    return lambda content: content['annotations'][0].update(fields)
