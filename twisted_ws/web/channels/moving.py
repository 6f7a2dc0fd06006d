"""Event streams that go on in another process of the server.

The head of the answer has been written long ago; what follows is one event after the other. So there, in place of an HTTP
connection and its request, there is only what an `EventStream` needs of them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.access.lifetime import Lifetime
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.channels.moving import Expectation, SubscriptionState
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.visitor import Visitor
from twisted_ws.dispatch.examination import examine
from twisted_ws.dispatch.resumable import isResumable
from twisted_ws.engines.journal import Journal
from twisted_ws.errors import ChannelError, ConnectionClosed
from twisted_ws.message import Position
from twisted_ws.server.handover.arrival import Arrival
from twisted_ws.server.handover.departure import Departure
from twisted_ws.server.handover.states import (
    IdentityState,
    NotPortable,
    RequestState,
    encode,
    identityOf,
    identityState,
    requestOf,
    requestState,
    unpack,
)
from twisted_ws.server.handover.table import rows
from twisted_ws.web.channels.events import CursorEventSubscriber, EventSubscriber, JsonEventSubscriber
from twisted_ws.web.channels.stream import EventStream
from twisted_ws.wire.loop.transports import abort, finishWriting
from twisted_ws.wire.websocket import moving
from twisted_ws.wire.websocket.moving import Obstacle
from twisted_ws.wire.websocket.observing import unobserve

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.wire.websocket.runtime import Runtime

_log = Logger()

_KINDS: dict[str, type[EventSubscriber]] = {
    "raw": EventSubscriber,
    "json": JsonEventSubscriber,
    "cursor": CursorEventSubscriber,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


class StreamState(msgspec.Struct, array_like=True, frozen=True):
    """What moves of an event stream; see `twisted_ws.server.handover.states.CallerState` for what is not here.

    Attributes:
        kind: of its subscriber: "raw", "json" or "cursor".
        chunked: whether its answer is.
        ping: seconds until its next heartbeat.
        outbox: what the kernel has not taken.
        admittedAs: the address that the gate counted.
        names: the channels and patterns of its cursor, also those that have ended.
    """

    number: int
    kind: str
    chunked: bool
    ping: float
    outbox: bytes
    admittedAs: str
    names: list[str]
    connectionId: str
    since: float
    request: RequestState
    identity: IdentityState | None
    user: bytes
    requestUser: bytes
    attributes: bytes
    held: float
    subscriptions: list[SubscriptionState]
    terms: list[tuple[str, float, bool, str | None]]


# What becomes of the state of one stream, as `twisted_ws.server.handover.table` says of that of a caller.
TABLE: dict[type[Any], dict[str, str]] = {
    EventStream: rows(
        moves="_outbox _pingAt chunked",
        anew="_channels _connection _lane _reminder _request _whenGone prefix sender subscriber wheelSlot",
        waits="_ending _goOn _isBegun _makeRoom refusal",
    ),
    Visitor: rows(moves="_user attributes connectionId life membership request since", anew="_connection roster"),
    EventSubscriber: rows(anew="_stream", waits="_began _starts"),
    JsonEventSubscriber: rows(),
    CursorEventSubscriber: rows(moves="_names", anew="_cursor"),  # it follows from the positions
}

decode = msgspec.msgpack.Decoder(StreamState).decode


class StreamDeparture:
    """Takes event streams out of a server.

    Args:
        server: the server.
        expectation, journal: see `Departure`.
        departure: that of its callers.
    """

    def __init__(self, server: WebSocketServer, expectation: Expectation, journal: Journal | None, departure: Departure) -> None:
        self._server = server
        self._expectation = expectation
        self._journal = journal
        self._departure = departure

    def obstacle(self, stream: EventStream, ready: set[str] | None = None) -> Obstacle | None:
        """Return why a stream does not leave now; None if it can (see `Departure.obstacle`)."""
        unobserve(stream)
        subscriber = stream.subscriber
        if type(subscriber) not in _NAMES or not stream.isOpen():
            return Obstacle.LEAVING
        found = moving.transportObstacle(stream.transport)
        if found is not None:
            return found
        service: Any = subscriber._service
        match = self._server.match(subscriber.caller.request.target.partition("?")[0])
        if match is None or match.value.service is not service or not isResumable(service, examine(service)):
            return Obstacle.SERVICE
        if subscriber.caller.request.clientCertificate is not None:
            return Obstacle.TLS
        if not self._departure.isExact and subscriber.hasPatterns:
            return Obstacle.STATE
        if not stream.isIdle or not self._expectation.canDepart(subscriber, ready):
            return Obstacle.WAITS
        return None

    def depart(self, stream: EventStream, ready: set[str] | None = None) -> tuple[bytes, Any] | Obstacle:
        """Take a stream out of the server; return its state and its socket, or why it stays."""
        server, subscriber = self._server, stream.subscriber
        if server.runtime.fanOuts.pending:
            server.runtime.fanOuts.catchUp(subscriber.caller)
        found = self.obstacle(stream, ready)
        if found is not None:
            return found
        visitor: Any = subscriber.caller
        name = type(subscriber._service).__name__
        packed = self._departure.packed
        try:
            parts = (
                packed(visitor.user, name, "user"),
                packed(visitor.request.user, name, "request.user"),
                packed(visitor.attributes, name, "attributes"),
            )
            identity = identityState(visitor.identity, server.limits.handOverState)
        except NotPortable:
            return Obstacle.STATE
        terms = [] if visitor.life is None else [(channel, *term) for channel, term in visitor.life.terms()]
        subscriptions = self._expectation.depart(subscriber)
        server.visits.discard(stream)
        server.counts.streams -= 1
        server.channels.visitors.discard(visitor)
        visitor.roster = visitor.membership = visitor._connection = None
        outbox, ping, admittedAs, left = stream.depart()
        state = StreamState(
            0 if self._journal is None else self._journal.number,
            _NAMES[type(subscriber)],
            stream.chunked,
            ping,
            outbox,
            admittedAs,
            subscriber.cursorNames,
            visitor.connectionId,
            visitor.since,
            requestState(visitor.request),
            identity,
            *parts,
            subscriber.held,
            subscriptions,
            terms,
        )
        return encode(state), left


class StreamArrival:
    """Lets event streams go on in a server that have left another process.

    Args:
        server: the server.
        expectation: see `Arrival`.
        arrival: that of its callers.
    """

    def __init__(self, server: WebSocketServer, expectation: Expectation, arrival: Arrival) -> None:
        self._server = server
        self._expectation = expectation
        self._arrival = arrival

    def refusal(self, state: StreamState) -> str | None:
        """Return why a stream cannot go on here; None if it can."""
        service, why = self._arrival.mountedFor(state.request, state.identity)
        if why is None and not isinstance(service, ChannelService):
            return f"{type(service).__name__} is not a service of channels"
        return why

    def arrive(self, state: StreamState, attach: Callable[[Any], None], transit: float = 0.0) -> None:
        """Let a stream go on here that was not refused; see `Arrival.arrive`."""
        connection = ResumedConnection(self._server.runtime, state.admittedAs, state.chunked, state.request.path)
        try:
            attach(connection)
        except OSError:
            return  # its peer has gone
        try:
            self._arrive(connection, state)
        except Exception:
            _log.failure("an event stream that came from another process failed", event="handover.broken")
            abort(connection.transport)

    def _arrive(self, connection: ResumedConnection, state: StreamState) -> None:
        server = self._server
        match = server.match(state.request.target.partition("?")[0])
        assert match is not None  # `refusal` has looked
        service: Any = match.value.service
        request = requestOf(state.request)
        request.pathParams, request.pathRest = match.parameters, tuple(match.rest)
        request.identity, request.user = identityOf(state.identity), unpack(state.requestUser)
        connection.peerAddress = request.peerAddress
        server.runtime.gate.readmit(state.admittedAs)
        connection.isAdmitted = True
        visitor = Visitor(request, state.since)
        visitor.connectionId = state.connectionId
        visitor._user, visitor.attributes = unpack(state.user), unpack(state.attributes) or {}

        def whenGone() -> None:
            if stream in server.visits:
                server.visits.discard(stream)
                server.counts.streams -= 1
                server.counts.closed.add("sse", "", "peer" if connection.isGone else "server")
            subscriber.leave()

        stream = EventStream(connection, server.channels, whenGone)
        subscriber = _KINDS[state.kind](visitor, stream, service, state.names)
        subscriber.held = state.held
        subscriber.goesOn({each.channel: Position(*each.position) for each in state.subscriptions if each.position is not None})
        server.visits.add(stream)
        server.counts.streams += 1
        stream.arrive(state.outbox, state.ping)
        waiting = self._expectation.arrive(subscriber, state.subscriptions)
        if waiting is None:
            self._goOn(stream, subscriber, state)
        else:
            waiting.addCallbacks(lambda _: self._goOn(stream, subscriber, state), self._failed, errbackArgs=(stream,))
            waiting.addErrback(self._broken, connection)
            self._arrival.awaits(waiting)

    def _failed(self, failure: Failure, stream: EventStream) -> None:
        failure.trap(ChannelError, ConnectionClosed, CancelledError)  # the last: its peer has left
        stream.end()

    def _broken(self, failure: Failure, connection: ResumedConnection) -> None:
        _log.failure("an event stream that came from another process failed", failure, event="handover.broken")
        abort(connection.transport)

    def _goOn(self, stream: EventStream, subscriber: EventSubscriber, state: StreamState) -> None:
        if not stream.isOpen():
            return
        visitor: Any = subscriber.caller
        if not self._arrival.giveMissed(state.number, visitor, subscriber):
            stream.end()
            return
        identity = visitor.identity
        if identity is not None:
            try:
                self._server.identities.requireValid(identity)
            except AccessRefused:
                subscriber.expire()
                return
            ends = subscriber.expire, subscriber.expiring, subscriber.lapse
            visitor.life = Lifetime(stream, self._server.channels.seconds, self._server.channels.unixTime, *ends)
            visitor.life.set(identity)
            self._arrival.grant(visitor, visitor.life, state.terms)
        if (judging := subscriber.judge()) is not None:
            judging.addErrback(lambda failure: _log.failure("an event stream was not checked", failure, event="handover.broken"))


@implementer(IHalfCloseableProtocol)
class ResumedConnection(Protocol):
    """What an event stream has in place of its HTTP connection and request, where it goes on.

    Args:
        runtime: the server's.
        admittedAs: the address that the gate counted.
        chunked: whether the answer is.
        path: of its request.

    Attributes:
        isAdmitted: whether the gate counts it.
        isGone: whether the peer has left.
    """

    transport: Any
    wheelSlot: int | None = None
    persistent = False
    whenGone = None

    def __init__(self, runtime: Runtime, admittedAs: str, chunked: bool, path: str) -> None:
        self.channel = self
        self.clientproto = b"HTTP/1.1" if chunked else b"HTTP/1.0"
        self.path = path
        self.peerAddress = ""
        self.site = SimpleNamespace(throttle=runtime.throttle)
        self.admittedAs = admittedAs
        self.isAdmitted = self.isGone = False
        self._runtime = runtime
        self._lingered = 0
        self._finished: Deferred[Any] | None = None
        self._waiters: list[Deferred[None]] = []

    # As a request.

    def notifyFinish(self) -> Deferred[Any]:
        """Return a Deferred that fires when the answer has ended, or fails when the peer has left."""
        finished: Deferred[Any] = Deferred()
        self._finished = finished
        return finished

    def finish(self) -> None:
        """Close: everything is written, and nothing can follow on this connection."""
        finishWriting(self.transport)
        self._runtime.wheel.after(self, self._runtime.limits.lingerDeadline)
        self._tell(None)

    # As a connection.

    def lend(self) -> Any:
        """Return the transport."""
        return self.transport

    def reclaim(self) -> None:
        """Do nothing: it closes."""

    def drop(self) -> None:
        """End the connection at once."""
        abort(self.transport)

    def whenLost(self, timeout: float) -> Deferred[None]:
        """Return a Deferred that fires when the connection is lost; it is dropped after `timeout` seconds."""
        waiter: Deferred[None] = Deferred()
        if self.isGone:
            waiter.callback(None)
            return waiter
        self._waiters.append(waiter)
        late = self._runtime.reactor.callLater(timeout, self.drop)
        return waiter.addCallback(lambda result: late.cancel() if late.active() else None)

    def deadlineReached(self, now: float) -> None:
        """Drop a peer that does not close; called by the wheel."""
        self.drop()

    def dataReceived(self, data: bytes) -> None:
        """Ignore what comes after the request, up to a bound."""
        self._lingered += len(data)
        if self._lingered > self._runtime.limits.lingerBytes:
            self.drop()

    def readConnectionLost(self) -> None:
        """End: a client that sends nothing more has most likely closed both sides."""
        self.transport.connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        """Wait for the peer's end, or the deadline."""

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """Release everything."""
        self.isGone = True
        self._runtime.wheel.drop(self)
        if self.isAdmitted:
            self.isAdmitted = False
            self._runtime.gate.release(self.admittedAs)
        self._tell(reason)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _tell(self, reason: Failure | None) -> None:
        finished, self._finished = self._finished, None
        if finished is not None:
            finished.callback(reason)
