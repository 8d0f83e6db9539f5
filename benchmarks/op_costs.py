"""Time and peak memory of the attention op on a problem."""

import argparse
import multiprocessing
from typing import Dict

import torch
from measure import Timer, memory_in_use, peak_memory, recorded, reset_peak_memory, time_rows
from problems import Problem, make_step, prepare


def measure(
    problem: Problem,
    rows: Dict[str, Dict],
    mode: str,
    args: argparse.Namespace,
    routed: bool = False,
) -> Dict[str, Dict]:
    """Seconds and bytes of each backend.

    Args:
        problem: The problem.
        rows: As :func:`measure.time_rows` takes them, by backend.
        mode: One of ``problems.MODES``.
        args: ``device``, ``dtype`` and ``repeats``.
        routed: Whether the routing index is computed, too.

    Returns:
        What was measured; a backend that failed is left out.
    """

    def make_timer(name: str) -> Timer:
        attend, inputs = prepare(problem, name, args.device, args.dtype, routed)
        return Timer(make_step(attend, inputs, mode), args.device)

    found = {}
    for name, seconds in time_rows(rows, make_timer, args.repeats).items():
        with recorded(rows[name]):
            found[name] = dict(
                seconds=seconds,
                peak_memory=memory(problem, name, mode, args.device, args.dtype, routed),
            )
    return found


def memory(problem: Problem, backend: str, mode: str, device: str, dtype: str, routed: bool) -> int:
    """Most bytes that one call uses above its inputs.

    Raises:
        RuntimeError: The process that was to measure it died.
    """
    args = problem, backend, mode, device, dtype, routed
    if device == 'cuda':
        return _memory(*args)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['torch', 'biformer_mm.ops'])
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_memory, args=(sender, torch.get_num_threads(), *args))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        raise RuntimeError(
            f'the process that was to measure memory ended with status {child.exitcode}'
        ) from None
    finally:
        child.join()


def _send_memory(pipe, threads: int, *args) -> None:
    torch.set_num_threads(threads)
    pipe.send(_memory(*args))


def _memory(
    problem: Problem, backend: str, mode: str, device: str, dtype: str, routed: bool
) -> int:
    # A small call first: what libraries load and keep for good is not counted.
    side = 2 * problem.num_regions - 1
    small = problem._replace(batch=1, height=side, width=side)
    attend, inputs = prepare(small, backend, device, dtype, routed)
    make_step(attend, inputs, mode)()
    attend, inputs = prepare(problem, backend, device, dtype, routed)
    step = make_step(attend, inputs, mode)
    reset_peak_memory(device)
    before = memory_in_use(device)
    step()
    return max(0, peak_memory(device) - before)
