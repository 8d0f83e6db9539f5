"""Say in one line which parameters a distributed training does not use."""

import re
from contextlib import contextmanager
from typing import Callable, Iterator

from torch import nn

from biformer_mm.checkpoint.names import listing
from biformer_mm.utils.errors import UsageError

_CAUSE = 'parameters that were not used in producing loss'
_NUMBERS = re.compile(r'Parameter indices which did not receive grad for rank \d+:([ \d]+)')


@contextmanager
def naming_unused_parameters(get_model: Callable[[], nn.Module]) -> Iterator[None]:
    """Replace PyTorch's error about unused parameters by one line that names their modules.

    DistributedDataParallel raises it in the second iteration, when the gradients are reset. So the
    names come from the numbers in its text, which count the parameters that require gradients.

    Args:
        get_model: Returns the model that trains, which may be built only meanwhile, in its
            DistributedDataParallel if it has one.

    Raises:
        UsageError: In place of that error.
    """
    try:
        yield
    except RuntimeError as error:
        if _CAUSE not in str(error):
            raise
        model = get_model()
        module = getattr(model, 'module', model)
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        numbers = _NUMBERS.search(str(error))
        unused = [names[int(i)].rpartition('.')[0] for i in numbers[1].split()] if numbers else []
        raise UsageError(
            'each step must use every parameter when several processes train, and no gradient '
            f'reached {listing(list(dict.fromkeys(unused)), 5) or "some"}; do not compute what '
            'the next part of the model does not read (out_indices), or set '
            'find_unused_parameters=True'
        ) from error
