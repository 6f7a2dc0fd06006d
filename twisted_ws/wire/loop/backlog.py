"""The bytes that a server holds for all of its peers together: those that wait for them, or those that came from them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Protocol

# One call asks at most this many to give way, and looks for the largest among this many. The others follow with the next bytes.
ASKED = 16
LOOKED_AT = 64


class Holder(Protocol):
    """Something that holds bytes for one peer, or from one.

    Attributes:
        counted: the backlog's own note of how many; initially 0.
    """

    counted: int

    def giveWay(self) -> None:
        """End, if that frees anything: all together are over their limit, and this one holds the most."""


class Holding:
    """What one peer has of a backlog, for an object that is not a `Holder` itself.

    Args:
        giveWay: see `Holder.giveWay`.
    """

    __slots__ = ("counted", "giveWay")

    def __init__(self, giveWay: Callable[[], None]) -> None:
        self.giveWay = giveWay
        self.counted = 0


class Backlog:
    """The bytes that are held for all peers of one server together.

    Holders are sorted by the number of binary digits of their count, so the largest need not be looked for among all of them: the
    one that is asked to give way has at least half as much as the largest.

    Args:
        limit: bytes above which the largest holder has to give way.

    Attributes:
        total: bytes now.
    """

    __slots__ = ("_holders", "_limit", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._holders: list[dict[Holder, None]] = [{} for _ in range(64)]
        self.total = 0

    def note(self, holder: Holder, count: int) -> None:
        """Note that `holder` has `count` bytes now."""
        before = holder.counted
        total = self.total + count - before
        holder.counted = count
        self.total = total
        digits, digitsBefore = count.bit_length(), before.bit_length()
        if digits != digitsBefore:
            self._holders[digitsBefore].pop(holder, None)
            # Any call may run a finaliser that writes to the same peer: then the newer count is in its place already.
            if count and holder.counted == count:
                self._holders[digits][holder] = None

    def count(self, least: int) -> int:
        """Return how many hold at least so many bytes, a power of two."""
        return sum(map(len, self._holders[least.bit_length() :]))

    def relieve(self) -> None:
        """Ask the largest to give way while the total is over the limit; this may call any service's onError."""
        if self.total > self._limit:
            self._relieve()

    def _relieve(self) -> None:
        asked: set[Holder] = set()
        while self.total > self._limit and len(asked) < ASKED:
            largest = self._largest(asked)
            if largest is None:
                return
            asked.add(largest)
            largest.giveWay()

    def _largest(self, besides: set[Holder]) -> Holder | None:
        for some in reversed(self._holders):
            found = [each for each in islice(some, LOOKED_AT) if each not in besides]
            if found:
                largest = max(found, key=_count)
                # It goes to the end: if it cannot give way, the next call asks others first.
                some[largest] = some.pop(largest)
                return largest
        return None


def _count(holder: Holder) -> int:
    return holder.counted
