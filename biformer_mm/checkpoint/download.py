"""Downloads that are complete and verified, or not there; and resumed.

Needs the standard library alone.
"""

import hashlib
import os
import os.path as osp
import re
import uuid
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO, Dict, Iterator, Optional, Tuple
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urlparse
from urllib.request import Request, urlopen

from .read import CheckpointError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows
    fcntl = None

_TIMEOUT = 30  # seconds without a byte
_CHUNK = 1 << 20
# OpenMMLab and torch.hub end names in the first digits of the sha256.
_HASH_IN_NAME = re.compile(r'.+-([0-9a-f]{8,64})\.\w+')
_DATE = re.compile(r'20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])')
_HASH_IN_FRAGMENT = re.compile(r'sha256=([0-9a-f]{8,64})', re.IGNORECASE)


def download(url: str, folder: str) -> str:
    """Download a file, unless it is there.

    While it is incomplete it is called NAME.part, and the next download goes
    on from that if the server can. One process downloads, others that want
    the same file wait for it.

    Args:
        url: Of http or https. The file must have the sha256, of at least the
            first 8 digits, that ends its name (NAME-1a2b3c4d.pth) or, before
            that, the URL (#sha256=1A2B...), if there is one.
        folder: Where the file is kept under its name, made if need be.

    Returns:
        The file's path.

    Raises:
        CheckpointError: It cannot be had, or its hash is another one; also
            of the file that is there.
    """
    address, name, expected = _parse(url)
    path = osp.join(folder, name)
    try:
        os.makedirs(folder, exist_ok=True)
        if not osp.exists(path) and _fetch_once(url, address, path, expected):
            return path
        found = _sha256(path) if expected else ''
    except OSError as error:
        raise CheckpointError(
            f'{url} cannot be kept in {folder} ({error.strerror}); make room '
            'there, or set TORCH_HOME to another folder'
        ) from error
    if not found.startswith(expected):
        raise CheckpointError(
            f'{path}, kept of an earlier download, has the sha256 {found}, '
            f'and {url} is to have {expected}; remove that file to download '
            'it again'
        )
    return path


def _parse(url: str) -> Tuple[str, str, str]:
    """Address without its fragment, name, and first digits of the sha256."""
    if not url.isprintable():
        raise CheckpointError(f'a URL has no control characters; got {url!r}: mend it')
    try:
        address, fragment = urldefrag(url)
        name = osp.basename(urlparse(address).path)
    except ValueError as error:
        raise CheckpointError(f'{url} is no URL ({error}); mend it') from error
    if name in ('', '.', '..'):
        raise CheckpointError(f'{url} names no file; give the URL of one')
    if fragment.startswith('sha256'):
        match = _HASH_IN_FRAGMENT.fullmatch(fragment)
        if not match:
            raise CheckpointError(
                '#sha256= takes 8 to 64 hexadecimal digits; got '
                f'{fragment!r}: give what sha256sum prints of the original'
            )
        return address, name, match[1].lower()
    match = _HASH_IN_NAME.fullmatch(name)
    if match and not _DATE.fullmatch(match[1]):
        return address, name, match[1]
    return address, name, ''


def _fetch_once(url: str, address: str, path: str, expected: str) -> bool:
    """Download to ``path``; False if another process has done so."""
    with _open_part(path) as part:
        if osp.exists(path):
            os.remove(part.name)
            return False
        while not _fetch(url, address, part):
            pass
        found = _sha256(part.name)
        note = _note(part.name)
        if not found.startswith(expected):
            os.remove(part.name)
            _remove(note)
            raise CheckpointError(
                f'{url} is to have the sha256 {expected}, and what came has '
                f'{found}; it is damaged or another file: get it elsewhere, '
                'and give the path'
            )
        os.fsync(part.fileno())
        if not fcntl:
            part.close()  # Windows renames no open file
        os.replace(part.name, path)
        _remove(note)
    return True


