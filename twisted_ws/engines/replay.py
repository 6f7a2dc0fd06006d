"""What a subscriber has missed: a moving position in the channel's history, not a copy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

from twisted_ws.message import Publication

# What is charged for a message that nobody else keeps, on top of its payload and key: about what its Python objects take.
CHARGE = 256
# The same for a `HistoryReplay`.
REPLAY_CHARGE = 256


class ReplaySource(Protocol):
    """The messages of a channel that are kept now.

    Attributes:
        channel: its name.
        entries: in order and without gaps.
        oldest: the offset of the first of them, or of the next message.
    """

    channel: str
    entries: list[Publication]

    @property
    def oldest(self) -> int:
        """See above."""


class Replay(Protocol):
    """Messages of one channel that a subscriber gets before any that are published from now on."""

    def __len__(self) -> int:
        """Return how many are left."""

    def __iter__(self) -> Iterator[Publication]:
        """Yield them."""

    @property
    def channel(self) -> str:
        """The channel's name."""

    @property
    def size(self) -> int:
        """The bytes that it holds."""

    @property
    def isLost(self) -> bool:
        """Whether the next one is no longer kept."""

    def first(self) -> Publication | None:
        """Return the next one; None if it is not to be sent."""

    def goOn(self) -> None:
        """Move past the next one."""

    def follow(self, publication: Publication) -> bool:
        """Return whether this one, which was just published, joins these; if False, the caller has to keep it."""

    def forget(self) -> None:
        """Leave out what was published before the subscription."""


class HistoryReplay:
    """The part of a history from a place to an end. It holds no messages: what the history forgets is lost here.

    Args:
        source: the channel's.
        offset: of the first message.
        end: of the last one.

    Attributes:
        conflating: whether a message is left out if a later one has its key (see `Publication`); set before the first is taken.
    """

    __slots__ = ("_began", "_end", "_source", "_superseded", "conflating", "offset")

    def __init__(self, source: ReplaySource, offset: int, end: int) -> None:
        self._source = source
        self.offset = offset
        self._end = self._began = end
        self._superseded: tuple[int, bytearray] | None = None
        self.conflating = False

    def __len__(self) -> int:
        return max(self._end + 1 - max(self.offset, self._source.oldest), 0)

    def __iter__(self) -> Iterator[Publication]:
        first = max(self.offset - self._source.oldest, 0)
        return iter(self._source.entries[first : first + len(self)])

    @property
    def channel(self) -> str:
        """The channel's name."""
        return self._source.channel

    @property
    def size(self) -> int:
        """The bytes that it holds."""
        return REPLAY_CHARGE if self._superseded is None else REPLAY_CHARGE + len(self._superseded[1])

    @property
    def isLost(self) -> bool:
        """Whether the next message is no longer kept."""
        return self.offset < self._source.oldest

    def first(self) -> Publication | None:
        """Return the next message that is kept (see `Replay.first`)."""
        oldest = self._source.oldest
        self.offset = max(self.offset, oldest)
        if self.offset > self._end or (self.conflating and self._isSuperseded()):
            return None
        return self._source.entries[self.offset - oldest]

    def goOn(self) -> None:
        """Move past the next message."""
        self.offset += 1

    def follow(self, publication: Publication) -> bool:
        """Extend to this message, if it is the next in the history."""
        if self.conflating or publication.offset != self._end + 1:
            return False
        self._end += 1
        return True

    def forget(self) -> None:
        """Leave out what was published before the subscription."""
        self.offset = max(self.offset, self._began + 1)

    def _isSuperseded(self) -> bool:
        """Return whether the key of the next message occurs again before the end; computed once for all, a bit for each."""
        if self._superseded is None:
            entries = [*self]
            marks, seen = bytearray(len(entries) + 7 >> 3), set()
            for number in range(len(entries) - 1, -1, -1):
                key = entries[number].key
                if key in seen:
                    marks[number >> 3] |= 1 << (number & 7)
                seen.add(key)
            self._superseded = self.offset, marks
        begin, marks = self._superseded
        number = self.offset - begin
        return bool(marks[number >> 3] >> (number & 7) & 1)


class HeldReplay:
    """Messages that nobody else keeps, of an engine whose histories are in another process.

    Args:
        channel: the channel's name.
        publications: the messages, in order.
    """

    __slots__ = ("_publications", "channel", "size")

    isLost = False

    def __init__(self, channel: str, publications: Iterable[Publication]) -> None:
        self.channel = channel
        self._publications = deque(publications)
        self.size = sum([CHARGE + each.size for each in self._publications])

    def __len__(self) -> int:
        return len(self._publications)

    def __iter__(self) -> Iterator[Publication]:
        return iter(tuple(self._publications))

    def first(self) -> Publication:
        """Return the next message."""
        return self._publications[0]

    def goOn(self) -> None:
        """Drop it and move on."""
        self.size -= CHARGE + self._publications.popleft().size

    def follow(self, publication: Publication) -> bool:
        """Return False."""
        return False

    def forget(self) -> None:
        """Drop all."""
        self._publications.clear()
        self.size = 0
