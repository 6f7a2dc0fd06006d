"""The user's pings that wait for their pongs. Pure, except for the Deferreds."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class Pings:
    """The user's unanswered pings, in the order in which they were sent."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[bytes, float, Deferred[float]]] = deque()

    def sent(self, payload: bytes, now: float) -> Deferred[float]:
        """Note a ping; the Deferred fires with the seconds until its pong, or fails when `end` is called."""
        answered: Deferred[float] = Deferred()
        self._waiting.append((payload, now, answered))
        return answered

    def answered(self, payload: bytes, now: float) -> bool:
        """Return whether a pong answers a waiting ping; it answers those before it, too (RFC 6455 section 5.5.3)."""
        if not any(payload == each for each, _, _ in self._waiting):
            return False
        while True:
            sent, at, answered = self._waiting.popleft()
            _fire(answered, now - at)
            if sent == payload:
                return True

    def end(self, error: Exception) -> None:
        """Fail all that wait."""
        waiting, self._waiting = self._waiting, deque()
        for _, _, answered in waiting:
            _fire(answered, Failure(error))


def _fire(answered: Deferred[float], result: float | Failure) -> None:
    if answered.called:
        return  # it was cancelled
    if isinstance(result, Failure):
        answered.errback(result)
    else:
        answered.callback(result)
