"""What is held for all peers of a server together: what waits for them, and what they have sent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Protocol

__all__ = ["Backlog", "Part", "Waiting"]

# So many are asked to give way by one call, and of so many the largest is looked for. The others' turn comes with the next bytes.
ASKED = 16
LOOKED_AT = 64


class Waiting(Protocol):
    """Something where bytes wait for one peer, or came from one.

    Attributes:
        counted: the backlog's own note of how many. Begins as 0.
    """

    counted: int

    def giveWay(self) -> None:
        """End, if that frees something: all together are over their limit, and this is the largest."""


class Part:
    """What one peer has of a backlog, for who is no `Waiting` itself.

    Args:
        giveWay: called when it is the largest.
    """

    __slots__ = ("counted", "giveWay")

    def __init__(self, giveWay: Callable[[], None]) -> None:
        self.giveWay = giveWay
        self.counted = 0


class Backlog:
    """The bytes that are held for all peers of one server together.

    Who has some is kept by the number of digits of how many (in base 2), so that nobody has to look for the largest among
    all: who is asked to give way has at least half as much.

    Args:
        limit: bytes above which the largest has to give way.

    Attributes:
        total: bytes now.
    """

    __slots__ = ("_limit", "_waiting", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[dict[Waiting, None]] = [{} for _ in range(64)]
        self.total = 0

    def note(self, waiting: Waiting, count: int) -> None:
        """Note that `waiting` has `count` bytes now."""
        before = waiting.counted
        total = self.total + count - before
        waiting.counted = count
        self.total = total
        digits, digitsBefore = count.bit_length(), before.bit_length()
        if digits != digitsBefore:
            self._waiting[digitsBefore].pop(waiting, None)
            # Any call may run a finaliser that writes to the same peer: then the newer count has its place.
            if count and waiting.counted == count:
                self._waiting[digits][waiting] = None

    def relieve(self) -> None:
        """Over the limit, have those with the most give way; this may call any service's onError."""
        if self.total > self._limit:
            self._relieve()

    def _relieve(self) -> None:
        asked: set[Waiting] = set()
        while self.total > self._limit and len(asked) < ASKED:
            largest = self._largest(asked)
            if largest is None:
                return
            asked.add(largest)
            largest.giveWay()

    def _largest(self, besides: set[Waiting]) -> Waiting | None:
        for some in reversed(self._waiting):
            found = [each for each in islice(some, LOOKED_AT) if each not in besides]
            if found:
                largest = max(found, key=_count)
                # To the end: the next call asks others first, where this one cannot give way.
                some[largest] = some.pop(largest)
                return largest
        return None


def _count(waiting: Waiting) -> int:
    return waiting.counted
