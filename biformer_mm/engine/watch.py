"""Finding out, among processes, who hangs, and ending them all."""
import atexit
import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from math import inf
from typing import Callable, Dict, List, Optional, Tuple

from torch.distributed import Store

from biformer_mm.errors import UsageError, describe

_STDERR = 2  # by its number: no lock that a hung thread may hold
_WAITING = ('torch.distributed', 'torch.nn.parallel.distributed',
            'mmengine.dist')


class Watch:
    """One process's part in finding who hangs.

    Each process tells the others, through the store by which their group was
    formed, how far it is, from a thread of its own. Who waits for long reads
    what all have told, and writes down who hangs; all look for that.

    Args:
        rank: Rank of this process.
        world_size: Number of processes.
        timeout: Seconds without progress.
    """

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self.interval = min(5., timeout / 10)  # s between looks
        self.place, self.event = (0, 0), 'the run began'
        self.moved = self.answered = time.monotonic()
        self.verdict: Optional[Dict] = None
        self.error: Optional[str] = None
        self._thread = threading.get_ident()  # the one that may hang
        self._seen: Dict[int, Tuple[Optional[bytes], float]] = {}
        self._shown = False  # the stacks of those who hang
        self._over, self._spoken = threading.Event(), threading.Lock()

    def start(self, connect: Callable[[], Store]) -> None:
        """Watch from now on.

        Args:
            connect: Gives the store; may block.
        """
        if not faulthandler.is_enabled():
            faulthandler.enable(_STDERR)  # for its workers, too
        self._arm()
        self._talker = threading.Thread(
            target=self._talk, args=(connect, ), daemon=True)
        self._guard = threading.Thread(target=self._look_on, daemon=True)
        self._talker.start()
        self._guard.start()
        atexit.register(self.end, 'an exit before the end of the run')

    def advance(self, event: str, phase: bool = False) -> None:
        """Note progress.

        Args:
            event: What happened.
            phase: It happens in all processes alike, while these may differ in
                the number of other events before it.
        """
        major, minor = self.place
        self.place = (major + 1, 0) if phase else (major, minor + 1)
        self.event, self.moved = event, time.monotonic()

    def end(self, error: Optional[str] = None) -> None:
        """Watch no more.

        Args:
            error: For the others, if they are to end too.
        """
        if self._over.is_set():
            return
        self.error = error
        if error and self.verdict and str(self.rank) in self.verdict['ranks']:
            self._talker.join()  # it ends the process, when others have spoken
        self._over.set()
        self._guard.join(2)
        self._talker.join(2)
        faulthandler.cancel_dump_traceback_later()

    def fail(self, error: BaseException) -> None:
        """Have the others end, too, or say why this one does."""
        if isinstance(error, SystemExit) and not error.code:
            self.end()
            return
        if self.rank == 0:  # it may hold the store: time to read
            atexit.register(time.sleep, self.interval + 1)
        self.end(
            str(error) if isinstance(error, UsageError) else describe(error))
        if self.verdict and not isinstance(error, UsageError):
            self._speak()

    def _arm(self) -> None:
        """Have C print the stacks and exit if Python does not run.

        By then the others, who may see the exit as an error, know who hangs.
        """
        faulthandler.dump_traceback_later(
            self.timeout + 5 * self.interval, exit=True, file=_STDERR)

    def _look_on(self) -> None:
        """See that Python runs, and that the store answers."""
        while not self._over.wait(self.interval):
            self._arm()
            silence = time.monotonic() - max(self.answered, self.moved)
            if self.verdict is None and silence > (self.timeout +
                                                   2 * self.interval):
                _write(f'rank {self.rank} ends: no progress for '
                       f'{self.timeout:g} s since {self.event}, and no answer '
                       'from the process through which the ranks talk, rank 0 '
                       'unless torchrun started them\n')
                if not _waits(self._thread):
                    faulthandler.dump_traceback(_STDERR)
                os._exit(1)

    def _talk(self, connect: Callable[[], Store]) -> None:
        try:
            store = connect()
            while not self._over.is_set():
                self.exchange(store)
                if self.verdict is not None:
                    self._finish(store)
                self._over.wait(self.interval)
            if self.error is None:
                self._tell(store, (inf, 0))
            elif self.verdict is None:
                self._judge(store, {self.rank: self.error}, failed=True)
        except RuntimeError:
            pass  # no answer, as _look_on sees; or the run is at its end

    def exchange(self, store: Store) -> None:
        """Tell the others how far this process is; find out who hangs."""
        self._tell(store, self.place)
        verdict = _look_up(store, 'verdict')
        if verdict:
            self.verdict = json.loads(verdict)
        elif time.monotonic() - self.moved < 2 * self.interval:
            self._seen.clear()
        else:
            states = {r: self._read(store, r) for r in range(self.world_size)}
            hung = find_hung(states, self.timeout)
            if hung:
                self._judge(store, {r: states[r]['event'] for r in hung})
        self.answered = time.monotonic()

    def _tell(self, store: Store, place: Tuple[float, int]) -> None:
        state = dict(
            place=place,
            event=self.event,
            waits=_waits(self._thread),
            idle=time.monotonic() - self.moved)
        store.set(f'state_{self.rank}', json.dumps(state))

    def _read(self, store: Store, rank: int) -> Dict:
        """A process's state; that of one which tells no more grows old."""
        key, now = f'state_{rank}', time.monotonic()
        told = _look_up(store, key)
        before, since = self._seen.get(rank, (None, now))
        if told != before:
            since = now
        self._seen[rank] = told, since
        state = dict(place=(-1, 0), event='its start', waits=False, idle=0.)
        state.update(json.loads(told or '{}'))
        state['idle'] += now - since
        return state

    def _judge(self,
               store: Store,
               ranks: Dict[int, str],
               failed: bool = False) -> None:
        """Write down who hangs or failed, unless another did."""
        verdict = json.dumps(dict(ranks=ranks, failed=failed))
        self.verdict = json.loads(store.compare_set('verdict', '', verdict))
        if failed and self.verdict == json.loads(verdict):
            self.verdict = None  # the traceback says it

    def _finish(self, store: Store) -> None:
        """End this process after those that are to blame have spoken."""
        ranks = [int(rank) for rank in self.verdict['ranks']]
        if self.rank in ranks:
            earlier = ranks[:ranks.index(self.rank)]
            self._await_stacks(store, earlier, 3.)
            self._show()
            with suppress(RuntimeError):
                store.set(f'shown_{self.rank}', 'yes')
            delay = self.interval + 1  # the others have seen it by then
        else:
            # A launcher takes the first that ends for the cause.
            delay = 2 * self.interval + 3
            if self.verdict['failed']:
                delay = 5
                self._over.wait(delay)  # for the traceback
            else:
                self._shown = self._await_stacks(store, ranks,
                                                 5 + 4 * self.interval)
            if self._over.is_set():  # an error ends it, which may say more
                return
            self._speak()
        if not self._over.wait(delay):
            os._exit(1)

    def _await_stacks(self, store: Store, ranks: List[int],
                      limit: float) -> bool:
        """Whether all have shown their stacks, at most ``limit`` s later."""
        keys = [f'shown_{rank}' for rank in ranks]
        limit += time.monotonic()
        with suppress(RuntimeError):  # one of them may have held the store
            while not all(_look_up(store, key) for key in keys):
                if time.monotonic() > limit or self._over.wait(0.2):
                    return False
            return True
        return False

    def _show(self) -> None:
        """Print the stacks of this process and of its loaders' workers."""
        _write(f'rank {self.rank} hangs: no progress for {self.timeout:g} s '
               f'(timeout of HangHook) since {self.event}. Raise the timeout '
               'if it was to take longer. Stacks of its threads:\n')
        faulthandler.dump_traceback(_STDERR)
        if 'torch.utils.data.dataloader' not in _modules(self._thread):
            return
        for worker in multiprocessing.active_children():
            _write(f'worker {worker.pid} of rank {self.rank}, ended:\n')
            os.kill(worker.pid, signal.SIGABRT)
            worker.join(1)

    def _speak(self) -> None:
        """Say, once, which others are the reason that this process ends."""
        if not self._spoken.acquire(blocking=False):
            return
        blame = self.verdict['ranks'].items()
        if self.verdict['failed']:
            text = '; '.join(f'rank {r} failed: {error}' for r, error in blame)
        else:
            text = '; '.join(f'rank {r} hangs since {event}'
                             for r, event in blame)
            text += (': see the stacks above' if self._shown else
                     ', or later, and does not answer: it runs code that '
                     'keeps the interpreter, or it is stopped')
        _write(f'rank {self.rank} ends: {text}\n')


