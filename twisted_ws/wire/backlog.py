"""The bytes that wait for all peers of a server together."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Backlog", "Overflowing", "Waiting"]


class Overflowing(Protocol):
    """Whoever can give way."""

    def outboxOverflowed(self, atOnce: bool) -> None:
        """See `OutboxOwner`."""


class Waiting(Protocol):
    """Something where bytes wait for one peer: an outbox, a mailbox."""

    @property
    def size(self) -> int:
        """How many."""

    @property
    def owner(self) -> Overflowing:
        """Who is told to give way."""


class Backlog:
    """The bytes that wait for all peers of one server together.

    Attributes:
        total: bytes now.
    """

    __slots__ = ("_limit", "_waiting", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: set[Waiting] = set()
        self.total = 0

    def note(self, outbox: Waiting, before: int) -> None:
        """Note that `outbox` held `before` bytes and holds ``outbox.size`` now."""
        self.total += outbox.size - before
        if outbox.size:
            self._waiting.add(outbox)
        else:
            self._waiting.discard(outbox)

    def relieve(self) -> None:
        """Over the limit, have the largest give way; this may call any service's onError."""
        for largest in sorted(self._waiting, key=lambda o: -o.size) if self.total > self._limit else ():
            if self.total <= self._limit:
                break
            largest.owner.outboxOverflowed(True)

    def changed(self, outbox: Waiting, before: int) -> None:
        """Do both."""
        self.note(outbox, before)
        self.relieve()
