"""Whether the kernels are right: every problem, in every dtype.

Errors are against the reference in fp64. What is allocated holds nan, so that
an element that no kernel writes shows, and a second run must give the same
bits. Kernels are compiled in several processes beforehand.
"""

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Dict, Iterator, List

import torch
from problems import Problem, errors_of, make_inputs, outputs, wrong
from report import table

from gpu.step import Step

LEAST_SECONDS = 3  # that must be left for another case
NAMES = ('o', 'dq', 'dk', 'dv')


def run(step: Step) -> None:
    sizes = step.sizes
    problems = {
        f'{size}, stage {stage}': problem
        for size, of_size in sizes.stages.items()
        for stage, problem in enumerate(of_size, 1)
    }
    problems.update(sizes.corners)
    cases = [(dtype, name) for dtype in sizes.dtypes for name in problems]
    pool = ProcessPoolExecutor(sizes.workers, mp_context=multiprocessing.get_context('spawn'))
    compiled = [
        pool.submit(compile_kernels, problems[name], sizes.device, dtype) for dtype, name in cases
    ]
    for (dtype, name), kernels in zip(cases, compiled):
        if step.seconds_left() < LEAST_SECONDS:
            print(f'no time is left for {dtype}, {name} and what follows')
            break
        with step.case(problem=name, dtype=dtype) as row:
            wait(kernels)
            check(problems[name], sizes.device, dtype, row)
    pool.shutdown(cancel_futures=True)


def compile_kernels(problem: Problem, device: str, dtype: str) -> None:
    """Fill Triton's cache on disk with what a problem needs."""
    problem = problem._replace(batch=1)
    outputs(problem, make_inputs(problem, device, dtype), 'triton')


def wait(kernels: Future) -> None:
    """Raise what compiling raised.

    If its process died, raise nothing: the check compiles once more.
    """
    try:
        kernels.result()
    except BrokenProcessPool as error:
        print(f'compiling: {error}')


def check(problem: Problem, device: str, dtype: str, row: Dict) -> None:
    """Store errors, and the reason if they are too large."""
    inputs = make_inputs(problem, device, dtype)
    with poisoned():
        first, second = (outputs(problem, inputs, 'triton') for _ in range(2))
    row['errors'] = errors_of(first, problem, inputs)
    row['error'] = wrong(row['errors'], dtype)
    differ = [x for x in NAMES if not torch.equal(first[x], second[x])]
    if differ and not row['error']:
        row['error'] = f'two runs differ in {", ".join(differ)}'


@contextmanager
def poisoned() -> Iterator[None]:
    """Let PyTorch fill with nan whatever is allocated without a value."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def lines(rows: List[Dict]) -> List[str]:
    """The largest errors in each dtype, and which case has them."""
    found = []
    for dtype in dict.fromkeys(row['dtype'] for row in rows):
        of_dtype = [row for row in rows if row['dtype'] == dtype]
        good = [row for row in of_dtype if not row['error']]
        cells = [f'{dtype}: {len(good)} of {len(of_dtype)} right']
        for name in NAMES:
            worst = max(good, key=lambda row: row['errors'][name], default=None)
            cells.append(f'{worst["errors"][name]:.1e} ({worst["problem"]})' if worst else '-')
        found.append(cells)
    return [table(['worst error of', *NAMES], found)] if found else []
