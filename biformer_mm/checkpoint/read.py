"""Read checkpoint files as data, without running the code they may hold.

Needs only torch.
"""

import os
import re
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import torch
from torch import Tensor

from biformer_mm.utils.errors import UsageError

# What MMEngine's training checkpoints (HistoryBuffer and its parts) and
# argparse's options hold beside weights. None of it is called: each is read as
# a placeholder that keeps the arguments.
_BESIDE_WEIGHTS = (
    'mmengine.logging.history_buffer.HistoryBuffer',
    'builtins.getattr',
    'builtins.bytes',  # of empty arrays
    'numpy.ndarray',
    'numpy.dtype',
    'numpy.core.multiarray._reconstruct',  # numpy 1
    'numpy.core.multiarray.scalar',
    'numpy._core.multiarray._reconstruct',  # numpy 2
    'numpy._core.multiarray.scalar',
    'argparse.Namespace',
)
_ZIP = b'PK\x03\x04'
# torch.save's format before torch 1.6: a pickle of this magic number.
_LEGACY = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
_FORBIDDEN = re.compile(r'(?:GLOBAL|Unsupported class) ([\w.]+)')  # by torch
_MODELS = ('state_dict', 'model')
_LOCK = threading.RLock()  # for torch's list of safe names, one per process
_AGAIN = 'compare its size or sha256 with the original and get it again'
_OPT_IN = (
    'get a file with only weights or, if you trust who made it, set '
    'trust=True in the call or in init_cfg'
)


class CheckpointError(UsageError, ValueError):
    """A checkpoint cannot be used.

    The text names the file, the reason and what to do.
    """


def read_checkpoint(path: str, trust: bool = False, map_location: Any = 'cpu') -> Dict[str, Any]:
    """Read a checkpoint file without running the code it may hold.

    Args:
        path: A local file, written by ``torch.save``.
        trust: Unpickle whatever the file holds. A pickle can run any code.
        map_location: The device of the tensors, as for ``torch.load``.

    Returns:
        The content of the file. Beside weights it may hold instances of
        :class:`Placeholder`, for the statistics of its training.

    Raises:
        CheckpointError: The file is missing, empty, truncated or not a
            checkpoint, or reading it would run code.
    """
    path = os.path.expanduser(path)
    check_kind(path)
    try:
        with _placeholders():
            loaded = torch.load(path, map_location=map_location, weights_only=not trust)
    except Exception as error:  # of many kinds, by format and torch version
        raise _explain(path, error, trust) from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f'{path} holds no weights but a {type(loaded).__name__}; give a checkpoint'
        )
    if not trust:
        _remove_attributes(loaded)
    return loaded


def split_weights(
    checkpoint: Mapping[str, Any], source: str
) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """Separate the weights of a checkpoint from the rest.

    Args:
        checkpoint: Weights, bare or in an outer dict that holds them as
            'state_dict' or 'model'. It is not changed.
        source: The name of the checkpoint in error messages.

    Returns:
        The weights by name, without the 'module.' of distributed training, and
        the rest of the checkpoint.

    Raises:
        CheckpointError: It holds no weights.
    """
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f'{source} holds no weights but a {type(checkpoint).__name__}; give a checkpoint'
        )
    rest, weights = {}, checkpoint
    for outer in _MODELS:
        if isinstance(checkpoint.get(outer), Mapping):
            rest = {k: v for k, v in checkpoint.items() if k != outer}
            weights = checkpoint[outer]
            break
    tensors = {n: v for n, v in weights.items() if isinstance(v, Tensor)}
    nameless = [n for n in tensors if not isinstance(n, str)]
    if nameless:
        raise CheckpointError(
            f'{source} holds no weights: their names must be text; it has '
            f'{nameless[:10]}; give a checkpoint'
        )
    rest.update((n, v) for n, v in weights.items() if n not in tensors)
    if tensors and all(n.startswith('module.') for n in tensors):
        tensors = {n[len('module.') :]: v for n, v in tensors.items()}
    if not tensors:
        raise CheckpointError(
            f'{source} holds no weights: they must be tensors by name, bare '
            f'or as one of {_MODELS}; its keys are {list(checkpoint)[:10]}: '
            'give a checkpoint'
        )
    return tensors, rest


