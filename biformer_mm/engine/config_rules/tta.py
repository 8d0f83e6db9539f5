"""Rules about test-time augmentation, before anything is built."""

import os
import os.path as osp
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from PIL import Image

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name


def check_tta(cfg: Dict) -> Iterator[Problem]:
    """Find test-time augmentation that scores wrong.

    Args:
        cfg: A config whose model and data set are not augmented yet.

    Yields:
        ``tta-sigmoid`` and ``tta-truth`` (errors, of mmseg's SegTTAModel),
        ``tta-scale`` (warning).
    """
    pipeline = cfg.get('tta_pipeline')
    if bare_type_name(cfg.get('tta_model')) == 'SegTTAModel':
        if _output_channels(cfg.get('model') or {}) == 1:
            yield Problem(
                'tta-sigmoid',
                'tta_model',
                'SegTTAModel needs a head with out_channels of at least 2, as it applies the '
                'sigmoid of one channel twice and then finds foreground everywhere; leave --tta '
                'out, or set a tta_model of your own',
            )
        if pipeline and _flips_truth(pipeline):
            yield Problem(
                'tta-truth',
                'tta_pipeline',
                'RandomFlip must come before LoadAnnotations, or the unflipped image first: '
                'SegTTAModel compares with the annotations of the first image, which are flipped '
                'here, and the prediction is not; move LoadAnnotations behind RandomFlip, or set '
                'tta_pipeline=None to test with flips only',
            )
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if pipeline and dataset.get('pipeline'):
        yield from _other_scale(dataset, pipeline)


def _other_scale(dataset: Dict, pipeline: Sequence[Any]) -> Iterator[Problem]:
    """Compare how much the test and its augmentation resize one image."""
    size = _size_of_an_image(dataset)
    if size is None:
        return
    tested, augmented = _factors(dataset['pipeline'], size), _factors(pipeline, size)
    low, high = min(augmented), max(augmented)
    # Rounded, as a test may resize to multiples.
    if low / 1.1 <= tested[-1] <= high * 1.1:
        return
    scales = f'{low:.2g}' if low == high else f'{low:.2g} to {high:.2g}'
    yield Problem(
        'tta-scale',
        'tta_pipeline',
        f'its scales should be around that of the test: an image of {size[0]} x {size[1]} pixels '
        f'is tested at {scales} times its size, and without --tta at {tested[-1]:.2g} times; set '
        'the Resize steps of tta_pipeline, or tta_pipeline=None to test with flips only',
    )


def _output_channels(model: Dict) -> Any:
    """Return the number of channels that a segmentor's last head has."""
    head = model.get('decode_head') or {}
    if isinstance(head, (list, tuple)):
        head = head[-1]
    return head.get('out_channels') or head.get('num_classes')


def _flips_truth(pipeline: Sequence[Any]) -> bool:
    """Return whether the first image of a TTA pipeline may get a flipped map."""
    loaded = False
    for choices in _stages(pipeline):
        name, probability = bare_type_name(choices[0]), 0.0
        if name == 'RandomFlip':
            probability = choices[0].get('prob') or 0.0
        if isinstance(probability, (list, tuple)):
            probability = sum(probability)
        if loaded and probability > 0:
            return True
        loaded |= name == 'LoadAnnotations'
    return False


def _size_of_an_image(dataset: Dict) -> Optional[Tuple[int, int]]:
    """Return width and height of the first image in a data set's folder, if it can be read."""
    prefix = dataset.get('data_prefix') or ''
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or prefix.get('img') or ''
    for folder, folders, files in os.walk(osp.join(dataset.get('data_root') or '', prefix)):
        folders.sort()
        for name in sorted(files):
            try:
                with Image.open(osp.join(folder, name)) as image:
                    return image.size
            except (OSError, Image.DecompressionBombError):
                return None
    return None


def _factors(pipeline: Sequence[Any], size: Tuple[int, int]) -> List[float]:
    """Return by how much the Resize steps of a pipeline enlarge an image; [1.0] without one."""
    steps = [step for choices in _stages(pipeline) for step in choices]
    found = []
    for step in steps:
        if bare_type_name(step) != 'Resize':
            continue
        scale, factor = step.get('scale'), step.get('scale_factor')
        if isinstance(scale, (list, tuple)):
            found.append(min(max(scale) / max(size), min(scale) / min(size)))
        elif scale:
            found.append(scale / min(size))
        else:
            found.append(max(factor) if isinstance(factor, (list, tuple)) else factor or 1.0)
    return found or [1.0]


def _stages(pipeline: Sequence[Any]) -> Iterator[List[Any]]:
    """Yield the alternatives at each place of a pipeline."""
    for step in pipeline:
        if bare_type_name(step) == 'TestTimeAug':
            yield from (list(choices) for choices in step['transforms'] if choices)
        else:
            yield [step]
