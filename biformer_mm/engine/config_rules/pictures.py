"""Compare how pictures are loaded, normalised and drawn with what the model expects."""

from typing import Any, Dict, Iterator, List, Optional, Sequence

from mmengine.registry import MODELS, TRANSFORMS

from biformer_mm.datasets.checks.problems import Problem
from biformer_mm.utils.config_types import bare_type_name

from .parts import Part, class_of, data_sets, default_of, preprocessor, steps

# Steps of these packages are known neither to divide by 255 nor to change the channels, except
# those of _CHANGING.
_PACKAGES = ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'biformer_mm')
_CHANGING = ('Normalize', 'RandomGrayscale', 'Albu')
_PREPROCESSORS = ('', 'DetDataPreprocessor', 'SegDataPreProcessor', 'ClsDataPreprocessor')


def check_channels(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Compare the channels of the pictures with those that the backbone takes."""
    key, part = preprocessor(cfg)
    backbone = (cfg.get('model') or {}).get('backbone')
    if not isinstance(backbone, dict) or bare_type_name(part) not in _PREPROCESSORS:
        return
    taken = backbone.get('in_channels')
    if taken is None:
        taken = default_of(class_of(cfg, backbone, MODELS), 'in_channels')
    mean = _numbers(part.get('mean'))
    for option, dataset in data_sets(cfg, splits):
        load = _plain_loading(cfg, option, dataset)
        if load is None or not isinstance(taken, int):
            continue
        loaded = 1 if load[1].get('color_type', 'color').startswith('grayscale') else 3
        made = max(loaded, len(mean))  # a mean of three values makes three channels of one
        if made != taken:
            also = f', and {key}.mean makes {made} of it' if made != loaded else ''
            yield Problem(
                'channels',
                'model.backbone.in_channels',
                f'{taken}, but {load[0]} loads {loaded}{also}; set color_type (color: 3 '
                'channels, grayscale: 1, unchanged: as in the file), mean, std and in_channels '
                'to one number of channels',
            )
            return


def check_normalisation(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Refuse means and deviations of pictures in 0..1, and normalising twice."""
    key, part = preprocessor(cfg)
    mean, std = _numbers(part.get('mean')), _numbers(part.get('std'))
    for option, dataset in data_sets(cfg, splits):
        twice = [
            step_key
            for step_key, step in steps(f'{option}.pipeline', dataset.get('pipeline'))
            if bare_type_name(step) == 'Normalize' and any(_numbers(step.get('mean')))
        ]
        if twice and any(mean):
            yield Problem(
                'normalisation',
                twice[0],
                f'pictures are normalised here and by {key}.mean {mean}; remove this step',
            )
            return
        if std and max(std) < 1 and _plain_loading(cfg, option, dataset):
            cure = ' '.join(
                f'"{key}.{name}=({",".join(f"{255 * x:.5g}" for x in values)})"'
                for name, values in (('mean', mean), ('std', std))
                if max(values, default=2) <= 1
            )
            yield Problem(
                'normalisation',
                f'{key}.std',
                f'{std} is for pictures in 0..1, but they are in 0..255; set {cure}',
            )
            return


def check_shuffled(cfg: Dict, splits: Sequence[str]) -> Iterator[Problem]:
    """Warn if the training pictures come in their own order."""
    loader = cfg.get('train_dataloader') if 'train' in splits else None
    sampler = loader.get('sampler') if isinstance(loader, dict) else None
    if isinstance(sampler, dict) and sampler.get('shuffle') is False:
        yield Problem(
            'not-shuffled',
            'train_dataloader.sampler.shuffle',
            'False: pictures come in the order of the files, often class by class; set '
            'train_dataloader.sampler.shuffle=True',
        )


def _plain_loading(cfg: Dict, option: str, dataset: Dict) -> Optional[Part]:
    """Return the step that loads 8-bit pictures of 1 or 3 channels, if the rest keeps them so."""
    found: List[Part] = []
    for key, step in steps(f'{option}.pipeline', dataset.get('pipeline')):
        kind, name = class_of(cfg, step, TRANSFORMS), bare_type_name(step)
        if name == 'LoadImageFromFile':
            found.append((key, step))
        package = kind.__module__.partition('.')[0] if kind else ''
        if package not in _PACKAGES or name in _CHANGING:
            return None
    if len(found) != 1 or found[0][1].get('imdecode_backend') == 'tifffile':
        return None
    return found[0] if found[0][1].get('color_type', 'color') != 'unchanged' else None


def _numbers(values: Any) -> List[float]:
    values = values if isinstance(values, (list, tuple)) else [values]
    return [x for x in values if isinstance(x, (int, float))]


RULES = (check_channels, check_normalisation, check_shuffled)
