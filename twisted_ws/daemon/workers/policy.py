"""When a worker is given up and when the next one starts, decided from times alone."""

from __future__ import annotations

from collections import deque
from math import ceil

# Seconds between two pings. A worker that answers none for `Limits.workerSilence` is killed.
PING = 1.0
# So many workers of one slot that end within so many seconds, and the next one has to wait.
DEATHS = 3
WITHIN = 10.0
# Seconds until the next one then, twice as long each time, up to a limit.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0


class Restarts:
    """Says how long one slot stays empty.

    A worker that dies is replaced at once: its share of the clients waits. One that keeps dying, or cannot start, would use up a
    core and fill the log.
    """

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=DEATHS)
        self._waits = 0

    def ended(self, now: float, served: float | None) -> float:
        """Return after how many seconds the next worker may start.

        Args:
            now: the time.
            served: for how many seconds the worker that has ended accepted connections; None if it could not start.
        """
        if served is not None and served >= WITHIN:
            self._waits = 0
        self._ends.append(now)
        often = len(self._ends) == DEATHS and now - self._ends[0] < WITHIN
        if served is not None and not often:
            return 0
        wait = min(FIRST_WAIT * 2.0**self._waits, LONGEST_WAIT)
        self._waits += 1
        return wait


class Pulse:
    """Says whether a worker still works: it is asked each second and has to answer before the last of a few questions.

    Questions are counted, not seconds: when the supervisor itself stood still, it has asked only once.

    Args:
        silence: seconds (`Limits.workerSilence`).
    """

    def __init__(self, silence: float) -> None:
        self._most = ceil(silence / PING)
        self._asked = 0

    def ask(self) -> bool:
        """Count one more question, and return whether to ask it; False: the worker has been silent for too long."""
        self._asked += 1
        return self._asked <= self._most

    def answered(self) -> None:
        """Note that something came from it."""
        self._asked = 0


def isWorse(new: tuple[int, int], old: tuple[int, int]) -> bool:
    """Return whether new code fails where old code does not: more than twice as often for each of its callers.

    Args:
        new: how many handlers of it have raised, and how many callers it has.
        old: the same of the old code in the same time.
    """
    (failures, callers), (before, others) = new, old
    return failures * max(others, 1) > 2 * before * max(callers, 1)


def cover(empty: list[int], ready: list[int], covers: dict[int, int]) -> dict[int, int]:
    """Return which slot accepts for which empty one.

    Args:
        empty: the slots whose next worker has to wait.
        ready: the slots whose workers accept.
        covers: who covers for whom now (by empty slot). Who does goes on; others are chosen evenly.
    """
    chosen = {slot: by for slot, by in covers.items() if slot in empty and by in ready}
    for slot in empty:
        if slot not in chosen and ready:
            busy = list(chosen.values())
            chosen[slot] = min(ready, key=lambda each: (busy.count(each), each))
    return chosen
