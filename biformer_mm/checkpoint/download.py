"""Provide checkpoints as local files, downloaded and verified if given by URL."""

import hashlib
import os.path as osp
import re
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike, fspath, makedirs
from pathlib import Path
from typing import Iterator, Tuple, Union
from urllib.parse import urlparse

import torch
from filelock import FileLock  # a requirement of torch

from biformer_mm.utils.atomic_file import whole_file

from .read import CheckpointError

# OpenMMLab and torch.hub end names with digits of the sha256; 8 may be a date.
_DATE = r'20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])'
_HASH_IN_NAME = re.compile(rf'.+-(?!{_DATE}\.)([0-9a-f]{{8,64}})\.\w+')
_HASH_IN_FRAGMENT = re.compile(r'sha256=([0-9a-fA-F]{8,64})')


@contextmanager
def local_path(checkpoint: Union[str, 'PathLike[str]']) -> Iterator[str]:
    """Provide a checkpoint as a local file while the context lasts.

    Args:
        checkpoint: A path; an http(s) URL, kept in torch's cache; or a URL of
            MMEngine's other storage, such as s3://, copied temporarily.

    Raises:
        CheckpointError: The download fails, or the hash does not match.
    """
    path = fspath(checkpoint)
    with ExitStack() as stack:
        if path.startswith(('http://', 'https://')):
            path = download(path, osp.join(torch.hub.get_dir(), 'checkpoints'))
        elif '://' in path:
            try:
                from mmengine.fileio import get_local_path

                path = str(stack.enter_context(get_local_path(path)))
            except Exception as error:  # the type depends on the storage
                raise _cannot_fetch(path, error) from None
        yield path


def download(url: str, folder: str) -> str:
    """Download a file unless it is in the folder, and return its path.

    Its sha256 must begin with the 8 to 64 digits that the URL gives in its
    fragment (#sha256=1a2b...) or else at the end of its name (a-1a2b3c4d.pth).

    Raises:
        CheckpointError: The download fails, or the hash does not match.
    """
    name, expected = _parse(url)
    path = osp.join(folder, name)
    try:
        makedirs(folder, exist_ok=True)
        if not osp.exists(path):
            with FileLock(f'{path}.lock'):  # processes that want the same file wait
                if not osp.exists(path):
                    _fetch(url, path, expected)
        _verify(path, expected, path, f'remove it to download {url} again')
    except OSError as error:
        reason = f'{url} cannot be kept in {folder} ({error})'
        raise _error(f'{reason}; make room there, or set TORCH_HOME') from error
    return path


def _parse(url: str) -> Tuple[str, str]:
    """Return the name of the file and the digits of its sha256 that the URL gives."""
    with suppress(ValueError):
        parts = urlparse(url)
        name = osp.basename(parts.path)
        in_fragment = _HASH_IN_FRAGMENT.fullmatch(parts.fragment)
        is_valid = in_fragment or not parts.fragment.startswith('sha256')
        if is_valid and url.isprintable() and name not in ('', '.', '..'):
            match = in_fragment or _HASH_IN_NAME.fullmatch(name)
            return name, match[1].lower() if match else ''
    raise _error(f'{url!r} must name a file, and #sha256= 8 to 64 hexadecimal digits; correct it')


def _fetch(url: str, path: str, expected: str) -> None:
    try:
        from pooch import HTTPDownloader
        from requests import RequestException
    except ImportError as error:
        raise _cannot_fetch(url, error) from error
    with whole_file(path) as unfinished:
        try:
            HTTPDownloader(chunk_size=1 << 20)(url, unfinished, None)
        except (RequestException, ValueError) as error:
            raise _cannot_fetch(url, error) from None  # the error quotes the URL
        _verify(unfinished, expected, url, 'get it elsewhere and give its path')


def _verify(path: str, expected: str, source: str, cure: str) -> None:
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest() if expected else ''
    if not found.startswith(expected):
        raise _error(f'{source} must have the sha256 {expected}, got {found}; {cure}')


def _cannot_fetch(url: str, error: Exception) -> CheckpointError:
    reason = f'{type(error).__name__}: {error}'
    return _error(f'{url} cannot be fetched ({reason}); give the path of a copy')


def _error(text: str) -> CheckpointError:
    return CheckpointError(' '.join(without_secrets(text).split()))


def without_secrets(text: str) -> str:
    """Remove user names, passwords and queries from a URL, or a text with one."""
    return re.sub(r'(?<=://)[^/\s]*@|\?[^#\s]*', '', text) if '://' in text else text
