"""Read a picture as training does and report what is odd about it."""

import os
import tempfile
import warnings
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Dict,
    FrozenSet,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import mmcv
import numpy as np
from PIL import Image

from biformer_mm.datasets.reading import PictureReader, Unreadable, loading_step
from biformer_mm.utils.config_types import bare_type_name

from .problems import Problem

_TINY = 32  # pixels; the stride of the backbone's last stage
_DARK = 16  # of 256 values; the highest that 12 bits leave of 16
_ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
_TURNED = range(2, 9)
_SAME_SIZE = (2, 3, 4)  # orientations that keep width and height
# What files end with: JPEG's marker, PNG's chunk.
_ENDS = (b'\xff\xd9', b'IEND\xaeB`\x82')
# What libjpeg prints about a damaged file that it decodes all the same.
_COMPLAINTS = ('Corrupt JPEG', 'Premature end of JPEG')


class Loading(NamedTuple):
    """How a pipeline reads images.

    Attributes:
        flag, backend: Arguments of ``mmcv.imfrombytes``.
        reader: Reads them instead, if the pipeline's step is not LoadImageFromFile.
    """

    flag: str
    backend: str
    reader: Optional[PictureReader] = None


def picture_loading(pipeline: Sequence[Dict]) -> Loading:
    """Return how a pipeline reads images."""
    step = loading_step(pipeline) or {}
    reader = None
    if bare_type_name(step) not in ('', 'LoadImageFromFile'):
        reader = PictureReader(pipeline)
    return Loading(step.get('color_type', 'color'), step.get('imdecode_backend', 'cv2'), reader)


def channels_taken(cfg: Any, pipeline: Sequence[Dict]) -> FrozenSet[int]:
    """Return how many channels a picture may have; empty if the config does not say.

    Args:
        cfg: The whole config.
        pipeline: The steps of the data set.
    """
    model = cfg.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    if not isinstance(backbone, dict):
        return frozenset()
    ours = bare_type_name(backbone) == 'BiFormer'
    channels = backbone.get('in_channels', 3 if ours else None)
    if not isinstance(channels, int) or any('Gray' in bare_type_name(step) for step in pipeline):
        return frozenset()  # such steps change the number
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    swaps = preprocessor.get('bgr_to_rgb') or preprocessor.get('rgb_to_bgr')
    if channels == 3 and swaps and cfg.get('default_scope') not in ('mmseg', 'mmpretrain'):
        return frozenset((3, 4))  # mmdet keeps three
    return frozenset((channels,))


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

    if loading.reader is not None and os.path.exists(path):
        try:
            return Picture(b'', loading.reader(path), None, [])
        except Unreadable as error:
            return failed('no-image', f'cannot be read: {error}')
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


def describe(
    path: str,
    picture: Picture,
    loading: Loading,
    channels: FrozenSet[int] = frozenset(),
    annotated: bool = False,
) -> Iterator[Problem]:
    """Yield properties of the image that training may treat unexpectedly.

    Args:
        path: The picture's file.
        picture: One that could be decoded.
        loading: How it was decoded.
        channels: How many channels it may have; empty if any.
        annotated: Whether boxes or a map belong to its pixels.
    """
    if min(picture.size) < _TINY:
        yield Problem('tiny', path, '{} x {} pixels'.format(*picture.size))
    decoded = 1 if picture.pixels.ndim == 2 else picture.pixels.shape[2]
    if channels and decoded not in channels:
        yield Problem(
            'channels',
            path,
            f'is decoded to {decoded} channels, model.backbone.in_channels is {min(channels)}; '
            'convert the file, or set color_type of LoadImageFromFile',
        )
    header = picture.header
    if header is None:
        return
    # What phones write with more than one picture in it.
    kind = 'JPEG' if header.format == 'MPO' else header.format
    expected = Image.registered_extensions().get(Path(path).suffix.lower())
    if expected != kind:
        yield Problem('wrong-extension', path, f'is a {kind}')
    if header.mode == 'CMYK' and decoded != 4:
        yield Problem('cmyk', path, 'colours of printing become RGB roughly')
    if decoded == 3 and (header.mode in ('L', 'LA', '1') or header.mode.startswith('I;16')):
        yield Problem('grey', path, 'one channel becomes three equal ones')
    has_alpha = header.mode in ('RGBA', 'LA', 'PA') or 'transparency' in header.info
    if has_alpha and (decoded not in (2, 4) or channels >= {3, decoded}):
        blended = header.mode == 'LA' and loading.backend == 'pillow'
        what = 'becomes one colour' if blended else 'is dropped: what it hides shows'
        yield Problem('alpha', path, f'transparency {what}')
    yield from _lost_depth(path, picture, loading)
    yield from _orientation(path, picture, loading, annotated)


def _lost_depth(path: str, picture: Picture, loading: Loading) -> Iterator[Problem]:
    """Yield what is wrong if 16 bits become 8."""
    header = picture.header
    grey = header.mode.startswith('I;16')
    # The bit depth of a PNG, which Pillow's mode does not show for colours.
    deep = grey or (header.format == 'PNG' and picture.data[24] == 16)
    if not deep or picture.pixels.dtype != np.uint8:
        return
    highest = picture.pixels.max()
    if highest < _DARK:
        yield Problem(
            'dark',
            path,
            f'is cut down to 8 bits, and the highest value left is {highest} of 255; '
            "scale the values to 16 bits, or load with color_type='unchanged', to_float32=True",
        )
    else:
        clipped = grey and loading.backend == 'pillow'
        what = 'values above 255 become 255' if clipped else 'is cut down to 8 bits'
        yield Problem('16-bit', path, what)


def _orientation(
    path: str, picture: Picture, loading: Loading, annotated: bool
) -> Iterator[Problem]:
    """Yield what loading does about the EXIF tag.

    It is a warning where the size cannot show that annotations do otherwise.
    """
    orientation = picture.header.getexif().get(_ORIENTATION, 1)
    if orientation not in _TURNED:
        return
    turned = _is_turned(picture, loading)
    detail = f'EXIF orientation {orientation}: is {"" if turned else "not "}turned on loading'
    width, height = picture.size
    if annotated and (orientation in _SAME_SIZE or width == height):
        yield Problem(
            'exif-turned',
            path,
            f'{detail}; boxes or maps made {"without turning" if turned else "after turning"} it '
            'are in the wrong place: look at one, and if so remove the tag, or turn them',
        )
    else:
        yield Problem('exif-rotated', path, detail)


def _is_turned(picture: Picture, loading: Loading) -> bool:
    """Return whether a decoder has followed the EXIF tag, which depends on format and version."""
    if loading.backend not in ('cv2', 'pillow'):
        return False
    if picture.header.format == 'TIFF':
        return True  # whatever the flag
    if loading.flag not in ('color', 'grayscale'):
        return False
    as_stored, _ = _decode(
        picture.data, Loading(f'{loading.flag}_ignore_orientation', loading.backend)
    )
    return not np.array_equal(as_stored, picture.pixels)


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
