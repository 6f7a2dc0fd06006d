"""What waits for one slow subscriber, and what gives way when that is too much. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from enum import Enum

from twisted_ws.delivery.publication import Publication

__all__ = ["Mailbox", "Policy"]

# What an entry is charged on top of its payload.
CHARGE = 64


class Policy(Enum):
    """What happens to a subscriber that takes messages more slowly than they come; an option of each mount."""

    CLOSE = "close"  # it comes back and resumes from history
    DROP_OLDEST = "drop-oldest"  # of too many bytes, and what is too old; never the newest
    LATEST = "latest"  # of one channel and key, only the newest waits; of too many bytes, the oldest of these go


class Mailbox:
    """The messages and frames that wait for one subscriber, in order.

    Args:
        policy: see `Policy`.
        cap: bytes above which it acts.
        lag: seconds that a message may wait until it acts.

    Attributes:
        size: bytes that count for the cap.
    """

    __slots__ = ("_cap", "_entries", "_lag", "_policy", "_serial", "size")

    def __init__(self, policy: Policy, cap: int, lag: float) -> None:
        self._policy = policy
        self._cap = cap
        self._lag = lag
        self._entries: OrderedDict[Hashable, tuple[Publication | bytes, float, int]] = OrderedDict()
        self._serial = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def addPast(self, items: Iterable[Publication | bytes], now: float) -> None:
        """Add what a resume has to send: the history bounds it, and most of it is shared, so it does not count for the cap."""
        for item in items:
            self._put(item, now, 0)

    def add(self, item: Publication | bytes, now: float) -> bool:
        """Add a message, or a frame that is never dropped; False: it is too much, and the subscriber has to go."""
        size = CHARGE + (len(item) if isinstance(item, bytes) else len(item.payload))
        self._put(item, now, size)
        if self._policy is Policy.CLOSE:
            return self.size <= self._cap and self._head()[1] >= now - self._lag
        self._dropOld(now)
        while self.size > self._cap:
            oldest, newest = self._messages()
            if oldest == newest:
                # The last message is never dropped, or nobody would know that it was there; frames alone must be within the cap.
                return self.size - (0 if newest is None else self._entries[newest][2]) <= self._cap
            self._remove(oldest)
        return True

    def peek(self, now: float) -> int | None:
        """Return how many bytes the next item has, None when nothing waits (any more)."""
        self._dropOld(now)
        if not self._entries:
            return None
        item = self._head()[0]
        return len(item if isinstance(item, bytes) else item.payload)

    def pop(self) -> Publication | bytes:
        """Take the next item."""
        _, (item, _, size) = self._entries.popitem(last=False)
        self.size -= size
        return item

    def _put(self, item: Publication | bytes, now: float, size: int) -> None:
        place: Hashable
        if self._policy is Policy.LATEST and isinstance(item, Publication):
            place = item.channel, item.key
            if place in self._entries:
                self._remove(place)  # to the end: the order of a channel stays that of its offsets
        else:
            self._serial += 1
            place = self._serial
        self._entries[place] = item, now, size
        self.size += size

    def _head(self) -> tuple[Publication | bytes, float, int]:
        return next(iter(self._entries.values()))

    def _messages(self) -> tuple[Hashable, Hashable]:
        """Return the places of the oldest and the newest message; None for both when only frames wait."""
        first = next((place for place, entry in self._entries.items() if not isinstance(entry[0], bytes)), None)
        last = next((place for place in reversed(self._entries) if not isinstance(self._entries[place][0], bytes)), None)
        return first, last

    def _dropOld(self, now: float) -> None:
        if self._policy is not Policy.DROP_OLDEST:
            return  # with LATEST, what waits is what there is to know, however old
        oldest, newest = self._messages()
        while oldest != newest and self._entries[oldest][1] < now - self._lag:
            self._remove(oldest)
            oldest, newest = self._messages()

    def _remove(self, place: Hashable) -> None:
        self.size -= self._entries.pop(place)[2]
