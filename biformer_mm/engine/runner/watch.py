"""Ending all processes of a run when one of them hangs or fails.

A process that watches has two threads beside the one that trains.

The talker tells the others how far this process is, again and again. When the
process has not come further for a while, it reads how far all are, and if
those who are behind have been idle for the timeout, it writes the verdict:
they hang. A process that fails by an exception writes one, too. All read it,
and end:

1. Those that hang print their stacks, by rank. The one that failed prints its
   traceback, as Python does.
2. The others wait for that, so that the cause is what is printed first, and
   name who is to blame.
3. Who is to blame exits first: launchers take the first exit for the cause.

The guard sees to it that the talker works. If the store does not answer, as
its process is stopped or gone, the guard ends this process when that has made
no progress for the timeout. And it winds up a timer outside of Python that
prints the stacks and exits: it runs out if a thread keeps the interpreter.
"""

import atexit
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from math import inf
from typing import Callable, List, Optional

from torch.distributed import Store

from biformer_mm.utils.errors import UsageError, describe

from .board import Board, State, Verdict, find_hung

_STDERR = 2  # by its number: no lock that a hung thread may hold
_TRACEBACK_SECONDS = 5.0  # for another process to print it
_WAITING = ('torch.distributed', 'torch.nn.parallel.distributed', 'mmengine.dist')


