"""The engine over one server, or one primary."""

from __future__ import annotations

import secrets
import string
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.logger import Logger

from twisted_ws.engines.contract import (
    Command,
    Description,
    Disconnect,
    EngineState,
    History,
    HistoryLimits,
    MaybeDeferred,
    Member,
    Members,
    Node,
    NodeInfo,
    Revocation,
    Unsubscribe,
)
from twisted_ws.engines.journal import Journal
from twisted_ws.engines.redis.calls import Calls
from twisted_ws.engines.redis.looking import look, nodesIn
from twisted_ws.engines.redis.presence import Presence
from twisted_ws.engines.redis.publishing import Publisher, Publishing, packedLimits
from twisted_ws.engines.redis.reading import Reading
from twisted_ws.engines.redis.record import (
    TracedRecord,
    Unreadable,
    decodeBroadcast,
    decodeMember,
    decodeRecord,
    encodeBody,
    encodeBroadcast,
    encodeReceipt,
    parseHead,
    parseId,
)
from twisted_ws.engines.redis.server.contact import TIMES, Contact, Offer, Times
from twisted_ws.engines.redis.server.keys import Keys
from twisted_ws.engines.redis.server.link import Dialer, Link
from twisted_ws.engines.redis.server.operations import HOLD, unavailable
from twisted_ws.engines.redis.server.protocol import TURN
from twisted_ws.engines.redis.server.requests import Requests
from twisted_ws.engines.redis.server.scripts import (
    BURY,
    CLAIM,
    COUNT,
    DESCRIBE,
    ENTER,
    FORGET,
    LIST,
    MEMBERS,
    NODES,
    REMEMBERED,
    REMEMBERED_LEAST,
    REVOKE,
    REVOKED,
    SWEEP,
    TELL,
    TOPS,
    WATCH,
)
from twisted_ws.engines.redis.server.url import Address, RedisURL
from twisted_ws.engines.redis.tail import Tail
from twisted_ws.engines.redis.watches import Makers, Watch, Watches
from twisted_ws.engines.redis.watching import Watching
from twisted_ws.errors import ChannelError
from twisted_ws.message import NOWHERE, Message, Position, Publication, Published
from twisted_ws.names import isPattern
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import BucketTable

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from twisted_ws.limits import Limits
    from twisted_ws.wire.loop.wheel import Wheel

# Bytes of a record besides its message.
OVERHEAD = 2048
# Channels in one question about positions, or in one statement of counts.
TOGETHER = 200
# Messages that are caught up with at once.
CAUGHT = 1000
# Statements of who is there in one turn of the reactor.
STATEMENTS = 20
# Seconds between two looks at what is watched.
TICK = 0.5
# What the server sends back on the subscription for `mark`.
MARK = "mark"
# Claims and revocations of this node that are stated again to a server that may have forgotten.
STATED = 10_000

_LETTERS = string.ascii_lowercase + string.digits
_COMMANDS = Disconnect | Unsubscribe


class _Tick:
    """A deadline that calls a function."""

    __slots__ = ("_call", "wheelSlot")

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self.wheelSlot: int | None = None

    def deadlineReached(self, now: float) -> None:
        """Call it."""
        self._call()


