"""Write files completely or not at all."""

import os
import os.path as osp
from contextlib import contextmanager
from typing import Iterator, Union


@contextmanager
def whole_file(path: Union[str, 'os.PathLike[str]']) -> Iterator[str]:
    """Yield the name of a file to write, and rename it to ``path`` at the end.

    If the block fails, the file is removed and ``path`` stays as it was.

    Args:
        path: The final path. Its folder is created if needed.

    Raises:
        OSError: The file cannot be written.
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
