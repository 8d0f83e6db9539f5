"""Find what is wrong with a config's data before training on it.

Reads every image, annotation and segmentation map as training would, and lists
each problem with its file, notes first and errors last:
  error    training stops, or learns or evaluates what is wrong
  warning  it goes on, without something or with it changed
  note     it copes; worth knowing
Prints at most five problems of a kind and file, and twenty files of a kind; the
rest with --all, and always in the JSON. Exits with 1 if there are errors, with
--strict also if there are warnings, and with 0 otherwise. With --quick it counts
the files in seconds, and opens no picture.
"""

import argparse
import json
import os
import sys
from collections import Counter
from itertools import groupby
from operator import itemgetter
from typing import Dict, List, Tuple

from mmengine.config import Config
from mmengine.utils import ProgressBar

from biformer_mm.datasets.checks import SEVERITIES, Found, count, plan, scan
from biformer_mm.datasets.checks.evaluator_files import check_evaluator_files
from biformer_mm.datasets.checks.paths import check_classes, check_data
from biformer_mm.engine.config_rules import check_config
from biformer_mm.utils.atomic_file import whole_file
from biformer_mm.utils.cli import (
    add_allow,
    add_cfg_options,
    check_writable,
    make_parser,
    print_report,
    usage_errors,
)
from biformer_mm.utils.config_file import read_config
from biformer_mm.utils.errors import UsageError
from biformer_mm.utils.quiet import quiet_known_warnings

# What to print for the library's arguments in errors.
OPTIONS = {'out of splits': 'out by --splits', 'try workers=1': 'try --workers 1'}


def parse_args() -> argparse.Namespace:
    parser = make_parser(
        __doc__,
        'python tools/misc/check_dataset.py '
        'configs/retinanet_biformer_demo.py --json problems.json  '
        '# after make demo',
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--splits',
        nargs='+',
        choices=['train', 'val', 'test'],
        default=['train', 'val'],
        help='what to check (default: train val)',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='only count: compare the files with the annotations and lists, '
        'and COCO, ADE20K and ImageNet with their published numbers',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(8, os.cpu_count() or 1),
        help='processes that share the reading (default: one for each processor, 8 at most)',
    )
    parser.add_argument('--all', action='store_true', help='print every problem')
    parser.add_argument('--json', metavar='FILE', help='write the list as JSON, too')
    parser.add_argument('--strict', action='store_true', help='exit with 1 on warnings, too')
    add_allow(parser)
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    quiet_known_warnings()
    args = parse_args()
    with usage_errors('check_dataset.py', OPTIONS):
        if args.workers < 1:
            raise UsageError(f'--workers must be 1 or more; got {args.workers}')
        if args.json is not None:
            check_writable('--json', args.json)
        cfg = read_config(args.config, args.cfg_options)
        if not any(cfg.get(f'{split}_dataloader') for split in args.splits):
            raise UsageError(
                f'{args.config} must have data to check; it has '
                f'none for {", ".join(args.splits)}; name '
                'another of --splits'
            )
        check_classes(cfg, args.splits)
        found = [Found('config', p) for p in check_config(cfg, args.splits, args.cfg_options)]
        if args.quick:
            more, images = count(cfg, args.splits)
        else:
            check_data(cfg, args.splits)
            found += [Found(*pair) for pair in check_evaluator_files(cfg, args.splits)]
            more, images = read_all(cfg, args.splits, args.workers)
        found = [
            dict(
                severity='note' if p.kind in args.allow else p.severity, split=split, **p._asdict()
            )
            for split, p in found + more
        ]
        found.sort(
            key=lambda p: (SEVERITIES.index(p['severity']), p['kind'], p['split'], p['file'])
        )
        if args.json is not None:
            write_json(args.json, dict(images=images, problems=found))
    report(found, f'{images} images {"found" if args.quick else "read"}', args.all)
    fatal = SEVERITIES[1 if args.strict else 2 :]
    sys.exit(any(p['severity'] in fatal for p in found))


def read_all(cfg: Config, splits: List[str], workers: int) -> Tuple[List[Found], int]:
    """Read all pictures: the problems, and how many were read."""
    jobs = list(plan(cfg, splits))
    images = sum(len(job.items) for job in jobs)
    if not sys.stderr.isatty():
        return scan(jobs, workers), images
    # The list may be piped, the progress is not.
    found = scan(jobs, workers, ProgressBar(images, file=sys.stderr).update)
    print(file=sys.stderr)
    return found, images


def report(found: List[Dict], images: str, everything: bool) -> None:
    """Print the problems and how many of each kind there are.

    Args:
        found: The problems, sorted by severity, kind and split, and file.
        images: Says how many images were read.
        everything: Whether to print all of them.
    """
    most, most_files = (len(found), len(found)) if everything else (5, 20)
    lines = []
    for start, group in groupby(found, '{severity:7} {kind:15} {split:5}'.format_map):
        files = [list(part) for _, part in groupby(group, itemgetter('file'))]
        for part in files[:most_files]:
            lines += ['{} {file}: {detail}'.format(start, **problem) for problem in part[:most]]
            if len(part) > most:
                lines.append(f'{start} {part[0]["file"]}: and {len(part) - most} more (--all)')
        rest = files[most_files:]
        if rest:
            more = f'{sum(map(len, rest))} more in {len(rest)} other files (--all)'
            lines.append(f'{start} and {more}')
    counts = Counter(problem['severity'] for problem in found)
    for severity in SEVERITIES:
        kinds = Counter(p['kind'] for p in found if p['severity'] == severity)
        if kinds:
            said = ', '.join(f'{kind} {count}' for kind, count in kinds.most_common())
            lines.append(f'{severity}s: {said}')
    ends = [f'{counts[s]} {s}{"s" * (counts[s] > 1)}' for s in reversed(SEVERITIES) if counts[s]]
    total = f'{images}, {len(found)} problem{"s" * (len(found) != 1)}'
    lines.append(f'{total}: {", ".join(ends)}' if ends else total)
    print_report('\n'.join(lines))


def write_json(path: str, content: Dict) -> None:
    """Write a file, wholly or not at all, and the folders that it needs."""
    try:
        with whole_file(path) as unfinished, open(unfinished, 'w') as file:
            json.dump(content, file, indent=1)
    except OSError as error:
        raise UsageError(f'{path} cannot be written: {error}; give --json another path') from error


if __name__ == '__main__':
    main()
