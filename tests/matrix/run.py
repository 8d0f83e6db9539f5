"""Run all tools on one config, in one process, and write what came of it.

Call: PYTHONPATH=tests python -m matrix.run CONFIG FOLDER [COLUMN ...], where
CONFIG is a name, without .py, FOLDER holds data/ and gets CONFIG.json, a list
of :class:`Outcome` as dicts, and only the columns named are run.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator, List, NamedTuple

import torch
from config_checks import load
from matrix.cells import COLUMNS, Recipe, check_promise, to_arguments
from matrix.shrink import shrink
from mmengine.utils import ManagerMixin
from process_runner import free_port, launcher_variables
from tool_runner import ROOT

from biformer_mm.utils import register_all_modules

# What makes a detector, which is hardly trained, sure enough to find
# something: added to the biases of classes.
_SURE = 4.0


class Outcome(NamedTuple):
    """Of one cell.

    Attributes:
        config: Name of the config.
        column: Name of the column.
        status: Exit status of the tool.
        output: What it printed.
        broken: What it did not keep of its promise.
        seconds: How long it took.
    """

    config: str
    column: str
    status: int
    output: str
    broken: str
    seconds: float


def main() -> None:
    name, folder, *columns = sys.argv[1:]
    sys.stdout.reconfigure(line_buffering=True)  # errors come last, as they do
    os.chdir(folder)
    register_all_modules()  # configs inherit from 'mmseg::'
    recipe = write_recipe(name)
    if 'strategy' in recipe.cfg:  # which needs a launcher
        os.environ.update(
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(free_port()),
            **launcher_variables('pytorch', 0, 1),
        )
    outcomes = []
    for column in columns or COLUMNS:
        outcomes.append(run_cell(name, column, recipe))
        if column == 'train':
            make_sure(recipe.checkpoint)
    Path(f'{recipe.name}.json').write_text(json.dumps([x._asdict() for x in outcomes], indent=1))
    if not columns:
        shutil.rmtree(recipe.work_dir, ignore_errors=True)  # it is large


def write_recipe(name: str) -> Recipe:
    """Write the shrunken config under the name of the original."""
    path = Path('configs') / f'{Path(name).name}.py'
    path.parent.mkdir(exist_ok=True)
    cfg = shrink(load(name))
    cfg.dump(path)
    return Recipe(str(path), cfg)


def run_cell(config: str, name: str, recipe: Recipe) -> Outcome:
    """Run a tool and keep what it prints."""
    tool, *arguments = to_arguments(name, recipe)
    start = time.time()
    with tempfile.TemporaryFile('w+', errors='replace') as file:
        with output_to(file):
            # What has a launcher cannot be started twice in a process.
            apart = '--launcher' in arguments
            status = (call_apart if apart else call)(tool, arguments)
        file.seek(0)
        output = file.read()
    forget()
    seconds = round(time.time() - start, 1)
    broken = ''
    if status == 0:
        try:
            check_promise(name, recipe, output)
        except Exception as error:
            broken = f'{type(error).__name__}: {error}'
    print(f'{config} {name}: {status} {broken} {seconds} s')
    return Outcome(config, name, status, output, broken, seconds)


@contextmanager
def output_to(file: IO) -> Iterator[None]:
    """Send to a file what this process and its children print."""
    kept = [os.dup(number) for number in (1, 2)]
    sys.stdout.flush(), sys.stderr.flush()
    try:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, copy in zip((1, 2), kept):
            os.dup2(copy, number)
            os.close(copy)


def call(tool: str, arguments: List[str]) -> int:
    """The exit status of a tool that is run as a script."""
    path = str(ROOT / 'tools' / tool)
    arguments, sys.argv = sys.argv, [path, *arguments]
    try:
        runpy.run_path(path, run_name='__main__')
    except SystemExit as error:  # its code is a status, a text or None
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
            return 1
        return int(error.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv = arguments
    return 0


def call_apart(tool: str, arguments: List[str]) -> int:
    """The same in a process of its own."""
    command = [sys.executable, str(ROOT / 'tools' / tool), *arguments]
    return subprocess.run(command).returncode


def forget() -> None:
    """Drop what the frameworks keep in classes for as long as a process."""
    managers = [ManagerMixin]
    for manager in managers:
        managers += manager.__subclasses__()
        manager._instance_dict.clear()


def make_sure(path: str) -> None:
    """Raise the biases of a detector's classes, so that boxes are found."""
    if not Path(path).is_file():
        return
    checkpoint = torch.load(path, map_location='cpu', weights_only=False)
    for name, weights in checkpoint['state_dict'].items():
        if name.endswith('retina_cls.bias'):
            weights += _SURE
        elif name.endswith('fc_cls.bias'):
            weights[:4] += _SURE
    torch.save(checkpoint, path)


if __name__ == '__main__':
    main()
