"""The channels and patterns that are watched here."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from twisted_ws.engines.redis.server.link import Link
from twisted_ws.message import Position
from twisted_ws.names import isPattern, patternsOf

# Letters of an epoch of a channel that exists.
EPOCH = 14
# Seconds after which a channel that is silent is looked at: a message may have got lost in pub/sub.
IDLE = 25.0
# Channels that are looked through in one turn of the reactor: about two milliseconds.
AT_ONCE = 2000
# Channels that match a pattern only: the positions of so many are remembered, so that no message is passed on for two patterns.
MATCHED = 10_000


class Watch:
    """One channel or pattern.

    Attributes:
        channel: its name.
        epoch, offset: the position of its last message; "" while that is unknown.
        touched: when it was last heard of, or looked at (the wheel's seconds).
        link: the link on which it was subscribed to.
        isConfirmed: whether that link has confirmed it.
        told: the number of subscribers that the server was told; -1 for an unknown one.
    """

    __slots__ = ("channel", "epoch", "isConfirmed", "link", "offset", "told", "touched")

    def __init__(self, channel: str, now: float) -> None:
        self.channel = channel
        self.epoch = ""
        self.offset = 0
        self.touched = now
        self.link: Link | None = None
        self.isConfirmed = False
        self.told = 0


class Watches:
    """All channels and patterns that are watched here."""

    def __init__(self) -> None:
        self.channels: OrderedDict[str, Watch] = OrderedDict()  # those that were looked at first come first
        self.patterns: dict[str, Watch] = {}
        self._matched: OrderedDict[str, Watch] = OrderedDict()
        self._gone: dict[str, None] = {}  # the server still counts subscribers of these

    def __bool__(self) -> bool:
        return bool(self.channels or self._gone)

    def __iter__(self) -> Iterator[Watch]:
        yield from self.channels.values()
        yield from self.patterns.values()

    def add(self, channel: str, now: float) -> Watch:
        """Begin to watch."""
        watch = Watch(channel, now)
        if isPattern(channel):
            self.patterns[channel] = watch
        else:
            if channel in self._gone:
                watch.told = -1
                del self._gone[channel]
            self.channels[channel] = watch
        return watch

    def remove(self, channel: str) -> Watch | None:
        """Stop watching."""
        watch = self.patterns.pop(channel, None) or self.channels.pop(channel, None)
        if watch is not None and watch.told:
            self._gone[channel] = None
        if watch is not None and not isPattern(channel) and self.isMatched(channel):
            self._match(channel, watch)  # the last message may come once more, for a pattern
        return watch

    def find(self, channel: str) -> Watch | None:
        """Return where the position of a channel is noted; None if nobody here hears of it."""
        watch = self.channels.get(channel)
        if watch is None and self.patterns:
            watch = self._matched.get(channel)
            if watch is None and self.isMatched(channel):
                watch = Watch(channel, 0)
                self._match(channel, watch)
        return watch

    def _match(self, channel: str, watch: Watch) -> None:
        """Note the position of a channel that only patterns match."""
        self._matched[channel] = watch
        if len(self._matched) > MATCHED:
            self._matched.popitem(last=False)

    def hears(self, channel: str) -> bool:
        """Return whether a message that is published now will come."""
        watch = self.channels.get(channel)
        if watch is not None and watch.isConfirmed:
            return True
        return bool(self.patterns) and any(
            each in self.patterns and self.patterns[each].isConfirmed for each in patternsOf(channel)
        )

    def told(self, channel: str) -> int:
        """Return the number of subscribers that the server was told; -1 if that is not certain."""
        watch = self.channels.get(channel)
        if watch is not None:
            return watch.told
        return -1 if channel in self._gone else 0

    def isMatched(self, channel: str) -> bool:
        """Return whether a pattern that is watched matches a channel."""
        return any(each in self.patterns for each in patternsOf(channel))

    def positions(self) -> Iterator[tuple[str, Position]]:
        """Return the channels whose last positions are known, with these; they are looked up when they are asked for."""
        watches = list(self.channels.values())
        return ((watch.channel, Position(watch.epoch, watch.offset)) for watch in watches if len(watch.epoch) == EPOCH)

    def counts(self, count: Callable[[str], int]) -> list[tuple[str, int]]:
        """Return the channels whose number of subscribers the server does not know yet; as many as one turn has time for.

        Args:
            count: counts the subscribers of a channel.
        """
        found = [(channel, 0) for channel in self._gone]
        self._gone.clear()
        for _ in range(min(len(self.channels), AT_ONCE)):
            channel, watch = next(iter(self.channels.items()))
            self.channels.move_to_end(channel)
            number = count(channel)
            if number != watch.told:
                watch.told = number
                found.append((channel, number))
        return found

    def countAgain(self, channels: list[str]) -> None:
        """Tell the subscribers of these again."""
        for channel in channels:
            watch = self.channels.get(channel)
            if watch is None:
                self._gone[channel] = None
            else:
                watch.told = -1

    def idle(self, now: float) -> list[Watch]:
        """Return those that were silent for long, or not looked at."""
        found = []
        for watch in self.channels.values():
            if watch.touched <= now - IDLE and watch.epoch:
                watch.touched = now
                found.append(watch)
        return found


class Makers:
    """Who has made channels that nobody has published to, by subscribing: one address must not make as many as there can be.

    Args:
        most: how many one may make.
        age: seconds after which the server forgets one that nobody watches.
    """

    def __init__(self, most: int, age: float) -> None:
        self._most = most
        self._age = age
        self._counts: dict[Hashable, int] = {}
        self._makers: dict[str, Hashable] = {}
        self._left: deque[tuple[float, str]] = deque()

    def __contains__(self, channel: object) -> bool:
        return channel in self._makers

    def may(self, by: Hashable, now: float) -> bool:
        """Return whether an address may make one more."""
        while self._left and self._left[0][0] <= now:
            self.forget(self._left.popleft()[1])
        return by is None or self._counts.get(by, 0) < self._most

    def made(self, channel: str, by: Hashable) -> None:
        """Note that an address has made a channel."""
        if by is not None and channel not in self._makers:
            self._makers[channel] = by
            self._counts[by] = self._counts.get(by, 0) + 1

    def left(self, channel: str, now: float) -> None:
        """Note that nobody here watches a channel any more."""
        if channel in self._makers:
            self._left.append((now + self._age, channel))

    def forget(self, channel: str) -> None:
        """Do not count a channel any more: it has a message, or it has gone."""
        by = self._makers.pop(channel, None)
        if by is not None:
            self._counts[by] -= 1
            if not self._counts[by]:
                del self._counts[by]
