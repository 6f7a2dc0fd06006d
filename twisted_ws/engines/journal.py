"""What an engine has told its server lately: a connection that comes from another process may have missed some of it.

Both processes of a hand-over keep one while it lasts. What is told to all of them has a number, so the state of a connection says
with one number what it has got, and the other process adds what is newer.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from twisted_ws.limits import MIB

# Entries, and bytes of messages, that are kept: those of seconds, also on a busy server.
ENTRIES = 20_000
BYTES = 8 * MIB


class Entry(NamedTuple):
    """One thing that was told.

    Attributes:
        number: its number.
        kind: "publication", "broadcast", "joined", "left" or "command".
        value: the fields of the frame, or a `Command`.
    """

    number: int
    kind: str
    value: Any


class Journal:
    """What was told since it began; the newest, if that is very much.

    Attributes:
        number: that of the newest; set it when it is known to be greater.
        begin: everything that is newer is here; set it once when that is known.
    """

    __slots__ = ("_bytes", "_entries", "begin", "number")

    def __init__(self) -> None:
        self.number = 0
        self.begin = 0
        self._bytes = 0
        self._entries: deque[Entry] = deque()

    def add(self, number: int, kind: str, value: Any) -> None:
        """Note what comes."""
        self.number = number
        self._entries.append(Entry(number, kind, value))
        self._bytes += _sizeOf(value)
        while len(self._entries) > ENTRIES or self._bytes > BYTES:
            oldest = self._entries.popleft()
            self._bytes -= _sizeOf(oldest.value)
            self.begin = max(self.begin, oldest.number)

    def since(self, number: int) -> list[Entry] | None:
        """Return what is newer than a number, in order; None if that is not known any more, or not yet."""
        if not self.begin <= number <= self.number:
            return None
        found: list[Entry] = []
        for each in reversed(self._entries):
            if each.number <= number:
                break
            found.append(each)
        found.reverse()
        return found


def _sizeOf(value: Any) -> int:
    return sum(len(each) for each in value if isinstance(each, bytes)) if isinstance(value, tuple) else 0
