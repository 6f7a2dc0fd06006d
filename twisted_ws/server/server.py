"""The server: services by path, open callers, broadcast. It needs no daemon; see `WebSocketServer`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws import __version__
from twisted_ws.access.authenticator import Authenticator
from twisted_ws.access.chain import Chain
from twisted_ws.access.rates import Rates
from twisted_ws.access.refusals import INVALID, AccessRefused, unauthorized
from twisted_ws.access.sources import MOST_BYTES, TokenMessage
from twisted_ws.caller import Caller
from twisted_ws.channels.channels import Channels
from twisted_ws.channels.service import ChannelService
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.dispatch.examination import examine
from twisted_ws.dispatch.interceptors import Interceptor, checkInterceptors, intercepted, interceptedUpgrade
from twisted_ws.dispatch.upgrades import Upgrade, callUpgrade, refusal
from twisted_ws.engines.contract import Engine, EngineState
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import CloseCode, ConfigurationError, ServiceError
from twisted_ws.identity import Identity
from twisted_ws.limits import Limits
from twisted_ws.message import Message, Published
from twisted_ws.server.answer import answerOf
from twisted_ws.server.callers import Callers, OpenCallers
from twisted_ws.server.channelrules import ChannelRules
from twisted_ws.server.firstmessage import Admission, FirstMessage, Undecided, mayFollow
from twisted_ws.server.identities import Identities
from twisted_ws.server.node import CLOSING, LocalNode
from twisted_ws.server.pacing import paced, sliceSize
from twisted_ws.server.routes import Match, Routes
from twisted_ws.service import checkClose
from twisted_ws.telemetry.counts import SERVICE
from twisted_ws.upgrade import Reject, UpgradeRequest
from twisted_ws.wire.door.gate import Gate
from twisted_ws.wire.door.hosts import machineNames
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.frontdoor import FrontDoorFactory
from twisted_ws.wire.lane.ports import accelerate
from twisted_ws.wire.loop.transports import noticeVanished
from twisted_ws.wire.speedups import sayWhich
from twisted_ws.wire.websocket.connection import WebSocketConnection, connectionClass
from twisted_ws.wire.websocket.receiver import EventReceiver
from twisted_ws.wire.websocket.runtime import OpenResponse, Runtime
from twisted_ws.wire.websocket.welcome import Welcome

# What callers are told at a stop, unless something else is said.
FAREWELL = CloseCode.GOING_AWAY, "server stops"
# The cost of ending one HTTP response, in steps of `Turns`.
STOPPING = 40
# Steps of one that came before the engine worked and goes on then: a handshake, of about 70 us.
EARLY = 64


class Mounted(NamedTuple):
    """A service at its path, and who may come to it.

    Attributes:
        service: the service.
        chain: its authenticators; None: nobody is asked who they are.
        scopes: those of which an identity needs one; none are needed if there are none.
        interceptors: its handlers are called through these.
        path: as it was mounted.
    """

    service: object
    chain: Chain | None = None
    scopes: frozenset[str] = frozenset()
    interceptors: tuple[Interceptor, ...] = ()
    path: str = ""


class WebSocketServer:
    """A WebSocket server as an object: mount services, give its `factory` to any endpoint, broadcast.

    ::

        server = WebSocketServer()
        server.mount("/chat", Chat())
        endpoints.serverFromString(reactor, "tcp:8080").listen(server.factory()).addCallback(server.adopt)

    Args:
        limits: all limits; see `Limits`.
        allowedOrigins: the web pages that may connect, besides those of the server's own host (``https://app.example``, ``*``).
        allowedHosts: the names that clients may use for the server on a loopback address, besides this machine's own and those
            of `allowedOrigins` (``app.example``, ``*.app.example``, ``*``); see `twisted_ws.wire.door.origins.AllowedHosts`.
        compression: whether permessage-deflate is accepted.
        trustedProxies: the networks whose X-Forwarded-For and X-Forwarded-Proto are trusted.
        authenticate: who is asked about each request, in order: names of `authenticators`. None: nobody, so that every request
            has the identity None.
        authenticators: by name; ``guest`` is there without being named. See `twisted_ws.access.authenticator.Authenticator`.
        interceptors: called around each handler and hook of every service, the first outermost: ``interceptor(event, caller,
            call)``; see `twisted_ws.dispatch.interceptors.Call`.
        channelRules: who may do what with which channels, by pattern; see `twisted_ws.access.namespaces`.
        engine: numbers and keeps the messages of channels, or a function that makes such an engine with the server's `Runtime`;
            None: one in memory.
        reactor: the reactor; None for the global one.
        unixTime: the wall clock, by which credentials expire.

    Attributes:
        limits: the limits it was made with.
        reactor: its reactor; services should use it for their timers, so that a test can control them.
        callers: the open callers of all services.
        channels: the channels, for transports built on them.
        services: the mounted services, by path.
        gate: the count of connections; it must know each listening port.
        origins: the web pages that may connect, as `allowedOrigins` says.
        namedOrigins: the same without ``*``: only those that are named.
        hosts: the names that clients may use for it on a loopback address, as `allowedHosts` says.
        proxies: the proxies that are trusted to report a client's address.
        runtime: what all its connections share, whatever their transport.
        counts: what has happened, in numbers that `twisted_ws.metrics` shows.
        visits: the HTTP responses that do not end by themselves; a transport adds and removes them.
        engine: what numbers and keeps the messages of its channels.
        node: the server as its engine sees it.
        identities: who may come, and for how long; with the authenticators.
        channelRules: what holds for channels by their names.
        rates: counts what each user, address and publisher does.
        farewell: close code and reason of those that a stop asks to leave.

    Raises:
        ConfigurationError: an origin, host or network is malformed, or there is no such authenticator; the text names it.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        allowedOrigins: Iterable[str] = (),
        allowedHosts: Iterable[str] = (),
        compression: bool = False,
        trustedProxies: Iterable[str] = (),
        authenticate: Sequence[str] | None = None,
        authenticators: Mapping[str, Authenticator] | None = None,
        interceptors: Iterable[Interceptor] = (),
        channelRules: Mapping[str, Mapping[str, Any]] | None = None,
        engine: Engine | Callable[[Runtime], Engine] | None = None,
        reactor: Any = None,
        unixTime: Callable[[], float] = time.time,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # installs the default reactor, so only if it is needed
        self.limits = limits or Limits()
        self.reactor: Any = reactor
        allowedOrigins = tuple(allowedOrigins)
        try:
            self.origins = AllowedOrigins(allowedOrigins)
            self.namedOrigins = AllowedOrigins([origin for origin in allowedOrigins if origin != "*"])
            self.hosts = AllowedHosts(allowedHosts, allowedOrigins, machineNames())
            self.proxies = TrustedProxies(trustedProxies)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self.runtime = Runtime(reactor, self.limits, compression, unixTime)
        self.counts = self.runtime.counts
        self._connectionClass = connectionClass(self.runtime)
        self._routes: Routes[Mounted] = Routes()
        self._interceptors = checkInterceptors(interceptors)
        self._callers = OpenCallers(self.runtime.fanOuts, self.runtime.credentials)
        self.rates = Rates(self.runtime)
        self._countsMessages = bool(self.limits.messageRatePerUser or self.limits.messageRatePerIp)
        self._undecided = Undecided(self.runtime)
        self.identities = Identities(authenticators or {}, self.runtime, self._callers, self.namedOrigins, self.mayLog)
        self._chain = None if authenticate is None else self.identities.chainOf(authenticate, "authenticate")
        sayWhich()
        self._leaving: dict[Dispatcher, Deferred[None] | None] = {}
        self._stopping: Deferred[None] | None = None
        self.farewell: tuple[int, str] = FAREWELL
        self.visits: set[OpenResponse] = set()
        self.callers: Callers = self._callers
        wheel = self.runtime.wheel
        if engine is None:  # one with a length, and nothing in it yet, would be false
            engine = MemoryEngine(self.limits, wheel, wheel.seconds, unixTime=unixTime)
        elif callable(engine):
            engine = engine(self.runtime)
        self.engine: Engine = engine
        self._mayFailLater = not isinstance(engine, MemoryEngine)  # which is in this process
        self.channels = Channels(engine, self.runtime)
        self.channelRules = ChannelRules(channelRules or {}, self.channels, self.rates, self.runtime)
        self._callers.enroll = self.channels.enroll
        self.node = LocalNode(self._callers, self.runtime.turns, __version__)
        self.node.attach(self.channels)
        self.node.revocations.append(self.identities.revoked)
        self._hasStarted: Deferred[tuple[Any]] = Deferred()  # what `started` fires with, which may be a Failure
        self._early: dict[Deferred[None], None] = {}  # requests that came before that
        started = self.engine.start(self.node)
        later = started if isinstance(started, Deferred) else succeed(None)
        later.addBoth(self._engineStarted)
        self.identities.start(self.engine, self.channels.visitors)

    @property
    def gate(self) -> Gate:
        """The count of connections of all ports."""
        return self.runtime.gate

    @property
    def services(self) -> Mapping[str, object]:
        """The mounted services, by the path that they were mounted with."""
        return MappingProxyType({path: mounted.service for path, mounted in self._routes})

    @property
    def mounts(self) -> Mapping[str, Mounted]:
        """The same with who may come to each."""
        return MappingProxyType(dict(self._routes))

    @property
    def authenticators(self) -> Mapping[str, Authenticator]:
        """The authenticators, by name, with ``guest``."""
        return self.identities.authenticators

    def setChannelRules(self, channelRules: Mapping[str, Mapping[str, Any]]) -> Deferred[None]:
        """Let other rules decide from now on, and end the subscriptions that they do not allow ("no longer allowed").

        How much is kept of a channel changes with its next message.

        Args:
            channelRules: as for the class.

        Returns:
            A Deferred that fires when all subscriptions have been looked at.

        Raises:
            ConfigurationError: a rule is wrong, and the old ones stay.
        """
        return self.channelRules.set(channelRules)

    def mount(
        self,
        path: str,
        service: object,
        *,
        authenticate: Sequence[str] | None = None,
        scopes: Iterable[str] = (),
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        """Let `service` answer `path` and everything under it; the longest path wins.

        Args:
            path: ``/ws``, ``/rooms/{room}``, ``/orders/{id:int}``.
            service: a service object (`twisted_ws.WebSocketService`); its `server` attribute is set.
            authenticate: who is asked about requests to it, in place of the server's `authenticate`.
            scopes: an identity needs one of these; none: any may come.
            interceptors: called around its handlers and hooks, inside those of the server.

        Raises:
            ServiceError: the service has a mistake, such as a misspelt event; the text names it.
            ConfigurationError: the path is malformed or taken, or there is no such authenticator.
        """
        examine(service)
        chain = self._chain if authenticate is None else self.identities.chainOf(authenticate, f"services.{path}.authenticate")
        scopes = frozenset(scopes)
        if scopes and chain is None:
            raise ConfigurationError(f"services.{path}.scopes needs authenticators: set authenticate.")
        chained = (*self._interceptors, *checkInterceptors(interceptors))
        if isinstance(service, ChannelService) and any(each is service for each in self.services.values()):
            before = service.permissions.chain
            if (None if before is None else before.names) != (None if chain is None else chain.names):
                # Its hooks and rules do not know by which path somebody came.
                raise ConfigurationError(f"{path}: this service has other authenticators elsewhere: mount one object each.")
        mounted = Mounted(service, chain, scopes, chained, path)
        self._routes.add(path, mounted)
        if isinstance(service, ChannelService):
            service.interceptors = chained
            service.permissions.chain = chain
            self.channelRules.guard(path, service)
        _setServer(service, self)

    def remount(self, path: str, service: object) -> object:
        """Let another service object answer a path from now on, and return the one before; open connections keep theirs.

        Raises:
            ServiceError: see `mount`.
            KeyError: nothing is mounted there.
        """
        examine(service)
        mounted = dict(self._routes)[path]
        self._routes.replace(path, mounted._replace(service=service))
        if isinstance(service, ChannelService):
            service.interceptors = mounted.interceptors
            service.permissions.chain = mounted.chain
            self.channelRules.guard(path, service)
        _setServer(service, self)
        return mounted.service

    def find(self, path: str) -> object | None:
        """Return the service that answers a URL path (percent-encoded, without the query), None if none does."""
        match = self.match(path)
        return None if match is None else match.value.service

    def match(self, path: str) -> Match[Mounted] | None:
        """Return the same as a `Match`, with the path's parameters; for `ask`."""
        return self._routes.find(path)

    def pathOf(self, target: str) -> str | None:
        """Return the path at which the service is mounted that a request's target leads to; None if there is none."""
        return self._routes.pathOf(target.partition("?")[0])

    def factory(
        self, http: IProtocolFactory | None = None, peerCertificate: Callable[[Any], Any] | None = None
    ) -> FrontDoorFactory:
        """Return a factory for one port.

        Args:
            http: makes the protocols for requests that are not WebSocket handshakes; None: they get 426.
            peerCertificate: reads the client's certificate from a transport (with mutual TLS).
        """
        return FrontDoorFactory(
            self.runtime, self._connectionClass, self, self.origins, self.hosts, self.proxies, http, peerCertificate
        )

    def adopt(self, port: IListeningPort) -> None:
        """Take a port that listens with `factory` into the fast lane, and pause it when descriptors run short.

        From then on, peers that vanish while they wait for an HTTP response are noticed as well. Without this, a server works,
        but more slowly; the daemon calls it for each port.
        """
        self.runtime.gate.watch(port)
        listening = getattr(port, "socket", None)
        if listening is not None and self.limits.pingInterval:
            noticeVanished(listening, self.limits.pingInterval, self.limits.pingTimeout)
        if self.runtime.group is not None:
            accelerate(port, self.runtime.group)

    def broadcast(self, message: Any) -> Deferred[int]:
        """Send one message to every open caller of every service, at every server that works with the same engine.

        It goes to the callers that are open now. To very many it is sent over several turns of the reactor; still, each caller
        gets what is sent to all, published to its channels or written to it alone in the order of the calls.

        Args:
            message: str for text, bytes for binary, anything else as JSON text. Callers that speak ``twisted-ws.v1`` get it
                in a ``broadcast`` frame.

        Returns:
            A Deferred that fires with the number of callers that it was written to; it has fired already if one turn is enough,
            as for a few thousand. Callers that leave meanwhile are not counted. One that fails or is slow does not affect others.

        Raises:
            ChannelError: "unavailable": more messages are on their way than can be sent (`Limits.fanOutLag`), the server has
                stopped, or the engine cannot be reached; the Deferred may fail with the last, too.
            TypeError: JSON has no form for `message`.
            ValueError: text with a lone surrogate.
        """
        encoded = Message.of(message)
        if self.runtime.fanOuts.pending:
            self.runtime.fanOuts.admit(len(encoded.payload))
        taken = self.engine.broadcast(encoded)
        if isinstance(taken, int):
            return succeed(taken)
        return answerOf(taken, "broadcast", self.runtime.throttle) if self._mayFailLater else taken

    def publish(
        self, channel: str, message: Any, *, key: str | None = None, idempotencyKey: str | None = None, source: str = SERVICE
    ) -> Deferred[Published]:
        """Send one message to all subscribers of a channel, and keep it for those that come back.

        Args:
            channel: the name, such as ``orders.42``.
            message: str for text, bytes for binary, anything else as JSON text.
            key: of several messages with the same key, slow subscribers may get only the newest; see `ChannelService`.
            idempotencyKey: a second call with the same key within 5 minutes publishes nothing and returns the same result.
            source: who publishes, as metrics count it.

        Returns:
            A Deferred of `Published`: the message's id, and how many it was written to.

        Raises:
            ChannelError: the name is invalid, the message too large, the idempotency key was used for another message, or the
                server has as many channels as it may hold. The Deferred may fail with it, too: "unavailable" if the engine
                cannot be reached.
            TypeError: JSON has no form for `message`.
            ValueError: text or key with a lone surrogate.
        """
        answer = self.channels.publish(channel, message, key, idempotencyKey, source=source)
        if not self._mayFailLater:
            return answer
        return answerOf(answer, f"publish to a channel of {channel.partition('.')[0]}", self.runtime.throttle)

    @property
    def isStopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping is not None

    def started(self) -> Deferred[None]:
        """Return a Deferred that fires when the engine can work; at once for the one in memory.

        It fails with `ConfigurationError` if the operator has to mend something, such as a wrong password.
        """
        waiter: Deferred[None] = Deferred()

        def tell(result: tuple[Any]) -> tuple[Any]:
            waiter.callback(result[0])
            return result

        self._hasStarted.addCallback(tell)
        return waiter

    def _engineStarted(self, result: Any) -> None:
        self._hasStarted.callback((result,))
        for each in self._early:
            self.runtime.turns.later(partial(self._letIn, each))

    def _letIn(self, early: Deferred[None]) -> None:
        if not early.called:  # it has not left, nor waited too long
            self.runtime.turns.spend(EARLY)
            early.callback(None)

    def readiness(self) -> str | None:
        """Return why the server should get no new traffic ("draining", "starting", "engine down", "full"), None if it may."""
        if self.isStopping:
            return "draining"
        if not self._hasStarted.called:
            return "starting"
        if self.engine.state is EngineState.DOWN:
            return "engine down"
        return "full" if self.runtime.gate.full() else None

    def stop(self, timeout: float | None = None) -> Deferred[None]:
        """Drain: refuse handshakes with 503, even pending ones, close callers with 1001, and drop those left at the deadline.

        Async handlers and onClose of callers that have left get the same time to finish.

        Args:
            timeout: seconds until callers are dropped; None for `Limits.drainTimeout`.

        Returns:
            A Deferred that fires with None when no caller is left. Further calls wait for the same end.
        """
        waiter: Deferred[None] = Deferred()
        if self._stopping is None:
            self._stopping = Deferred()
            deadline = self.limits.drainTimeout if timeout is None else timeout
            Deferred.fromCoroutine(self._drain(deadline)).chainDeferred(self._stopping)

        def stopped(result: object) -> object:
            waiter.callback(None)
            return result

        self._stopping.addCallback(stopped)
        return waiter

    async def _drain(self, deadline: float) -> None:
        reactor, turns = self.runtime.reactor, self.runtime.turns
        until: float = reactor.seconds() + deadline

        def left() -> float:
            rest: float = until - reactor.seconds()
            return max(rest, 0)

        payload = checkClose(*self.farewell)
        callers = [*self._callers, *(dispatcher.caller for dispatcher in self._leaving)]
        ends = []
        visits, deciding = self.visits, self.runtime.deciding
        responses = (*visits, *deciding)
        size = sliceSize(len(callers) + len(responses), self.limits.drainRate, deadline)
        async for response in paced(turns.through(responses, STOPPING), size, reactor):
            if response in visits or response in deciding:  # still: it may have ended since, in a turn between
                try:
                    ends.append(response.stop(left()))
                except Exception:
                    self._log.failure("a response failed inside the server while it was stopped", event="request.broken")
        async for caller in paced(turns.through(callers, CLOSING), size, reactor):
            ends.append(caller._connection.startClose(payload, left()))
        for end in ends:
            await end
        if self._leaving:
            late = reactor.callLater(left(), lambda: Deferred.fromCoroutine(self._giveUp()))
            ends = []
            async for dispatcher in turns.through(tuple(self._leaving), 1):
                if dispatcher in self._leaving:
                    self._leaving[dispatcher] = end = Deferred()
                    ends.append(end)
            for end in ends:
                await end
            if late.active():
                late.cancel()
        await self.identities.stop()
        ended = self.engine.stop()
        if isinstance(ended, Deferred):
            await ended

    async def _giveUp(self) -> None:
        async for dispatcher in self.runtime.turns.through(tuple(self._leaving), CLOSING):
            if dispatcher in self._leaving:
                dispatcher.giveUp()

    # Host: what the front door asks.

    def upgrade(self, request: UpgradeRequest) -> Welcome | Deferred[Welcome]:
        """Find the service for a handshake and ask it (see `twisted_ws.wire.frontdoor.Host`)."""
        match = self.match(request.target.partition("?")[0])
        try:
            answer = self.ask(request, match)
        except AccessRefused as refused:
            if match is None or not mayFollow(refused, request, match.value.chain):
                raise
            return self._await(request, match.value)
        assert match is not None  # `ask` has refused what nothing answers
        if isinstance(answer, tuple):
            return self._welcome(answer, request, match.value)
        later: Deferred[Welcome] = answer.addCallback(self._welcome, request, match.value)
        chain = match.value.chain
        return later if chain is None or not chain.takesMessage else later.addErrback(self._orAwait, request, match.value)

    def _orAwait(self, failure: Failure, request: UpgradeRequest, mounted: Mounted) -> Welcome:
        if not mayFollow(failure.value, request, mounted.chain):
            failure.raiseException()
        return self._await(request, mounted)

    def _await(self, request: UpgradeRequest, mounted: Mounted) -> Welcome:
        """Let a connection open whose client has yet to say who it is; onUpgrade is asked when it has."""
        known = examine(mounted.service).subProtocols
        chosen = next((name for name in request.subProtocols if name in known), None)

        async def admit(token: str) -> Admission:
            return await self._admit(request, mounted, chosen, token)

        def attend(connection: WebSocketConnection) -> EventReceiver:
            return FirstMessage(connection, request, self._undecided, admit)

        return Welcome(chosen, (), 0, attend, mounted.path)

    async def _admit(self, request: UpgradeRequest, mounted: Mounted, chosen: str | None, token: str) -> Admission:
        """Find out who sent a first message, and ask the service.

        Raises:
            Reject: nobody that may come in.
        """
        assert mounted.chain is not None
        if len(token) > MOST_BYTES:
            raise unauthorized(INVALID, f"A token has at most {MOST_BYTES} characters.")
        try:
            identity = await self.identities.identify(TokenMessage(request, token), mounted.chain)
            answer = self._askAs(identity, _asked(mounted), mounted.scopes, request)
            if isinstance(answer, Deferred):
                answer = await answer.addTimeout(self.limits.upgradeDeadline, self.reactor)
        except defer.TimeoutError:
            raise Reject(503, "The token was not checked in time.") from None
        welcome = self._welcome(answer, request, mounted)
        if welcome.subProtocol != chosen:
            raise Reject(403, "The service speaks another subprotocol.")
        expiresAt = identity.expiresAt
        expires = None if expiresAt is None else max(round(expiresAt - self.runtime.unixTime(), 3), 0)
        said = msgspec.json.encode({"type": "auth", "user": identity.user, "expires": expires})
        return Admission(welcome.attend, welcome.idleTimeout, said)

    def ask(self, request: UpgradeRequest, match: Match[Mounted] | None) -> Upgrade | Deferred[Upgrade]:
        """Find out who made a request, then ask the service's onUpgrade about it, for WebSocket and other transports.

        Args:
            request: the request.
            match: what `match` returned for its path.

        Returns:
            The service object and more headers for the answer (see `twisted_ws.dispatch.upgrades.callUpgrade`).

        Raises:
            Reject: the request is refused; the Deferred fails with the same.
        """
        if self._stopping is not None:
            raise _stopping()
        if match is None:
            raise Reject(404, "Nothing answers this path.")
        if not self._hasStarted.called:
            return self._askLater(request, match)
        request.pathParams, request.pathRest = match.parameters, tuple(match.rest)
        service, chain, scopes, interceptors, _ = match.value
        if interceptors:
            service = _asked(match.value)
        if chain is None:
            return callUpgrade(service, request, self.mayLog)
        identity = chain.identify(request)
        if isinstance(identity, Identity):
            return self._askAs(identity, service, scopes, request)
        later: Deferred[Any] = identity.addCallback(self._askAs, service, scopes, request)
        return later

    def _askLater(self, request: UpgradeRequest, match: Match[Mounted]) -> Deferred[Any]:
        """Ask when the engine works: until then nothing can be subscribed to."""
        early: Deferred[None] = Deferred()
        self._early[early] = None
        early.addTimeout(self.limits.startDeadline, self.reactor)

        def ended(result: Any) -> Any:
            self._early.pop(early, None)
            return result

        def failed(failure: Failure) -> NoReturn:
            failure.trap(defer.TimeoutError)
            raise _starting()

        return early.addBoth(ended).addCallbacks(lambda _: self.ask(request, match), failed)

    def _askAs(
        self, identity: Identity, service: object, scopes: frozenset[str], request: UpgradeRequest
    ) -> Upgrade | Deferred[Upgrade]:
        self.identities.admit(identity, scopes, request)
        answer = callUpgrade(service, request, self.mayLog)
        # While onUpgrade takes its time, nobody is connected yet whom a revocation could find.
        return answer if isinstance(answer, tuple) else answer.addCallback(self._ifStillValid, identity)

    def _ifStillValid(self, answer: Upgrade, identity: Identity) -> Upgrade:
        self.identities.requireValid(identity)
        return answer

    async def reauthenticate(self, caller: Caller, token: str) -> Identity:
        """Take a new token from an open connection: its identity counts from now on, and the connection ends with it.

        Args:
            caller: the caller.
            token: what the client would send in an Authorization header.

        Raises:
            ChannelError: "unauthorized": the token is refused; "forbidden": it belongs to somebody else; "bad-request": nobody
                is asked for credentials here. The old identity goes on to its end.
        """
        match = self.match(caller.request.target.partition("?")[0])
        mounted = Mounted(None) if match is None else match.value
        return await self.identities.renew(caller, token, mounted.chain, mounted.scopes)

    def mayLog(self, kind: str) -> int:
        """Return whether one more line of this kind may be written: a peer that makes a service fail must not fill the log.

        See `twisted_ws.logs.Throttle.allows`.
        """
        return self.runtime.throttle.allows(kind)

    def _welcome(self, answer: Upgrade, request: UpgradeRequest, mounted: Mounted) -> Welcome:
        service, headers = answer
        if self._stopping is not None:
            raise _stopping()
        if getattr(service, "server", None) is not self:
            _setServer(service, self)
        if service is not mounted.service:
            self.channelRules.adopt(service, mounted.chain, mounted.interceptors)
        try:
            handlers = examine(service)
        except ServiceError:  # it was changed after it was mounted
            raise refusal(Failure(), service, request, self.mayLog) from None
        chosen, runtime = None, self.runtime
        if request.subProtocols:
            chosen = next((name for name in request.subProtocols if name in handlers.subProtocols), None)

        if mounted.interceptors:
            service = intercepted(service, handlers, mounted.interceptors)
        request.bearer = None  # it may be kilobytes, and the connection may live for days

        def attend(connection: WebSocketConnection) -> EventReceiver:
            caller = Caller(connection, request, chosen, self._callers, runtime.unixTime())
            if self._countsMessages:
                connection.sharedRate = self.rates.ofConnection(request.identity, request.peerAddress)
            if request.identity is not None:
                self.identities.attend(caller, connection)
            return Dispatcher(service, handlers, caller, connection, runtime, self._callers, self._leaving)

        return Welcome(chosen, headers, handlers.idleTimeout, attend, mounted.path)

    # Hand-over: what `twisted_ws.server.handover` asks.

    def newConnection(self, admittedAs: str) -> WebSocketConnection:
        """Return a connection that is to go on with the socket of another process."""
        return self._connectionClass(self.runtime, None, admittedAs)  # type: ignore[arg-type]  # its 101 was written there

    def resume(
        self, connection: WebSocketConnection, request: UpgradeRequest, chosen: str | None, mounted: Mounted
    ) -> EventReceiver:
        """Return the receiver of a connection that was opened in another process."""
        service = mounted.service
        handlers = examine(service)
        if mounted.interceptors:
            service = intercepted(service, handlers, mounted.interceptors)
        caller = Caller(connection, request, chosen, self._callers)
        if self._countsMessages:
            connection.sharedRate = self.rates.ofConnection(request.identity, request.peerAddress)
        if request.identity is not None:
            self.identities.attend(caller, connection)
        return Dispatcher(service, handlers, caller, connection, self.runtime, self._callers, self._leaving)


def _starting() -> Reject:
    """Return what whoever comes before the engine works is told."""
    reject = Reject(503, "The server is starting.", {"Retry-After": "5"})
    reject.counted = "starting"
    return reject


def _stopping() -> Reject:
    """Return what whoever comes to a server that stops is told."""
    reject = Reject(503, "The server is stopping.", {"Retry-After": "5"})
    reject.counted = "draining"
    return reject


def _asked(mounted: Mounted) -> object:
    """Return a service as its onUpgrade is to be asked."""
    if mounted.interceptors and getattr(mounted.service, "onUpgrade", None) is not None:
        return interceptedUpgrade(mounted.service, mounted.interceptors)
    return mounted.service


def _setServer(service: object, server: WebSocketServer) -> None:
    if getattr(service, "server", None) is not server:
        try:
            service.server = server  # type: ignore[attr-defined]  # any object may be a service
        except AttributeError:
            pass  # an object with __slots__ and no place for it
