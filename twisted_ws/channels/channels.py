"""Channels: their subscribers, and the way of a message from its publisher to them.

The engine numbers and keeps messages; here they are matched with subscribers. All subscribers with one format are sent the
same bytes (`twisted_ws.wire.websocket.fanout`), so a channel costs what a broadcast costs.

Three rules give each subscriber every message once and in order:

1. A subscriber joins after it got all that was sent to it until then, and what it missed goes into its own queue before
   anything that comes later. A message that is on its way to others at that moment is in that history, and skips it.
2. What is published while another message is on its way comes after that for everybody: sending to many takes several turns,
   and may run a service's code (onError of a caller that is too slow), which may publish. A subscriber that leaves a channel
   first gets what was published there.
3. With an engine that answers later, a `Feed` for each channel sorts what comes, and a subscriber joins when that has reached the
   end of its history.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from functools import partial
from hashlib import blake2b
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.channels.audience import Audience
from twisted_ws.channels.feed import Feed, Joining
from twisted_ws.channels.options import ChannelOptions
from twisted_ws.channels.presence import AnswerBudget, News, Presence
from twisted_ws.channels.roster import Roster
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.channels.subscribers.formats import LARGE, Format
from twisted_ws.channels.subscribers.mailbox import Policy
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.channels.visitor import Visitor
from twisted_ws.engines.contract import (
    Description,
    Engine,
    EngineState,
    History,
    HistoryLimits,
    MaybeDeferred,
    Members,
)
from twisted_ws.engines.members import OVERHEAD
from twisted_ws.engines.newest import newest
from twisted_ws.engines.replay import Replay
from twisted_ws.errors import ChannelError, ConnectionClosed
from twisted_ws.frames import OutgoingMessage
from twisted_ws.identity import RESERVED
from twisted_ws.message import Message, Position, Publication, Published, Start, parsePosition
from twisted_ws.names import checkName, checkNameOrPattern, isPattern
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import LEAST, SERVICE
from twisted_ws.wire.door.gate import addressKey
from twisted_ws.wire.websocket.fanout import BYTES, OWN_WAY, STEPS, Later, Part, stepsOf
from twisted_ws.wire.websocket.runtime import Runtime

_log = Logger()

# Bytes that channels may queue in a caller's outbox; more waits in its mailbox, where the policy of the mount decides.
ROOM = 32 * 1024

# Steps of `Turns` to ask for what one channel has missed.
REFILL = 40

# Members of presence in one step of `Turns`.
MEMBERS = 2

LONGEST_KEY = 128  # characters of a conflation or idempotency key


class Channels:
    """All channels of one server.

    Args:
        engine: numbers and keeps.
        runtime: what the server's connections share.

    Attributes:
        presence: the users on the channels.
        visitors: the subscribers over HTTP.
        room: bytes that may wait in a caller's outbox, one more message included.
        subscriptions: how many there are, to all channels and patterns together.
        behind: the subscribers for which messages wait.
        limits, wheel, backlog, turns, fanOuts, counts: the runtime's.
        seconds: the wheel's clock.
        unixTime: the wall clock.
        isGuarded: whether rules or grants decide for some service: then no pattern stands for names that begin with ``~``.
        options: what the operator says of channels by their names; None for nothing.
    """

    # It is the part of a `twisted_ws.engines.contract.Node` that is about channels.

    def __init__(self, engine: Engine, runtime: Runtime) -> None:
        self.limits = runtime.limits
        self.wheel = runtime.wheel
        self.backlog = runtime.backlog
        self.turns = runtime.turns
        self.fanOuts = runtime.fanOuts
        self.seconds = runtime.wheel.seconds
        self.unixTime = runtime.unixTime
        self.counts = runtime.counts
        self._times, self._heard = self.counts.publications.rows, self.counts.heard
        self.subscriptions = 0
        self.behind: dict[BufferedSubscriber, None] = {}
        self._clock: Callable[[], float] = runtime.reactor.seconds
        self.room = min(ROOM, self.limits.maxSendBuffer // 2)
        self.visitors = Roster(runtime.credentials)
        self.presence = Presence(engine, self.wheel, self.fanOuts)
        self._engine = engine
        self._audiences: dict[Format, Audience] = {}
        self.isGuarded = False
        self.options: ChannelOptions | None = None
        self._patterns = 0  # subscriptions to patterns
        self._isDegraded = False  # as clients were told
        self._engineState: EngineState | None = None  # as it was told
        self._refills = 0  # how often all channels were asked for, because the engine was there again
        # With an engine that answers later, the channels and patterns that it was asked to watch.
        self._feeds: dict[str, Feed] = {}
        self._joiners: dict[Subscriber, set[str]] = {}  # to what they wait to be subscribed

    def setOptions(self, options: ChannelOptions | None) -> None:
        """Let these options hold from now on; None for none."""
        self.options = self.presence.options = options

    # Subscribers.

    def enroll(self, caller: Caller) -> BufferedSubscriber:
        """Return what takes part in channels for a caller: it gets raw messages, and is closed if it is too slow."""
        return BufferedSubscriber(caller, self)

    def subscribe(
        self,
        subscriber: Subscriber,
        channel: str,
        after: str | Position | None = None,
        info: Any = None,
        room: AnswerBudget | None = None,
        last: int | None = None,
    ) -> Deferred[Start]:
        """Subscribe to a channel or pattern, without asking whether that is allowed.

        Args:
            subscriber: the subscriber.
            channel: the name.
            after: the position that the subscriber has seen; see `parsePosition`.
            info: what presence says of its user.
            room: what the users on the channel may take of the answer; it is then told who comes and goes. None: it does not want
                to know.
            last: without `after`, begin so many messages back, as far as they are kept.

        Returns:
            A Deferred of what `Subscriber.begin` was called with. It has fired already, unless the engine answers later.

        Raises:
            ChannelError: invalid name or position, already subscribed, too many channels. The Deferred may fail with one, too.
            ConnectionClosed: the subscriber has left, for example while a hook was asked.
        """
        checkNameOrPattern(channel, self.limits.channelName)
        position = parsePosition(after) if isinstance(after, str) else after
        if last is not None and (position is not None or isPattern(channel)):
            last = None
        if self.fanOuts.pending:
            self.fanOuts.catchUp(subscriber.caller)
        if subscriber.gone:
            raise ConnectionClosed
        taken = subscriber.channels
        if self._joiners:
            taken += tuple(self._joiners.get(subscriber, ()))
        if channel in taken:
            raise ChannelError("already-subscribed", "This connection is already subscribed to the channel.")
        if len(taken) >= self.limits.channelsPerCaller:
            raise ChannelError("too-many-channels", f"A connection has at most {self.limits.channelsPerCaller} channels.")
        self.presence.enter(channel, subscriber, info)
        try:
            watched = self._feeds.get(channel) or self._watch(channel, addressKey(subscriber.caller.request.peerAddress) or "")
            if not isinstance(watched, Feed):
                return succeed(self._joinNow(subscriber, channel, position, room, watched, last))
        except ChannelError:
            self.presence.leave(channel, subscriber)
            raise
        return Deferred.fromCoroutine(self._joinLater(watched, Joining(subscriber, channel, room), position, last))

    def unsubscribe(self, subscriber: Subscriber, channel: str, reason: str = "") -> bool:
        """End a subscription; return whether there was one. `reason` tells a subscriber why that did not ask for this."""
        if self._cancelJoining(subscriber, channel):
            return True
        if self.fanOuts.pending and not subscriber.gone:
            self.fanOuts.catchUp(subscriber.caller)
        if channel not in subscriber.channels:
            return False
        self._end(subscriber, channel, tuple([each for each in subscriber.channels if each != channel]), reason)
        return True

    def _end(self, subscriber: Subscriber, channel: str, left: tuple[str, ...], reason: str) -> None:
        subscriber.channels = left
        self._audiences[subscriber.format].remove(channel, subscriber)
        self.subscriptions -= subscriber.isCounted
        self._patterns -= isPattern(channel)
        self.presence.leave(channel, subscriber)
        self._unwatch(channel)
        subscriber.ended(channel, reason)

    def leave(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a subscriber that has gone; it cannot subscribe again."""
        subscriber.gone = True
        caller = subscriber.caller
        if isinstance(caller, Visitor):
            caller.roster = None
            self.visitors.discard(caller)
        if subscriber in self._joiners:
            for channel in tuple(self._joiners[subscriber]):
                self._cancelJoining(subscriber, channel)
        for channel in subscriber.channels:
            self._end(subscriber, channel, (), "")
        if isinstance(caller, Visitor):
            caller.membership = None

    def subscribers(self) -> Collection[Subscriber]:
        """Return all that are subscribed to something now, each once."""
        return dict.fromkeys([each for audience in self._audiences.values() for each in audience])

    def count(self, channel: str) -> int:
        """Return how many are subscribed to a channel itself, not through a pattern."""
        return sum([audience.count(channel) for audience in self._audiences.values() if audience.isCounted])

    def who(self, channel: str, after: str = "", room: AnswerBudget | None = None) -> MaybeDeferred[dict[str, Any]]:
        """Return who is on a channel, as it appears in JSON.

        Args:
            channel: its name.
            after: the user after which `members` begin.
            room: what they may take of an answer; None: all of `Limits.answerMessages` and `Limits.answerBytes`.

        Returns:
            The `count` of connections, the users as `members`, and, if there are more, the user to continue after as `next`.
        """
        room = room or AnswerBudget(self.limits)
        found = self._engine.members(channel, after, room.members, room.bytes)
        return self._shown(found, room) if isinstance(found, Members) else found.addCallback(self._shown, room)

    def _shown(self, found: Members, room: AnswerBudget) -> dict[str, Any]:
        members = found.members
        room.members -= len(members)
        room.bytes -= sum([len(each.user) + len(bytes(each.info)) + OVERHEAD for each in members])
        self.turns.spend(1 + len(members) // MEMBERS)
        who: dict[str, Any] = {"count": found.subscribers, "members": members}
        if found.next is not None:
            who["next"] = found.next
        return who

    # Messages.

    def publish(
        self,
        channel: str,
        message: Any,
        key: str | None = None,
        idempotencyKey: str | None = None,
        asked: Message | None = None,
        limits: HistoryLimits | None = None,
        source: str = SERVICE,
        isTraced: bool = False,
    ) -> Deferred[Published]:
        """Publish a message to all subscribers of `channel`, and keep it for those that come back.

        Args:
            channel: a name, not a pattern.
            message: str for text, bytes for binary, a `Message` as it is, anything else as JSON (`msgspec.Raw`: JSON that is
                encoded already).
            key: conflation; see `Publication`.
            idempotencyKey: publish only once, however often this is called with the key within `Limits.idempotencyAge`.
            asked: what the publisher sent, if a service has replaced it by `message`; None: `message`.
            limits: how much of the channel is kept from now on; None: what the operator says of it, or `Limits`.
            source: who publishes, as it is counted: `SERVICE`, `CLIENT` or `API` of `twisted_ws.telemetry.counts`.
            isTraced: whether there is a span of it already.

        Returns:
            A Deferred of the answer. It has fired already, unless the engine answers later, or the message has to wait for others
            that are on their way, or for more turns of the reactor because there are very many subscribers.

        Raises:
            ChannelError: an invalid name, a message or key that is too long, an idempotency key that was used for another
                message; the engine has no room; or more messages are on their way than can be sent.
            TypeError: JSON has no form for `message`.
            ValueError: a lone surrogate in text or key.
        """
        if tracing.tracer is not None and not isTraced:
            return self._publishInSpan(channel, message, key, idempotencyKey, asked, limits, source)
        # This may be called a hundred thousand times a second: it is one function, and what it counts is written out.
        try:
            checkName(channel, self.limits.channelName)
            message = Message.of(message)
            size = len(message.payload)
            if size > self.limits.maxMessageSize:
                raise ChannelError("too-large", f"A message has at most {self.limits.maxMessageSize} bytes.")
            if key is not None:
                _checkKey(key)
                if not key.isascii():
                    key.encode()  # what is numbered must have a form that can be sent
            if idempotencyKey is None:
                fingerprint = b""
            else:
                _checkKey(idempotencyKey)
                fingerprint = _fingerprint(key, asked or message)
            if self.fanOuts.pending:
                self.fanOuts.admit(size)
            if limits is None and self.options is not None:
                limits = self.options.history(channel)
            countedFrom = self._clock()
            answer = self._engine.publish(channel, message, key, idempotencyKey, fingerprint, limits)
        except ChannelError as error:
            self.counts.publishErrors.add(error.code)
            raise
        if isinstance(answer, Published):
            self._countPublication(answer, countedFrom, source)
            return succeed(answer)
        return answer.addCallbacks(self._counted, self._countRefusal, callbackArgs=(countedFrom, source))

    def _publishInSpan(self, channel: str, *arguments: Any) -> Deferred[Published]:
        attributes = {
            "messaging.system": "twisted_ws",
            "messaging.operation.type": "send",
            "messaging.destination.name": channel,
            "twisted_ws.source": arguments[-1],
        }
        published: Deferred[Published] = tracing.traced(
            "publish",
            self.publish,
            channel,
            *arguments,
            True,
            kind="producer",
            attributes=attributes,
            linked=tracing.links(),
            found=_tellRecipients,
        )
        return published

    def _countPublication(self, published: Published, countedFrom: float, source: str) -> None:
        passed = self._clock() - countedFrom
        key = source, "" if self.options is None else self.options.namespace(published.channel)
        times = self._times.get(key) or self.counts.publications.of(*key)
        times.total += 1
        times.sum += passed
        if passed > LEAST:
            times.rank(passed)
        if published.recipients:
            self._heard.add(published.recipients)

    def _counted(self, published: Published, countedFrom: float, source: str) -> Published:
        self._countPublication(published, countedFrom, source)
        return published

    def dropped(self, publication: Publication, policy: Policy) -> None:
        """Count a message that a subscriber does not get, because it is too slow."""
        self.counts.dropped.add(policy.value, self._namespace(publication.channel))

    def _namespace(self, channel: str) -> str:
        return "" if self.options is None else self.options.namespace(channel)

    def _countRefusal(self, failure: Failure) -> Failure:
        if isinstance(failure.value, ChannelError):
            self.counts.publishErrors.add(failure.value.code)
        return failure

    # What the engine says (see `twisted_ws.engines.contract.Node`).

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Pass a publication on, in order."""
        if self._feeds:
            feed = self._feeds.get(publication.channel)
            if feed is not None:
                return feed.received(publication)
        return self.passOn(publication)

    def lost(self, channel: str, position: Position) -> None:
        """Go on without what precedes `position`."""
        feed = self._feeds.get(channel)
        if feed is not None:
            feed.lost(position)

    def watched(self) -> tuple[str, ...]:
        """Return the channels and patterns that the engine was asked to watch."""
        return tuple(self._feeds)

    def stateChanged(self, state: EngineState) -> None:
        """Tell clients whether they hear what is published; ask for what they may have missed."""
        if self._feeds and (state is EngineState.UP or state is self._engineState):
            self._refills += state is EngineState.UP
            Deferred.fromCoroutine(self._refill(state is EngineState.UP, self._refills)).addErrback(
                lambda failure: _log.failure("channels were not looked at", failure, event="channel.failed")
            )
        self._engineState = state
        if (state is EngineState.DOWN) != self._isDegraded:
            self._isDegraded = not self._isDegraded
            Deferred.fromCoroutine(self._tellState()).addErrback(
                lambda failure: _log.failure("clients were not told", failure, event="channel.failed")
            )

    async def _refill(self, isUp: bool, number: int) -> None:
        """Ask for what every channel may have missed, or again for what a part of the engine could not answer."""
        async for feed in self.turns.through(tuple(self._feeds.values()), REFILL):
            if number != self._refills:
                return  # all are asked for again
            if isUp:
                feed.refill()
            else:
                feed.goOn()

    async def _tellState(self) -> None:
        async for subscriber in self.turns.through(self.subscribers(), STEPS + OWN_WAY):
            subscriber.degraded(self._isDegraded)

    def tellLost(self, channel: str, position: Position) -> None:
        """Tell the subscribers of a channel that something before `position` cannot be had (see `Feed`)."""
        start = Start(channel, position, False, 0)
        parts = [(run, start, STEPS + OWN_WAY) for audience in self._audiences.values() for run in audience.runs(channel)]

        def find(person: Any) -> tuple[Subscriber, Any] | None:
            subscriber = person.membership
            return (subscriber, start) if channel in subscriber.channels else None

        def deliver(subscriber: Subscriber, start: Any) -> bool:
            subscriber.lost(start)
            return True

        if parts:
            self.fanOuts.send(parts, (channel,), find, 0, deliver=deliver)

    def passOn(self, publication: Publication, heard: bool = False) -> MaybeDeferred[int]:
        """Send a publication to the subscribers that are here, and return how many took it.

        If it was `heard`, those that have a pattern have got it already.
        """
        channel = publication.channel
        # All are found before the first is sent to: a service may subscribe others then, which get this message from history.
        parts: list[Part] = []
        names, overlaps = [channel], False
        messages: dict[Format, Any] = {}
        for form, audience in self._audiences.items():
            if self._patterns and not heard and not (self.isGuarded and channel.startswith(RESERVED)):
                runs, patterns = audience.listeners(channel)
                names, overlaps = [*names, *patterns], overlaps or len(patterns) > 1
            else:
                runs = audience.runs(channel)
            if runs:
                if len(publication.payload) >= LARGE:
                    message, steps = Later(partial(form, publication)), STEPS + len(publication.payload) // BYTES
                else:
                    message = form(publication)
                    steps = stepsOf(message) if isinstance(message, OutgoingMessage) else STEPS
                messages[form] = message
                parts += [(run, message, steps) for run in runs]
        if not parts:
            return 0

        def find(person: Any) -> tuple[Subscriber, Any] | None:
            subscriber = person.membership
            return (subscriber, messages[subscriber.format]) if subscriber.format in messages else None

        names = [*dict.fromkeys(names)] if self._patterns else names
        return self.fanOuts.send(parts, names, find, len(publication.payload), overlaps)

    # What is kept.

    def history(self, channel: str, after: str | Position | None = None) -> Deferred[History]:
        """Return what is kept of a channel since `after`; to go on from there, subscribe."""
        checkName(channel, self.limits.channelName)
        history = _later(self._engine.since(channel, parsePosition(after) if isinstance(after, str) else after))
        # A copy: what the engine forgets later is still there.
        return history.addCallback(lambda found: found._replace(publications=[*found.publications]))

    def newest(self, channel: str, limit: int, before: Position | None = None) -> Deferred[History]:
        """Return the newest that is kept of a channel, or the newest up to the position `before`."""
        checkName(channel, self.limits.channelName)
        history = _later(newest(self._engine, channel, limit, before))
        return history.addCallback(lambda found: found._replace(publications=[*found.publications]))

    def forget(self, channel: str) -> Deferred[int]:
        """Drop what is kept of a channel, and return how many messages that was."""
        checkName(channel, self.limits.channelName)
        return _later(self._engine.forget(channel))

    def describe(self, channel: str) -> Deferred[Description | None]:
        """Return what is known of a channel, None if there is none."""
        checkName(channel, self.limits.channelName)
        return _later(self._engine.describe(channel))

    # From history to live.

    def _watch(self, channel: str, by: Hashable) -> Feed | Position | None:
        """Have a channel watched, if it is not yet.

        Return its feed. An engine that answers at once needs none: then, its answer, None if it was not asked.
        """
        for audience in self._audiences.values():
            if channel in audience:
                return None
        answer = self._engine.watch(channel, by)
        if answer is None or isinstance(answer, Position):
            return answer
        feed = self._feeds[channel] = Feed(channel, self._engine, self, self.limits.historyMessages)
        answer.addCallbacks(feed.watched, feed.failed)
        return feed

    def _joinNow(
        self,
        subscriber: Subscriber,
        channel: str,
        after: Position | None,
        room: AnswerBudget | None,
        now: Position | None,
        last: int | None,
    ) -> Start:
        """Join at once. `now` is the channel's position if the engine has just said it."""
        history: Any = None
        if last is not None:
            history = newest(self._engine, channel, last)
        elif after is not None if now is not None else not isPattern(channel):
            history = self._engine.since(channel, after)
        who: Any = None if room is None else self.who(channel, room=room)
        if history is None:
            return self._join(subscriber, Start(channel, now, False, 0), [], who)
        start = Start(channel, history.position, history.recovered, len(history.publications))
        if after is not None and last is None:
            self._countResume(subscriber, start)
        return self._join(subscriber, start, history.publications, who)

    async def _joinLater(self, feed: Feed, joining: Joining, after: Position | None, last: int | None) -> Start:
        subscriber, channel = joining.subscriber, joining.channel
        feed.joining[subscriber] = joining
        if subscriber not in self._joiners:
            self._joiners[subscriber] = set()
        self._joiners[subscriber].add(channel)
        news = None
        try:
            history = await self._pastOf(feed, joining, after, last)
            self._checkJoining(feed, joining)
            who = None
            if joining.room is not None:
                news = self.presence.follow(channel)
                who = self.who(channel, room=joining.room)
            if isinstance(who, Deferred):
                joining.asked = who
                who = await who
            if self.fanOuts.pending:
                self.fanOuts.catchUp(subscriber.caller)
            self._checkJoining(feed, joining)
            if history is not None:
                history = feed.complete(joining, history)
                if last is not None:
                    history = _shortened(history, last)
        except GeneratorExit:
            raise  # the whole server has been forgotten: what would be undone is gone, too
        except BaseException:
            if news is not None:
                news.end()
            if not self._removeJoining(feed, joining):
                raise _notJoined(subscriber) from None
            self.presence.leave(channel, subscriber)
            self._unwatch(channel)
            raise
        self._removeJoining(feed, joining)
        if history is None:
            return self._join(subscriber, Start(channel, None, False, 0), [], who, news)
        past = history.publications
        start = Start(channel, history.position, history.recovered, len(past))
        if after is not None and last is None:
            self._countResume(subscriber, start)
        return self._join(subscriber, start, past, who, news)

    def _countResume(self, subscriber: Subscriber, start: Start) -> None:
        if subscriber.transport:
            self.counts.resumes.add("recovered" if start.recovered else "lost", subscriber.transport)
            self.counts.resumed += start.missed

    async def _pastOf(self, feed: Feed, joining: Joining, after: Position | None, last: int | None) -> History | None:
        """Return what precedes what is held for a subscription; None for a pattern."""
        # Asked before that, the engine may answer with less than what precedes the first publication that it passes on.
        await feed.reach(None)
        self._checkJoining(feed, joining)
        answer: MaybeDeferred[History]
        if last is not None:
            answer = newest(self._engine, joining.channel, last)
        elif after is None or isPattern(joining.channel):
            joining.clear()
            return None if feed.last is None else History(feed.last, False, [])
        else:
            answer = self._engine.since(joining.channel, after)
        if isinstance(answer, Deferred):
            joining.asked = answer
            answer = await answer
        history: History = answer
        past = [*history.publications]
        await feed.reach(past[-1].position if past else history.position)
        return history._replace(publications=past)

    def _join(
        self,
        subscriber: Subscriber,
        start: Start,
        publications: Replay | list[Publication],
        who: dict[str, Any] | None,
        news: News | None = None,
    ) -> Start:
        self._enlist(subscriber, start.channel)
        if start.position is None:  # a pattern
            self._patterns += 1
        if who is not None:
            who["count"] += 1  # it was asked for before
            self.presence.watch(start.channel, subscriber)
        subscriber.begin(start, publications, who)
        if news is not None:
            news.end()
            news.tell(subscriber, who or {})
        return start

    def _enlist(self, subscriber: Subscriber, channel: str) -> None:
        audience = self._audiences.get(subscriber.format)
        if audience is None:
            audience = self._audiences[subscriber.format] = Audience(subscriber.format, subscriber.isCounted)
        if self.fanOuts.pending:
            self.fanOuts.came(subscriber.caller, channel)
        audience.add(channel, subscriber)
        self.subscriptions += subscriber.isCounted
        if not subscriber.channels and isinstance(subscriber.caller, Visitor):
            subscriber.caller.roster, subscriber.caller.membership = self.visitors, subscriber
            self.visitors.add(subscriber.caller)
        subscriber.channels += (channel,)

    def _checkJoining(self, feed: Feed, joining: Joining) -> None:
        if feed.joining.get(joining.subscriber) is not joining:
            raise _notJoined(joining.subscriber)

    def _removeJoining(self, feed: Feed, joining: Joining) -> bool:
        channel, subscriber = joining.channel, joining.subscriber
        if feed.joining.get(subscriber) is not joining:
            return False
        del feed.joining[subscriber]
        channels = self._joiners[subscriber]
        channels.remove(channel)
        if not channels:
            del self._joiners[subscriber]
        return True

    def _cancelJoining(self, subscriber: Subscriber, channel: str) -> bool:
        feed = self._feeds.get(channel)
        joining = None if feed is None else feed.joining.get(subscriber)
        if feed is None or joining is None:
            return False
        self._removeJoining(feed, joining)
        self.presence.leave(channel, subscriber)
        self._unwatch(channel)
        if joining.asked is not None:
            joining.asked.cancel()  # or whoever comes and goes could have the engine make histories for nobody
        return True

    def _unwatch(self, channel: str) -> None:
        for audience in self._audiences.values():
            if channel in audience:
                return
        feed = self._feeds.get(channel)
        if feed is not None:
            if feed.joining:
                return
            del self._feeds[channel]
            feed.close()
        self._engine.unwatch(channel)

    def list(self, prefix: str = "", after: str = "", limit: int = 100) -> Deferred[list[Description]]:
        """Return the first `limit` channels by name, of those that begin with `prefix` and come after the name `after`."""
        return _later(self._engine.list(prefix, after, limit))


def _notJoined(subscriber: Subscriber) -> Exception:
    if subscriber.gone:
        return ConnectionClosed()
    return ChannelError("not-subscribed", "The subscription was ended before it began.")


def _shortened(history: History, most: int) -> History:
    """Return the newest of a history: some came after what was asked for."""
    publications = [*history.publications]
    if len(publications) <= most:
        return history
    first = publications[-most]
    return History(Position(first.epoch, first.offset - 1), False, publications[-most:])


def _checkKey(key: str) -> None:
    if len(key) > LONGEST_KEY:
        raise ChannelError("too-large", f"A key has at most {LONGEST_KEY} characters.")


def _fingerprint(key: str | None, message: Message) -> bytes:
    """Return what tells a repeated message from a different one."""
    hashed = blake2b(repr((key, message.kind.value)).encode("ascii", "backslashreplace"), digest_size=16)
    hashed.update(message.payload)  # not joined with the rest: a large one would be copied
    return hashed.digest()


def _later(answer: Any) -> Deferred[Any]:
    return answer if isinstance(answer, Deferred) else succeed(answer)


def _tellRecipients(span: Any, published: Published) -> None:
    span.set_attribute("messaging.message.id", published.id)
    span.set_attribute("twisted_ws.recipients", published.recipients)