def check_kind(path: str) -> None:
    """Raise unless the file was written by torch.save.

    Torch before 2.6 loads TorchScript and unpacks tar files even with
    weights_only.

    Raises:
        CheckpointError: It was not.
    """
    if os.path.isdir(path):
        raise CheckpointError(f'{path} is a folder, not a checkpoint; give the path of a file')
    if not os.path.isfile(path):
        raise CheckpointError(f'there is no checkpoint {path}; give the path of a file that exists')
    try:
        with open(path, 'rb') as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(
            f'{path} cannot be read ({error.strerror}); give yourself the right to'
        ) from error
    if not head:
        raise CheckpointError(f'{path} is empty; get it again')
    if head.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
        raise CheckpointError(
            f'{path} is a web page, not a checkpoint: the link that it was '
            'saved from is dead or wants a login; delete it and get the '
            'checkpoint elsewhere'
        )
    if head.startswith(_ZIP):
        is_checkpoint = _is_saved_zip(path)
    else:
        # A truncated file may be shorter than the magic number, and a tar
        # file may start with it.
        is_checkpoint = _LEGACY.startswith(head[: len(_LEGACY)]) and not tarfile.is_tarfile(path)
    if not is_checkpoint:
        raise CheckpointError(
            f'{path} is no checkpoint: it must be a file written by '
            'torch.save (TorchScript, safetensors and plain pickles are not); '
            'give one, or save its weights so'
        )


def _is_saved_zip(path: str) -> bool:
    """Return whether a zip file was written by torch.save, and is not TorchScript.

    Zipfile and torch may find different directories in the same file, so both
    are checked.

    Raises:
        CheckpointError: The file is truncated or damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f'{path} is truncated: its end is missing; {_AGAIN}')
        with zipfile.ZipFile(path) as archive:
            is_saved = _is_saved(archive.namelist())
        if is_saved:
            with open(path, 'rb') as file:
                is_saved = _is_saved(torch._C.PyTorchFileReader(file).get_all_records())
        return is_saved
    except CheckpointError:
        raise
    except Exception as error:  # of many kinds, by what is damaged
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f'{path} is truncated or damaged ({reason}); {_AGAIN}') from error


def _is_saved(names: List[str]) -> bool:
    names = {name.rpartition('/')[2] for name in names}
    return 'data.pkl' in names and 'constants.pkl' not in names


def _remove_attributes(loaded: Any) -> None:
    """Remove the attributes that a pickle has set on dicts.

    An attribute named like a method, such as ``pop``, would replace it. State
    dicts keep their ``_metadata``.
    """
    pending, seen = [loaded], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            attributes = getattr(value, '__dict__', {})
            for name in attributes.keys() - {'_metadata'}:
                del attributes[name]
            pending += (*attributes.values(), *value.values())
        elif isinstance(value, (list, tuple)):
            pending += value


def _explain(path: str, error: Exception, trust: bool) -> CheckpointError:
    """Turn an error of torch.load into one that says what to do."""
    if trust and isinstance(error, (ImportError, AttributeError)):
        return CheckpointError(
            f'{path} needs a package that is not here '
            f'({error}); install it, or read {path} where '
            'it is'
        )
    if 'nsupported operand' in str(error):
        return CheckpointError(
            f'{path} cannot be read as data: its pickle goes beyond weights; {_OPT_IN}'
        )
    forbidden = _FORBIDDEN.search(str(error))
    if not forbidden:
        reason = str(error).split('WeightsUnpickler error: ')[-1]
        reason = reason.splitlines()[0] if reason else type(error).__name__
        return CheckpointError(f'{path} is truncated or damaged ({reason}); {_AGAIN}')
    name = forbidden[1].replace('__builtin__.', 'builtins.')
    if name in _BESIDE_WEIGHTS:
        return CheckpointError(
            f'{path} holds {name} beside weights, which torch '
            f'{torch.__version__} cannot read as data; use torch >= 2.6, or '
            f'{_OPT_IN}'
        )
    return CheckpointError(
        f'{path} would run code when read: its pickle asks for {name}; {_OPT_IN}'
    )


@contextmanager
def _placeholders() -> Iterator[None]:
    """Make weights_only read the names beside weights as placeholders.

    Torch's list is of the process, so one thread at a time enters.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):  # torch < 2.4
        yield
        return
    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(_PLACEHOLDERS)
        try:
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


class Placeholder:
    """The stand-in for an object that a pickle would have made by calling code.

    Attributes:
        name: The class or function that the pickle names.
        args: The arguments of the call.
        state: The state to set on the result; None if there is none.
    """

    name: str

    def __new__(cls, *args: Any) -> 'Placeholder':
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _placeholder(name: str) -> type:
    """Make a class that torch's unpickler accepts as the one of that name."""
    module, _, qualname = name.rpartition('.')
    return type(qualname, (Placeholder,), dict(__module__=module, name=name))


_PLACEHOLDERS = [_placeholder(name) for name in _BESIDE_WEIGHTS]
