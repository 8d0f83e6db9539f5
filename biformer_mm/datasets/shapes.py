"""Draw the scenes of the demo data set: overlapping shapes on textured backgrounds.

One pure function of a random generator draws a scene. S is the side of a
picture in pixels; the pixel in row i and column j covers y in [i, i + 1] and x
in [j, j + 1]; colours are BGR in [0, 1] until a scene is finished.
"""

from __future__ import annotations

import colorsys
import math
from typing import NamedTuple

import cv2
import numpy as np

SHAPES_CLASSES = ('circle', 'square', 'triangle', 'star')
SHAPES_PALETTE = [(66, 135, 245), (46, 184, 92), (245, 166, 35), (220, 50, 110)]  # RGB
SPLITS = ('train', 'val')
# Smallest visible part of a shape, and smallest connected piece of that part,
# both relative to the whole shape.
MIN_VISIBLE = 0.5
MIN_PIECE = 0.05
COUNT = (2, 6)  # shapes in a scene, both ends included
DIAMETER = (0.16, 0.5)  # nominal, relative to S

_TILT = math.radians(20)  # largest turn of a shape from upright
_HUES = (
    np.array([0, 22, 45, 75, 145, 175, 200, 225, 265, 300, 335]) / 360
)  # evenly spread to the eye


def _outline(points: int, *radii: float, first: float = -90) -> np.ndarray:
    """Return corners (points, 2) at equal angles from ``first`` degrees; -90 is up."""
    angles = math.radians(first) + np.arange(points) * 2 * np.pi / points
    return np.resize(radii, points)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


# One per class. The radii give similar areas at the same nominal diameter.
_OUTLINES = (
    _outline(90, 1.0),
    _outline(4, 1.2, first=-45),
    _outline(3, 1.35),
    _outline(10, 1.35, 0.65),
)


class Scene(NamedTuple):
    """A picture and its shapes.

    Attributes:
        image: (S, S, 3) uint8, BGR.
        instances: All shapes from the lowest to the topmost: class index into
            ``SHAPES_CLASSES``, and (S, S) bool mask of the visible part. The
            masks are disjoint.
    """

    image: np.ndarray
    instances: list[tuple[int, np.ndarray]]


class _Shape(NamedTuple):
    label: int
    x: float
    y: float
    radius: float  # half the nominal diameter
    angle: float  # radians
    cover: np.ndarray  # (S, S) float32, covered part of each pixel
    mask: np.ndarray  # (S, S) bool


def scene_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """Return the random stream of one scene, independent of all others."""
    return np.random.default_rng([seed, SPLITS.index(split), index])


def make_scene(
    rng: np.random.Generator,
    image_size: int,
    count: tuple[int, int] = COUNT,
    diameter: tuple[float, float] = DIAMETER,
) -> Scene:
    """Draw shapes inside the picture, each at least ``MIN_VISIBLE`` visible.

    Args:
        rng: Source of every choice: equal states give equal scenes.
        image_size: Side of the picture, S.
        count: Fewest and most shapes.
        diameter: Smallest and largest nominal diameter, relative to the side.
    """
    shapes, visible = _place_shapes(rng, image_size, count, diameter)
    turn = rng.uniform(0, 2 * math.pi)
    light = math.cos(turn), math.sin(turn)  # points to the light
    image, base = _background(rng, image_size)
    colours = [base]
    for shape in shapes:
        colours.append(_contrasting_colour(rng, colours))
        _paint(image, shape, colours[-1], light, rng)
    x, y = _rotated(np.arange(image_size), np.arange(image_size), turn)
    image *= 1 + 0.3 * (x / image_size - (light[0] + light[1]) / 2)[..., None]
    image += rng.normal(0, 0.01, image.shape)
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, [(shape.label, mask) for shape, mask in zip(shapes, visible)])


def _place_shapes(
    rng: np.random.Generator,
    size: int,
    count: tuple[int, int] = COUNT,
    diameter: tuple[float, float] = DIAMETER,
) -> tuple[list[_Shape], list[np.ndarray]]:
    """Return shapes from the lowest to the topmost, and their visible masks."""
    shapes, visible = [], []
    wanted = rng.integers(count[0], count[1] + 1)
    # Classes are drawn before the tries. Otherwise those that hide less of
    # others would be more frequent.
    labels = rng.integers(len(SHAPES_CLASSES), size=wanted)
    for _ in range(100):
        shape = _random_shape(rng, size, int(labels[len(shapes)]), diameter)
        left = [mask & ~shape.mask for mask in visible]
        if all(_recognisable(part, below.mask) for part, below in zip(left, shapes)):
            shapes.append(shape)
            visible = left + [shape.mask]
        if len(shapes) == wanted:
            break
    return shapes, visible


