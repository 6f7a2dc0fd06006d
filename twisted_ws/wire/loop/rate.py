"""How many events a second. Pure."""

from __future__ import annotations


class Rate:
    """Counts events in windows of one second.

    Events that waited unread come all at once, though the peer sent them in time: they count for the time in which nothing was
    read, however long it then takes to handle them.
    """

    __slots__ = ("_begin", "_count", "_unread")

    def __init__(self) -> None:
        self._begin = 0.0
        self._count = 0.0  # below 0: so many more are allowed
        self._unread = 0.0

    def departing(self, now: float) -> tuple[float, float, float]:
        """Return the state, for another process: how long ago the window began, and what else `arrived` takes."""
        return now - self._begin, self._count, self._unread

    @classmethod
    def arrived(cls, now: float, ago: float, count: float, unread: float) -> Rate:
        """Return one that goes on where another has ended."""
        made = cls()
        made._begin, made._count, made._unread = now - ago, count, unread
        return made

    def within(self, limit: int, now: float, unread: float = 0.0) -> bool:
        """Count one more event, and return whether it is within `limit` for this second.

        Args:
            limit: events allowed in a second.
            now: seconds.
            unread: seconds during which nothing was read, in total since events could come; a value below the last one changes
                nothing.
        """
        if not 0 <= now - self._begin < 1:
            self._begin, self._count = now, min(self._count, 0.0)
        if unread > self._unread:
            self._count -= limit * (unread - self._unread)
            self._unread = unread
        self._count += 1
        return self._count < limit + 1  # a fraction that is allowed counts as one