class RedisEngine:
    """The engine over one server of Redis or Valkey.

    Args:
        url: which.
        address: the server; None: the primary that the Sentinels of `url` know.
        password: its password; None for none.
        limits: those of history, idempotency, presence, messages, channels by address.
        wheel: the server's deadlines.
        reactor: its reactor.
        times: how long things take.

    Attributes:
        isNumbered: False: journals of two processes do not have the same numbers.
        keys: the names of keys.
        state: see `Engine`.
        onState: is told each state instead of the node.
        largest: bytes of the largest record.
    """

    _log = Logger()
    isNumbered = False

    def __init__(
        self,
        url: RedisURL,
        address: Address | None,
        password: bytes | None,
        limits: Limits,
        wheel: Wheel,
        reactor: Any,
        times: Times = TIMES,
    ) -> None:
        self.largest = limits.maxMessageSize + OVERHEAD
        self.state = EngineState.DOWN
        self.onState: Callable[[EngineState], None] | None = None
        self._url = url
        self._address = address
        self._limits = limits
        self._wheel = wheel
        self._reactor = reactor
        self._times = times
        self._dialer = Dialer(reactor, url, password, self.largest)
        own = HistoryLimits(limits.historyMessages, limits.historyAge, limits.historyBytes)
        self._history = own
        self._limitsOf = (own, packedLimits(own))  # the last limits, and as the scripts want them
        self._ttl = max(int(limits.historyAge * 1000) * REMEMBERED, REMEMBERED_LEAST)
        self._watches = Watches()
        self._topics: dict[bytes, Watch] = {}  # the channels that are watched
        self._tail = Tail()
        self._presence = Presence()
        self._makers = Makers(limits.channelsPerAddress, limits.historyAge)
        self._requests = Requests(wheel, self._shut)
        self._confirming: dict[bytes, deque[Watching]] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._revocations: dict[bytes, float] = {}
        self._tick = _Tick(self._look)
        self._sweeper = _Tick(self._sweep)
        self._sweepDue = 0.0  # when it will be called, while it is on the wheel
        self._isFlushing = False
        self._isMeeting = False  # whether there is a link that is of no use yet
        self._unreadable = ""
        self._journals: tuple[Journal, ...] = ()
        self._marks: deque[Deferred[int]] = deque()
        self._contact: Contact | None = None
        self._node: Node
        self._publisher: Publisher
        self._calls: Calls
        self.keys: Keys

    @property
    def times(self) -> BucketTable:
        """How long operations took, by name, but for publications."""
        return self._requests.times

    @property
    def isSlow(self) -> bool:
        """See `Engine`."""
        return self._contact is not None and self._contact.isSlow

    def now(self) -> float:
        """Return the time."""
        return self._wheel.seconds()

    # Start and stop.

    def start(self, node: Node) -> Deferred[None]:
        """Begin (see `Engine`)."""
        self._node = node
        self.keys = Keys(self._url, node.id)
        instance = "".join([secrets.choice(_LETTERS) for _ in range(8)])
        receipts = int(self._limits.idempotencyAge * 1000)
        self._publisher = Publisher(self.keys, node.id, instance, self._watches, self._tail, self._wheel, self._history, receipts)
        self._calls = Calls(node.id, self._wheel, self._handle, self._sendTo)
        self._contact = contact = Contact(self._dialer, self._address, self.keys, node.id, self._wheel, self, self._times)
        return contact.start()

    def stop(self) -> Deferred[None]:
        """End (see `Engine`)."""
        self._requests.isStopped = True
        link = self._requests.link
        pending = [each.later for each in self._publisher.awaited.values()]
        if link is None:
            self._end()
            return succeed(None)
        done: Deferred[None] = Deferred()

        def end(_: Any = None) -> None:
            if timeout.active():
                timeout.cancel()
            if not done.called:
                self._end()
                done.callback(None)

        timeout = self._reactor.callLater(HOLD, end)

        def bury(reply: Any) -> None:
            now = self._requests.link
            if now is not link or (reply is not None and reply[0] == b"done"):
                end()
            else:
                self._bury(link, self._node.id.encode(), True).addCallbacks(bury, end)

        # What is on its way is answered before this, and what is awaited here comes in the same moment.
        link.commands.ask("PING").addCallbacks(lambda _: self._allOf(pending).addCallbacks(lambda _: bury(None), end), end)
        return done

    def _allOf(self, pending: list[Deferred[Any]]) -> Deferred[Any]:
        waiting: list[Deferred[Any]] = []

        def ended(later: Deferred[None], result: Any) -> Any:
            later.callback(None)
            return result

        for each in pending:
            if not each.called:
                later: Deferred[None] = Deferred()
                each.addBoth(partial(ended, later))
                waiting.append(later)
        return DeferredList(waiting)

    def _end(self) -> None:
        if self._contact is not None:
            self._contact.stop()
        self._wheel.drop(self._tick)
        self._wheel.drop(self._sweeper)
        self._requests.end()

    def _shut(self) -> None:
        if self._contact is not None:
            self._contact.shut()

    # What the contact asks and tells.

    def subscriptions(self, link: Link) -> tuple[list[bytes], list[bytes]]:
        """Return what is subscribed to (see `Owner`)."""
        self._isMeeting = True
        for watch in self._watches:
            watch.link, watch.isConfirmed = link, False
        topic = self.keys.topic
        return [*map(topic, self._watches.channels)], [*map(topic, self._watches.patterns)]

    def offers(self) -> Iterator[Offer]:
        """Return what is remembered (see `Owner`)."""
        return self._tail.offers(self._watches.positions(), self._wheel.seconds())

    def offered(self) -> tuple[bytes, int, int, int]:
        """Return how long channels live (see `Owner`)."""
        receipts = int(self._limits.idempotencyAge * 1000)
        return packedLimits(self._history), max(int(self._history.age * 1000), 1), self._ttl, receipts

    def about(self) -> bytes:
        """Return what others may know (see `Owner`)."""
        return msgspec.msgpack.encode(self._node.info())

    def settled(self) -> tuple[bytes, bytes]:
        """Return where messages go, and how epochs end (see `Owner`)."""
        return self.keys.messages, self._publisher.tag

    def remind(self, link: Link) -> None:
        """State what only nodes know of (see `Owner`)."""
        now = time.time()
        for key, (by, until) in [*self._claims.items()]:
            if until > now:
                place = self.keys.prefix + b"k:" + key.encode()
                link.commands.send(("SET", place, by, "PXAT", int(until * 1000), "NX"), lambda _: None)
            else:
                del self._claims[key]
        for encoded, until in self._revocations.items():
            link.commands.send(("ZADD", self.keys.revocations, int(until * 1000), encoded), lambda _: None)

    def came(self, link: Link, isNew: bool, isLate: bool) -> None:
        """Go on (see `Owner`)."""
        self._requests.link = link
        self._isMeeting = False
        confirming, topic = self._confirming, self.keys.topic
        for watch in self._watches:
            if watch.link is link and not (confirming and topic(watch.channel) in confirming):
                watch.isConfirmed = True
        if isNew:
            self._stateAgain(link)
        if isLate:
            self._publisher.settle()
        self._requests.goOn(link)
        self._fetchRevocations(0)
        self._lookAt(list(self._watches.channels.values()))
        self._flush()
        self._wheel.after(self._tick, TICK)

    def went(self, link: Link) -> None:
        """Wait (see `Owner`)."""
        self._requests.link = None
        marks, self._marks = self._marks, deque()
        for each in marks:
            each.callback(0)
        self._wheel.drop(self._tick)
        self._wheel.drop(self._sweeper)
        if link.isLost:
            for publishing in [*self._publisher.awaited.values()]:
                if self._requests.isStopped:
                    publishing.missed()
                else:
                    publishing.interrupted()
            confirming, self._confirming = self._confirming, {}
            for operations in confirming.values():
                for operation in operations:
                    self._requests.giveBack(operation)

    def changed(self, state: EngineState) -> None:
        """Tell the node (see `Owner`)."""
        self.state = state
        (self.onState or self._node.stateChanged)(state)

    def beaten(self, hadLease: bool, dead: list[bytes]) -> None:
        """Look after leases (see `Owner`)."""
        link = self._requests.link
        if link is None:
            return
        if not hadLease:
            self._presence.tellAll()
            self._watches.countAgain([*self._watches.channels])
            self._flush()
        for node in dead:
            self._buryAll(link, node)
        self._sweep()

    def _buryAll(self, link: Link, node: bytes) -> None:
        def buried(reply: Any) -> None:
            if reply[0] == b"more" and self._requests.link is link:
                self._buryAll(link, node)

        self._bury(link, node, False).addCallbacks(buried, lambda _: None)

    def _bury(self, link: Link, node: bytes, isOwn: bool) -> Deferred[Any]:
        keys = self.keys
        delay = int(self._limits.presenceDelay * 1000)
        places = (keys.leases, keys.nodes, keys.prefix + b"ns:" + node, keys.leaving)
        return link.call(BURY, places, keys.prefix, keys.messages, node, delay, int(isOwn))

    def _stateAgain(self, link: Link) -> None:
        """State what a server may have forgotten, or remembers from long ago."""
        self._presence.tellAll()
        self._watches.countAgain([*self._watches.channels])

        def remembered(places: list[bytes]) -> None:
            for place in places:
                channel, space, user = place.decode(errors="replace").partition(" ")
                if space:
                    self._presence.tell({(channel, user): None})
                elif channel not in self._watches.channels:
                    self._watches.countAgain([channel])
            self._flush()

        link.commands.ask("SMEMBERS", self.keys.prefix + b"ns:" + self._node.id.encode()).addCallbacks(remembered, lambda _: None)

    # Messages of pub/sub.

    def pushed(self, reply: list[Any]) -> None:
        """Take a message (see `Owner`)."""
        kind = reply[0]
        if kind == b"message":
            name, data = reply[1], reply[2]
            watch = self._topics.get(name)
            if watch is not None and data[:1] > b"-":
                # On a new link they may precede what has to be settled first; then they are asked for.
                if not self._isMeeting:
                    self._take(watch, data)
                return
        if kind == b"pong" and reply[1] == MARK.encode():
            if self._marks:
                self._marks.popleft().callback(0)
            return
        if self._contact is None or self._contact.pushed(reply):
            return
        if kind == b"pmessage":
            name, data = reply[2], reply[3]
        elif kind != b"message":
            if kind in (b"subscribe", b"psubscribe"):
                self._confirmed(reply[1])
            return
        keys = self.keys
        if name.startswith(keys.messages):
            channel = name[len(keys.messages) :].decode("ascii", "replace")
            if data[:1] in (b"+", b"-"):
                if kind == b"message":
                    self._moved(channel, data)
                return
            watch = self._watches.find(channel)
            if watch is not None and not (self._isMeeting and channel in self._watches.channels):
                if data[:1] != b"!":
                    self._take(watch, data)
                elif kind == b"message":
                    self._beginsAnew(watch, data)
        elif data.startswith(b"call "):
            self._calls.called(data[5:])
        elif data.startswith(b"answer "):
            self._calls.answered(data[7:])

    def _take(self, watch: Watch, record: bytes) -> None:
        """Pass a message on."""
        channel, now = watch.channel, self._wheel.now
        try:
            made = decodeRecord(record)
        except Unreadable as error:
            self.unreadable(channel, error)
            try:
                position = parseHead(record).position
            except Unreadable:
                return  # no server has written it
            watch.epoch, watch.offset = position
            self._node.lost(channel, position)
            return
        publisher = self._publisher
        operation = publisher.awaited.get(made.number) if made.instance == publisher.instance else None
        if made.offset <= watch.offset and made.epoch == watch.epoch:
            if operation is not None:  # a look at the history was faster
                operation.arrived(self._node.subscribers(channel), Position(made.epoch, made.offset))
            return
        watch.epoch, watch.offset, watch.touched = made.epoch, made.offset, now
        self._tail.add(channel, record, now)
        if channel in self._makers:
            self._makers.forget(channel)
        publication = made.publication(channel, now)
        if self._journals:
            self._notePublication(publication)
        if tracing.tracer is not None and isinstance(made, TracedRecord):
            taken = tracing.delivered(made.span, channel, self._node.received, publication)
        else:
            taken = self._node.received(publication)
        if operation is not None:
            operation.arrived(taken, Position(made.epoch, made.offset))

    def _beginsAnew(self, watch: Watch, data: bytes) -> None:
        """Learn that a channel goes on from another position, because it had gone on at two servers (see `SETTLE`)."""
        try:
            position = parseId(data[1:])
        except (ChannelError, UnicodeDecodeError):
            return  # no server has written it
        if position.epoch != watch.epoch or position.offset >= watch.offset:
            watch.epoch, watch.offset = position
            self._node.lost(watch.channel, position)

    def _moved(self, channel: str, data: bytes) -> None:
        """Tell who has come or gone."""
        if channel not in self._watches.channels:
            return
        try:
            user, info = decodeMember(data)
        except Unreadable as error:
            self.unreadable(channel, error)
            return
        if self._journals:
            kind = "joined" if data[:1] == b"+" else "left"
            self._note(kind, (channel, user, info), (kind, channel, user))
        if data[:1] == b"+":
            self._node.joined(channel, Member(user, msgspec.Raw(info), 1))
        else:
            self._node.left(channel, Member(user, msgspec.Raw(info), 0))

    def unreadable(self, channel: str, error: Unreadable) -> None:
        """Log what cannot be read, once."""
        text = str(error)
        if text != self._unreadable:
            self._unreadable = text
            self._log.warn(
                "The channel {channel} has {reason}: what it holds is lost to the subscribers here. "
                "Do all servers run the same version?",
                channel=channel,
                reason=text,
                event="engine.lost",
            )

    # Hand-over.

    def keepJournal(self, journal: Journal) -> None:
        """Note in a journal what comes from now on, too: each hand-over in which this process has a part keeps its own."""
        self._journals += (journal,)

    def endJournal(self, journal: Journal) -> None:
        """Stop noting in it; do nothing if that has ended."""
        self._journals = tuple([each for each in self._journals if each is not journal])

    def mark(self) -> Deferred[int]:
        """Return a Deferred that fires with 0 when all has come that the server had passed on before; at once without a link."""
        link = self._requests.link
        if link is None:
            return succeed(0)
        marked: Deferred[int] = Deferred()
        self._marks.append(marked)
        link.subscriber.push("PING", MARK)
        return marked

    def _note(self, kind: str, value: Any, which: tuple[Any, ...]) -> None:
        for each in self._journals:
            each.add(each.number + 1, kind, value, which)

    def _notePublication(self, publication: Publication) -> None:
        # Where nothing but names is watched, positions say the same.
        if self._watches.isMatched(publication.channel):
            which = publication.channel, publication.epoch, publication.offset
            self._note("publication", (*which, publication.kind, publication.payload, publication.key), which)

    def _handle(self, kind: str, payload: bytes, which: tuple[str, int]) -> MaybeDeferred[bytes]:
        """Do what is said to all nodes."""
        node = self._node
        try:
            if kind == "broadcast":
                message = decodeBroadcast(payload)
                if self._journals:
                    self._note(kind, (message.kind, message.payload), which)
                return _number(node.broadcasted(message))
            if kind == "command":
                command = msgspec.msgpack.decode(payload, type=_COMMANDS)
                if self._journals:
                    self._note(kind, command, which)
                return _number(node.obey(command))
            if kind == "revoke":
                self._revoked(payload)
                return b"1"
            if kind == "ask":
                about, data = msgspec.msgpack.decode(payload, type=tuple[str, bytes])
                return node.answer(about, data)
        except ValueError as error:  # also msgspec's
            self._log.warn(
                "Another node has sent something that this version does not understand: {reason}",
                reason=str(error)[:160],
                event="engine.foreign",
            )
        return b""

    def _revoked(self, encoded: bytes) -> None:
        revocation = msgspec.msgpack.decode(encoded, type=Revocation)
        if len(self._revocations) >= STATED:
            del self._revocations[next(iter(self._revocations))]
        self._revocations[encoded] = revocation.until
        self._node.revoked(revocation)

    def _fetchRevocations(self, since: float) -> None:
        """Learn all revocations that hold, in pages."""
        start = max(since, time.time() - 1)

        def found(entries: list[bytes]) -> None:
            for encoded in entries:
                if encoded not in self._revocations:
                    try:
                        self._revoked(encoded)
                    except ValueError:
                        self._log.warn("There is a revocation that this version does not understand.", event="engine.foreign")
            if len(entries) == 1000:
                until: float = msgspec.msgpack.decode(entries[-1], type=Revocation).until
                self._fetchRevocations(until)

        self._requests.ask(REVOKED, (self.keys.revocations,), (f"{start * 1000:.0f}",), found).addErrback(lambda _: None)

    def _sendTo(self, node: str, data: bytes) -> None:
        link = self._requests.link
        if link is not None:
            link.commands.send(("PUBLISH", self.keys.nodeOf(node), data), lambda _: None)

    # Publish, watch, history.

    def _packed(self, limits: HistoryLimits) -> bytes:
        """Return the limits of a history as `Publishing` wants them: nothing for our own."""
        known, packed = self._limitsOf
        if limits is not known and limits != known:
            packed = packedLimits(limits)
            self._limitsOf = limits, packed
        return b"" if limits == self._history else packed

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> Deferred[Published]:
        """Publish a message (see `Engine`)."""
        self._requests.admit()
        requests, shared, number = self._requests, self._publisher, self._publisher.number()
        link = requests.link
        now = self._wheel.seconds() if link is None else self._wheel.now
        packed = b"" if limits is None else self._packed(limits)
        span = None if tracing.tracer is None else tracing.carried()
        if idempotencyKey is None:
            operation = Publishing(requests, now, shared, channel, encodeBody(message, key, None, span), number, packed)
        else:
            receipt, here = encodeReceipt(idempotencyKey, fingerprint), self._node.subscribers(channel)
            body = encodeBody(message, key, receipt, span)
            operation = Publishing(requests, now, shared, channel, body, number, packed, receipt, here)
        if link is None:
            requests.submit(operation)
        else:
            operation.send(link)
        return operation.later if tracing.tracer is None else tracing.waiting("engine publish", operation.later)

    def watch(self, channel: str, by: Hashable = None) -> Deferred[Position | None]:
        """Begin to pass messages on (see `Engine`)."""
        if self._requests.isStopped:
            raise unavailable("The server stops.")
        now = self._wheel.seconds()
        watch = self._watches.add(channel, now)
        if not isPattern(channel):
            self._topics[self.keys.topic(channel)] = watch
        mayMake = self._makers.may(by, now)

        def answered(reply: Any) -> Position | None:
            if isPattern(channel):
                return None
            if reply[0] == b"full":
                raise ChannelError("too-many-channels", "This address has subscribed to too many channels without messages.")
            if reply[3]:
                self._makers.made(channel, by)
            return Position(reply[1].decode("ascii"), int(reply[2]))

        def begun(position: Position | None) -> MaybeDeferred[Position | None]:
            if position is not None and self._watches.isMatched(channel):
                # What precedes it may still be under way on the other connection, and is for those who have a pattern.
                return self.mark().addCallback(lambda _: beginAt(position))
            return beginAt(position)

        def beginAt(position: Position | None) -> Position | None:
            if position is not None and not watch.epoch:
                # Else a message has come that is not older.
                watch.epoch, watch.offset = position
            return position

        def failed(failure: Failure) -> Failure:
            if self._watches.channels.get(channel, self._watches.patterns.get(channel)) is watch:
                self.unwatch(channel)
            return failure

        keys = self.keys
        places = (keys.open, keys.of(b"m:", channel))
        arguments = (keys.prefix, channel, self._publisher.tag, self._ttl, packedLimits(self._history), int(mayMake))
        operation = Watching(self._requests, now, WATCH, places, arguments, answered, True)
        operation.watch, operation.subscribe = watch, self._subscribe
        operation.later.addCallbacks(begun, failed)
        self._requests.submit(operation)
        return operation.later

    def _subscribe(self, operation: Watching, link: Link) -> None:
        watch = operation.watch
        topic = self.keys.topic(watch.channel)
        if topic not in self._confirming:
            self._confirming[topic] = deque()
        self._confirming[topic].append(operation)
        watch.link = link
        link.subscriber.push("PSUBSCRIBE" if isPattern(watch.channel) else "SUBSCRIBE", topic)

    def _confirmed(self, topic: bytes) -> None:
        operations = self._confirming.get(topic)
        if not operations:
            return
        operation = operations.popleft()
        if not operations:
            del self._confirming[topic]
        operation.watch.isConfirmed = True
        if not operation.isOver:
            self._requests.submit(operation)

    def unwatch(self, channel: str) -> None:
        """Stop passing messages on (see `Engine`)."""
        watch = self._watches.remove(channel)
        if watch is None:
            return
        topic = self.keys.topic(channel)
        self._topics.pop(topic, None)
        self._makers.left(channel, self._wheel.seconds())
        if watch.link is not None and not watch.link.isLost:
            command = "PUNSUBSCRIBE" if isPattern(channel) else "UNSUBSCRIBE"
            watch.link.subscriber.push(command, topic)

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> Deferred[History]:
        """Return what is kept (see `Engine`)."""
        if self._requests.isStopped:
            raise unavailable("The server stops.")
        if after is None:
            places = (self.keys.of(b"m:", channel),)

            def found(reply: list[bytes]) -> Any:
                return History(parseId(reply[0]), False, []) if reply[0] else self._read(channel, NOWHERE, 0)

            return self._requests.ask(TOPS, places, (self._ttl,), list).addCallback(found)
        return self._read(channel, after, limit)

    def _read(self, channel: str, after: Position, limit: int | None) -> Deferred[History]:
        operation = Reading(self._requests, self, channel, after, limit)
        self._requests.submit(operation)
        return operation.later

    def forget(self, channel: str) -> Deferred[int]:
        """Drop what is kept (see `Engine`)."""
        keys = self.keys
        places = (keys.open, keys.of(b"m:", channel), keys.of(b"s:", channel))
        return self._requests.ask(FORGET, places, (), lambda reply: reply[1], True)

    def describe(self, channel: str) -> Deferred[Description | None]:
        """Return what is known of a channel (see `Engine`)."""
        return self._requests.ask(DESCRIBE, (), (self.keys.prefix, channel), _description)

    def broadcast(self, message: Message) -> Deferred[int]:
        """Pass a message to all nodes (see `Engine`)."""
        return self._tell("broadcast", encodeBroadcast(message)).addCallback(_sum)

    # Presence.

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Note who is there (see `Engine`)."""
        self._presence.enter(channel, connection, user, info)
        self._flushSoon()

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Note who is no longer there (see `Engine`)."""
        self._presence.leave(channel, connection, delay)
        self._flushSoon()

    def _flushSoon(self) -> None:
        if not self._isFlushing and self._presence:
            self._isFlushing = True
            self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        """Tell the server who has come and gone."""
        self._isFlushing = False
        link = self._requests.link
        keys = self.keys
        usual = self._limits.presenceDelay
        for _ in range(STATEMENTS):
            if link is None or not self._presence or self._requests.isStopped:
                return
            flat: list[Any] = []
            places: dict[tuple[str, str], float | None] = {}
            leaving: list[float] = []
            for channel, user, count, info, delay in self._presence.take():
                places[channel, user] = delay
                wait = usual if delay is None else delay
                flat += (channel, user, count, info, int(wait * 1000))
                if not count:
                    leaving.append(wait)
            link.call(ENTER, (), keys.prefix, keys.messages, self._node.id, *flat).addErrback(partial(self._untold, places))
            if leaving:
                self._sweepAfter(min(leaving))
        self._flushSoon()

    def _sweepAfter(self, seconds: float) -> None:
        """Have `_sweep` called in so many seconds, unless it will be sooner."""
        due = self._wheel.seconds() + seconds
        if self._sweeper.wheelSlot is None or due < self._sweepDue:
            self._sweepDue = due
            self._wheel.set(self._sweeper, due)

    def _untold(self, places: Mapping[tuple[str, str], float | None], failure: Failure) -> None:
        self._presence.tell(places)

    def _sweep(self) -> None:
        """Have those told who have not come back."""
        link = self._requests.link
        if link is None:
            return

        def swept(reply: list[int]) -> None:
            if reply[1] >= 0 and self._requests.link is link:
                self._sweepAfter(reply[1] / 1000)

        link.call(SWEEP, (self.keys.leaving,), self.keys.prefix, self.keys.messages).addCallbacks(swept, lambda _: None)

    def members(self, channel: str, after: str, limit: int, size: int) -> Deferred[Members]:
        """Return who is on a channel (see `Engine`)."""

        def found(reply: list[Any]) -> Members:
            subscribers, more, *flat = reply
            members = [
                Member(user.decode(), msgspec.Raw(info), count)
                for user, info, count in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
            ]
            return Members(members, members[-1].user if more and members else None, subscribers)

        return self._requests.ask(MEMBERS, (), (self.keys.prefix, channel, after, limit, size), found)

    # All nodes.

    def _tell(self, kind: str, payload: bytes) -> Deferred[list[bytes]]:
        self._requests.admit()

        def say(data: bytes) -> Deferred[frozenset[str]]:
            own = self._node.id
            return self._requests.ask(
                TELL,
                (self.keys.leases,),
                (self.keys.control, data),
                lambda nodes: frozenset([own, *[each.decode(errors="replace") for each in nodes]]),
            )

        return self._calls.ask(kind, payload, say)

    def command(self, command: Command) -> Deferred[int]:
        """Pass a command to all nodes (see `Engine`)."""
        return self._tell("command", msgspec.msgpack.encode(command)).addCallback(_sum)

    def nodes(self) -> Deferred[list[NodeInfo]]:
        """Return the nodes that are alive (see `Engine`)."""
        return self._requests.ask(NODES, (self.keys.leases, self.keys.nodes), (), nodesIn)

    def look(self) -> Deferred[list[NodeInfo]]:
        """Return the same without joining them, and without `start`.

        The Deferred fails with `ConfigurationError` if no node could work with the server now.
        """
        return look(self._dialer, self._address, Keys(self._url, ""))

    def claim(self, key: str, until: float) -> Deferred[bool]:
        """Return True once (see `Engine`)."""
        self._requests.admit()
        by = f"{self._publisher.instance}-{self._publisher.number()}"

        def claimed(reply: list[Any]) -> bool:
            if reply[1]:
                if len(self._claims) >= STATED:
                    del self._claims[next(iter(self._claims))]
                self._claims[key] = by, until
            return bool(reply[1])

        places = (self.keys.open, self.keys.prefix + b"k:" + key.encode())
        return self._requests.ask(CLAIM, places, (by, int(until * 1000)), claimed, True)

    def revoke(self, revocation: Revocation) -> Deferred[None]:
        """Pass a revocation to all nodes (see `Engine`)."""
        self._requests.admit()
        encoded = msgspec.msgpack.encode(revocation)
        kept = self._requests.ask(REVOKE, (self.keys.revocations,), (int(revocation.until * 1000), encoded), lambda _: None)
        return kept.addCallback(lambda _: self._tell("revoke", encoded)).addCallback(lambda _: None)

    def ask(self, kind: str, payload: bytes) -> Deferred[list[bytes]]:
        """Return what each node says (see `Engine`)."""
        return self._tell("ask", msgspec.msgpack.encode((kind, payload)))

    # What is looked at from time to time.

    def _look(self) -> None:
        """State the numbers of subscribers that have changed, and look at channels that are silent."""
        link = self._requests.link
        if link is None:
            return
        self._publisher.overdue(self._wheel.seconds())
        link.commands.close()  # it says what the server was told before
        counts = self._watches.counts(self._node.subscribers)
        for first in range(0, len(counts), TOGETHER):
            some = counts[first : first + TOGETHER]
            channels = [channel for channel, _ in some]
            link.call(
                COUNT,
                (self.keys.prefix + b"ns:" + self._node.id.encode(),),
                self.keys.prefix,
                self._node.id,
                *[each for pair in some for each in pair],
            ).addErrback(partial(self._uncounted, channels))
        self._lookAt(self._watches.idle(self._wheel.seconds()))
        self._wheel.after(self._tick, TICK)

    def _uncounted(self, channels: list[str], failure: Failure) -> None:
        self._watches.countAgain(channels)

    def _lookAt(self, watches: list[Watch]) -> None:
        """Ask for the positions of channels, some at a time, and for what has not come."""
        some, rest = [each for each in watches[:TOGETHER] if each.epoch], watches[TOGETHER:]
        if not some:
            if rest:
                self._lookAt(rest)
            return

        def found(reply: list[bytes]) -> None:
            for watch, top in zip(some, reply, strict=True):
                if top and self._watches.channels.get(watch.channel) is watch:
                    position = parseId(top)
                    if position.epoch != watch.epoch or position.offset > watch.offset:
                        self._catchUp(watch)
            if rest:
                self._lookAt(rest)

        keys = tuple([self.keys.of(b"m:", each.channel) for each in some])
        self._requests.ask(TOPS, keys, (self._ttl,), found).addErrback(lambda _: None)

    def _catchUp(self, watch: Watch) -> None:
        """Pass on what has not come."""

        def found(history: History) -> None:
            if self._watches.channels.get(watch.channel) is not watch:
                return
            publications = [*history.publications]
            if not publications and not history.recovered and history.position != (watch.epoch, watch.offset):
                watch.epoch, watch.offset = history.position
                self._node.lost(watch.channel, history.position)
            self._passOn(watch, deque(publications), len(publications) >= CAUGHT)

        operation = Reading(self._requests, self, watch.channel, Position(watch.epoch, watch.offset), CAUGHT)
        self._requests.submit(operation)
        operation.later.addCallbacks(found, lambda _: None)

    def _passOn(self, watch: Watch, publications: deque[Publication], isMore: bool) -> None:
        """Pass on what was missed, in as many turns as it takes. What comes meanwhile is early; the node sorts."""
        until = self._reactor.seconds() + TURN
        while publications and self._watches.channels.get(watch.channel) is watch:
            each = publications.popleft()
            if each.epoch != watch.epoch or each.offset > watch.offset:
                watch.epoch, watch.offset = each.epoch, each.offset
                if self._journals:
                    self._notePublication(each)
                self._node.received(each)
            if self._reactor.seconds() > until:
                self._reactor.callLater(0, self._passOn, watch, publications, isMore)
                return
        if isMore:
            self._lookAt([watch])

    # Last, because its name is that of a type.

    def list(self, prefix: str, after: str, limit: int) -> Deferred[list[Description]]:
        """Return some channels by name (see `Engine`)."""
        found: list[Description] = []

        def page(reply: list[Any]) -> Any:
            cursor, *descriptions = reply
            found.extend([each for each in map(_description, descriptions) if each is not None])
            if cursor and len(found) < limit:
                return cursor.decode()
            return None

        def more(start: str | None) -> Any:
            if start is None:
                return found
            arguments = (self.keys.prefix, prefix, start, limit - len(found))
            return self._requests.ask(LIST, (self.keys.names,), arguments, page).addCallback(more)

        result: Deferred[list[Description]] = more(after)
        return result


def _number(count: MaybeDeferred[int]) -> MaybeDeferred[bytes]:
    return b"%d" % count if isinstance(count, int) else count.addCallback(lambda done: b"%d" % done)


def _sum(answers: list[bytes]) -> int:
    return sum([int(each) for each in answers if each.isdigit()])


def _description(reply: list[Any] | None) -> Description | None:
    if not reply:
        return None
    channel, epoch, offset, count, size, first, oldest, subscribers = reply
    return Description(
        channel.decode("ascii"),
        Position(epoch.decode("ascii"), int(offset)),
        count,
        size,
        Position(first.decode("ascii"), int(oldest)) if count else None,
        subscribers,
    )
