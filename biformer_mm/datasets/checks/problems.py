"""The kinds of problems of data sets and configs, and how severe they are."""

from typing import Callable, Collection, Iterable, NamedTuple

from biformer_mm.utils.errors import UsageError

# In one line; more are counted.
_MOST_SHOWN = 5

SEVERITIES = ('note', 'warning', 'error')

# error: training stops, or trains or evaluates on wrong data; warning: some data
# is dropped or changed; note: harmless, but worth knowing.
KINDS = {
    # files
    'missing': 'error',
    'empty-file': 'error',
    'no-image': 'error',
    'truncated': 'error',
    'corrupt': 'error',
    'channels': 'error',
    'dark': 'error',
    'damaged': 'warning',
    'exif-turned': 'warning',
    'cmyk': 'warning',
    '16-bit': 'warning',
    'alpha': 'warning',
    'tiny': 'warning',
    'grey': 'note',
    'exif-rotated': 'note',
    'wrong-extension': 'note',
    # a whole data set
    'no-images': 'error',
    'count': 'error',
    'hidden-folder': 'error',
    'passed-over': 'warning',
    'in-two-splits': 'warning',
    'many-in-two-splits': 'error',
    # annotations in COCO's format
    'json': 'error',
    'field': 'error',
    'duplicate-image-id': 'error',
    'duplicate-annotation-id': 'error',
    'unknown-category': 'error',
    'class-missing': 'error',
    'class-twice': 'error',
    'class-order': 'error',
    'no-objects': 'error',
    'size': 'error',
    'box-missing': 'error',
    'box-invalid': 'error',
    'mask-missing': 'error',
    'mask-invalid': 'error',
    'polygon': 'error',
    'mask-box': 'warning',
    'box-empty': 'warning',
    'box-outside': 'warning',
    'area': 'warning',
    'unknown-image': 'warning',
    'duplicate-file': 'warning',
    'box-over-edge': 'note',
    'image-without-objects': 'note',
    'unused-category': 'note',
    # a whole file of them
    'convention': 'error',
    'no-area': 'error',
    'all-crowd': 'error',
    'iscrowd': 'error',
    'ignored-objects': 'error',
    'image-ids': 'error',
    'frame-numbers': 'error',
    'only-one-class': 'error',
    'absent-class': 'warning',
    'unlisted-images': 'warning',
    'boxes-over-edge': 'warning',
    'resized-boxes': 'warning',
    'object-twice': 'warning',
    'many-objects-twice': 'error',
    'filtered': 'warning',
    'mostly-filtered': 'error',
    'small-after-resize': 'warning',
    'ignored-in-training': 'note',
    # splits, evaluators and checkpoints that must agree
    'evaluator-file': 'error',
    'category-order': 'error',
    'split-folders': 'error',
    'checkpoint-classes': 'error',
    'checkpoint-names': 'warning',
    # segmentation maps
    'map-missing': 'error',
    'map-size': 'error',
    'map-channels': 'error',
    'map-lossy': 'error',
    'map-label': 'error',
    'mostly-unlabelled': 'warning',
    'map-unlabelled': 'note',
    'map-unused': 'note',
    # classification
    'list-line': 'error',
    'label': 'error',
    'folder-classes': 'error',
    # label maps of token labelling
    'label-map-missing': 'error',
    'label-map': 'error',
    'label-map-shared': 'error',
    'label-map-unused': 'note',
    # a config, before anything is built
    'option-without-effect': 'error',
    'split-classes': 'error',
    'head-classes': 'error',
    'class-weights': 'error',
    'preprocessor-classes': 'error',
    'reduce-zero-label': 'error',
    'ignore-index': 'error',
    'normalisation': 'error',
    'constant-loss': 'error',
    'idle-optimizer': 'error',
    'layer-decay': 'error',
    'schedule-units': 'error',
    'evaluator-task': 'error',
    'evaluator-limits': 'error',
    'topk': 'error',
    'test-mode': 'error',
    'evaluated-part': 'error',
    'spare-outputs': 'warning',
    'same-data': 'warning',
    'other-scale': 'warning',
    'not-shuffled': 'warning',
    'mirrored-classes': 'warning',
    'schedule': 'warning',
    'evaluation-skipped': 'warning',
    # training and evaluation
    'all-frozen': 'error',
    'custom-keys': 'error',
    'nothing-loaded': 'error',
    'ema': 'error',
    'no-metrics': 'warning',
    'tta-sigmoid': 'error',
    'tta-truth': 'error',
    'frozen-random': 'warning',
    'unused-custom-keys': 'warning',
    'partly-loaded': 'warning',
    'slow-ema': 'warning',
    'other-config': 'warning',
    'score-threshold': 'warning',
    'crowded': 'warning',
    'tta-scale': 'warning',
}


class Problem(NamedTuple):
    """Something wrong with a file or a field of the config.

    Attributes:
        kind: One of :data:`KINDS`.
        file: The file or folder, or the field of the config, with dots between its keys.
        detail: The rule, the value and the cure.
    """

    kind: str
    file: str
    detail: str

    @property
    def severity(self) -> str:
        """One of :data:`SEVERITIES`."""
        return KINDS[self.kind]


def enforce(
    problems: Iterable[Problem], allowed: Collection[str], warn: Callable[[str], None]
) -> None:
    """Refuse errors, and warn of warnings and of what is allowed. Pass over notes.

    Args:
        problems: What was found.
        allowed: Kinds whose errors are warned of only.
        warn: Called with one line for each warning.

    Raises:
        UsageError: There are errors. The text has the first five.
    """
    errors = []
    for problem in dict.fromkeys(problems):  # a data set may be in two splits
        said = f'{problem.file}: {problem.detail}'
        if problem.severity == 'error' and problem.kind not in allowed:
            errors.append((problem.kind, said))
        elif problem.severity != 'note':
            warn(f'{said} ({problem.kind})')
    if not errors:
        return
    shown = errors[:_MOST_SHOWN]
    text = '; '.join(said for _, said in shown)
    if len(errors) > len(shown):
        text += (
            f'; and {len(errors) - len(shown)} more, which tools/misc/check_dataset.py CONFIG lists'
        )
    kinds = ' '.join(dict.fromkeys(kind for kind, _ in errors))
    raise UsageError(f'{text}; if this is meant, allow {kinds}')
