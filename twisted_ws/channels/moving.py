"""The move of subscriptions to another process, with the position that each has reached there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.channels.feed import Feed, Joining
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.engines.contract import History
from twisted_ws.errors import ChannelError
from twisted_ws.message import Position, Start
from twisted_ws.names import isPattern

if TYPE_CHECKING:
    from twisted_ws.channels.channels import Channels


class SubscriptionState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of a subscription.

    Attributes:
        channel: the channel or pattern.
        position: the epoch and offset of the last message that was handed to its connection; None for a pattern.
        entered: the user and the JSON by which presence knows it; None if it is no user's.
        watches: whether it is told who comes and goes.
    """

    channel: str
    position: tuple[str, int] | None
    entered: tuple[str, bytes] | None
    watches: bool


class _Expected:
    """A channel that is watched for subscriptions that arrive.

    Attributes:
        feed: its feed.
        joining: holds what is passed on from now on, for those that have not got it elsewhere.
        begin: the position before that; None for a pattern.
    """

    __slots__ = ("begin", "feed", "joining")

    def __init__(self, feed: Feed, joining: Joining) -> None:
        self.feed = feed
        self.joining = joining
        self.begin: Position | None = None

    def after(self, position: Position) -> History | None:
        """Return what was passed on since a position; None if that is not known here."""
        begin = self.begin
        if begin is None or self.feed.isClosed or begin.epoch != position.epoch or begin.offset > position.offset:
            return None
        try:
            return self.feed.complete(self.joining, History(position, True, []))
        except ChannelError:
            return None  # there was more than is held


