"""Write the demo's scenes as a data set in the layout of COCO, ADE20K or ImageNet."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from numbers import Integral
from pathlib import Path
from typing import Iterator

import cv2
import numpy as np

from .shapes import SHAPES_CLASSES, SPLITS, Scene, make_scene, scene_rng

_VERSION = 2  # raise it when the same arguments give other files
_PARAMETERS = 'shapes.json'
# A picture for a classifier shows one large shape.
ONE_LARGE = dict(count=(1, 1), diameter=(0.35, 0.7))


def make_shapes(
    root: str | Path,
    layout: str = 'coco',
    num_train: int = 400,
    num_val: int = 100,
    image_size: int = 160,
    seed: int = 0,
) -> Path:
    """Write the data set, or reuse it if it exists already.

    ``root`` appears complete or not at all. By ``layout`` it has:

    - 'coco': ``{train,val}/*.jpg`` and the instances' boxes and polygons in
      ``annotations/instances_{train,val}.json``.
    - 'ade20k': ``images/{training,validation}/*.jpg`` and, for each, an index
      map ``annotations/{training,validation}/*.png``: 0 is unlabelled (no pixel
      is), 1 the background, 2 to 5 are the shapes.
    - 'imagenet': ``{train,val}/CLASS/*.jpg``, one large shape in each picture.

    Picture i of a split depends on ``layout``, ``seed`` and ``image_size``, but
    not on the number of pictures.

    Args:
        root: Folder to create.
        layout: 'coco', 'ade20k' or 'imagenet'.
        num_train: Number of training pictures.
        num_val: Number of held-out pictures, from other random streams.
        image_size: Side of a picture in pixels, at least 32.
        seed: Non-negative; another seed gives other pictures.

    Returns:
        ``root``.

    Raises:
        ValueError: The layout is unknown, or a number is not an integer or too
            small.
        FileExistsError: ``root`` exists and was not made with the same
            arguments.
    """
    if layout not in _WRITERS:
        raise ValueError(f'layout must be one of {", ".join(_WRITERS)}; got {layout!r}')
    root, parameters = (
        Path(root),
        dict(generator='biformer_mm shapes', version=_VERSION, layout=layout),
    )
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('image_size', image_size, 32),
        ('seed', seed, 0),
    ):
        if not isinstance(value, Integral) or value < least:
            raise ValueError(f'{name} must be an integer of at least {least}, got {value!r}')
        parameters[name] = int(value)
    if _reusable(root, parameters):
        return root
    part = root.with_name(f'.{root.name}.{uuid.uuid4().hex}.tmp')
    try:
        for split in SPLITS:
            _WRITERS[layout](part, split, _scenes(split, parameters))
        (part / _PARAMETERS).write_text(json.dumps(parameters, indent=2))
        part.rename(root)
    except OSError:
        # Another process, such as a second rank, may have written it meanwhile.
        if not _reusable(root, parameters):
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _reusable(root: Path, parameters: dict) -> bool:
    if not os.path.lexists(root):
        return False
    try:
        found = json.loads((root / _PARAMETERS).read_text())
    except (OSError, ValueError):
        found = 'something else'
    if found != parameters:
        raise FileExistsError(
            f'root must be free or hold this very data set: {root} holds '
            f'{found}, wanted {parameters}; nothing was changed, move it away '
            'or choose another root'
        )
    return True


def _scenes(split: str, parameters: dict) -> Iterator[Scene]:
    what = ONE_LARGE if parameters['layout'] == 'imagenet' else {}
    for index in range(parameters[f'num_{split}']):
        rng = scene_rng(parameters['seed'], split, index)
        yield make_scene(rng, parameters['image_size'], **what)


def _write_coco(root: Path, split: str, scenes: Iterator[Scene]) -> None:
    images, annotations = [], []
    for index, scene in enumerate(scenes):
        name = f'{index:06d}.jpg'
        _write_image(root / split / name, scene.image)
        height, width = scene.image.shape[:2]
        images.append(dict(id=index, file_name=name, width=width, height=height))
        for label, mask in scene.instances:
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=label + 1,
                    iscrowd=0,
                    area=int(mask.sum()),
                    bbox=list(cv2.boundingRect(mask.astype(np.uint8))),
                    segmentation=_polygons(mask),
                )
            )
    categories = [
        dict(id=i, name=name, supercategory='shape') for i, name in enumerate(SHAPES_CLASSES, 1)
    ]
    path = root / 'annotations' / f'instances_{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def _write_ade20k(root: Path, split: str, scenes: Iterator[Scene]) -> None:
    folder = dict(train='training', val='validation')[split]
    for index, scene in enumerate(scenes):
        _write_image(root / 'images' / folder / f'{index:06d}.jpg', scene.image)
        index_map = np.ones(scene.image.shape[:2], np.uint8)
        for label, mask in scene.instances:
            index_map[mask] = label + 2
        _write_image(root / 'annotations' / folder / f'{index:06d}.png', index_map)


def _write_imagenet(root: Path, split: str, scenes: Iterator[Scene]) -> None:
    for name in SHAPES_CLASSES:  # also of those that few scenes leave out: folders number classes
        (root / split / name).mkdir(parents=True, exist_ok=True)
    for index, scene in enumerate(scenes):
        ((label, _),) = scene.instances
        _write_image(root / split / SHAPES_CLASSES[label] / f'{index:06d}.jpg', scene.image)


_WRITERS = dict(coco=_write_coco, ade20k=_write_ade20k, imagenet=_write_imagenet)


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    path.write_bytes(data.tobytes())


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Return the COCO polygons of a mask, which may have pieces and holes.

    They lie a quarter of a pixel inside the mask's edge, so that rasterising
    them gives the same pixels.
    """
    fine = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [contour for contour, (*_, parent) in zip(contours, hierarchy[0]) if parent >= 0]
    if not holes:
        return [((contour.reshape(-1) + 0.5) / 2).tolist() for contour in contours]
    # COCO polygons cannot have holes: cut the mask through one of them.
    left = np.arange(mask.shape[1]) <= int(holes[0][:, 0, 0].mean()) // 2
    return _polygons(mask & left) + _polygons(mask & ~left)
