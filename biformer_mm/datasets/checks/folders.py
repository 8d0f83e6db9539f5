"""Find folders and files that nobody wanted, or that are passed over, beside pictures."""

import os
import os.path as osp
from collections import Counter, defaultdict
from typing import Iterable, Iterator, List, Sequence

from .problems import Problem

# What archives, network storage and file systems add. Names with a dot are hidden, too.
_HIDDEN = ('__MACOSX', '@eaDir', 'lost+found')
_PHOTOS = ('.avif', '.gif', '.heic', '.jfif', '.jp2', '.jpe', '.jpeg', '.jpg', '.webp')
_PICTURES = (*_PHOTOS, '.bmp', '.dib', '.pbm', '.pgm', '.png', '.ppm', '.tif', '.tiff')


def walk(folder: str, below: str = '') -> Iterator[str]:
    """Yield the files below a folder, relative to it, as the frameworks list them.

    They leave out files whose name starts with a dot, but not such folders.
    """
    try:
        entries = os.scandir(osp.join(folder, below))
    except OSError:
        return
    with entries:
        for entry in entries:
            name = f'{below}/{entry.name}' if below else entry.name
            if entry.is_dir():
                yield from walk(folder, name)
            elif not entry.name.startswith('.'):
                yield name


def is_hidden(folder: str) -> bool:
    """Return whether a folder of this name holds no data of the user's."""
    return folder.startswith('.') or folder in _HIDDEN


def hidden_part(path: str) -> str:
    """Return the outermost hidden folder of a relative path, '' if there is none."""
    folders = path.split('/')[:-1]
    for depth, folder in enumerate(folders, 1):
        if is_hidden(folder):
            return '/'.join(folders[:depth])
    return ''


def hidden_folders(root: str, pictures: Iterable[str]) -> Iterator[Problem]:
    """Report hidden folders whose pictures are read, one problem for each folder name.

    Args:
        root: A folder.
        pictures: The pictures below it that a data set reads, relative to it.
    """
    by_name = defaultdict(Counter)
    for path in pictures:
        part = hidden_part(path)
        if part:
            by_name[osp.basename(part)][part] += 1
    for name, counts in sorted(by_name.items()):
        yield Problem(
            'hidden-folder',
            osp.join(root, min(counts)),
            f'hidden folders hold no data, but {sum(counts.values())} pictures of '
            f'{len(counts)} folders named {name} would be read; delete these folders',
        )


def is_picture(path: str) -> bool:
    """Return whether a file has the extension of a picture."""
    return path.lower().endswith(_PICTURES)


def passed_over(
    root: str, skipped: Sequence[str], read: Iterable[str], ending: str
) -> Iterator[Problem]:
    """Report pictures that a data set does not read because of their extension.

    Args:
        root: A folder.
        skipped: The pictures below it that are not read, relative to it.
        read: Those that are read. A skipped one of the same name is left out of
            the report: it is the same picture, or belongs to it.
        ending: What the names of pictures must end with, for the message.
    """
    lost = lost_pictures(skipped, read)
    if not lost:
        return
    extensions = Counter(osp.splitext(path)[1] for path in lost)
    found = ', '.join(f'{count} {extension}' for extension, count in extensions.most_common(4))
    yield Problem(
        'passed-over',
        root,
        f'names of pictures must end with {ending}; {len(lost)} do not and are not read '
        f'({found}), such as {min(lost)}; rename or convert them',
    )


def lost_pictures(skipped: Sequence[str], read: Iterable[str]) -> List[str]:
    """Return the skipped pictures of which none is read under another extension."""
    if not skipped:
        return []
    known = {osp.splitext(path)[0] for path in read}
    return [
        path for path in skipped if osp.splitext(path)[0] not in known and not hidden_part(path)
    ]
