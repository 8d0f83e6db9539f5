"""A loader for whole models that hides nothing."""

from typing import Any, Dict

from torch import nn

from .files import local_path
from .names import listing
from .read import CheckpointError, read_checkpoint, split_weights
from .whole_model import class_names, convert_model


def load_model(model: nn.Module, checkpoint: str, trust: bool = False) -> Dict[str, Any]:
    """Load the weights of a whole model; all must be there and fit.

    Args:
        model: Classifier, detector or segmentor to fill.
        checkpoint: Path or URL, of a model trained here or of a released one,
            whose names are converted.
        trust: Unpickle whatever the file holds. A pickle can run any code.

    Returns:
        ``dataset_meta``, names and colours of the classes, if the checkpoint
        has them, or nothing.

    Raises:
        CheckpointError: The file is not a checkpoint, see
            :func:`read_checkpoint`; or weights are foreign, missing or wrongly
            shaped, which are named.
    """
    with local_path(checkpoint) as path:
        content = read_checkpoint(path, trust)
    weights, rest = split_weights(content, checkpoint)
    expected = model.state_dict()
    if weights.keys() != expected.keys():
        try:
            weights = convert_model(content, source=checkpoint).weights
        except CheckpointError:
            pass  # of another network; what does not fit is named below
    misfits = {
        'unexpected': [n for n in weights if n not in expected],
        'missing': [n for n in expected if n not in weights],
        'of another shape': [
            f'{n} {tuple(t.shape)}, not {tuple(expected[n].shape)}'
            for n, t in weights.items()
            if n in expected and t.shape != expected[n].shape
        ],
    }
    misfits = '; '.join(f'{what}: {listing(found)}' for what, found in misfits.items() if found)
    if misfits:
        raise CheckpointError(
            f'{checkpoint} does not fit the model of the config, give the one '
            f'that it was trained with: {misfits}'
        )
    model.load_state_dict(weights)
    return class_names(rest.get('meta')).get('dataset_meta', {})
