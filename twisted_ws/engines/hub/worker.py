"""A worker's side: the engine that asks the hub."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.engines.contract import (
    Command,
    Description,
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
from twisted_ws.engines.hub.frames import KINDS, ROOM, VERSION, commandOf, membersOf, publicationsOf
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.journal import Journal
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import MIB, Limits
from twisted_ws.message import Message, Position, Publication, Published
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import BucketTable
from twisted_ws.wire.loop.wheel import Wheel

# Bytes that the hub may leave unread before nothing more is published here, so publishers become as slow as it is.
BEHIND = 16 * MIB
# Messages of this worker that may wait for the hub's answer at once: each takes about a KiB.
PUBLISHING = 10_000
# Seconds that a stop waits for these.
STOPPING = 5.0

_Rows = list[Any]
_Descriptions = list[Description]


class HubEngine:
    """The engine of a worker: it asks the hub at the other end of a link, and answers later.

    Args:
        link: leads there. When it ends, so does everything here.
        limits: `maxMessageSize`.
        wheel: the server's.

    Attributes:
        isNumbered: True: journals of all workers have the same numbers.
        state: that of the hub's engine; DOWN before `start` and without a link.
        isSlow: False.
        times: how long the hub's answers took, by what was asked, but for publications.
    """

    _log = Logger()
    isNumbered = True

    def __init__(self, link: Link, limits: Limits, wheel: Wheel) -> None:
        link.largest = max(link.largest, limits.maxMessageSize + ROOM)
        self.state = EngineState.DOWN
        self.isSlow = False  # the supervisor, which has the hub, says what there is to say
        self.times = BucketTable(1)
        self._link = link
        self._wheel = wheel
        self._node: Node
        self._publishing = 0
        self._isStopping = False
        self._stopped: _Stopping | None = None
        self._journals: tuple[Journal, ...] = ()

    def start(self, node: Node) -> Deferred[None]:
        """Say hello over the link, which is up already (see `Engine`)."""
        self._node = node
        link = self._link
        self._handle()
        link.handle("lost", self._lostAt)
        link.handle("state", self._stateIs)
        link.handle("revocations", self._revoked)
        link.answer("info", lambda: msgspec.structs.astuple(node.info()))
        link.answer("subscribers", lambda channels: [node.subscribers(channel) for channel in channels])
        link.answer("revoked", lambda fields: node.revoked(Revocation(*fields)))
        link.answer("answer", node.answer)
        link.onLost(self._lost)
        hello = link.request("hello", VERSION, *msgspec.structs.astuple(node.info()))
        return hello.addCallbacks(self._welcomed, self._unwelcome)

    def _handle(self) -> None:
        """Take what is numbered: straight to where it goes, or into the journals as well while there are any."""
        takers: dict[str, Callable[..., Any]] = {"publication": self._received, "broadcast": self._broadcasted}
        takers |= {"joined": self._joined, "left": self._left}
        for kind, taker in takers.items():
            takers[kind] = taker = partial(self._noted, kind, taker) if self._journals else taker
            self._link.handle(kind, taker)
        self._link.handle("traced", partial(self._traced, takers["publication"]))
        self._link.answer("obey", self._obey)

    def _noted(self, kind: str, taker: Callable[..., Any], number: int, *fields: Any) -> Any:
        for each in self._journals:
            each.add(number, kind, fields)
        return taker(number, *fields)

    def _traced(self, taker: Callable[..., Any], number: int, channel: str, *fields: Any) -> None:
        *rest, span = fields
        if tracing.tracer is None:
            taker(number, channel, *rest)
        else:
            tracing.delivered(span, channel, taker, number, channel, *rest)

    def _obey(self, number: int, fields: dict[str, Any]) -> MaybeDeferred[int]:
        command = commandOf(fields)
        for each in self._journals:
            each.add(number, "command", command)
        return self._node.obey(command)

    # Hand-over.

    def keepJournal(self, journal: Journal) -> None:
        """Note in a journal what comes from now on, too: each hand-over in which this process has a part keeps its own."""
        self._journals += (journal,)
        self._handle()

    def endJournal(self, journal: Journal) -> None:
        """Stop noting in it; do nothing if that has ended."""
        self._journals = tuple([each for each in self._journals if each is not journal])
        self._handle()

    def mark(self) -> Deferred[int]:
        """Return the number that the hub has reached; when the Deferred fires, all up to there has come."""
        return self._request("mark")

    def _welcomed(self, state: str) -> None:
        self._change(EngineState(state))

    def _unwelcome(self, failure: Any) -> None:
        failure.trap(ChannelError)
        raise ConfigurationError(f"the supervisor does not take this worker: {failure.value.message}")

    def stop(self) -> Deferred[None] | None:
        """End (see `Engine`); the link is left alone."""
        self._isStopping = True
        if not self._publishing or not self._link.isUp:
            self._end()
            return None
        self._stopped = _Stopping(self._wheel)
        return self._stopped.later.addCallback(lambda _: self._end())

    def _end(self) -> None:
        self._link.send("bye")
        self._change(EngineState.DOWN)

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> Deferred[Published]:
        """Have the hub publish (see `Engine`)."""
        self._admit()
        fields = channel, message.kind, message.payload, key, idempotencyKey, fingerprint, limits
        if tracing.tracer is None:
            asked = self._link.request("publish", *fields)
        elif (span := tracing.carried()) is None:
            asked = tracing.waiting("engine publish", self._link.request("publish", *fields))
        else:
            asked = tracing.waiting("engine publish", self._link.request("publishTraced", *fields, span))
        self._publishing += 1
        return asked.addBoth(self._answered).addCallback(_published)

    def _answered(self, answer: Any) -> Any:
        self._publishing -= 1
        if self._stopped is not None and not self._publishing:
            self._stopped.deadlineReached(0)
        return answer

    def _admit(self) -> None:
        if self._isStopping:
            raise ChannelError("unavailable", "The server is stopping.")
        if self._link.unread > BEHIND or self._publishing >= PUBLISHING:
            raise ChannelError("unavailable", "More messages are on their way than can be sent in time: try later.")

    def watch(self, channel: str, by: Hashable = None) -> Deferred[Position | None]:
        """Have the hub pass a channel on (see `Engine`)."""
        return self._request("watch", channel, by).addCallback(_position)

    def unwatch(self, channel: str) -> None:
        """Have the hub pass it on no longer (see `Engine`)."""
        self._link.send("unwatch", channel)

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> Deferred[History]:
        """Return what the hub keeps (see `Engine`)."""
        return self._request("since", channel, after, limit).addCallback(self._page, channel)

    def _page(self, page: list[Any], channel: str) -> MaybeDeferred[History]:
        position, recovered, rows, left = page
        history = History(Position(*position), recovered, publicationsOf(channel, rows, self._wheel.seconds()))
        return Deferred.fromCoroutine(self._pages(channel, history, left)) if left and rows else history

    async def _pages(self, channel: str, history: History, left: int) -> History:
        publications = [*history.publications]
        while left > 0 and publications:
            last = publications[-1].position
            _, recovered, rows, _ = page = await self._request("since", channel, last, left)
            if not recovered:
                # What was to come next has been forgotten meanwhile.
                return await _soon(self._page(page, channel))
            if not rows:
                break
            publications += publicationsOf(channel, rows, self._wheel.seconds())
            left -= len(rows)
        return history._replace(publications=publications)

    def forget(self, channel: str) -> Deferred[int]:
        """Have the hub drop what is kept (see `Engine`)."""
        return self._request("forget", channel)

    def describe(self, channel: str) -> Deferred[Description | None]:
        """Return what the hub knows of a channel (see `Engine`)."""
        return self._request("describe", channel).addCallback(_description)

    def broadcast(self, message: Message) -> Deferred[int]:
        """Have the hub send a message to all callers of all workers (see `Engine`)."""
        self._admit()
        asked = self._link.request("broadcast", message.kind, message.payload)
        self._publishing += 1
        return asked.addBoth(self._answered)

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Tell the hub (see `Engine`)."""
        self._link.send("enter", channel, connection, user, info)

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Tell the hub (see `Engine`)."""
        self._link.send("leave", channel, connection, delay)

    def members(self, channel: str, after: str, limit: int, size: int) -> Deferred[Members]:
        """Return some users on a channel (see `Engine`)."""
        return self._request("members", channel, after, limit, size).addCallback(membersOf)

    def command(self, command: Command) -> Deferred[int]:
        """Have all workers obey a command (see `Engine`)."""
        return self._request("command", command)

    def nodes(self) -> Deferred[list[NodeInfo]]:
        """Return what all workers say of themselves (see `Engine`)."""
        return self._request("nodes").addCallback(lambda nodes: [NodeInfo(*each) for each in nodes])

    def claim(self, key: str, until: float) -> Deferred[bool]:
        """Return True for the first worker that claims a key (see `Engine`)."""
        return self._request("claim", key, until)

    def revoke(self, revocation: Revocation) -> Deferred[None]:
        """Tell all workers what is no longer accepted (see `Engine`)."""
        return self._request("revoke", msgspec.structs.astuple(revocation))

    def ask(self, kind: str, payload: bytes) -> Deferred[list[bytes]]:
        """Return what all workers answer (see `Engine`)."""
        return self._request("ask", kind, payload)

    def list(self, prefix: str, after: str, limit: int) -> Deferred[_Descriptions]:
        """Return some channels by name (see `Engine`)."""
        return self._request("list", prefix, after, limit).addCallback(_descriptions)

    def _request(self, kind: str, *fields: Any) -> Deferred[Any]:
        if self._isStopping:
            raise ChannelError("unavailable", "The server is stopping.")
        asked = self.times.timed(self._link.request(kind, *fields), self._wheel.seconds, kind)
        return asked if tracing.tracer is None else tracing.waiting(f"engine {kind}", asked)

    # What the hub says.

    def _received(
        self, number: int, channel: str, epoch: str, offset: int, kind: str, payload: bytes, key: str | None
    ) -> MaybeDeferred[int]:
        publication = Publication(channel, epoch, offset, KINDS[kind], payload, key, self._wheel.seconds())
        return self._pass(self._node.received, publication, number)

    def _broadcasted(self, number: int, kind: str, payload: bytes) -> None:
        self._pass(self._node.broadcasted, Message(KINDS[kind], payload), number)

    def _pass(self, take: Callable[[Any], MaybeDeferred[int]], message: Any, number: int) -> MaybeDeferred[int]:
        try:
            taken = take(message)
        except Exception:
            taken = self._failed(Failure())
        return self._acknowledge(taken, number)

    def _failed(self, failure: Failure) -> int:
        # The hub waits for an acknowledgement whatever happens here; without one, it would let go of this worker in the end.
        self._log.failure("passing on a message failed inside the server", failure, event="channel.failed")
        return 0

    def _acknowledge(self, taken: MaybeDeferred[int], number: int) -> MaybeDeferred[int]:
        if isinstance(taken, Deferred):
            return taken.addErrback(self._failed).addCallback(self._acknowledge, number)
        self._link.sendTogether("ack", number, taken)
        return taken

    def _joined(self, number: int, channel: str, user: str, info: bytes, connections: int) -> None:
        self._node.joined(channel, Member(user, msgspec.Raw(info), connections))

    def _left(self, number: int, channel: str, user: str, info: bytes, connections: int) -> None:
        self._node.left(channel, Member(user, msgspec.Raw(info), connections))

    def _lostAt(self, channel: str, epoch: str, offset: int) -> None:
        self._node.lost(channel, Position(epoch, offset))

    def _stateIs(self, state: str) -> None:
        self._change(EngineState(state))

    def _revoked(self, rows: _Rows) -> None:
        for each in rows:
            self._node.revoked(Revocation(*each))

    def _lost(self) -> None:
        self._change(EngineState.DOWN)

    def _change(self, state: EngineState) -> None:
        if state is not self.state and (not self._isStopping or state is EngineState.DOWN):
            self.state = state
            self._node.stateChanged(state)


class _Stopping:
    """A stop that waits for the hub's answers to publishers.

    Attributes:
        later: fires when they are there, or it takes too long.
    """

    __slots__ = ("_wheel", "later", "wheelSlot")

    def __init__(self, wheel: Wheel) -> None:
        self.wheelSlot: int | None = None
        self.later: Deferred[None] = Deferred(self._cancelled)
        self._wheel = wheel
        wheel.after(self, STOPPING)

    def deadlineReached(self, now: float) -> None:
        """Wait no longer; called by the wheel, and when there is nothing to wait for."""
        self._wheel.drop(self)
        if not self.later.called:
            self.later.callback(None)

    def _cancelled(self, later: Deferred[None]) -> None:
        self._wheel.drop(self)


def _published(fields: list[Any]) -> Published:
    return Published(*fields)


def _position(fields: list[Any] | None) -> Position | None:
    return None if fields is None else Position(*fields)


def _description(fields: list[Any] | None) -> Description | None:
    return None if fields is None else msgspec.convert(fields, Description)


def _descriptions(found: list[list[Any]]) -> list[Description]:
    return msgspec.convert(found, list[Description])


async def _soon(value: MaybeDeferred[History]) -> History:
    return await value if isinstance(value, Deferred) else value
