"""Convert a released BiFormer checkpoint to today's OpenMMLab.

Takes whole classifiers, detectors (mmdet 2) and segmentors (mmseg 0.x), or
only their backbones, and writes weights and class names, nothing else.
"""

import argparse
import hashlib
import os
import os.path as osp
from typing import Dict, List, Tuple

import torch

from biformer_mm.checkpoint import WholeModel, convert_model, read_checkpoint
from biformer_mm.utils.cli import add_trust, check_writable, make_parser, usage_errors
from biformer_mm.utils.errors import UsageError

KINDS = {
    'cls': 'a classifier of mmpretrain',
    'det': 'a detector of mmdet',
    'seg': 'a segmentor of mmseg',
    None: 'only a backbone, for init_cfg',
}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/model_converters/biformer_to_mm.py '
        'upernet_biformer_s.pth upernet_biformer_s.pth --task seg',
    )
    parser.add_argument('src', help='path of the released checkpoint')
    parser.add_argument(
        'dst', help="path to write; the start of the file's sha256 is added to its name"
    )
    parser.add_argument(
        '--task',
        choices=['cls', 'det', 'seg'],
        help='refuse SRC unless it is a classifier, detector or segmentor',
    )
    parser.add_argument(
        '--token-head',
        action='store_true',
        help="keep a classifier's second head, of token labelling, for "
        'configs/*_token_label_in1k.py',
    )
    parser.add_argument('--force', action='store_true', help='overwrite a file that exists')
    add_trust(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with usage_errors('biformer_to_mm.py'):
        folder = osp.dirname(args.dst) or '.'
        if not osp.isdir(folder):
            raise UsageError(f'DST: there is no folder {folder}; make it first')
        check_writable('DST', args.dst)
        content = read_checkpoint(args.src, args.trust)
        model = convert_model(content, args.task, args.src, args.token_head)
        if args.token_head and 'head.aux_head.weight' not in model.weights:
            raise UsageError(
                f'--token-head: {args.src} has no head of token labelling, aux_head.*; leave it out'
            )
        print(f'{args.src}\nsha256 {sha256(args.src)}\n\n{table(model)}\n')
        path = write(dict(meta=model.meta, state_dict=model.weights), args.dst, args.force)
        print(f'{KINDS[model.task]}, sha256 {sha256(path)}\n{path}')


def table(model: WholeModel) -> str:
    """List what was kept, renamed and dropped, with an example of each."""
    groups: Dict[Tuple[str, str], List[str]] = {}
    for name, origin in model.origins.items():
        part = name.partition('.')[0] if model.task else 'backbone'
        if name == origin:
            groups.setdefault(('taken', part), []).append(name)
        else:
            groups.setdefault(('renamed', part), []).append(f'{origin} -> {name}')
    for origin, why in model.dropped:
        groups.setdefault(('dropped', why), []).append(origin)
    rows = [('', '', 'entries', 'such as')]
    rows += [(*group, str(len(names)), names[0]) for group, names in sorted(groups.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return '\n'.join(
        f'{what:{widths[0]}}  {part:{widths[1]}}  {count:>{widths[2]}}  {example}'
        for what, part, count, example in rows
    )


def write(checkpoint: Dict, dst: str, force: bool) -> str:
    """Write a checkpoint, wholly or not at all.

    Args:
        checkpoint: What to save.
        dst: Path, to whose name the first 8 digits of the file's sha256 are
            added, as OpenMMLab names published models.
        force: Whether to overwrite a file of that name.

    Returns:
        The path written.

    Raises:
        UsageError: The path exists or cannot be written.
    """
    stem = dst[: -len('.pth')] if dst.endswith('.pth') else dst
    unfinished = f'{stem}.{os.getpid()}.tmp'
    try:
        # A file, as torch.save would store a path's name, and change the hash.
        with open(unfinished, 'wb') as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        path = f'{stem}-{sha256(unfinished)[:8]}.pth'
        if osp.exists(path) and not force:
            raise UsageError(f'{path} exists; add --force to overwrite it')
        os.replace(unfinished, path)
    except OSError as error:
        raise UsageError(
            f'{dst} cannot be written: {error}; free its disk or give another path'
        ) from error
    finally:
        if osp.exists(unfinished):
            os.remove(unfinished)
    return path


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


if __name__ == '__main__':
    main()
