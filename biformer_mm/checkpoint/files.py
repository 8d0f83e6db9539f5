"""Where checkpoints come from: a path, the web, MMEngine's other storage."""

import os
import os.path as osp
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Iterator, Union

import torch

from biformer_mm.utils.errors import describe

from .download import download
from .read import CheckpointError

if find_spec('mmengine'):  # without it, nothing here is called
    from mmengine.dist import broadcast_object_list, get_rank
    from mmengine.fileio import get_local_path


@contextmanager
def local_path(checkpoint: Union[str, 'os.PathLike[str]']) -> Iterator[str]:
    """The file itself, or a copy of what a URL names: of the web in torch's
    cache, of MMEngine's other storage for as long as the context.
    """
    checkpoint = os.fspath(checkpoint)
    if checkpoint.startswith(('http://', 'https://')):
        yield _download(checkpoint)
    elif '://' in checkpoint:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(get_local_path(checkpoint))
            except Exception as error:  # of many kinds, by storage
                raise CheckpointError(
                    f'{checkpoint} cannot be fetched ({describe(error)}); give the path of a copy'
                ) from error
            yield str(path)
    else:
        yield checkpoint


def _download(url: str) -> str:
    """Path in torch's cache; of a distributed run, rank 0 goes first, and if
    it fails all do.
    """
    folder = osp.join(torch.hub.get_dir(), 'checkpoints')
    failure = path = None
    if get_rank() == 0:
        try:
            path = download(url, folder)
        except Exception as error:  # of any kind: the others wait for news
            failure = error
    news = [failure and (str(failure) or type(failure).__name__)]
    broadcast_object_list(news)
    if failure:
        raise failure
    if news[0]:
        raise CheckpointError(news[0])
    return path or download(url, folder)  # on another machine, a second time
