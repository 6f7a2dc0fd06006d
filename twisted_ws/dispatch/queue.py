"""Messages that wait until the handler of the previous one has ended."""

from __future__ import annotations

from collections import deque

from twisted_ws.connection import Connection

# What a message is charged on top of its own size: its place in the queue.
CHARGE = 16
# The connection is told each time the total has changed by this many bytes.
STEP = 4096


def weight(message: str | bytes) -> int:
    """Return the bytes of memory that a message takes: a str with one rare character has four for each character."""
    return CHARGE + message.__sizeof__()


class MessageQueue:
    """Keeps messages in order, and pauses reading while there are too many.

    Args:
        connection: the connection that they come from.
        limit: bytes above which reading pauses.
    """

    __slots__ = ("_bytes", "_connection", "_limit", "_messages", "_paused", "_told")

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._messages: deque[str | bytes] = deque()
        self._bytes = 0
        self._told = 0
        self._paused = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: str | bytes) -> None:
        """Keep a message."""
        self._messages.append(message)
        self._bytes += weight(message)
        if self._bytes - self._told >= STEP:
            self._tell()
        if self._bytes > self._limit and not self._paused:
            self._paused = True
            self._connection.pauseReading()

    def take(self) -> str | bytes:
        """Remove and return the first message."""
        message = self._messages.popleft()
        # After the last, nothing is left, even if a str that is shared with others has grown in memory since.
        self._bytes = self._bytes - weight(message) if self._messages else 0
        if self._told and (self._told - self._bytes >= STEP or not self._messages):
            self._tell()
        return message

    def clear(self) -> None:
        """Drop all."""
        self._messages.clear()
        self._bytes = 0
        self._tell()

    def _tell(self) -> None:
        self._told = self._bytes
        self._connection.waits(self._bytes)

    def ease(self) -> None:
        """Resume reading if few enough are left."""
        if self._paused and self._bytes <= self._limit:
            self._paused = False
            self._connection.resumeReading()