@contextmanager
def _open_part(path: str) -> Iterator[BinaryIO]:
    """The incomplete file, for this process alone: others wait for it.

    Where files cannot be locked, as on Windows and some clusters' disks, it
    is a file of this process's own, which no later one goes on from.
    """
    while True:
        with open(f'{path}.part', 'a+b') as part:
            if not _lock(part):
                break
            if _is_named(part):
                try:
                    yield part
                finally:
                    if _is_named(part) and not osp.getsize(part.name):
                        os.remove(part.name)  # nothing has come
                return
    _remove(f'{path}.part')
    own = f'{path}.{uuid.uuid4().hex}.part'
    try:
        with open(own, 'x+b') as part:
            yield part
    finally:
        _remove(own)
        _remove(_note(own))


def _lock(part: BinaryIO) -> bool:
    """Lock the file until it is closed, or its process ends."""
    try:
        fcntl.flock(part, fcntl.LOCK_EX)
    except (OSError, AttributeError):  # the latter without fcntl
        return False
    return True


def _is_named(part: BinaryIO) -> bool:
    """Whether the file has been neither renamed nor removed meanwhile."""
    try:
        return osp.samestat(os.stat(part.name), os.fstat(part.fileno()))
    except FileNotFoundError:
        return False


def _fetch(url: str, address: str, part: BinaryIO) -> bool:
    """Ask for what the part lacks; False if it is to be asked for anew."""
    size = part.seek(0, os.SEEK_END)
    with _connection(url):
        try:
            response = urlopen(
                Request(address, headers=_headers(address, part, size)), timeout=_TIMEOUT
            )
        except HTTPError as error:
            if size and error.code == 416:  # the file ends where the part does
                part.truncate(0)
                return False
            raise
    with response:
        if response.status != 206:
            part.truncate(0)
            size = 0
            _write_note(address, part, response)
        elif not response.headers.get('Content-Range', '').startswith(f'bytes {size}-'):
            raise CheckpointError(
                f'{url} cannot be resumed: the server sends another part '
                f'than it was asked for; remove {part.name}'
            )
        length = response.headers.get('Content-Length', '')
        end = size + int(length) if length.isdecimal() else None
        with _connection(url, part, end):
            chunk = response.read1(_CHUNK)
        while chunk:
            part.write(chunk)
            with _connection(url, part, end):
                chunk = response.read1(_CHUNK)
    part.flush()
    if end not in (None, part.tell()):
        raise _cut_off(url, part, end, 'the connection was closed')
    return True


def _headers(address: str, part: BinaryIO, size: int) -> Dict[str, str]:
    """Ask for the rest of the same version of the file, or for all."""
    headers = {'User-Agent': 'biformer_mm', 'Accept-Encoding': 'identity'}
    note = _note(part.name)
    if size and osp.exists(note):
        with open(note, encoding='utf-8') as file:
            noted, _, version = file.read().partition('\n')
        if noted == address:
            headers.update({'Range': f'bytes={size}-', 'If-Range': version})
    return headers


def _note(part: str) -> str:
    """Where it is kept what a part is the beginning of."""
    return f'{part}.version'


def _write_note(address: str, part: BinaryIO, response: HTTPResponse) -> None:
    """Keep what tells this version of the file, if the server says so."""
    _remove(_note(part.name))
    version = response.headers.get('ETag', 'W/')
    if version.startswith('W/'):  # a weak one does not tell bytes apart
        version = response.headers.get('Last-Modified')
    if version:
        with open(_note(part.name), 'w', encoding='utf-8') as file:
            file.write(f'{address}\n{version}')


@contextmanager
def _connection(
    url: str, part: Optional[BinaryIO] = None, end: Optional[int] = None
) -> Iterator[None]:
    """Tell what goes wrong with the connection; within a file, if given."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        reason = str(reason) or type(error).__name__
        if isinstance(error, HTTPError):
            reason = f'the server says {error.code} {reason}'
        if part:
            raise _cut_off(url, part, end, reason) from error
        raise CheckpointError(
            f'{url} cannot be downloaded ({reason}); several public links '
            'are dead: give the path of a copy'
        ) from error


def _cut_off(url: str, part: BinaryIO, end: Optional[int], reason: str) -> CheckpointError:
    part.flush()
    size = part.tell()
    of = '' if end is None else f' of {end}'
    return CheckpointError(
        f'{url} was cut off after {size}{of} bytes ({reason}); run the same '
        'again, which goes on from there if it can'
    )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for chunk in iter(lambda: file.read(_CHUNK), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):  # another process may be first
        os.remove(path)
