"""What an engine has told its server lately: a connection that comes from another process may have missed some of it.

Both processes of a hand-over keep one while it lasts. What is told to all of them has a number, so the state of a connection says
with one number what it has got, and the other process adds what is newer. An engine whose servers share nothing but a stream of
messages has no such numbers: there each process counts for itself, and the old one says what its entries are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

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
        which: what it is, for other processes; None where all have the same numbers.
    """

    number: int
    kind: str
    value: Any
    which: tuple[Any, ...] | None = None


class Journal:
    """What was told since it began; the newest, if that is very much.

    Attributes:
        number: that of the newest; set it when it is known to be greater.
        begin: everything that is newer is here; set it once when that is known.
        told: called with what each entry is, for `ForeignJournal.others`; None: nobody wants to know.
    """

    __slots__ = ("_bytes", "_entries", "begin", "number", "told")

    def __init__(self) -> None:
        self.number = 0
        self.begin = 0
        self.told: Callable[[tuple[Any, ...]], None] | None = None
        self._bytes = 0
        self._entries: deque[Entry] = deque()

    def add(self, number: int, kind: str, value: Any, which: tuple[Any, ...] | None = None) -> None:
        """Note what comes."""
        self.number = number
        self._entries.append(Entry(number, kind, value, which))
        if which is not None and self.told is not None:
            self.told(which)
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


class _Own:
    """An entry here.

    Attributes:
        entry: the entry.
        at: its number in the other process; None while that has not been told of it.
        isGone: whether it is kept no longer.
    """

    __slots__ = ("at", "entry", "isGone")

    def __init__(self, entry: Entry, at: int | None) -> None:
        self.entry = entry
        self.at = at
        self.isGone = False


class ForeignJournal(Journal):
    """What this process was told, numbered as in another process that an engine without numbers tells the same, sooner or later.

    The other one has begun its journal before this one, and says in order what its entries are.
    """

    __slots__ = ("_early", "_forgotten", "_others", "_own", "_unknown", "_unmatched")

    def __init__(self) -> None:
        super().__init__()
        self._others = 0  # how many entries the other one has told of
        self._own: deque[_Own] = deque()
        self._unmatched: dict[tuple[Any, ...], deque[_Own]] = {}  # those here that it has not
        self._early: dict[tuple[Any, ...], deque[int]] = {}  # and its own that have not come here yet
        self._forgotten = 0  # the number there of the newest entry that is not kept
        self._unknown = 0  # those not kept whose number there is not known yet

    def add(self, number: int, kind: str, value: Any, which: tuple[Any, ...] | None = None) -> None:
        """Note what comes."""
        assert which is not None
        self.number = number
        own = _Own(Entry(number, kind, value, which), _pop(self._early, which))
        if own.at is None:
            self._unmatched.setdefault(which, deque()).append(own)
        self._own.append(own)
        self._bytes += _sizeOf(value)
        while len(self._own) > ENTRIES or self._bytes > BYTES:
            oldest = self._own.popleft()
            self._bytes -= _sizeOf(oldest.entry.value)
            oldest.isGone = True
            if oldest.at is None:
                self._unknown += 1
                oldest.entry = oldest.entry._replace(value=None)
            else:
                self._forgotten = max(self._forgotten, oldest.at)

    def others(self, whichs: Iterable[Iterable[Any]]) -> None:
        """Learn what the next entries of the other process are."""
        for each in whichs:
            which = tuple(each)
            self._others += 1
            own = _pop(self._unmatched, which)
            if own is None:
                self._early.setdefault(which, deque()).append(self._others)
                continue
            own.at = self._others
            if own.isGone:
                self._unknown -= 1
                self._forgotten = max(self._forgotten, own.at)

    def since(self, number: int) -> list[Entry] | None:
        """Return what came here that the other process did not have at its `number`; None if that is not known any more."""
        if self._unknown or not self._forgotten <= number <= self._others:
            return None
        return [own.entry for own in self._own if own.at is None or own.at > number]


_Value = TypeVar("_Value")


def _pop(of: dict[tuple[Any, ...], deque[_Value]], which: tuple[Any, ...]) -> _Value | None:
    found = of.get(which)
    if found is None:
        return None
    value = found.popleft()
    if not found:
        del of[which]
    return value


def _sizeOf(value: Any) -> int:
    return sum(len(each) for each in value if isinstance(each, bytes)) if isinstance(value, tuple) else 0
