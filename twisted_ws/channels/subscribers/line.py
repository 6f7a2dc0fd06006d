"""The requests of one client that wait, in order, while the application is asked about some of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred

# Requests that may wait, and their bytes, before the client is not read from: as many as it may have channels by default.
AHEAD = 128
AHEAD_BYTES = 64 * 1024


class Line:
    """Does one request after the other; the questions about all of them have begun already."""

    __slots__ = ("_asked", "_bytes", "_room", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Awaitable[None]], Deferred[bool] | None, int]] = deque()
        self._bytes = 0
        self._asked: Deferred[bool] | None = None  # what the request that is being done waits for
        self._room: Deferred[None] | None = None

    def add(self, do: Callable[[], Awaitable[None]], asked: Deferred[bool] | None, size: int) -> Deferred[None] | None:
        """Put a request at the end.

        Args:
            do: does it.
            asked: what the application is asked about it; given up when it is done.
            size: its bytes.

        Returns:
            None if there is room for another one, else a Deferred for when there is.
        """
        self._waiting.append((do, asked, size))
        self._bytes += size
        if self._fits():
            return None
        self._room = Deferred()
        return self._room

    async def work(self) -> None:
        """Do all, also those that come meanwhile; if one fails, give up those behind it."""
        try:
            while self._waiting:
                do, self._asked, size = self._waiting.popleft()
                try:
                    await do()
                finally:
                    self._bytes -= size
                    _giveUp(self._asked)
                if self._fits():
                    self._makeRoom()
        finally:
            self.giveUp()

    def giveUp(self) -> None:
        """Drop what waits, because the client has left."""
        waiting, self._waiting = self._waiting, deque()
        for asked in (self._asked, *[asked for _, asked, _ in waiting]):
            _giveUp(asked)
        self._makeRoom()

    def _fits(self) -> bool:
        return len(self._waiting) < AHEAD and self._bytes < AHEAD_BYTES

    def _makeRoom(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)


def _giveUp(asked: Deferred[bool] | None) -> None:
    if asked is not None:
        asked.addErrback(lambda failure: None)
        asked.cancel()
