"""How many a second. Pure."""

from __future__ import annotations

__all__ = ["Rate"]


class Rate:
    """Counts what comes in windows of one second.

    What waited unread comes all at once, though it was sent in its time: it counts for the time in which nobody read, however
    long it then takes to handle it.
    """

    __slots__ = ("_begin", "_count", "_unread")

    def __init__(self) -> None:
        self._begin = 0.0
        self._count = 0.0  # below 0: so many more
        self._unread = 0.0

    def within(self, limit: int, now: float, unread: float = 0.0) -> bool:
        """Count one more, and say whether it is within `limit` for this second.

        Args:
            limit: how many a second may have.
            now: seconds.
            unread: seconds in which nobody read what comes, all together since it could come; less than before while that
                is not known.
        """
        if not 0 <= now - self._begin < 1:
            self._begin, self._count = now, min(self._count, 0.0)
        if unread > self._unread:
            self._count -= limit * (unread - self._unread)
            self._unread = unread
        self._count += 1
        return self._count < limit + 1  # a part of one, which is allowed, is one
