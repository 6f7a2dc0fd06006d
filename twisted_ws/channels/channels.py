"""Channels: their subscribers, and the way of a message from its publisher to them.

The engine numbers and keeps messages; here they are matched with subscribers. All subscribers with one format are sent the
same bytes (`twisted_ws.wire.websocket.fanout`), so a channel costs what a broadcast costs.

Three rules give each subscriber every message once and in order:

1. A subscriber joins after it got all that was sent to it until then, and what it missed goes into its own queue before
   anything that comes later. A message that is on its way to others at that moment is in that history, and skips it.
2. What is published while another message is on its way comes after that for everybody: sending to many takes several turns,
   and may run a service's code (onError of a caller that is too slow), which may publish. A subscriber that leaves a channel
   first gets what was published there.
3. With an engine that answers later, messages that come before its answer are held, and those that are in the answer dropped.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from twisted_ws.caller import Caller
from twisted_ws.channels.audience import Audience
from twisted_ws.channels.buffered import BufferedSubscriber
from twisted_ws.channels.formats import LARGE, Format
from twisted_ws.channels.presence import AnswerBudget, Presence
from twisted_ws.channels.roster import Roster
from twisted_ws.channels.subscriber import Subscriber
from twisted_ws.channels.visitor import Visitor
from twisted_ws.engines.contract import Description, Engine, History
from twisted_ws.engines.names import checkName, checkNameOrPattern, isPattern
from twisted_ws.errors import ChannelError, ConnectionClosed
from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import Message, Position, Publication, Published, Start, parsePosition
from twisted_ws.wire.door.gate import addressKey
from twisted_ws.wire.websocket.fanout import BYTES, STEPS, Later, Part, stepsOf
from twisted_ws.wire.websocket.runtime import Runtime

# Bytes that channels may queue in a caller's outbox; more waits in its mailbox, where the policy of the mount decides.
ROOM = 32 * 1024

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
        limits, wheel, backlog, turns, fanOuts: the runtime's.
        seconds: the wheel's clock.
    """

    def __init__(self, engine: Engine, runtime: Runtime) -> None:
        self.limits = runtime.limits
        self.wheel = runtime.wheel
        self.backlog = runtime.backlog
        self.turns = runtime.turns
        self.fanOuts = runtime.fanOuts
        self.seconds = runtime.wheel.seconds
        self.room = min(ROOM, self.limits.maxSendBuffer // 2)
        self.visitors = Roster()
        self.presence = Presence(self.limits.presenceDelay, self.wheel, self.fanOuts)
        self._engine = engine
        engine.receive = self._receive
        self._audiences: dict[Format, Audience] = {}
        self._patterns = 0  # subscriptions to patterns
        self._joining: dict[str, dict[Subscriber, _Joining]] = {}
        self._joiners: dict[Subscriber, set[str]] = {}  # the same, by subscriber

    # Subscribers.

    def enroll(self, caller: Caller) -> BufferedSubscriber:
        """Return what takes part in channels for a caller: it gets raw messages, and is closed if it is too slow."""
        return BufferedSubscriber(caller, self)

    def subscribe(
        self, subscriber: Subscriber, channel: str, after: str | Position | None = None, info: Any = None
    ) -> Deferred[Start]:
        """Subscribe to a channel or pattern, without asking whether that is allowed.

        Args:
            subscriber: the subscriber.
            channel: the name.
            after: the position that the subscriber has seen; see `parsePosition`.
            info: what presence says of its user.

        Returns:
            A Deferred of what `Subscriber.begin` was called with. It has fired already, unless the engine answers later.

        Raises:
            ChannelError: invalid name or position, already subscribed, too many channels. The Deferred may fail with one, too.
            ConnectionClosed: the subscriber has left, for example while a hook was asked.
        """
        checkNameOrPattern(channel, self.limits.channelName)
        position = parsePosition(after) if isinstance(after, str) else after
        if self.fanOuts.pending:
            self.fanOuts.catchUp(subscriber.caller)
        if subscriber.gone:
            raise ConnectionClosed
        pending = self._joiners.get(subscriber, ())
        if channel in subscriber.channels or channel in pending:
            raise ChannelError("already-subscribed", "This connection is already subscribed to the channel.")
        if len(subscriber.channels) + len(pending) >= self.limits.channelsPerCaller:
            raise ChannelError("too-many-channels", f"A connection has at most {self.limits.channelsPerCaller} channels.")
        self.presence.enter(channel, subscriber, info)
        try:
            history = self._engine.watch(channel, position, addressKey(subscriber.caller.request.peerAddress) or "")
        except ChannelError:
            self.presence.leave(channel, subscriber)
            raise
        if isinstance(history, History):
            return succeed(self._join(subscriber, channel, history))
        joining = _Joining(subscriber, channel)
        if channel not in self._joining:
            self._joining[channel] = {}
        self._joining[channel][subscriber] = joining
        if subscriber not in self._joiners:
            self._joiners[subscriber] = set()
        self._joiners[subscriber].add(channel)
        return history.addCallbacks(self._joined, self._notJoined, callbackArgs=(joining,), errbackArgs=(joining,))

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
        self._patterns -= isPattern(channel)
        self.presence.leave(channel, subscriber)
        self._unwatch(channel)
        subscriber.ended(channel, reason)

    def leave(self, subscriber: Subscriber) -> None:
        """End all subscriptions of a subscriber that has gone; it cannot subscribe again."""
        subscriber.gone = True
        if isinstance(subscriber.caller, Visitor):
            subscriber.caller.roster = None
            self.visitors.discard(subscriber.caller)
        for channel in tuple(self._joiners.get(subscriber, ())):
            self._cancelJoining(subscriber, channel)
        for channel in subscriber.channels:
            self._end(subscriber, channel, (), "")
        if isinstance(subscriber.caller, Visitor):
            subscriber.caller.membership = None

    def count(self, channel: str) -> int:
        """Return how many are subscribed to a channel itself, not through a pattern."""
        return sum([audience.count(channel) for audience in self._audiences.values()])

    def who(self, channel: str, after: str = "", room: AnswerBudget | None = None) -> dict[str, Any]:
        """Return who is on a channel, as it appears in JSON.

        Args:
            channel: its name.
            after: the user after which `members` begin.
            room: what they may take of an answer; None: all of `Limits.answerMessages` and `Limits.answerBytes`.

        Returns:
            The `count` of connections, the users as `members`, and, if there are more, the user to continue after as `next`.
        """
        members, last = self.presence.members(channel, room or AnswerBudget(self.limits), after)
        self.turns.spend(1 + len(members) // MEMBERS)
        who = {"count": self.count(channel), "members": members}
        if last is not None:
            who["next"] = last
        return who

    # Messages.

    def publish(
        self,
        channel: str,
        message: Any,
        key: str | None = None,
        idempotencyKey: str | None = None,
        asked: Message | None = None,
    ) -> Deferred[Published]:
        """Publish a message to all subscribers of `channel`, and keep it for those that come back.

        Args:
            channel: a name, not a pattern.
            message: str for text, bytes for binary, a `Message` as it is, anything else as JSON (`msgspec.Raw`: JSON that is
                encoded already).
            key: conflation; see `Publication`.
            idempotencyKey: publish only once, however often this is called with the key within `Limits.idempotencyAge`.
            asked: what the publisher sent, if a service has replaced it by `message`; None: `message`.

        Returns:
            A Deferred of the answer. It has fired already, unless the engine answers later, or the message has to wait for others
            that are on their way, or for more turns of the reactor because there are very many subscribers.

        Raises:
            ChannelError: an invalid name, a message or key that is too long, an idempotency key that was used for another
                message; the engine has no room; or more messages are on their way than can be sent.
            TypeError: JSON has no form for `message`.
            ValueError: a lone surrogate in text or key.
        """
        checkName(channel, self.limits.channelName)
        message = Message.of(message)
        size = len(message.payload)
        if size > self.limits.maxMessageSize:
            raise ChannelError("too-large", f"A message has at most {self.limits.maxMessageSize} bytes.")
        for each in (key, idempotencyKey):
            if each is not None and len(each) > LONGEST_KEY:
                raise ChannelError("too-large", f"A key has at most {LONGEST_KEY} characters.")
        if key is not None and not key.isascii():
            key.encode()  # what is numbered must have a form that can be sent
        fingerprint = b"" if idempotencyKey is None else _fingerprint(key, asked or message)
        if self.fanOuts.pending:
            self.fanOuts.admit(size)
        return _later(self._engine.publish(channel, message, key, idempotencyKey, fingerprint))

    def _receive(self, publication: Publication) -> int | Deferred[int]:
        """Pass one message on; called by the engine."""
        channel = publication.channel
        if self._joining:
            for joining in self._joining.get(channel, {}).values():
                if len(joining.held) <= self.limits.historyMessages:
                    joining.held.append(publication)
        # All are found before the first is sent to: a service may subscribe others then, which get this message from history.
        parts: list[Part] = []
        names, overlaps = [channel], False
        messages: dict[Format, Any] = {}
        for form, audience in self._audiences.items():
            if self._patterns:
                runs, heard = audience.listeners(channel)
                names, overlaps = [*names, *heard], overlaps or len(heard) > 1
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
        return _later(self._engine.history(channel, parsePosition(after) if isinstance(after, str) else after))

    def forget(self, channel: str) -> Deferred[int]:
        """Drop what is kept of a channel, and return how many messages that was."""
        checkName(channel, self.limits.channelName)
        return _later(self._engine.forget(channel))

    def describe(self, channel: str) -> Deferred[Description | None]:
        """Return what is known of a channel, None if there is none."""
        checkName(channel, self.limits.channelName)
        return _later(self._engine.describe(channel))

    def list(self, prefix: str = "", after: str = "", limit: int = 100) -> Deferred[list[Description]]:
        """Return the first `limit` channels by name, of those that begin with `prefix` and come after the name `after`."""
        return _later(self._engine.list(prefix, after, limit))

    # From history to live.

    def _join(self, subscriber: Subscriber, channel: str, history: History) -> Start:
        audience = self._audiences.get(subscriber.format)
        if audience is None:
            audience = self._audiences[subscriber.format] = Audience(subscriber.format)
        if self.fanOuts.pending:
            self.fanOuts.came(subscriber.caller, channel)
        audience.add(channel, subscriber)
        if not subscriber.channels and isinstance(subscriber.caller, Visitor):
            subscriber.caller.roster, subscriber.caller.membership = self.visitors, subscriber
            self.visitors.add(subscriber.caller)
        subscriber.channels += (channel,)
        self._patterns += isPattern(channel)
        start = Start(channel, history.position, history.recovered, len(history.publications))
        subscriber.begin(start, history.publications)
        return start

    def _joined(self, history: History, joining: _Joining) -> Start:
        if self.fanOuts.pending:
            self.fanOuts.catchUp(joining.subscriber.caller)
        if not self._removeJoining(joining):
            if joining.subscriber.gone:
                raise ConnectionClosed
            raise ChannelError("not-subscribed", "The subscription was ended before it began.")
        if len(joining.held) > self.limits.historyMessages:
            self.presence.leave(joining.channel, joining.subscriber)
            self._unwatch(joining.channel)
            raise ChannelError("unavailable", "The channel's history took too long to arrive.")
        past = [*history.publications]
        last = past[-1].position if past else history.position
        held = [each for each in joining.held if last is None or each.epoch != last.epoch or each.offset > last.offset]
        return self._join(joining.subscriber, joining.channel, history._replace(publications=past + held))

    def _notJoined(self, failure: Failure, joining: _Joining) -> Failure:
        if self._removeJoining(joining):
            self.presence.leave(joining.channel, joining.subscriber)
            self._unwatch(joining.channel)
        return failure

    def _removeJoining(self, joining: _Joining) -> bool:
        channel, subscriber = joining.channel, joining.subscriber
        joinings = self._joining.get(channel, {})
        if joinings.get(subscriber) is not joining:
            return False
        del joinings[subscriber]
        if not joinings:
            del self._joining[channel]
        channels = self._joiners[subscriber]
        channels.remove(channel)
        if not channels:
            del self._joiners[subscriber]
        return True

    def _cancelJoining(self, subscriber: Subscriber, channel: str) -> bool:
        joining = self._joining.get(channel, {}).get(subscriber)
        if joining is None:
            return False
        self._removeJoining(joining)
        self.presence.leave(channel, subscriber)
        self._unwatch(channel)
        return True

    def _unwatch(self, channel: str) -> None:
        if channel not in self._joining and not any(channel in audience for audience in self._audiences.values()):
            self._engine.unwatch(channel)


class _Joining:
    """A subscription that waits for the engine's answer, with what was published meanwhile."""

    __slots__ = ("channel", "held", "subscriber")

    def __init__(self, subscriber: Subscriber, channel: str) -> None:
        self.subscriber = subscriber
        self.channel = channel
        self.held: list[Publication] = []


def _fingerprint(key: str | None, message: Message) -> bytes:
    """Return what tells a repeated message from a different one."""
    hashed = blake2b(repr((key, message.kind.value)).encode("ascii", "backslashreplace"), digest_size=16)
    hashed.update(message.payload)  # not joined with the rest: a large one would be copied
    return hashed.digest()


def _later(answer: Any) -> Deferred[Any]:
    return answer if isinstance(answer, Deferred) else succeed(answer)