class Watch:
    """One process's part in finding who hangs.

    Made in the thread that trains, which calls ``advance`` and, in the end,
    ``end`` or ``fail``.

    Args:
        rank: Rank of this process.
        world_size: Number of processes.
        timeout: Seconds without progress.
    """

    def __init__(self, rank: int, world_size: int, timeout: float) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self.interval = min(5.0, timeout / 10)  # s between looks
        self.place, self.event = (0, 0), 'the run began'
        self.moved = time.monotonic()  # when this process came further
        self.answered = self.moved  # when the store did
        self.verdict: Optional[Verdict] = None
        self.error: Optional[str] = None  # by which this process ends
        self._trainer = threading.get_ident()
        self._over = threading.Event()
        self._stacks_seen = False  # of those who hang
        self._named = threading.Lock()  # taken when they were

    def start(self, connect: Callable[[], Store]) -> None:
        """Watch from now on.

        Args:
            connect: Gives the store; may block.
        """
        if not faulthandler.is_enabled():
            faulthandler.enable(_STDERR)  # for forked workers, too
        os.environ['PYTHONFAULTHANDLER'] = '1'  # for spawned workers
        self._wind_up()
        self._talker = threading.Thread(target=self._talk, args=(connect,), daemon=True)
        self._guard = threading.Thread(target=self._keep_guard, daemon=True)
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
        if error and self.verdict and self.rank in self.verdict.blamed:
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
        self.end(str(error) if isinstance(error, UsageError) else describe(error))
        if self.verdict and not isinstance(error, UsageError):
            self._name_blamed()

    # The talker.

    def _talk(self, connect: Callable[[], Store]) -> None:
        try:
            board = Board(connect(), self.rank, self.world_size)
            while not self._over.is_set():
                self.exchange(board)
                if self.verdict is not None:
                    self._end_process(board)
                self._over.wait(self.interval)
            self._take_leave(board)
        except RuntimeError:
            pass  # no answer, as the guard sees; or the run is at its end

    def exchange(self, board: Board) -> None:
        """Tell the others how far this process is; find out who hangs."""
        board.tell(self._state())
        self.verdict = board.verdict()
        if self.verdict is None:
            if time.monotonic() - self.moved < 2 * self.interval:
                board.forget()
            else:
                self._judge(board)
        self.answered = time.monotonic()

    def _state(self) -> State:
        return State(self.place, self.event, _waits(self._trainer), time.monotonic() - self.moved)

    def _judge(self, board: Board) -> None:
        states = board.states()
        hung = find_hung(states, self.timeout)
        if hung:
            self.verdict = board.blame(Verdict({r: states[r].event for r in hung}, failed=False))

    def _end_process(self, board: Board) -> None:
        """End this process after those that are to blame have spoken."""
        if self.rank in self.verdict.blamed:
            self._show_in_turn(board)
            delay = self.interval + 1  # the others have seen it by then
        else:
            delay = self._await_blamed(board)
            if self._over.is_set():  # an error ends it, which may say more
                return
            self._name_blamed()
        if not self._over.wait(delay):
            os._exit(1)

    def _show_in_turn(self, board: Board) -> None:
        ranks = list(self.verdict.blamed)
        self._await_stacks(board, ranks[: ranks.index(self.rank)], 3.0)
        self._show()
        with suppress(RuntimeError):
            board.tell_shown()

    def _await_blamed(self, board: Board) -> float:
        """Wait until those to blame have spoken; return for how many seconds
        they are to be given the chance to exit first.
        """
        if self.verdict.failed:
            self._over.wait(_TRACEBACK_SECONDS)
            return _TRACEBACK_SECONDS
        self._stacks_seen = self._await_stacks(
            board, list(self.verdict.blamed), 5 + 4 * self.interval
        )
        return 3 + 2 * self.interval

    def _await_stacks(self, board: Board, ranks: List[int], limit: float) -> bool:
        """Whether all have shown their stacks, at most ``limit`` s later."""
        limit += time.monotonic()
        with suppress(RuntimeError):  # one of them may have held the store
            while not board.have_shown(ranks):
                if time.monotonic() > limit or self._over.wait(0.2):
                    return False
            return True
        return False

    def _take_leave(self, board: Board) -> None:
        """Tell how this process ends."""
        if self.error is None:
            board.tell(self._state()._replace(place=(inf, 0)))
        elif self.verdict is None:
            own = Verdict({self.rank: self.error}, failed=True)
            holds = board.blame(own)
            if holds != own:  # else the traceback says it
                self.verdict = holds

    # The guard.

    def _keep_guard(self) -> None:
        while not self._over.wait(self.interval):
            self._wind_up()
            silence = time.monotonic() - max(self.answered, self.moved)
            if self.verdict is None and silence > (self.timeout + 2 * self.interval):
                _write(
                    f'rank {self.rank} ends: no progress for '
                    f'{self.timeout:g} s since {self.event}, and no answer '
                    'from the process through which the ranks talk, rank 0 '
                    'unless torchrun started them\n'
                )
                if not _waits(self._trainer):
                    faulthandler.dump_traceback(_STDERR)
                os._exit(1)

    def _wind_up(self) -> None:
        """Have C print the stacks and exit if Python does not run.

        By then the others, who may see the exit as an error, know who hangs.
        """
        faulthandler.dump_traceback_later(self.timeout + 5 * self.interval, exit=True, file=_STDERR)

    # What they print.

    def _show(self) -> None:
        """Print the stacks of this process and of its loaders' workers."""
        _write(
            f'rank {self.rank} hangs: no progress for {self.timeout:g} s '
            f'(timeout of HangHook) since {self.event}. Raise the timeout '
            'if it was to take longer. Stacks of its threads:\n'
        )
        faulthandler.dump_traceback(_STDERR)
        if 'torch.utils.data.dataloader' not in _modules(self._trainer):
            return
        for worker in multiprocessing.active_children():
            _write(f'worker {worker.pid} of rank {self.rank}, ended:\n')
            os.kill(worker.pid, signal.SIGABRT)
            worker.join(1)

    def _name_blamed(self) -> None:
        """Say, once, which others are the reason that this process ends."""
        if not self._named.acquire(blocking=False):
            return
        blamed, failed = self.verdict
        if failed:
            text = '; '.join(f'rank {r} failed: {error}' for r, error in blamed.items())
        else:
            text = '; '.join(f'rank {r} hangs since {event}' for r, event in blamed.items())
            text += (
                ': see the stacks above'
                if self._stacks_seen
                else ', or later, and does not answer: it runs code that '
                'keeps the interpreter, or it is stopped'
            )
        _write(f'rank {self.rank} ends: {text}\n')


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
