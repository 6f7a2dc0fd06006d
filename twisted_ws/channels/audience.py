"""The subscribers that share a format, by channel: they are sent the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted_ws.channels.subscribers.formats import Format
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.names import patternsOf
from twisted_ws.wire.websocket.crowd import Crowd, Group, Run

# Up to this many are kept in a tuple: for one, a tuple takes 48 bytes and a dict 232, and most channels have few.
FEW = 8


class _Many(dict[Subscriber, Group]):
    """Many subscribers of one channel, each with its place in their crowd."""

    __slots__ = ("crowd",)

    def __init__(self, members: Sequence[Subscriber]) -> None:
        super().__init__()
        self.crowd = Crowd()
        for each in members:
            self.add(each)

    def add(self, subscriber: Subscriber) -> None:
        """Add one."""
        self[subscriber] = self.crowd.add(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Remove one."""
        self.crowd.remove(subscriber, self.pop(subscriber))


class Audience:
    """The subscribers with one format, by channel.

    Attributes:
        format: what they are sent.
        isCounted: whether they are among the subscribers that anybody is told of; those that only look at a channel are not.
    """

    __slots__ = ("_members", "format", "isCounted")

    def __init__(self, form: Format, isCounted: bool = True) -> None:
        self.format = form
        self.isCounted = isCounted
        # By channel or pattern, in the order in which they came.
        self._members: dict[str, tuple[Subscriber, ...] | _Many] = {}

    def __contains__(self, channel: str) -> bool:
        return channel in self._members

    def __iter__(self) -> Iterator[Subscriber]:
        return (each for members in self._members.values() for each in members)

    def count(self, channel: str) -> int:
        """Return how many are subscribed to a channel or pattern."""
        return len(self._members.get(channel, ()))

    def add(self, channel: str, subscriber: Subscriber) -> None:
        """Add one that is not there yet to a channel or pattern."""
        members = self._members.get(channel, ())
        if isinstance(members, _Many):
            members.add(subscriber)
        elif len(members) < FEW:
            self._members[channel] = (*members, subscriber)
        else:
            self._members[channel] = _Many((*members, subscriber))

    def remove(self, channel: str, subscriber: Subscriber) -> None:
        """Remove one that is there."""
        members = self._members[channel]
        if isinstance(members, _Many):
            members.remove(subscriber)
        else:
            members = self._members[channel] = tuple([each for each in members if each is not subscriber])
        if not members:
            del self._members[channel]

    def runs(self, channel: str) -> list[Run]:
        """Return the present subscribers of a channel or pattern."""
        members = self._members.get(channel)
        if members is None:
            return []
        if isinstance(members, _Many):
            return members.crowd.runs()
        return [(members, [each.sender for each in members], len(members))]

    def listeners(self, channel: str) -> tuple[list[Run], list[str]]:
        """Return the subscribers of a channel and of the patterns that match it, and the names of these.

        A subscriber of several of these is there several times.
        """
        names = [name for name in (channel, *patternsOf(channel)) if name in self._members]
        return [run for name in names for run in self.runs(name)], names
