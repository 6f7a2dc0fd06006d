"""All deadlines of all connections, in one timer.

A timer for each connection costs memory and, when thousands of connections arrive or leave in one second, quadratic time in the
usual timer queues. Here a deadline is an entry in a bucket of a quarter of a second, and one `callLater` turns the wheel while
there is anything on it.

Most deadlines are for something that a peer has to do, and a peer must not pay for a delay of ours. So the wheel has a clock of
its own, on which hardly any time passes while the reactor stands still (a handler blocks, the process is stopped, the machine
sleeps, the clock is set). After that, no deadline fires before the reactor has run for a `TICK` and has read what came meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import Any, Protocol

from twisted.logger import Logger

from twisted_ws.telemetry.counts import Buckets

# Seconds between two turns: how late a deadline may fire. It never fires early.
TICK = 0.25

# Seconds after which a turn is late, because the reactor stood still.
LATE = 2 * TICK

# Deadlines that fire in one turn of the reactor: some milliseconds at most. If there are more, as when very many connections once
# came together, the others wait for the next turns.
AT_ONCE = 128


class Deadline(Protocol):
    """Something that waits on a wheel.

    Attributes:
        wheelSlot: the wheel's own note of where this is; None, as initially, when it waits for nothing.
    """

    wheelSlot: int | None

    def deadlineReached(self, now: float) -> None:
        """Called at the time given to `Wheel.set`. The entry is off the wheel then, and may put itself on again."""


class Wheel:
    """A timer wheel over one reactor.

    Attributes:
        now: the wheel's time at its last turn, or when the first entry came: a clock that costs nothing to read, and is accurate
            to a `TICK` while anything is on the wheel.
        missed: seconds during which the reactor stood still, in total.
        lag: how many seconds each turn came too late: what anything waits for that is due.
    """

    __slots__ = ("_buckets", "_call", "_due", "_late", "_looked", "_reactor", "_seconds", "_turned", "lag", "missed", "now")

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._buckets: dict[int, set[Deadline]] = {}
        self._seconds: Callable[[], float] = reactor.seconds
        self._call: Any = None  # the next turn; none is due if it was called, or if there was no memory to call it
        self._turned = 0
        self._late = False  # whether the last turn came late, so no deadline fired
        self._looked: float = self._seconds()  # the reactor's time when the wheel's was `now`
        self.now: float = self._looked
        self.missed = 0.0
        self._due = self._looked  # the reactor's time of the next turn
        self.lag = Buckets()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def seconds(self) -> float:
        """Return the wheel's time: the reactor's, minus the time it stood still. It advances while anything is on the wheel."""
        passed: float = self._seconds() - self._looked
        if 0 <= passed <= TICK:
            return self.now + passed
        return self.now if passed < 0 else self.now + TICK

    def missedUntil(self, real: float) -> float:
        """Return `missed`, including what the wheel has not noticed yet: the reactor may read before it turns the wheel.

        Args:
            real: the reactor's seconds, now.
        """
        passed = real - self._looked
        return self.missed if passed <= LATE or self._call is None else self.missed + passed - TICK

    def secondsAndMissed(self) -> tuple[float, float]:
        """Return `seconds()`, and `missedUntil` for the same moment."""
        passed = self._seconds() - self._looked
        if 0 <= passed <= TICK:
            return self.now + passed, self.missed
        return self.seconds(), self.missedUntil(self._looked + passed)

    def after(self, entry: Deadline, seconds: float) -> None:
        """Call ``entry.deadlineReached`` after `seconds`; see `set`."""
        passed = self._seconds() - self._looked
        self.set(entry, (self.now + passed if 0 <= passed <= TICK else self.seconds()) + seconds)

    def set(self, entry: Deadline, when: float) -> None:
        """Call ``entry.deadlineReached`` at `when` (the wheel's time), and no longer at an earlier time that was set."""
        if entry.wheelSlot is not None:
            self.drop(entry)
        if self._call is None or self._call.called:
            if not self._buckets:
                self.now, self._looked = self.seconds(), self._seconds()
                self._turned = int(self.now / TICK)
            self._callLater(self._rest())
        slot = ceil(when / TICK)
        if slot <= self._turned:
            slot = self._turned + 1
        bucket = self._buckets.get(slot)
        if bucket is None:
            bucket = self._buckets[slot] = set()
        bucket.add(entry)
        entry.wheelSlot = slot

    def drop(self, entry: Deadline) -> None:
        """Take `entry` off the wheel, if it is on it."""
        slot = entry.wheelSlot
        if slot is None:
            return
        entry.wheelSlot = None
        bucket = self._buckets[slot]
        bucket.discard(entry)
        if not bucket:
            del self._buckets[slot]
            self._stopIfEmpty()

    def _stopIfEmpty(self) -> None:
        call = self._call
        if not self._buckets and call is not None:
            self._call = None
            if not call.called:
                call.cancel()

    def _rest(self) -> float:
        # Until the end of this slot, not a whole tick, or a deadline would be two ticks late. No less than a clock can resolve.
        return max((self._turned + 1) * TICK - self.now, 0.001)

    def _turn(self) -> None:
        looked, self._looked = self._looked, self._seconds()
        self.lag.add(max(self._looked - self._due, 0.0))
        passed = self._looked - looked
        if 0 <= passed <= LATE:
            self._late = False
        else:
            self.missed += max(passed - TICK, 0)
            passed = TICK
            self._late = not self._late  # if every turn is late, deadlines fire in every other one
        self.now += passed
        if self._late:
            self._callLater(TICK)
            return
        before, slots = self._turned, range(self._turned + 1, int(self.now / TICK) + 1)
        self._turned = slots.stop - 1
        try:
            self._callLater(self._rest())
            self._judge(slots)
        except MemoryError:
            self._turned = before  # the next turn goes through them
            raise

    def _judge(self, slots: range) -> None:
        """Call the entries whose time has come."""
        left = AT_ONCE
        for slot in slots:
            # The bucket stays in place, so that a deadline can drop another of the same turn, or set it anew.
            bucket = self._buckets.get(slot)
            while bucket:
                if not left:
                    self._goOn(slot)
                    return
                left -= 1
                entry = bucket.pop()
                entry.wheelSlot = None
                try:
                    try:
                        entry.deadlineReached(self.now)
                    except MemoryError:
                        entry.deadlineReached(self.now)  # the call itself may have run out of memory
                except Exception:
                    # Without this the others of this turn would wait forever.
                    with suppress(MemoryError):
                        self._log.failure("a deadline failed inside the server", event="reactor.broken")
            self._buckets.pop(slot, None)
        self._stopIfEmpty()

    def _goOn(self, slot: int) -> None:
        """Let the reactor run, then go on with this slot."""
        self._turned = slot - 1
        call, self._call = self._call, None
        if call is not None and not call.called:
            call.cancel()
        self._callLater(0)

    def _callLater(self, seconds: float) -> None:
        """Schedule `_turn`; every entry depends on it, so retry once without memory."""
        try:
            call = self._reactor.callLater(seconds, self._turn)
        except MemoryError:
            call = self._reactor.callLater(seconds, self._turn)
        if not call.called:  # else a finaliser ran the reactor, and the next call is noted already
            self._call = call
            self._due = call.getTime()
