"""Those who share a framing, by channel: they are sent the same bytes, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from twisted_ws.delivery.framings import Framing
from twisted_ws.delivery.names import patternsOf
from twisted_ws.delivery.subscriber import Subscriber
from twisted_ws.wire.fanout import fanOut

__all__ = ["Audience", "Listeners"]

# So many are kept as a tuple: it takes 48 bytes for one, where a dict takes 232, and most channels have few.
FEW = 8


class _Crowd(dict[Subscriber, None]):
    """Many subscribers of one channel, with the lists that `fanOut` takes: made anew for the first message after a change."""

    __slots__ = ("listeners",)

    def __init__(self, members: Sequence[Subscriber]) -> None:
        super().__init__(dict.fromkeys(members))
        self.listeners: Listeners | None = None


class Listeners:
    """Those who get one message, as they were at one moment.

    Args:
        framing: makes what they are sent.
        subscribers: they.
    """

    __slots__ = ("_senders", "_subscribers", "framing")

    def __init__(self, framing: Framing, subscribers: Sequence[Subscriber]) -> None:
        self.framing = framing
        self._subscribers = subscribers
        self._senders = [each.sender for each in subscribers]

    def send(self, message: Any, now: float) -> int:
        """Send a message, as `framing` made it, and return how many took it."""
        return fanOut(self._subscribers, message, now, self._senders)


class Audience:
    """The subscribers with one framing.

    Args:
        framing: that.
    """

    __slots__ = ("_members", "framing")

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        # By channel or pattern; in the order in which they came.
        self._members: dict[str, tuple[Subscriber, ...] | _Crowd] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._members

    def __iter__(self) -> Iterator[Subscriber]:
        return (each for members in self._members.values() for each in members)

    def count(self, channel: str) -> int:
        """Return how many are subscribed to a channel or pattern."""
        return len(self._members.get(channel, ()))

    def add(self, channel: str, subscriber: Subscriber) -> None:
        """Add one to a channel or pattern; it is not there yet."""
        members = self._members.get(channel, ())
        if isinstance(members, _Crowd):
            members[subscriber] = None
            members.listeners = None
        elif len(members) < FEW:
            self._members[channel] = (*members, subscriber)
        else:
            self._members[channel] = _Crowd((*members, subscriber))

    def remove(self, channel: str, subscriber: Subscriber) -> None:
        """Take one away; it is there."""
        members = self._members[channel]
        if isinstance(members, _Crowd):
            del members[subscriber]
            members.listeners = None
        else:
            members = self._members[channel] = tuple([each for each in members if each is not subscriber])
        if not members:
            del self._members[channel]

    def listeners(self, channel: str, patterns: bool) -> Listeners | None:
        """Return those who hear a message of a channel, each once; None for nobody.

        Args:
            channel: its name.
            patterns: whether there are patterns that may stand for it.
        """
        members = self._members.get(channel, ())
        if patterns:
            found = [self._members[pattern] for pattern in patternsOf(channel) if pattern in self._members]
            if found:
                return Listeners(self.framing, tuple(dict.fromkeys([each for some in (members, *found) for each in some])))
        if isinstance(members, _Crowd):
            if members.listeners is None:
                members.listeners = Listeners(self.framing, tuple(members))
            return members.listeners
        return Listeners(self.framing, members) if members else None
