"""Work that would hold up the reactor, in its threads, some at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.access.refusals import unavailable

T = TypeVar("T")

# The reactor has ten threads, which also look up names.
RUNNING = 4
# Those that wait may take as long as the deadline, at 50 ms each.
WAITING = 256


class Threads:
    """Runs functions in the reactor's threads: at most `RUNNING` at a time, while `WAITING` wait.

    Args:
        reactor: the reactor.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._running = 0
        self._waiting: deque[tuple[Callable[[], Any], Deferred[Any]]] = deque()

    def run(self, call: Callable[[], T]) -> Deferred[T]:
        """Return what `call` returns. If the Deferred is cancelled, a call that has begun goes on to its end.

        Raises:
            AccessRefused: with the status 503: too many wait.
        """
        if self._running >= RUNNING:
            while self._waiting and self._waiting[0][1].called:  # cancelled
                self._waiting.popleft()
            if len(self._waiting) >= WAITING:
                raise unavailable("Too many credentials are being checked.")
        result: Deferred[T] = Deferred()
        self._waiting.append((call, result))
        self._next()
        return result

    def _next(self) -> None:
        while self._running < RUNNING and self._waiting:
            call, result = self._waiting.popleft()
            if not result.called:
                self._running += 1
                self._reactor.getThreadPool().callInThreadWithCallback(partial(self._inThread, result), call)

    def _inThread(self, result: Deferred[Any], isGood: bool, answer: Any) -> None:
        self._reactor.callFromThread(self._ended, result, answer)

    def _ended(self, result: Deferred[Any], answer: Any) -> None:
        self._running -= 1
        self._next()
        if not result.called:
            if isinstance(answer, Failure):
                result.errback(answer)
            else:
                result.callback(answer)
