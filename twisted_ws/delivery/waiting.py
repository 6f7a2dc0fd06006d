"""Messages that wait until the handler of the one before has ended."""

from __future__ import annotations

from collections import deque

from twisted_ws.wire.events import Connection

__all__ = ["Waiting"]

# What a message is charged on top of its payload: many empty ones are not free.
CHARGE = 64


class Waiting:
    """Keeps messages in order, and has reading paused while they are many.

    Args:
        connection: where they come from.
        limit: bytes above which reading pauses.
    """

    __slots__ = ("_bytes", "_connection", "_limit", "_messages", "_paused")

    def __init__(self, connection: Connection, limit: int) -> None:
        self._connection = connection
        self._limit = limit
        self._messages: deque[tuple[str | bytes, int]] = deque()
        self._bytes = 0
        self._paused = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: str | bytes) -> None:
        """Keep a message."""
        # A str says at once whether it is ASCII, where a character is a byte.
        size = CHARGE + len(message.encode(errors="replace") if isinstance(message, str) and not message.isascii() else message)
        self._messages.append((message, size))
        self._bytes += size
        if self._bytes > self._limit and not self._paused:
            self._paused = True
            self._connection.pauseReading()

    def take(self) -> str | bytes:
        """Return the first message, which waits no longer."""
        message, size = self._messages.popleft()
        self._bytes -= size
        return message

    def clear(self) -> None:
        """Drop all."""
        self._messages.clear()
        self._bytes = 0

    def ease(self) -> None:
        """Go on reading, if few enough are left."""
        if self._paused and self._bytes <= self._limit:
            self._paused = False
            self._connection.resumeReading()
