"""All deadlines of all connections, in one timer.

A timer for each connection costs memory and, when thousands of connections arrive or leave in one second, quadratic time in the
usual timer queues. Here a deadline is a place in a bucket of a quarter of a second; one `callLater` turns the wheel while
there is anything on it.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Protocol

from twisted.logger import Logger

__all__ = ["Deadline", "Wheel"]

# Seconds between two turns: how late a deadline may fire. It never fires early.
TICK = 0.25

# Deadlines in one turn of the reactor: some milliseconds at the most. Of more than that, as of very many who came together once,
# the others wait for the next turns.
AT_ONCE = 128


class Deadline(Protocol):
    """Something that waits on a wheel.

    Attributes:
        wheelSlot: the wheel's own note of where this is; None when it waits for nothing. Begins as None.
    """

    wheelSlot: int | None

    def deadlineReached(self, now: float) -> None:
        """The time of `Wheel.set` has come. The entry is off the wheel again, and may set itself anew."""


class Wheel:
    """A timer wheel over one reactor.

    Attributes:
        now: the reactor's seconds at the last turn or `set`: a clock that costs nothing to read and is right to a `TICK` while
            anything waits on the wheel.
    """

    __slots__ = ("_buckets", "_call", "_reactor", "_turned", "now")

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._buckets: dict[int, set[Deadline]] = {}
        self._call: Any = None
        self._turned = 0
        self.now: float = reactor.seconds()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def set(self, entry: Deadline, when: float) -> None:
        """Call ``entry.deadlineReached`` at `when` (the reactor's seconds); an earlier place of `entry` is given up."""
        if entry.wheelSlot is not None:
            self.drop(entry)
        if self._call is None:
            self.now = self._reactor.seconds()
            self._turned = int(self.now / TICK)
            self._wait()
        slot = ceil(when / TICK)
        if slot <= self._turned:
            slot = self._turned + 1
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = set()
        bucket.add(entry)
        entry.wheelSlot = slot

    def drop(self, entry: Deadline) -> None:
        """Forget `entry`, if it waits."""
        slot = entry.wheelSlot
        if slot is None:
            return
        entry.wheelSlot = None
        bucket = self._buckets[slot]
        bucket.discard(entry)
        if not bucket:
            del self._buckets[slot]
            if not self._buckets and self._call is not None:
                self._call.cancel()
                self._call = None

    def _wait(self) -> None:
        # Until the end of this slot, not a whole tick: a deadline would be two ticks late.
        self._call = self._reactor.callLater((self._turned + 1) * TICK - self.now, self._turn)

    def _turn(self) -> None:
        self._call = None
        self.now = self._reactor.seconds()
        slot = int(self.now / TICK)
        # Few buckets after a short turn: walk the slots. A long one (a blocked reactor, a fake clock): walk the buckets.
        slots = range(self._turned + 1, slot + 1) if slot - self._turned < 64 else sorted(s for s in self._buckets if s <= slot)
        self._turned = slot
        left = AT_ONCE
        for each in slots:
            # The bucket stays where it is, so that a deadline can drop another one of the same turn, or give it a new place.
            bucket = self._buckets.get(each)
            while bucket:
                if not left:
                    self._goOn(each)
                    return
                left -= 1
                entry = bucket.pop()
                entry.wheelSlot = None
                try:
                    entry.deadlineReached(self.now)
                except Exception:
                    # Without this the others of this turn would wait for ever.
                    self._log.failure("a deadline failed inside the server")
            self._buckets.pop(each, None)
        if self._call is None:
            if self._buckets:
                self._wait()
        elif not self._buckets:
            self._call.cancel()
            self._call = None

    def _goOn(self, slot: int) -> None:
        """Have the reactor turn, and then go on with this slot."""
        self._turned = slot - 1
        if self._call is not None:
            self._call.cancel()
        self._call = self._reactor.callLater(0, self._turn)
