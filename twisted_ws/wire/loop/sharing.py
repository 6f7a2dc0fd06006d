"""The bytes of what connections hold together, such as what one token says: each object counts once, however many have it."""

from __future__ import annotations

from math import inf
from typing import Protocol

# Bytes that count as a part of the connection, as the rest of its state does: most of what is held is smaller.
USUAL = 4096


class Sized(Protocol):
    """Something that several may hold.

    Attributes:
        size: the bytes that it takes.
    """

    @property
    def size(self) -> int:
        """Return the bytes."""


class Sharing:
    """Counts what is held and larger than `USUAL`, over all connections of a server.

    Args:
        limit: bytes above which `hasRoom` says no.

    Attributes:
        total: bytes now.
    """

    __slots__ = ("_held", "_limit", "total")

    def __init__(self, limit: float = inf) -> None:
        self._limit = limit
        self._held: dict[int, list[int]] = {}  # by id: how many hold it, who keep it alive, and its bytes
        self.total = 0

    def hasRoom(self, what: Sized) -> bool:
        """Return whether one more may hold it."""
        size = what.size
        return size <= USUAL or id(what) in self._held or self.total + size <= self._limit

    def hold(self, what: Sized) -> None:
        """Note that one more holds it; it must not change until `release`."""
        size = what.size
        if size <= USUAL:
            return
        held = self._held.get(id(what))
        if held is not None:
            held[0] += 1
        else:
            self._held[id(what)] = [1, size]
            self.total += size

    def release(self, what: Sized) -> None:
        """Note that one of those that hold it does no longer."""
        held = self._held.get(id(what)) if what.size > USUAL else None
        if held is not None:
            held[0] -= 1
            if not held[0]:
                del self._held[id(what)]
                self.total -= held[1]
