"""Values that are kept until a moment of the wall clock, such as what a token was used for until the token has expired."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from typing import Generic, TypeVar

from twisted_ws.errors import ChannelError
from twisted_ws.wire.loop.wheel import Wheel

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

# Values that are forgotten in one turn of the wheel: some milliseconds.
FORGOTTEN_AT_ONCE = 1024


class Expiring(Generic[_K, _V]):
    """Values by key, each with the Unix time until which it counts.

    Forgetting is bounded: each new key removes a few that have expired, and the wheel many at a time. One that has expired but is
    still there does not count. If the wall clock is set ahead, and back again, nothing is lost: as much time has to have passed.

    Args:
        wheel: the server's.
        unixTime: the wall clock.
        most: how many are kept.
        full: what a refused publisher is told.
    """

    def __init__(self, wheel: Wheel, unixTime: Callable[[], float], most: int, full: str) -> None:
        self._wheel = wheel
        self._unixTime = unixTime
        self._most = most
        self._full = full
        self._kept: dict[_K, tuple[float, _V, int]] = {}
        # When each is due, by the wheel's clock, with a number because keys have no order; has those that were replaced, too.
        self._due: list[tuple[float, int, _K]] = []
        self._number = 0
        self.wheelSlot: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: _K) -> _V | None:
        """Return a value that counts."""
        until, value, _ = self._kept.get(key, (0.0, None, 0))
        return value if until > self._unixTime() else None

    def items(self) -> Iterator[tuple[_K, float, _V]]:
        """Yield keys, until when they count, and values; of a copy, so all may change meanwhile."""
        now = self._unixTime()
        return ((key, until, value) for key, (until, value, _) in tuple(self._kept.items()) if until > now)

    def freeze(self) -> Iterator[tuple[_K, float, _V]]:
        """Yield all that count; from now on, none is forgotten by the wheel."""
        self._wheel.drop(self)
        now = self._unixTime()
        return ((key, until, value) for key, (until, value, _) in self._kept.items() if until > now)

    def restore(self, key: _K, until: float, value: _V) -> None:
        """Keep a value of an earlier process, however many there are; do nothing if it counts no longer."""
        if until > self._unixTime():
            self._keep(key, until, value)

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self._due.clear()
        self._wheel.drop(self)

    def put(self, key: _K, until: float, value: _V) -> None:
        """Keep a value; do nothing if it counts no longer.

        Raises:
            ChannelError: there is no room for a new key.
        """
        now = self._unixTime()
        self._forget(2)
        if until <= now:
            return
        if key not in self._kept and len(self._kept) >= self._most:
            raise ChannelError("unavailable", self._full)
        self._keep(key, until, value)

    def deadlineReached(self, now: float) -> None:
        """Forget those that have expired, or as many as one turn has time for; called by the wheel."""
        self._forget(FORGOTTEN_AT_ONCE)
        if self._due:
            self._wheel.after(self, self._due[0][0] - self._wheel.seconds())

    def _keep(self, key: _K, until: float, value: _V) -> None:
        before = self._kept.get(key)
        if before is not None and before[0] == until:
            self._kept[key] = until, value, before[2]
            return
        self._await(key, until, value)
        if self.wheelSlot is None or self._due[0][1] == self._number:
            self._wheel.after(self, self._due[0][0] - self._wheel.seconds())

    def _await(self, key: _K, until: float, value: _V) -> None:
        self._number += 1
        self._kept[key] = until, value, self._number
        heappush(self._due, (self._wheel.seconds() + until - self._unixTime(), self._number, key))

    def _forget(self, most: int) -> None:
        due, kept, now, seconds = self._due, self._kept, self._unixTime(), self._wheel.seconds()
        while most and due and due[0][0] <= seconds:
            _, number, key = heappop(due)
            most -= 1
            found = kept.get(key)
            if found is None or found[2] != number:
                continue  # it was replaced
            if found[0] > now:  # the wall clock was set back
                self._await(key, found[0], found[1])
            else:
                del kept[key]
