"""The supervisor's side: one engine for all workers of one machine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.engines.contract import (
    Command,
    Description,
    Engine,
    EngineState,
    History,
    HistoryLimits,
    MaybeDeferred,
    Member,
    Members,
    Node,
    NodeInfo,
    Revocation,
)
from twisted_ws.engines.hub.frames import KINDS, ROOM, VERSION, commandOf, historyFields, membersFields
from twisted_ws.engines.hub.link import Link, frameOf
from twisted_ws.engines.hub.spoke import Spoke
from twisted_ws.engines.snapshot import Here, Leaving, Watched
from twisted_ws.errors import ChannelError
from twisted_ws.limits import KIB, Limits
from twisted_ws.message import Message, Position, Publication, Published
from twisted_ws.names import isPattern, patternsOf
from twisted_ws.telemetry import tracing
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel

_T = TypeVar("_T")
_R = TypeVar("_R")

# Seconds that a publisher, and whoever asks all workers, waits for the slowest of them; then what is known is the answer.
PATIENCE = 2.0
# Seconds between two looks at those that are late.
LOOK = 0.5
# Steps of `Turns` for one thing that a worker leaves behind.
LEFT = 4
# The same for a publisher that is answered: by HTTP, as a rule.
ANSWER = 32

# Bytes of a history from which on it waits for others before it, while a worker has much to read.
MUCH = 64 * KIB
# Revocations of one frame to a worker that comes.
REVOCATIONS = 64

_Answers = list[Any]
_Counts = list[int]
_Names = list[str]
_Descriptions = list[Description]


class Source(Engine, Protocol):
    """An engine that a hub can pass on."""

    def revocations(self) -> Iterable[Revocation]:
        """Return what is no longer accepted, for a worker that comes late."""

    def presence(self) -> Iterable[Here | Leaving]:
        """Return who is here, for a process that takes over."""

    def restorePresence(self, record: Here | Leaving) -> None:
        """Know what `presence` has said in another process."""


class Hub:
    """Passes what one engine publishes to all workers, and answers them for it. To that engine it is the node.

    It is itself an `Engine`, for the server of the supervisor: one without callers and subscribers, where others publish.

    Args:
        engine: numbers and keeps.
        limits: `fanOutLag`, `maxMessageSize`.
        wheel: the server's.
        turns: the server's.

    Attributes:
        id: that of the supervisor's server; "" before `start`.
        spokes: the workers, by the id of their nodes.
        engine: as given.
    """

    _log = Logger()

    def __init__(self, engine: Source, limits: Limits, wheel: Wheel, turns: Turns) -> None:
        self.id = ""
        self.spokes: dict[str, Spoke] = {}
        self.wheelSlot: int | None = None
        self.engine = self._engine = engine
        self._largest = limits.maxMessageSize + ROOM
        self._lag = limits.fanOutLag
        self._wheel = wheel
        self._turns = turns
        self._node: Node | None = None
        self._watching: dict[str, tuple[Spoke, ...]] = {}
        self._patterns = 0  # how many of these are patterns
        self._number = 0
        # The oldest first. In a plain dict, finding the first steps over all that were removed.
        self._deliveries: OrderedDict[int, _Delivery] = OrderedDict()
        self._isGivingUp = False
        self._revoking: MaybeDeferred[Any] = None

    # Workers.

    def attach(self, link: Link) -> None:
        """Serve a worker, before its link is connected; it becomes a node when it says hello."""
        link.largest = max(link.largest, self._largest)
        link.answer("hello", partial(self._hello, link))

    def _hello(self, link: Link, version: int, *info: Any) -> Deferred[str]:
        if version != VERSION:
            raise ChannelError("bad-request", f"The supervisor speaks version {VERSION}, and not {version}: restart it.")
        self._serve(link, NodeInfo(*info))
        return Deferred.fromCoroutine(self._welcome(link))

    def _serve(self, link: Link, info: NodeInfo) -> Spoke:
        spoke = Spoke(link, info, self._lag)
        if spoke.info.id in self.spokes:
            raise ChannelError("bad-request", f"There is a node {spoke.info.id} already.")
        self.spokes[spoke.info.id] = spoke
        link.onLost(partial(self._leave, spoke))
        for kind, handler in (
            ("unwatch", self._unwatch),
            ("enter", self._enter),
            ("leave", self._left),
            ("ack", self._acknowledged),
            ("bye", self._leave),
        ):
            link.handle(kind, partial(handler, spoke))
        for kind, asked in (("watch", self._watch), ("publish", self._publish), ("publishTraced", self._publishTraced)):
            link.answer(kind, partial(asked, spoke))
        link.answer("since", self._since, self._isMuch)
        for kind, large in (("list", self.list), ("members", self._membersFields), ("ask", self.ask)):
            link.answer(kind, large, lambda *fields: True)
        for kind, answer in (
            ("forget", self.forget),
            ("describe", self.describe),
            ("broadcast", self._broadcast),
            ("command", self._command),
            ("nodes", self._nodes),
            ("claim", self.claim),
            ("revoke", self._revoke),
            ("mark", self._mark),
        ):
            link.answer(kind, answer)
        return spoke

    async def _welcome(self, link: Link) -> str:
        """Tell a worker all that is no longer accepted, and then the state of the engine."""
        rows: list[Any] = []
        async for each in self._turns.through(tuple(self._engine.revocations()), LEFT):
            rows.append(msgspec.structs.astuple(each))
            if len(rows) == REVOCATIONS:
                link.send("revocations", rows)
                rows = []
        link.send("revocations", rows)
        return self._engine.state.value

    def _leave(self, spoke: Spoke) -> None:
        if self.spokes.get(spoke.info.id) is spoke:
            del self.spokes[spoke.info.id]
            spoke.hasLeft, spoke.isBehind = True, False
            Deferred.fromCoroutine(self._forgetWorker(spoke)).addErrback(self._failed)

    async def _forgetWorker(self, spoke: Spoke) -> None:
        through = self._turns.through
        async for number in through(tuple(spoke.sent), ANSWER):
            self._count(spoke, number, 0)
        async for channel in through(tuple(spoke.watched), LEFT):
            self._unwatch(spoke, channel)
        async for channel, connection in through(tuple(spoke.entered), LEFT):
            self._left(spoke, channel, connection)

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a worker that has left was not forgotten", failure, event="hub.broken")

    def _watch(self, spoke: Spoke, channel: str, by: Hashable) -> MaybeDeferred[Position | None]:
        isFirst = channel not in self._watching
        if isFirst:
            answer = self._engine.watch(channel, by)
        elif isPattern(channel):
            answer = None
        else:
            answer = _then(self._engine.since(channel, None), _positionOf)
        if channel in spoke.watched:
            return answer
        spoke.watched.add(channel)
        self._watching[channel] = (*self._watching.get(channel, ()), spoke)
        self._patterns += isFirst and isPattern(channel)
        if isinstance(answer, Deferred):
            answer.addErrback(self._notWatched, spoke, channel)
        return answer

    def _notWatched(self, failure: Failure, spoke: Spoke, channel: str) -> Failure:
        self._unwatch(spoke, channel)
        return failure

    def _unwatch(self, spoke: Spoke, channel: str) -> None:
        if channel not in spoke.watched:
            return
        spoke.watched.remove(channel)
        left = tuple([each for each in self._watching[channel] if each is not spoke])
        if left:
            self._watching[channel] = left
        else:
            del self._watching[channel]
            self._patterns -= isPattern(channel)
            self._engine.unwatch(channel)

    def _enter(self, spoke: Spoke, channel: str, connection: str, user: str, info: bytes) -> None:
        if spoke.hasLeft:
            return  # who else was there is forgotten by now
        place = channel, connection
        if not connection.startswith(f"{spoke.info.id}."):  # another worker has handed it over, and does not say that it has left
            for other in self.spokes.values():
                other.entered.discard(place)
        spoke.entered.add(place)
        self._engine.enter(channel, connection, user, info)

    def _left(self, spoke: Spoke, channel: str, connection: str, delay: float | None = None) -> None:
        if (channel, connection) in spoke.entered:
            spoke.entered.remove((channel, connection))
            self._engine.leave(channel, connection, delay)

    def _publish(
        self,
        spoke: Spoke,
        channel: str,
        kind: str,
        payload: bytes,
        key: str | None,
        idempotencyKey: str | None,
        fingerprint: bytes,
        limits: list[Any] | None,
    ) -> MaybeDeferred[Published]:
        wanted = None if limits is None else HistoryLimits(*limits)
        return self.publish(channel, Message(KINDS[kind], payload), key, idempotencyKey, fingerprint, wanted)

    def _publishTraced(self, spoke: Spoke, *fields: Any) -> MaybeDeferred[Published]:
        *rest, span = fields
        if tracing.tracer is None:
            return self._publish(spoke, *rest)
        published: MaybeDeferred[Published] = tracing.under(span, self._publish, spoke, *rest)
        return published

    def _since(self, channel: str, after: list[Any] | None, limit: int | None) -> MaybeDeferred[Any]:
        found = self._engine.since(channel, None if after is None else Position(*after), limit)
        return _then(found, lambda history: historyFields(history, self._wheel.seconds()))

    def _isMuch(self, channel: str, after: list[Any] | None, limit: int | None) -> bool:
        """Return whether what is kept of a channel is more than a few frames."""
        if after is None:
            return False
        try:
            found = self._engine.describe(channel)
        except ChannelError:
            return False
        return isinstance(found, Deferred) or (found is not None and found.bytes > MUCH)

    def _membersFields(self, channel: str, after: str, limit: int, size: int) -> MaybeDeferred[Any]:
        return _then(self.members(channel, after, limit, size), membersFields)

    def _broadcast(self, kind: str, payload: bytes) -> MaybeDeferred[int]:
        return self.broadcast(Message(KINDS[kind], payload))

    def _command(self, fields: dict[str, Any]) -> MaybeDeferred[int]:
        return self.command(commandOf(fields))

    def _nodes(self) -> MaybeDeferred[Any]:
        return _then(self.nodes(), lambda nodes: [msgspec.structs.astuple(each) for each in nodes])

    def _mark(self) -> int:
        """Return the number of the last thing that was told: a worker has got all up to there before it gets this answer."""
        return self._number

    def _revoke(self, fields: list[Any]) -> MaybeDeferred[None]:
        return self.revoke(Revocation(*fields))

    # The move to another process.

    @property
    def isQuiet(self) -> bool:
        """Whether no message is on its way to a worker."""
        return not self._deliveries and not any(each.sent for each in self.spokes.values())

    def moving(self, links: Sequence[Link]) -> Iterator[Watched | Here | Leaving]:
        """Yield what there is besides what the engine keeps, for `arrive` in another process.

        Args:
            links: those of the workers that go on there.
        """
        numbers = {link: number for number, link in enumerate(links)}
        places: dict[tuple[str, str], int] = {}
        for spoke in self.spokes.values():
            number = numbers.get(spoke.link)
            if number is not None:
                yield from (Watched(number, channel) for channel in spoke.watched)
                places.update(dict.fromkeys(spoke.entered, number))
        for each in self._engine.presence():
            if isinstance(each, Here):
                each.worker = places.get((each.channel, each.connection), -1)
            yield each

    def standing(self, links: Sequence[Link]) -> tuple[int, list[Any]]:
        """Return the number that was told last, and for each link what its worker has said of itself."""
        infos = {spoke.link: msgspec.structs.astuple(spoke.info) for spoke in self.spokes.values()}
        return self._number, [infos.get(link) for link in links]

    def arrive(
        self, number: int, workers: Sequence[tuple[Link, Sequence[Any] | None]], rest: Iterable[Watched | Here | Leaving]
    ) -> None:
        """Go on for the workers of another process; they are not told.

        Args:
            number: of `standing`.
            workers: links to them, which another process had, and what they have said of themselves.
            rest: what `moving` has yielded.
        """
        self._number = number
        spokes = [None if info is None else self._serve(link, NodeInfo(*info)) for link, info in workers]
        gone: list[tuple[str, str]] = []
        for each in rest:
            spoke = None if isinstance(each, Leaving) or each.worker < 0 else spokes[each.worker]
            if isinstance(each, Watched):
                if spoke is not None:
                    self._watch(spoke, each.channel, None)
                continue
            self._engine.restorePresence(each)
            if isinstance(each, Here):
                if spoke is None:
                    gone.append((each.channel, each.connection))
                else:
                    spoke.entered.add((each.channel, each.connection))
        for channel, connection in gone:
            self._engine.leave(channel, connection)

    # Engine: what the server of the supervisor asks, and the workers by the above.

    @property
    def state(self) -> EngineState:
        """That of the engine."""
        return self._engine.state

    @property
    def isSlow(self) -> bool:
        """Whether the engine is."""
        return self._engine.isSlow

    def start(self, node: Node) -> MaybeDeferred[None]:
        """Begin to work for the server of the supervisor, and for workers (see `Engine`)."""
        self._node, self.id = node, node.id
        return self._engine.start(self)

    def stop(self) -> MaybeDeferred[None]:
        """End (see `Engine`); the links are left alone."""
        return self._engine.stop()

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> MaybeDeferred[Published]:
        """Publish, and pass on to the workers that watch the channel (see `Engine`)."""
        for spoke in self._spokesFor(channel):
            if spoke.isBehind:
                raise _behind()
        return self._engine.publish(channel, message, key, idempotencyKey, fingerprint, limits)

    def watch(self, channel: str, by: Hashable = None) -> MaybeDeferred[Position | None]:
        """Refuse: nobody is subscribed at the supervisor."""
        raise ChannelError("unavailable", "Subscribe at a worker: the supervisor has no subscribers.")

    def unwatch(self, channel: str) -> None:
        """Do nothing: nothing is watched."""

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> MaybeDeferred[History]:
        """Return what is kept (see `Engine`)."""
        return self._engine.since(channel, after, limit)

    def forget(self, channel: str) -> MaybeDeferred[int]:
        """Drop what is kept (see `Engine`)."""
        return self._engine.forget(channel)

    def describe(self, channel: str) -> MaybeDeferred[Description | None]:
        """Return what is known of a channel, with the subscribers of all workers (see `Engine`)."""
        return _then(self._engine.describe(channel), self._withSubscribers)

    def _withSubscribers(self, described: Description | None) -> MaybeDeferred[Description | None]:
        if described is None:
            return None
        counted = self._subscribers([described.channel])
        return _then(counted, lambda counts: described._replace(subscribers=counts[0]))

    def broadcast(self, message: Message) -> MaybeDeferred[int]:
        """Send a message to the callers of all workers (see `Engine`)."""
        for spoke in self.spokes.values():
            if spoke.isBehind:
                raise _behind()
        return self.broadcasted(message)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Do nothing: nobody is at the supervisor."""

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Do nothing: nobody is at the supervisor."""

    def members(self, channel: str, after: str, limit: int, size: int) -> MaybeDeferred[Members]:
        """Return some users on a channel (see `Engine`)."""
        return _then(self._engine.members(channel, after, limit, size), partial(self._membersCounted, channel))

    def _membersCounted(self, channel: str, members: Members) -> MaybeDeferred[Members]:
        return _then(self._subscribers([channel]), lambda counts: members._replace(subscribers=counts[0]))

    def command(self, command: Command) -> MaybeDeferred[int]:
        """Have the workers obey a command (see `Engine`)."""
        return self.obey(command)

    def nodes(self) -> MaybeDeferred[list[NodeInfo]]:
        """Return what the workers say of themselves, without the supervisor; of one that has stuck, what it has said last."""
        return _then(self._askAll("info"), self._withStuck)

    def _withStuck(self, answers: _Answers) -> list[NodeInfo]:
        found = [NodeInfo(*each) for each in answers]
        for each in found:
            spoke = self.spokes.get(each.id)
            if spoke is not None:
                spoke.info = each
        said = {each.id for each in found}
        return found + [spoke.info for name, spoke in self.spokes.items() if name not in said]

    def claim(self, key: str, until: float) -> MaybeDeferred[bool]:
        """Return True for the first that claims a key (see `Engine`)."""
        return self._engine.claim(key, until)

    def revoke(self, revocation: Revocation) -> MaybeDeferred[None]:
        """Tell all workers what is no longer accepted (see `Engine`)."""
        return _then(self._engine.revoke(revocation), lambda _: _then(self._revoking, lambda _: None))

    def ask(self, kind: str, payload: bytes) -> MaybeDeferred[list[bytes]]:
        """Return what the workers answer (see `Engine`)."""
        return self._askAll("answer", kind, payload)

    def list(self, prefix: str, after: str, limit: int) -> MaybeDeferred[_Descriptions]:
        """Return some channels by name, with the subscribers of all workers (see `Engine`)."""
        return _then(self._engine.list(prefix, after, limit), self._allWithSubscribers)

    def _allWithSubscribers(self, found: _Descriptions) -> MaybeDeferred[_Descriptions]:
        counted = self._subscribers([each.channel for each in found])
        return _then(
            counted, lambda counts: [each._replace(subscribers=count) for each, count in zip(found, counts, strict=True)]
        )

    # Node: what the engine asks.

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Pass a publication to the workers that watch its channel (see `Node`)."""
        spokes = self._spokesFor(publication.channel)
        if not spokes:
            return 0
        each = publication
        fields = each.channel, each.epoch, each.offset, each.kind, each.payload, each.key
        if tracing.tracer is not None and (span := tracing.carried()) is not None:
            return self._deliver(spokes, "traced", *fields, span)
        return self._deliver(spokes, "publication", *fields)

    def lost(self, channel: str, position: Position) -> None:
        """Tell the workers that watch a channel that something is lost (see `Node`)."""
        self._tell(self._watching.get(channel, ()), "lost", channel, position.epoch, position.offset)

    def broadcasted(self, message: Message) -> MaybeDeferred[int]:
        """Send a message to the callers of all workers (see `Node`)."""
        return self._deliver(tuple(self.spokes.values()), "broadcast", message.kind, message.payload)

    def joined(self, channel: str, member: Member) -> None:
        """Tell the workers that watch a channel who has come (see `Node`)."""
        self._tellMember("joined", channel, member)

    def left(self, channel: str, member: Member) -> None:
        """Tell the workers that watch a channel who has left (see `Node`)."""
        self._tellMember("left", channel, member)

    def _tellMember(self, kind: str, channel: str, member: Member) -> None:
        spokes = self._watching.get(channel, ())
        self._tell(spokes, kind, self._next(), channel, member.user, bytes(member.info), member.connections)

    def obey(self, command: Command) -> MaybeDeferred[int]:
        """Have the workers obey a command (see `Node`)."""
        asked = partial(self._askAll, "obey", self._next(), command)
        # As a rule, the id of a connection says where it is.
        named = None if command.connection is None else self.spokes.get(command.connection.partition(".")[0])
        if named is None or command.user is not None:
            return _then(asked(), sum)
        others = [each for each in self.spokes.values() if each is not named]
        return _then(asked(spokes=(named,)), lambda counts: sum(counts) or _then(asked(spokes=others), sum))

    def subscribers(self, channel: str) -> int:
        """Return 0: whoever wants to know asks the workers."""
        return 0

    def watched(self) -> Iterable[str]:
        """Return what the workers watch (see `Node`)."""
        return tuple(self._watching)

    def presence(self) -> Iterable[tuple[str, str, str, bytes]]:
        """Return nothing: an engine that forgets cannot be used in a hub."""
        return ()

    def info(self) -> NodeInfo:
        """Return what the supervisor's server says of itself."""
        assert self._node is not None
        return self._node.info()

    def revoked(self, revocation: Revocation) -> None:
        """Tell all workers (see `Node`)."""
        self._revoking = self._askAll("revoked", msgspec.structs.astuple(revocation))
        if self._node is not None:
            self._node.revoked(revocation)

    def answer(self, kind: str, payload: bytes) -> MaybeDeferred[bytes]:
        """Return nothing: the workers are asked."""
        return b""

    def stateChanged(self, state: EngineState) -> None:
        """Tell all workers (see `Node`)."""
        self._tell(tuple(self.spokes.values()), "state", state.value)
        if self._node is not None:
            self._node.stateChanged(state)

    # Deliveries.

    def _next(self) -> int:
        self._number = number = self._number + 1
        return number

    def _spokesFor(self, channel: str) -> Iterable[Spoke]:
        spokes = self._watching.get(channel, ())
        if not self._patterns:
            return spokes
        found = dict.fromkeys(spokes)
        for pattern in patternsOf(channel):
            found.update(dict.fromkeys(self._watching.get(pattern, ())))
        return tuple(found)

    def _deliver(self, spokes: Iterable[Spoke], kind: str, *fields: Any) -> MaybeDeferred[int]:
        spokes = [each for each in spokes if each.isUp]
        if not spokes:
            return 0
        self._number = number = self._number + 1
        frame = frameOf(kind, number, *fields)
        if self.wheelSlot is None:
            self._wheel.after(self, LOOK)
        now = self._wheel.now
        delivery = self._deliveries[number] = _Delivery(len(spokes), now + PATIENCE)
        for spoke in spokes:
            spoke.deliver(number, frame, now)
        return delivery.later

    def _acknowledged(self, spoke: Spoke, *pairs: Any) -> None:
        if len(pairs) == 2:
            self._count(spoke, *pairs)
            return
        for number, count in zip(pairs[::2], pairs[1::2], strict=True):
            self._count(spoke, number, count)

    def _count(self, spoke: Spoke, number: int, count: int) -> None:
        if not spoke.acknowledged(number, self._wheel.now):
            return
        delivery = self._deliveries.get(number)
        if delivery is None:
            return  # nobody waits for it any longer
        delivery.count += count
        delivery.missing -= 1
        if not delivery.missing:
            del self._deliveries[number]
            delivery.later.callback(delivery.count)

    def deadlineReached(self, now: float) -> None:
        """Look for those that are late; called by the wheel."""
        for spoke in tuple(self.spokes.values()):
            spoke.judge(now)
        self._giveUp()
        if self._deliveries or any(spoke.sent for spoke in self.spokes.values()):
            self._wheel.set(self, now + LOOK)

    def _giveUp(self) -> None:
        """Answer what has waited too long, in as many turns as it takes."""
        deliveries, now, turns = self._deliveries, self._wheel.now, self._turns
        begun = turns.begin()
        try:
            while deliveries:
                number, delivery = next(iter(deliveries.items()))
                if delivery.due > now:
                    break
                if turns.isOver(0):
                    if not self._isGivingUp:
                        self._isGivingUp = True
                        turns.later(self._goOn)
                    break
                turns.spend(ANSWER)
                del deliveries[number]
                delivery.later.callback(delivery.count)
        finally:
            if begun:
                turns.end()

    def _goOn(self) -> None:
        self._isGivingUp = False
        self._giveUp()

    # Workers, all together.

    def _tell(self, spokes: Iterable[Spoke], kind: str, *fields: Any) -> None:
        frame = b""
        for spoke in spokes:
            frame = frame or frameOf(kind, *fields)
            spoke.link.sendFrame(frame)

    def _askAll(self, kind: str, *fields: Any, spokes: Iterable[Spoke] | None = None) -> MaybeDeferred[_Answers]:
        """Return what workers answer to a request; without the answers of those that do not in time."""
        asked = [each for each in (self.spokes.values() if spokes is None else spokes) if each.isUp]
        if not asked:
            return []
        return _Gathering([spoke.link.request(kind, *fields) for spoke in asked], self._wheel).later

    def _subscribers(self, channels: _Names) -> MaybeDeferred[_Counts]:
        """Return how many are subscribed to each channel."""
        spokes = {spoke for channel in channels for spoke in self._watching.get(channel, ())}

        def add(answers: list[_Counts]) -> _Counts:
            return [sum(counts) for counts in zip(*answers, strict=True)] if answers else [0] * len(channels)

        return _then(self._askAll("subscribers", channels, spokes=spokes), add)


