"""What was answered, for a while; and one question for all who ask the same at the same time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from twisted_ws.access.asking.exchange import Unanswered
from twisted_ws.wire.loop.turns import Turns

V = TypeVar("V")

# Answers that are kept.
MOST = 10_000
# Bytes of all that is kept: 10,000 answers of 1.6 KiB.
MOST_BYTES = 16 * 1024 * 1024
# Bytes of an entry beside its answer.
_ENTRY = 300
# Telling one who waits costs a handshake, in steps of `Turns`.
_TELLING = 100


class Kept(NamedTuple, Generic[V]):
    """An answer, and for how long it counts.

    Attributes:
        value: the answer, not None.
        seconds: how long it is kept; 0: not at all.
        size: its bytes.
    """

    value: V
    seconds: float
    size: int = 0


class Answers(Generic[V]):
    """Keeps answers by key; the least recently used are forgotten beyond `MOST` or `MOST_BYTES`.

    Args:
        reactor: the reactor.
        stale: seconds for which an answer that has ended is still used when there is no new one.
        most: how many are kept.
    """

    def __init__(self, reactor: Any, stale: float = 0, most: int = MOST) -> None:
        self._clock: Callable[[], float] = reactor.seconds
        self._turns = Turns(reactor)
        self._stale = stale
        self._most = most
        self._size = 0
        self._kept: OrderedDict[Hashable, tuple[float, V, int]] = OrderedDict()  # until when, what, bytes
        self._flights: dict[Hashable, _Flight[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"<Answers {len(self._kept)}>"

    def get(self, key: Hashable) -> V | None:
        """Return the answer that is kept, None without one."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        late = self._clock() - entry[0]
        if late < 0:
            self._kept.move_to_end(key)
            return entry[1]
        if late >= self._stale:
            self._drop(key)
        return None

    def find(self, key: Hashable, ask: Callable[[], Deferred[Kept[V]]]) -> V | Deferred[V]:
        """Return the answer that is kept; otherwise that which `ask` finds, called once for all who ask before it is there.

        Whoever does not want to wait any more cancels the Deferred; when nobody waits, the question is cancelled, too.

        Raises:
            Unanswered: there is no answer; the Deferred fails with it.
        """
        kept = self.get(key)
        if kept is not None:
            return kept
        flight = self._flights.get(key)
        if flight is not None:
            return flight.join()
        flight = self._flights[key] = _Flight(self._left, key)
        waiter = flight.join()
        try:
            asked = ask()
        except Unanswered:
            self._landed(Failure(), key, flight)
        else:
            flight.asked = asked
            asked.addBoth(self._landed, key, flight)
        return waiter

    def isAsking(self, key: Hashable) -> bool:
        """Return whether a question is out."""
        return key in self._flights

    def put(self, key: Hashable, kept: Kept[V]) -> None:
        """Keep an answer that came in another way."""
        self._keep(key, kept)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._size = 0

    def _drop(self, key: Hashable) -> None:
        self._size -= self._kept.pop(key)[2] + _ENTRY

    def _keep(self, key: Hashable, kept: Kept[V]) -> None:
        if key in self._kept:
            self._drop(key)
        if kept.seconds <= 0:
            return
        self._kept[key] = (self._clock() + kept.seconds, kept.value, kept.size)
        self._size += kept.size + _ENTRY
        while len(self._kept) > self._most or self._size > MOST_BYTES:
            self._drop(next(iter(self._kept)))

    def _left(self, flight: _Flight[V]) -> None:
        if not flight.waiters and self._flights.get(flight.key) is flight:
            del self._flights[flight.key]
            if flight.asked is not None:
                flight.asked.cancel()

    def _landed(self, result: Kept[V] | Failure, key: Hashable, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
        outcome: V | Failure
        if not isinstance(result, Failure):
            self._keep(key, result)
            outcome = result.value
        else:
            entry = self._kept.get(key)
            isStale = entry is not None and result.check(Unanswered) and self._clock() - entry[0] < self._stale
            outcome = entry[1] if entry is not None and isStale else result
        waiters, flight.waiters = flight.waiters, {}
        if len(waiters) == 1:
            for each in waiters:
                _tell(each, outcome)
        elif waiters:
            # Thousands may wait for one answer, as after a restart.
            Deferred.fromCoroutine(self._tellAll(list(waiters), outcome))

    async def _tellAll(self, waiters: list[Deferred[V]], outcome: V | Failure) -> None:
        async for each in self._turns.through(waiters, _TELLING):
            _tell(each, outcome)


def _tell(waiter: Deferred[V], outcome: V | Failure) -> None:
    if waiter.called:
        return
    if isinstance(outcome, Failure):
        error = outcome.value
        waiter.errback(Failure(error.again()) if isinstance(error, Unanswered) else outcome)
    else:
        waiter.callback(outcome)


class _Flight(Generic[V]):
    """One question, and those who wait for its answer."""

    def __init__(self, left: Callable[[_Flight[V]], None], key: Hashable) -> None:
        self.key = key
        self.asked: Deferred[Any] | None = None
        self.waiters: dict[Deferred[V], None] = {}
        self._left = left

    def join(self) -> Deferred[V]:
        """Wait for the answer."""

        def leave(waiter: Deferred[V]) -> None:
            self.waiters.pop(waiter, None)
            waiter.errback(CancelledError())
            self._left(self)

        waiter: Deferred[V] = Deferred(leave)
        self.waiters[waiter] = None
        return waiter
