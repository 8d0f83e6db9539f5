"""Reading one picture as training does, and saying what is odd about it."""

import os
import tempfile
import warnings
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

import mmcv
import numpy as np
from PIL import Image

from .problems import Problem

_TINY = 32  # pixels; the stride of the backbone's last stage
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
# What libjpeg says of a file that it decodes nevertheless.
_COMPLAINTS = ('Corrupt JPEG', 'Premature end of JPEG')


class Loading(NamedTuple):
    """How a pipeline decodes: arguments of ``mmcv.imfrombytes``."""

    flag: str
    backend: str


class Picture(NamedTuple):
    """A file's content: ``pixels`` (H, W) or (H, W, channels) as decoded,
    ``header`` what Pillow reads without decoding; both None where they
    cannot be had, and then ``problems`` has an error.
    """

    data: bytes
    pixels: Optional[np.ndarray]
    header: Optional[Image.Image]
    problems: List[Problem]

    @property
    def size(self) -> Tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def read_picture(path: str, loading: Loading, missing: str = 'missing') -> Picture:
    """Read and decode a file.

    Args:
        path: The file.
        loading: How the pipeline decodes it.
        missing: Kind of the problem that there is no such file.
    """

    def failed(kind: str, detail: str) -> Picture:
        return Picture(b'', None, None, [Problem(kind, path, detail)])

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return failed(missing, 'there is no such file')
    except OSError as error:
        return failed('no-image', f'cannot be read: {error.strerror}')
    if not data:
        return failed('empty-file', 'has no content')
    header = _read_header(data)
    pixels, complaint = _decode(data, loading)
    if _ends_early(data, header):
        return failed('truncated', 'ends in the middle of the picture')
    if pixels is None and header is None:
        return failed('no-image', f'is no picture that can be read; starts {data[:12]}')
    if pixels is None:
        return failed('corrupt', f'cannot be decoded: {complaint or "no why"}')
    problems = []
    if complaint.startswith(_COMPLAINTS):
        problems.append(Problem('damaged', path, f'is decoded, but: {complaint}'))
    return Picture(data, pixels, header, problems)


def describe(path: str, picture: Picture) -> Iterator[Problem]:
    """What training gets to see otherwise than somebody may expect.

    Args:
        path: The picture's file.
        picture: One that could be decoded.
    """
    if min(picture.size) < _TINY:
        yield Problem('tiny', path, '{} x {} pixels'.format(*picture.size))
    header = picture.header
    if header is None:
        return
    # What phones write with more than one picture in it.
    kind = 'JPEG' if header.format == 'MPO' else header.format
    expected = Image.registered_extensions().get(Path(path).suffix.lower())
    if expected != kind:
        yield Problem('wrong-extension', path, f'is a {kind}')
    if header.mode == 'CMYK':
        yield Problem('cmyk', path, 'colours of printing become RGB roughly')
    if header.mode in ('L', 'LA', '1') or header.mode.startswith('I;16'):
        yield Problem('grey', path, 'one channel becomes three equal ones')
    if header.mode in ('RGBA', 'LA', 'PA') or 'transparency' in header.info:
        yield Problem('alpha', path, 'transparency is dropped: what it hides shows')
    if header.mode.startswith('I;16') or (
        # The bit depth; Pillow's mode does not tell it of colours.
        header.format == 'PNG' and picture.data[24] == 16
    ):
        yield Problem('16-bit', path, 'is cut down to 8 bits')
    orientation = header.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        yield Problem('exif-rotated', path, f'EXIF orientation {orientation}: is turned on loading')


def _read_header(data: bytes) -> Optional[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of very large pictures
            return Image.open(BytesIO(data))
    except Exception:  # whatever a decoder trips over
        return None


def _decode(data: bytes, loading: Loading) -> Tuple[Optional[np.ndarray], str]:
    """Pixels, None if there are none; and what the decoder said."""
    with _standard_error() as said:
        try:
            pixels, error = mmcv.imfrombytes(data, *_in_order(loading)), ''
        except Exception as exception:  # whatever a decoder trips over
            pixels, error = None, f'{exception}'.strip()
        said.seek(0)
        printed = said.read().decode(errors='replace').strip()
    return pixels, (printed or error).partition('\n')[0]


def _in_order(loading: Loading) -> Tuple[str, str, str]:
    return loading.flag, 'bgr', loading.backend


@contextmanager
def _standard_error() -> Iterator[BinaryIO]:
    """What C libraries print meanwhile: they do not return it."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _ends_early(data: bytes, header: Optional[Image.Image]) -> bool:
    """Whether a JPEG or PNG lacks its end.

    Decoders differ here: from refusing it to grey stripes without a word.
    """
    if data.startswith(b'\xff\xd8'):
        return data.find(b'\xff\xd9', _start_of_scan(data)) < 0
    if header is not None and header.format == 'PNG':
        return b'IEND' not in data
    return False


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's picture starts, behind all that may hold another one,
    such as EXIF's thumbnail.
    """
    at = 2
    while data[at : at + 1] == b'\xff' and data[at + 1 : at + 2] != b'\xda':
        # A marker, and the length of what follows it
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return at