class _Delivery:
    """A message whose acknowledgements are counted.

    Attributes:
        missing: how many workers have yet to acknowledge it.
        due: when they are no longer waited for.
        count: the sum of what they have said.
        later: fires with `count`.
    """

    __slots__ = ("count", "due", "later", "missing")

    def __init__(self, missing: int, due: float) -> None:
        self.missing = missing
        self.due = due
        self.count = 0
        self.later: Deferred[int] = Deferred()


class _Gathering:
    """The answers of several workers to one question, as far as they come in time.

    Attributes:
        later: fires with them.
    """

    __slots__ = ("_answers", "_missing", "_wheel", "later", "wheelSlot")

    def __init__(self, asked: Sequence[Deferred[Any]], wheel: Wheel) -> None:
        self.wheelSlot: int | None = None
        self.later: Deferred[_Answers] = Deferred(self._cancelled)
        self._wheel = wheel
        self._answers: _Answers = []
        self._missing = len(asked)
        wheel.after(self, PATIENCE)
        for each in asked:
            each.addCallbacks(self._answered, self._refused)

    def _answered(self, answer: Any) -> None:
        self._answers.append(answer)
        self._refused(None)

    def _refused(self, _: Any) -> None:
        self._missing -= 1
        if not self._missing and not self.later.called:
            self._wheel.drop(self)
            self.later.callback(self._answers)

    def _cancelled(self, later: Deferred[_Answers]) -> None:
        self._wheel.drop(self)

    def deadlineReached(self, now: float) -> None:
        """Answer with what is known; called by the wheel."""
        self._missing = 0
        self.later.callback([*self._answers])


def _behind() -> ChannelError:
    return ChannelError("unavailable", "More messages are on their way than can be sent in time: try later.")


def _positionOf(history: History) -> Position:
    return history.position


def _then(value: MaybeDeferred[_T], call: Callable[[_T], MaybeDeferred[_R]]) -> MaybeDeferred[_R]:
    """Return what `call` makes of a value, now or when it is there."""
    if isinstance(value, Deferred):
        return value.addCallback(call)
    return call(value)
