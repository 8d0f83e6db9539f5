"""Time and peak memory of one piece of work, on a CPU or a GPU."""

import contextlib
import resource
import statistics
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence

import torch

DTYPES = dict(fp64=torch.float64, fp32=torch.float32, fp16=torch.float16, bf16=torch.bfloat16)


class Timer:
    """Times a function that does the same work at every call.

    It warms up first, and from that learns how many calls make one reading,
    so that short work is not measured with the clock's error.

    Args:
        step: The function.
        device: 'cpu' or 'cuda'.
        warmup: Untimed calls, at least 1; default 1 on a CPU, 5 on a GPU.
        seconds: Least duration of a reading; default 0.2 on a CPU, 0.05 on a
            GPU, whose clock is finer.
    """

    def __init__(
        self,
        step: Callable[[], object],
        device: str,
        warmup: Optional[int] = None,
        seconds: Optional[float] = None,
    ) -> None:
        self.step = step
        self.device = device
        for _ in range(warmup or (5 if device == 'cuda' else 1)):
            once = self._run(1)
        seconds = seconds or (0.05 if device == 'cuda' else 0.2)
        self.calls = max(1, round(seconds / once))

    def read(self) -> float:
        """Seconds per call, one reading."""
        return self._run(self.calls) / self.calls

    def _run(self, calls: int) -> float:
        if self.device == 'cuda':
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                self.step()
            end.record()
            torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3
        start = time.perf_counter()
        for _ in range(calls):
            self.step()
        return time.perf_counter() - start


class RotatingTimer(Timer):
    """Times steps that do the same work, each on inputs of its own.

    They run one after another, so that a cache does not hold the next step's
    inputs already.

    Args:
        steps: The functions.
        device: 'cpu' or 'cuda'.
        graph: Record the steps in a CUDA graph and time its replays, which
            have almost no gaps between kernels. Ignored on a CPU.
        seconds: As :class:`Timer` takes it.
    """

    def __init__(
        self,
        steps: Sequence[Callable[[], object]],
        device: str,
        graph: bool = False,
        seconds: Optional[float] = None,
    ) -> None:

        def run_all() -> None:
            for step in steps:
                step()

        self.steps = len(steps)
        run = capture(run_all) if graph and device == 'cuda' else run_all
        super().__init__(run, device, seconds=seconds)

    def read(self) -> float:
        """Seconds per step, one reading."""
        return super().read() / self.steps


def capture(step: Callable[[], object]) -> Callable[[], None]:
    """Record a function's kernels in a CUDA graph; return its replay."""
    side = torch.cuda.Stream()  # as PyTorch asks: warm up beside the default
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@contextmanager
def recorded(row: Dict) -> Iterator[None]:
    """Store an exception of the block as ``row['error']``; others go on.

    Triton's errors are no RuntimeErrors, hence any Exception.
    """
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        row['error'] = ': '.join([type(error).__name__, *lines[:1]])


def time_rows(rows: Dict[str, Dict], make: Callable[[str], Timer], repeats: int) -> Dict[str, Dict]:
    """Time what is compared, in turns (A B A B ...).

    Args:
        rows: A row per name. Those with an ``error`` are left out, and those
            that fail here get one.
        make: Makes the timer of a name.
        repeats: Readings of each timer.

    Returns:
        A spread of seconds for each row without an error.
    """
    timers, times = {}, {}
    for name, row in rows.items():
        if not row['error']:
            with recorded(row):
                timers[name], times[name] = make(name), []
    for _ in range(repeats):
        for name, timer in timers.items():
            if not rows[name]['error']:
                with recorded(rows[name]):
                    times[name].append(timer.read())
    return {name: spread(values) for name, values in times.items() if not rows[name]['error']}


def spread(values: Sequence[float]) -> Dict:
    """Median, extremes and the values themselves."""
    return dict(
        median=statistics.median(values), min=min(values), max=max(values), values=list(values)
    )


def memory_in_use(device: str) -> int:
    """Bytes in use now: tensors of a GPU, else the process."""
    if device == 'cuda':
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()
    return _of_process('VmRSS') or peak_memory(device)


def reset_peak_memory(device: str) -> None:
    """Forget the peak so far; not every system lets a process do so.

    A process that freed memory may still hold it, so that its next peak is
    not the work's own: give each measurement on a CPU its own process.
    """
    if device == 'cuda':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def peak_memory(device: str) -> int:
    """Most bytes in use at once since the last reset."""
    if device == 'cuda':
        return torch.cuda.max_memory_allocated()
    # Where it is known: unlike the other, it never counts a parent's memory.
    known = _of_process('VmHWM')
    if known is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else peak * 1024


def _of_process(key: str) -> Optional[int]:
    """Bytes, from Linux's status file."""
    status = Path('/proc/self/status')
    lines = status.read_text().splitlines() if status.exists() else []
    values = [int(x.split()[1]) * 1024 for x in lines if x.startswith(key)]
    return values[0] if values else None
