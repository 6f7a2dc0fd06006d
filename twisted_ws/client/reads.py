"""The messages that wait to be read, and the readers that wait for a message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from twisted_ws.client.errors import ReadTimeout, seconds
from twisted_ws.client.options import CHARGE

_T = TypeVar("_T")


class _Reader(Generic[_T]):
    """A read that waits for a message."""

    __slots__ = ("deadline", "result", "take")

    def __init__(self, take: Callable[[str | bytes], _T], queue: deque[_Reader[Any]]) -> None:
        self.take = take
        self.deadline: IDelayedCall | None = None
        self.result: Deferred[_T] = Deferred(lambda _: self.leave(queue))

    def leave(self, queue: deque[_Reader[Any]]) -> None:
        """Stop waiting; this loses no message."""
        queue.remove(self)
        self.stopClock()

    def stopClock(self) -> None:
        if self.deadline is not None and self.deadline.active():
            self.deadline.cancel()


class ReadQueue:
    """First in, first out, for messages and readers alike.

    Args:
        reactor: schedules the timeouts.
        limit: bytes that may wait before `pause` is called.
        pause: called to stop more messages.
        resume: called to undo that, when at most half of the limit waits.

    Attributes:
        size: bytes that wait, including `CHARGE` for each message.
        paused: whether `pause` was called more recently than `resume`.
    """

    def __init__(self, reactor: Any, limit: int, pause: Callable[[], object], resume: Callable[[], object]) -> None:
        self._reactor = reactor
        self._limit = limit
        self._pause = pause
        self._resume = resume
        self._messages: deque[str | bytes] = deque()
        self._readers: deque[_Reader[Any]] = deque()
        self.paused = False
        self._end: Exception | None = None
        self.size = 0

    def put(self, message: str | bytes) -> None:
        """Add a message; never refuses one."""
        self._messages.append(message)
        self.size += len(message) + CHARGE
        self._serve()
        if self.size >= self._limit and not self.paused:
            self.paused = True
            self._pause()

    def get(self, take: Callable[[str | bytes], _T], timeout: float | None) -> Deferred[_T]:
        """Return a Deferred for the next message that no earlier reader waits for.

        Args:
            take: converts the message; the Deferred fails with what it raises.
            timeout: seconds until it fails with `ReadTimeout`; None: never.
        """
        if self._messages and not self._readers:
            message = self._next()
            try:
                result = succeed(take(message))
            except Exception:
                result = fail(Failure())
            self._ease()
            return result
        if self._end is not None:
            return fail(Failure(self._end.with_traceback(None)))
        reader: _Reader[_T] = _Reader(take, self._readers)
        self._readers.append(reader)
        if timeout is not None:
            reader.deadline = self._reactor.callLater(timeout, self._late, reader, timeout)
        return reader.result

    def end(self, error: Exception) -> None:
        """End: once no message is left, reading fails with `error`."""
        self._end = error
        while self._readers:  # a reader that this wakes may make another leave
            reader = self._readers.popleft()
            reader.stopClock()
            reader.result.errback(Failure(error.with_traceback(None)))

    def _next(self) -> str | bytes:
        message = self._messages.popleft()
        self.size -= len(message) + CHARGE
        return message

    def _serve(self) -> None:
        # Readers wait only while there is no message, so there is one of each; a reader that this wakes may read on, or leave.
        while self._messages and self._readers:
            reader, message = self._readers.popleft(), self._next()
            reader.stopClock()
            try:
                result = reader.take(message)
            except Exception:
                reader.result.errback(Failure())
            else:
                reader.result.callback(result)

    def _ease(self) -> None:
        if self.paused and self.size * 2 <= self._limit:
            self.paused = False
            self._resume()

    def _late(self, reader: _Reader[Any], timeout: float) -> None:
        self._readers.remove(reader)
        reader.result.errback(Failure(ReadTimeout(f"no message came in {seconds(timeout)}; the connection is still open")))