class Expectation:
    """What a process keeps ready while subscriptions move, so that most need to ask nobody.

    Both processes of a hand-over have one: a subscription that is refused there comes back.

    Args:
        channels: the server's.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._expected: dict[str, _Expected] = {}

    async def expect(self, names: Iterable[str]) -> list[str]:
        """Watch channels and patterns from now on; return those for which that could be done, when it is done."""
        names = tuple(names)
        begun = [(name, self._begin(name)) for name in names]
        ready = []
        for name, expected in begun:
            try:
                if isinstance(expected, _Expected):
                    await expected.feed.reach(None)
                    if expected.begin is None:
                        expected.joining.clear()
                        expected.begin = expected.feed.last
                    self._expected[name] = expected
            except ChannelError:
                if isinstance(expected, _Expected):
                    self._forget(expected)
                continue
            if expected is not None:
                ready.append(name)
        return ready

    def _begin(self, name: str) -> _Expected | bool | None:
        """Return what is kept; True if the engine answers at once, so that nothing needs to be; None if it refuses."""
        if name in self._expected:
            return self._expected[name]
        channels = self._channels
        try:
            watched = channels._feeds.get(name) or channels._watch(name, None)
        except ChannelError:
            return None
        if not isinstance(watched, Feed):
            return True
        # It holds what is passed on, and keeps the feed open, like a subscription that waits.
        holder: Any = self
        joining = watched.joining[holder] = Joining(holder, name, None)
        return _Expected(watched, joining)

    def _forget(self, expected: _Expected) -> None:
        holder: Any = self
        expected.feed.joining.pop(holder, None)

    def end(self) -> None:
        """Watch only what somebody is subscribed to."""
        expected, self._expected = self._expected, {}
        for name, each in expected.items():
            self._forget(each)
            self._channels._unwatch(name)

    # The process that a caller leaves.

    def canDepart(self, subscriber: BufferedSubscriber, ready: set[str] | None) -> bool:
        """Return whether the subscriptions can move now.

        Args:
            subscriber: whose.
            ready: what the other process watches; None: everything.
        """
        channels = self._channels
        if subscriber in channels._joiners or not subscriber.isIdle:
            return False
        hasPattern = False
        for name in subscriber.channels:
            if (ready is not None and name not in ready) or channels.presence.isTelling(name):
                return False
            hasPattern = hasPattern or isPattern(name)
        return not hasPattern or not any(feed.isHolding for feed in channels._feeds.values())

    def depart(self, subscriber: BufferedSubscriber) -> list[SubscriptionState]:
        """End all subscriptions without a word, as far as this process is concerned, and return their states."""
        channels, presence = self._channels, self._channels.presence
        states = []
        waiting = subscriber.dropWaiting()
        subscriber.gone = True
        for name in subscriber.channels:
            watches = presence.isWatching(name, subscriber)
            position = None if isPattern(name) else waiting.get(name) or self._position(name)
            states.append(SubscriptionState(name, position, presence.depart(name, subscriber), watches))
            channels._audiences[subscriber.format].remove(name, subscriber)
            channels._patterns -= isPattern(name)
        names, subscriber.channels = subscriber.channels, ()
        for name in names:
            channels._unwatch(name)
        return states

    def _position(self, channel: str) -> tuple[str, int]:
        feed = self._channels._feeds.get(channel)
        if feed is None:
            history = self._channels._engine.since(channel, None)
            assert isinstance(history, History)  # an engine without feeds answers at once
            position = history.position
        else:
            assert feed.last is not None  # or nobody could have joined
            position = feed.last
        return position.epoch, position.offset

    # The process to which it comes.

    def arrive(self, subscriber: BufferedSubscriber, states: Iterable[SubscriptionState]) -> Deferred[Any] | None:
        """Let a subscriber go on with its subscriptions; return a Deferred if the engine has to be asked for something."""
        waiting, patterns = [], []
        presence = self._channels.presence
        for state in states:
            if state.entered is not None:
                presence.arrive(state.channel, subscriber, *state.entered)
            if state.position is None:
                patterns.append(state.channel)
            elif (later := self._arrive(subscriber, state, Position(*state.position))) is not None:
                waiting.append(later)
        if waiting:
            return Deferred.fromCoroutine(self._arriveAll(subscriber, waiting, patterns))
        self._arrivePatterns(subscriber, patterns)
        return None

    async def _arriveAll(self, subscriber: BufferedSubscriber, waiting: Iterable[Deferred[Any]], patterns: Iterable[str]) -> None:
        for each in waiting:
            await each
        # Not before: until now, what they match is in the journal, which the subscriber gets next.
        self._arrivePatterns(subscriber, patterns)

    def _arrivePatterns(self, subscriber: BufferedSubscriber, patterns: Iterable[str]) -> None:
        channels = self._channels
        for name in patterns:
            if name not in channels._feeds:
                channels._watch(name, None)
            channels._enlist(subscriber, name)
            channels._patterns += 1

    def _arrive(self, subscriber: BufferedSubscriber, state: SubscriptionState, position: Position) -> Deferred[Any] | None:
        channels, name = self._channels, state.channel
        expected = self._expected.get(name)
        history = None if expected is None else expected.after(position)
        if history is None:
            feed = channels._feeds.get(name) or channels._watch(name, None)
            if isinstance(feed, Feed):
                return Deferred.fromCoroutine(self._arriveLater(subscriber, state, position, feed))
            found = channels._engine.since(name, position)
            assert isinstance(found, History)  # an engine without feeds answers at once
            history = found
        self._go(subscriber, state, history)
        return None

    def _go(self, subscriber: BufferedSubscriber, state: SubscriptionState, history: History) -> None:
        self._channels._enlist(subscriber, state.channel)
        if state.watches:
            self._channels.presence.watch(state.channel, subscriber)
        past = history.publications
        subscriber.resumed(Start(state.channel, history.position, history.recovered, len(past)), past)

    async def _arriveLater(
        self, subscriber: BufferedSubscriber, state: SubscriptionState, position: Position, feed: Feed
    ) -> None:
        """Ask the engine for what was published since: more than is held here."""
        channels, name = self._channels, state.channel
        feed.joining[subscriber] = joining = Joining(subscriber, name, None)
        if subscriber not in channels._joiners:
            channels._joiners[subscriber] = set()
        channels._joiners[subscriber].add(name)
        try:
            found = await channels._pastOf(feed, joining, position, None)
            if channels.fanOuts.pending:
                channels.fanOuts.catchUp(subscriber.caller)
            channels._checkJoining(feed, joining)
            assert found is not None  # it is no pattern
            history = feed.complete(joining, found)
        finally:
            channels._removeJoining(feed, joining)
        self._go(subscriber, state, history)
