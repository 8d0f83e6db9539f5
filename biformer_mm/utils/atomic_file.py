"""Files that are there whole, or not at all."""

import os
import os.path as osp
from contextlib import contextmanager
from typing import Iterator, Union


@contextmanager
def whole_file(path: Union[str, 'os.PathLike[str]']) -> Iterator[str]:
    """Give the name of a file to write, which becomes ``path`` if no error
    ends the context, and is removed otherwise.

    Args:
        path: The file, in a folder that is made if need be.

    Raises:
        OSError: It cannot be written; what was there still is.
    """
    path = os.fspath(path)
    os.makedirs(osp.dirname(path) or '.', exist_ok=True)
    unfinished = f'{path}.{os.getpid()}.tmp'
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        if osp.exists(unfinished):
            os.remove(unfinished)
