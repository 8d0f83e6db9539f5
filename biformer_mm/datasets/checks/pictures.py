"""Read a picture as training does and report what is odd about it."""

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
# What files end with: JPEG's marker, PNG's chunk.
_ENDS = (b'\xff\xd9', b'IEND\xaeB`\x82')
# What libjpeg prints about a damaged file that it decodes all the same.
_COMPLAINTS = ('Corrupt JPEG', 'Premature end of JPEG')


class Loading(NamedTuple):
    """How a pipeline decodes images: arguments of ``mmcv.imfrombytes``."""

    flag: str
    backend: str


class Picture(NamedTuple):
    """The content of a file.

    Attributes:
        data: The bytes.
        pixels: As decoded, (H, W) or (H, W, channels); None if that failed,
            and then ``problems`` has an error.
        header: What Pillow reads without decoding; None if that failed.
        problems: What is wrong with the file.
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
        missing: Kind of the problem to report if the file does not exist.
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
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow's, of very large pictures
        header, ends_early = _read_header(data), _ends_early(data)
    pixels, complaint = _decode(data, loading)
    if ends_early:
        return failed('truncated', 'ends in the middle of the picture')
    if pixels is None and header is None:
        return failed('no-image', f'is no picture that can be read; starts {data[:12]}')
    if pixels is None:
        return failed('corrupt', f'cannot be decoded: {complaint or "no reason given"}')
    problems = []
    if complaint.startswith(_COMPLAINTS):
        problems.append(Problem('damaged', path, f'is decoded, but: {complaint}'))
    return Picture(data, pixels, header, problems)


def describe(path: str, picture: Picture) -> Iterator[Problem]:
    """Yield properties of the image that training may treat unexpectedly.

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
        # The bit depth, which Pillow's mode does not show for colours.
        header.format == 'PNG' and picture.data[24] == 16
    ):
        yield Problem('16-bit', path, 'is cut down to 8 bits')
    orientation = header.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        yield Problem('exif-rotated', path, f'EXIF orientation {orientation}: is turned on loading')


def _read_header(data: bytes) -> Optional[Image.Image]:
    try:
        return Image.open(BytesIO(data))
    except Exception:  # of many kinds, by format
        return None


def _decode(data: bytes, loading: Loading) -> Tuple[Optional[np.ndarray], str]:
    """Return the pixels, or None, and the decoder's message, or ''."""
    with _standard_error() as said:
        try:
            pixels, error = mmcv.imfrombytes(data, *_in_order(loading)), ''
        except Exception as exception:  # of many kinds, by decoder
            pixels, error = None, f'{exception}'.strip()
        said.seek(0)
        printed = said.read().decode(errors='replace').strip()
    return pixels, (printed or error).partition('\n')[0]


def _in_order(loading: Loading) -> Tuple[str, str, str]:
    return loading.flag, 'bgr', loading.backend


@contextmanager
def _standard_error() -> Iterator[BinaryIO]:
    """Capture what C libraries print, as they report problems in no other way."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _ends_early(data: bytes) -> bool:
    """Return whether a file ends before its picture does.

    Decoders differ here: some refuse it, OpenCV may return grey stripes
    without a word. Pillow says so.
    """
    if data.endswith(_ENDS):  # nearly all: decoding twice would take long
        return False
    if data.startswith(b'\xff\xd8') and _ENDS[0] not in data:
        return True  # whatever else a crash has written in its place
    try:
        Image.open(BytesIO(data)).verify()  # reads a PNG's chunks
        Image.open(BytesIO(data)).load()  # decodes a JPEG
    except SyntaxError:  # a PNG's chunks break off
        return True
    except Exception as error:  # of many kinds, by format
        return 'truncated' in str(error).lower()
    return False
