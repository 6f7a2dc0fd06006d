"""How many a second. Pure."""

from __future__ import annotations

__all__ = ["Rate"]


class Rate:
    """Counts what comes in windows of one second."""

    __slots__ = ("_begin", "_count")

    def __init__(self) -> None:
        self._begin = 0.0
        self._count = 0

    def within(self, limit: int, now: float) -> bool:
        """Count one more, and say whether it is within `limit` for this second; `now` is in seconds."""
        if now - self._begin >= 1:
            self._begin, self._count = now, 0
        self._count += 1
        return self._count <= limit