def _recognisable(part: np.ndarray, whole: np.ndarray) -> bool:
    pieces = cv2.connectedComponentsWithStats(part.astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
    return pieces.sum() >= MIN_VISIBLE * whole.sum() and pieces.min() >= MIN_PIECE * whole.sum()


def _random_shape(
    rng: np.random.Generator, size: int, label: int, diameter: tuple[float, float], scale: int = 4
) -> _Shape:
    radius = size / 2 * math.exp(rng.uniform(*np.log(diameter)))
    reach = radius * np.abs(_OUTLINES[label]).max()
    x, y = rng.uniform(reach, size - reach, 2).tolist()
    angle = rng.uniform(-_TILT, _TILT)
    cos, sin = math.cos(angle), math.sin(angle)
    points = _OUTLINES[label] @ np.array([[cos, sin], [-sin, cos]]) * radius + (x, y)
    canvas = np.zeros((size * scale, size * scale), np.uint8)
    # cv2 puts whole numbers at pixel centres and takes coordinates with 4
    # fractional bits.
    cv2.fillPoly(canvas, [np.rint((points * scale - 0.5) * 16).astype(np.int32)], 255, shift=4)
    cover = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return _Shape(label, x, y, radius, angle, cover, cover >= 0.5)


def _rotated(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of columns x (W,) and rows y (H,) along turned axes.

    Returns:
        Coordinates along both axes, (H, W) each.
    """
    x, y = x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]
    return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)


def _background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a muted background (S, S, 3) float32 and its base colour (3,)."""
    base = _colour(rng.uniform(), rng.uniform(0.1, 0.45), rng.uniform(0.35, 0.8))
    clouds = rng.normal(0, 0.03, (5, 5, 3)) + rng.normal(0, 0.06, (5, 5, 1))
    clouds = cv2.resize(clouds.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    image = base + clouds + rng.uniform(0.02, 0.06) * _grain(rng, size)[..., None]
    return np.clip(image, 0.08, 0.95), base


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a zero-mean pattern (S, S): speckle, brushed, waves or weave."""
    kind = rng.integers(4)
    if kind < 2:
        noise = rng.normal(0, 1, (size, size)).astype(np.float32)
        noise = cv2.GaussianBlur(
            noise, (0, 0), sigmaX=(1.2, rng.uniform(4, 12))[kind], sigmaY=(1.2, 0.7)[kind]
        )
        return noise / noise.std()
    frequency = 2 * math.pi / (rng.uniform(0.05, 0.13) * size)
    u, v = _rotated(
        np.arange(size) * frequency, np.arange(size) * frequency, rng.uniform(0, math.pi)
    )
    return np.sin(u + 1.5 * np.sin(v / 4)) if kind == 2 else np.sin(u) * np.sin(v)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value)[::-1], np.float32)


def _contrasting_colour(
    rng: np.random.Generator, taken: list[np.ndarray], tries: int = 8
) -> np.ndarray:
    """Draw some colours and return the one farthest, in CIE Lab, from those taken."""
    hues = rng.choice(_HUES, tries) + rng.uniform(-0.02, 0.02, tries)
    tried = [_colour(hue, *rng.uniform((0.5, 0.5), 1)) for hue in hues]
    lab = cv2.cvtColor(np.stack(tried + taken)[None], cv2.COLOR_BGR2Lab)[0]
    distance = np.linalg.norm(lab[:tries, None] - lab[None, tries:], axis=-1).min(axis=1)
    return tried[int(distance.argmax())]


def _paint(
    image: np.ndarray,
    shape: _Shape,
    colour: np.ndarray,
    light: tuple[float, float],
    rng: np.random.Generator,
) -> None:
    """Draw the shape's shadow and the textured, shaded shape, in place."""
    size, radius = len(image), shape.radius
    x0, y0 = (max(0, int(centre - 1.6 * radius - 0.05 * size)) for centre in (shape.x, shape.y))
    x1, y1 = (min(size, int(centre + 1.6 * radius + 0.05 * size)) for centre in (shape.x, shape.y))
    cover, image = shape.cover[y0:y1, x0:x1], image[y0:y1, x0:x1]
    soft = cv2.GaussianBlur(cover, (0, 0), 0.012 * size)
    down, right = np.gradient(soft)
    x, y = (
        (np.arange(x0, x1) + 0.5 - shape.x) / radius,
        (np.arange(y0, y1) + 0.5 - shape.y) / radius,
    )
    towards_light, _ = _rotated(x, y, math.atan2(light[1], light[0]))
    tone = 1 + 0.16 * towards_light - 0.018 * size * (light[0] * right + light[1] * down)
    tone += _texture(rng, *_rotated(x, y, shape.angle))
    shift = np.float32([[1, 0, -0.12 * radius * light[0]], [0, 1, -0.12 * radius * light[1]]])
    image *= 1 - 0.45 * cv2.warpAffine(soft, shift, soft.shape[::-1])[..., None]
    image += cover[..., None] * (np.clip(colour * tone[..., None], 0, 1) - image)


def _texture(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Draw a pattern to add to the tone: plain, stripes, checks or dots.

    Args:
        rng: Source of the choice.
        u: Coordinates along the shape's first axis, (H, W), in radii.
        v: Coordinates along the second.
    """
    frequency, amplitude = math.pi / rng.uniform(0.25, 0.5), rng.uniform(0.08, 0.2)
    u, v = u * frequency, v * frequency
    patterns = (np.zeros_like(u), np.sin(u), np.sin(u) * np.sin(v), np.cos(u) + np.cos(v) - 0.9)
    return amplitude * np.tanh(4 * patterns[rng.integers(4)])