def find_hung(states: Dict[int, Dict], timeout: float) -> List[int]:
    """Ranks that hang.

    They are those who are behind, if all of these made no progress for the
    timeout. If some of these do not wait for others, they alone.

    Args:
        states: By rank: the place that it has reached, whether it waits for
            other processes, and for how many seconds it was idle.
        timeout: Seconds.
    """
    last = min(tuple(state['place']) for state in states.values())
    behind = {
        rank: state
        for rank, state in states.items() if tuple(state['place']) == last
    }
    if any(state['idle'] < timeout for state in behind.values()):
        return []
    return [rank for rank, state in behind.items() if not state['waits']
            ] or list(behind)


def _look_up(store: Store, key: str) -> bytes:
    """What a store has; nothing if it has not, where ``get`` would wait."""
    return store.compare_set(key, '', '')


def _modules(thread: int) -> List[str]:
    """Modules of a thread's calls, the innermost first."""
    names, frame = [], sys._current_frames().get(thread)
    while frame is not None:
        names.append(frame.f_globals.get('__name__', ''))
        frame = frame.f_back
    return names


def _waits(thread: int) -> bool:
    """Whether a thread waits for other processes, as far as Python knows."""
    names = _modules(thread)
    return bool(names) and names[0].startswith(_WAITING)


def _write(text: str) -> None:
    os.write(_STDERR, text.encode())
