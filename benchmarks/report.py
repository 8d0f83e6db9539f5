"""What a result says about its origin, and how it is written."""

import datetime
import json
import os
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch

DEFAULT_OUT = 'work_dirs/benchmarks'


def environment(device: str, threads: Optional[int] = None) -> Dict:
    """Hardware, versions, date and command of this run; no absolute paths."""
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    gpu = None
    if device == 'cuda':
        properties = torch.cuda.get_device_properties(0)
        gpu = f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB'
    arguments = [  # of absolute paths, which say nothing, the last part
        re.sub(r'(?<![^=]){0}.*{0}'.format(re.escape(os.sep)), '', x) for x in sys.argv[1:]
    ]
    command = ['python', 'benchmarks/' + Path(sys.argv[0]).name, *arguments]
    return dict(
        gpu=gpu,
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        threads=threads or torch.get_num_threads(),
        system=platform.system(),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda if gpu else None,
        triton=triton_version,
        date=datetime.date.today().isoformat(),
        command=' '.join(shlex.quote(x) for x in command),
    )


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    names = re.findall(r'model name\s*: (.+)', info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def write(result: Dict, name: str, tables: Sequence[str], out: str) -> Path:
    """Write NAME.json and NAME.md to a folder of the hardware's own.

    The name says what was measured and the folder on what, but neither says
    when: a newer run replaces the older, and the difference can be read.

    Args:
        result: What the JSON file holds; has the key ``environment``.
        name: File name without ending.
        tables: Markdown.
        out: Folder that holds the hardware's folder.

    Returns:
        The JSON file.
    """
    about = result['environment']
    hardware = about['gpu'] or f'cpu {about["threads"]} threads'
    hardware = re.sub('[^a-z0-9]+', '-', hardware.split(',')[0].lower())
    path = Path(out) / hardware / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n')
    head = '\n'.join(f'- {key}: {value}' for key, value in about.items() if value is not None)
    text = '\n\n'.join([f'# {name}', *tables, head]) + '\n'
    path.with_suffix('.md').write_text(text)
    print(text)
    return path


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ['---', *['---:'] * (len(columns) - 1)]
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in (columns, rule, *rows))


def with_spread(values: Dict, factor: float = 1, digits: int = 3) -> str:
    """'median (min-max)' in significant digits."""
    median, low, high = (_round(values[key] * factor, digits) for key in ('median', 'min', 'max'))
    return f'{median} ({low}-{high})'


def _round(x: float, digits: int) -> str:
    text = f'{x:.{digits}g}'
    return f'{float(text):.0f}' if 'e+' in text else text


def parse_size(text: str) -> Tuple[int, int]:
    """'800x1333' or '224' -> (H, W).

    Raises:
        SystemExit: It is neither, or smaller than the networks' stride, 32.
    """
    sides: List[str] = text.lower().split('x')
    if len(sides) > 2 or not all(x.isdigit() for x in sides) or (min(map(int, sides)) < 32):
        raise SystemExit(
            f'error: a size must be HxW or one number, in pixels, at least 32; got {text!r}'
        )
    return int(sides[0]), int(sides[-1])
