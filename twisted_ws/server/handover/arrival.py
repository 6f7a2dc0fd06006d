"""The process to which callers come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.chain import requireScope
from twisted_ws.access.lifetime import Lifetime, Term
from twisted_ws.access.refusals import REVOKED, AccessRefused
from twisted_ws.caller import Caller
from twisted_ws.channels.moving import Expectation
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.subscribers.buffered import BufferedSubscriber
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL, jsonBroadcast, rawBroadcast
from twisted_ws.channels.subscribers.websocket import JsonSubscriber, RawSubscriber
from twisted_ws.channels.visitor import Visitor
from twisted_ws.closecodes import EXPIRED
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.dispatch.examination import examine
from twisted_ws.dispatch.resumable import isResumable
from twisted_ws.engines.contract import Disconnect
from twisted_ws.engines.journal import Entry, Journal
from twisted_ws.errors import ChannelError, CloseCode, ConnectionClosed, ServiceError
from twisted_ws.identity import GUEST
from twisted_ws.message import Kind, Message, Publication
from twisted_ws.names import patternsOf
from twisted_ws.server.handover.states import CallerState, IdentityState, RequestState, identityOf, requestOf, unpack
from twisted_ws.wire.loop.transports import abort
from twisted_ws.wire.websocket import moving
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.moving import Welcomed
from twisted_ws.wire.websocket.receiver import EventReceiver

if TYPE_CHECKING:
    from twisted_ws.server.server import Mounted, WebSocketServer

_log = Logger()

# What a caller is closed with that has come, but cannot go on.
RESTART = CloseCode.SERVICE_RESTART, "service restarts"
# Why none can go on in a server that asks all to leave.
STOPPING = "the server is stopping"


class Arrival:
    """Puts callers into a server that have left another process.

    Args:
        server: the server.
        expectation: see `Expectation`.
        journal: what the engine tells; None if it does not number that.
    """

    def __init__(self, server: WebSocketServer, expectation: Expectation, journal: Journal | None) -> None:
        self._server = server
        self._expectation = expectation
        self._journal = journal
        self._pending = 0
        self._whenSettled: list[Deferred[None]] = []

    def awaits(self, waiting: Deferred[Any]) -> None:
        """Note that a caller or visitor goes on only when a Deferred has fired, which has all its callbacks already."""
        self._pending += 1
        waiting.addBoth(self._awaited)

    def _awaited(self, result: object) -> None:
        self._pending -= 1
        if not self._pending:
            waiting, self._whenSettled = self._whenSettled, []
            for each in waiting:
                each.callback(None)

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when all who have come go on, so that nobody needs the journal any more."""
        settled: Deferred[None] = Deferred()
        if self._pending:
            self._whenSettled.append(settled)
        else:
            settled.callback(None)
        return settled

    def refusal(self, state: CallerState) -> str | None:
        """Return why a caller cannot go on here; None if it can."""
        service, why = self.mountedFor(state.request, state.identity)
        if why is not None:
            return why
        if state.subProtocol is not None and state.subProtocol not in examine(service).subProtocols:
            return f"{type(service).__name__} does not speak {state.subProtocol}"
        if state.membership in ("raw", "json") and not isinstance(service, ChannelService):
            return f"{type(service).__name__} is not a service of channels"
        return None

    def mountedFor(self, request: RequestState, identity: IdentityState | None) -> tuple[Any, str | None]:
        """Return the service that answers a request here, and why nobody can go on with it; None if somebody can."""
        server = self._server
        if server.isStopping:
            return None, STOPPING
        match = server.match(request.target.partition("?")[0])
        if match is None:
            return None, "nothing answers its path"
        mounted: Mounted = match.value
        service = mounted.service
        try:
            handlers = examine(service)
        except ServiceError as error:
            return service, str(error)
        if not isResumable(service, handlers):
            return service, f"{type(service).__name__} does not say that it is resumable"
        if mounted.chain is not None and identity is None:
            return service, f"{type(service).__name__} asks who comes, now"
        if identity is not None:
            try:
                requireScope(identityOf(identity) or GUEST, mounted.scopes)
            except AccessRefused as refused:
                return service, refused.message
        return service, None

    def arrive(self, state: CallerState, attach: Callable[[WebSocketConnection], None], transit: float = 0.0) -> None:
        """Let a caller go on here that was not refused.

        Args:
            state: its state.
            attach: gives the new connection its transport.
            transit: seconds since its departure.
        """
        connection = self._server.newConnection(state.connection.admittedAs)
        try:
            attach(connection)
        except OSError:
            return  # its peer has gone
        try:
            self._arrive(connection, state, transit)
        except Exception:
            _log.failure("a connection that came from another process failed", event="handover.broken")
            abort(connection.transport)

    def _arrive(self, connection: WebSocketConnection, state: CallerState, transit: float) -> None:
        server = self._server
        match = server.match(state.request.target.partition("?")[0])
        assert match is not None  # `refusal` has looked
        mounted = match.value
        request = requestOf(state.request)
        request.pathParams, request.pathRest = match.parameters, tuple(match.rest)
        request.identity, request.user = identityOf(state.identity), unpack(state.requestUser)
        handlers = examine(mounted.service)

        def attend(connection: WebSocketConnection) -> EventReceiver:
            return server.resume(connection, request, state.subProtocol, mounted)

        moving.arrive(connection, state.connection, Welcomed(attend, handlers.idleTimeout), transit)
        dispatcher: Any = connection._receiver
        caller: Caller = dispatcher.caller
        caller.connectionId, caller.since = state.connectionId, state.since
        caller._user = unpack(state.user)
        caller._attributes = unpack(state.attributes)
        waiting = self._resubscribe(caller, state, mounted.service) if state.membership else None
        if waiting is None:
            self._goOn(connection, dispatcher, state)
        else:
            waiting.addCallbacks(
                lambda _: self._goOn(connection, dispatcher, state), self._failed, errbackArgs=(dispatcher, state)
            ).addErrback(self._broken, connection)
            self.awaits(waiting)

    def _resubscribe(self, caller: Caller, state: CallerState, service: Any) -> Deferred[Any] | None:
        subscriber: BufferedSubscriber
        if state.membership == "plain":
            subscriber = BufferedSubscriber(caller, self._server.channels)
        else:
            subscriber = (JsonSubscriber if state.membership == "json" else RawSubscriber)(caller, service)
        subscriber.held = state.held
        return self._expectation.arrive(subscriber, state.subscriptions)

    def grant(self, caller: Any, life: Lifetime, terms: Iterable[tuple[str, float, bool, str | None]]) -> None:
        """Let subscriptions that go on here end with their tokens: at once those whose tokens have ended on the way.

        Args:
            caller: the caller or visitor.
            life: what ends its subscriptions.
            terms: see `CallerState`.
        """
        revocations = self._server.identities.revocations
        for channel, until, mayPublish, tokenId in terms:
            life.grant(channel, Term(until, mayPublish, tokenId))
            if tokenId is not None and revocations.coversTokenId(tokenId):
                life.release(channel)
                caller.membership.lapse(channel, REVOKED)

    def _failed(self, failure: Failure, dispatcher: Dispatcher, state: CallerState) -> None:
        """Close: what it has missed cannot be had now, and it resumes with another connection."""
        failure.trap(ChannelError, ConnectionClosed, CancelledError)  # the last: its peer has left
        dispatcher.arrive(unpack(state.said))
        dispatcher.caller.close(*RESTART)

    def _broken(self, failure: Failure, connection: WebSocketConnection) -> None:
        _log.failure("a connection that came from another process failed", failure, event="handover.broken")
        abort(connection.transport)

    def _goOn(self, connection: WebSocketConnection, dispatcher: Dispatcher, state: CallerState) -> None:
        """Add what it has missed, and let the service know it."""
        caller = dispatcher.caller
        if not caller.isOpen():
            dispatcher.arrive(unpack(state.said))
            return
        subscriber: Any = caller.membership
        missed: list[Entry] | None = [] if self._journal is None else self._journal.since(state.number)
        for entry in missed or ():
            self._give(entry, caller, subscriber)
        dispatcher.arrive(unpack(state.said))
        if missed is None or self._server.isStopping:  # a stop that has begun has not seen this one
            caller.close(*(RESTART if missed is None else self._server.farewell))
            return
        self._obeyAll(missed, caller, subscriber)
        identity = caller.identity
        if identity is not None:
            try:
                self._server.identities.requireValid(identity)
            except AccessRefused as refused:
                caller.close(EXPIRED, refused.reason)
                return
        if state.terms:  # now that the subscriptions are there, and before they are judged without
            self.grant(caller, caller.life or self._server.identities.lifeOf(caller), state.terms)
        if subscriber is not None and (judging := subscriber.judge()) is not None:
            judging.addErrback(lambda failure: _log.failure("subscriptions were not checked", failure, event="handover.broken"))
        moving.begin(connection)

    def giveMissed(self, number: int, visitor: Visitor, subscriber: BufferedSubscriber) -> bool:
        """Let a visitor have what it has missed since a number; return False if that is not known."""
        missed = [] if self._journal is None else self._journal.since(number)
        if missed is None:
            return False
        for entry in missed:
            if entry.kind != "broadcast":  # which is for callers
                self._give(entry, visitor, subscriber)
        self._obeyAll(missed, visitor, subscriber)
        return True

    def _obeyAll(self, missed: Sequence[Entry], caller: Any, subscriber: Any) -> None:
        for entry in missed:
            if entry.kind == "command":
                self._obey(entry.value, caller, subscriber)

    def _give(self, entry: Entry, caller: Any, subscriber: BufferedSubscriber | None) -> None:
        """Let a caller have what it has missed."""
        kind, value = entry.kind, entry.value
        if kind == "broadcast":
            made = jsonBroadcast if caller.negotiatedSubProtocol == SUBPROTOCOL else rawBroadcast
            caller._connection.send(made(Message(Kind(value[0]), value[1])))
        elif subscriber is None or kind == "command":
            return
        elif kind == "publication":
            channel = value[0]
            if channel not in subscriber.channels and any(name in subscriber.channels for name in patternsOf(channel)):
                channels = self._server.channels
                if channels.isGuarded and channel.startswith("~"):
                    return
                publication = Publication(channel, value[1], value[2], Kind(value[3]), value[4], value[5], channels.seconds())
                subscriber.send(subscriber.format(publication))
        else:  # joined, left
            self._server.channels.presence.tellOne(value[0], subscriber, kind, value[1], value[2])

    def _obey(self, command: Any, caller: Any, subscriber: BufferedSubscriber | None) -> None:
        if caller.connectionId != command.connection and (command.user is None or caller.user != command.user):
            return
        if isinstance(command, Disconnect):
            (subscriber or self._server.channels.enroll(caller)).disconnect(command.code, command.reason)
        elif subscriber is not None:
            self._server.channels.unsubscribe(subscriber, command.channel, command.reason)
