"""What the processes of a run tell one another, to find out who hangs.

They do it through the store by which their group was formed, under the keys

    state_R   of rank R: a State
    verdict   a Verdict; the first that is written holds
    shown_R   set when rank R, which hangs, has printed its stacks
"""

import json
import time
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

from torch.distributed import Store


class State(NamedTuple):
    """How far a process is.

    Args:
        place: Number of phases that it began, and of events since; phases
            come in all processes alike, other events need not.
        event: What brought it there.
        waits: Whether it waits for other processes.
        idle: Seconds since the event.
    """

    place: Tuple[float, int]
    event: str
    waits: bool
    idle: float


class Verdict(NamedTuple):
    """Why all processes are to end.

    Args:
        blamed: By rank: its error or, if it hangs, its last event.
        failed: Whether it failed; else it hangs.
    """

    blamed: Dict[int, str]
    failed: bool


class Board:
    """One process's access to what all tell.

    Args:
        store: The store, or a part of it for this run.
        rank: Rank of this process.
        world_size: Number of processes.

    Raises:
        RuntimeError: By all methods: the store does not answer.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self._seen: Dict[int, Tuple[bytes, float]] = {}  # and since when

    def tell(self, state: State) -> None:
        """Tell this process's state."""
        self.store.set(f'state_{self.rank}', json.dumps(state._asdict()))

    def states(self) -> Dict[int, State]:
        """All processes' states; that of one which tells no more grows old."""
        return {rank: self._state(rank) for rank in range(self.world_size)}

    def forget(self) -> None:
        """Have the states grow old from the next look on."""
        self._seen.clear()

    def blame(self, verdict: Verdict) -> Verdict:
        """Write a verdict, unless there is one; return the one that holds."""
        text = json.dumps(dict(ranks=verdict.blamed, failed=verdict.failed))
        return _verdict(self.store.compare_set('verdict', '', text))

    def verdict(self) -> Optional[Verdict]:
        """The verdict, if there is one."""
        text = self._get('verdict')
        return _verdict(text) if text else None

    def tell_shown(self) -> None:
        """Tell that this process has printed its stacks."""
        self.store.set(f'shown_{self.rank}', 'yes')

    def have_shown(self, ranks: Iterable[int]) -> bool:
        """Whether all of these ranks have printed their stacks."""
        return all(self._get(f'shown_{rank}') for rank in ranks)

    def _state(self, rank: int) -> State:
        told, now = self._get(f'state_{rank}'), time.monotonic()
        if rank not in self._seen or self._seen[rank][0] != told:
            self._seen[rank] = told, now
        state = State((-1, 0), 'its start', waits=False, idle=0.0)
        if told:
            state = State(**json.loads(told))
        return state._replace(place=tuple(state.place), idle=state.idle + now - self._seen[rank][1])

    def _get(self, key: str) -> bytes:
        """A value, empty if there is none, where ``get`` would wait."""
        return self.store.compare_set(key, '', '')


def _verdict(text: bytes) -> Verdict:
    verdict = json.loads(text)
    return Verdict({int(rank): why for rank, why in verdict['ranks'].items()}, verdict['failed'])


def find_hung(states: Dict[int, State], timeout: float) -> List[int]:
    """Ranks that hang.

    They are those who are behind, if all of these made no progress for the
    timeout. If some of these do not wait for others, they alone.

    Args:
        states: By rank.
        timeout: Seconds.
    """
    last = min(state.place for state in states.values())
    behind = {r: state for r, state in states.items() if state.place == last}
    if any(state.idle < timeout for state in behind.values()):
        return []
    return [r for r, state in behind.items() if not state.waits] or list(behind)
