"""Time and peak memory of one piece of work, on a CPU or a GPU."""
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import torch

DTYPES = dict(
    fp64=torch.float64,
    fp32=torch.float32,
    fp16=torch.float16,
    bf16=torch.bfloat16)


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

    def __init__(self,
                 step: Callable[[], object],
                 device: str,
                 warmup: Optional[int] = None,
                 seconds: Optional[float] = None) -> None:
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
            start, end = (
                torch.cuda.Event(enable_timing=True) for _ in range(2))
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


def spread(values: Sequence[float]) -> Dict:
    """Median, extremes and the values themselves."""
    return dict(
        median=statistics.median(values),
        min=min(values),
        max=max(values),
        values=list(values))


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
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass


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
