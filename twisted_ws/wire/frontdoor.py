"""The front door of a port: reads one request head, then the connection is WebSocket or HTTP.

It reads the head once, bounded in bytes and time; while the service decides, what the client sends is kept up to a bound and
not parsed (Autobahn would take a second request for a second handshake).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IProtocolFactory, IProtocolNegotiationFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.errors import TransportError
from twisted_ws.logs import peerName, printable
from twisted_ws.telemetry import tracing
from twisted_ws.upgrade import Reject, UpgradeRequest
from twisted_ws.wire.door.handshake import Accept, Deny, decide, isUpgrade
from twisted_ws.wire.door.head import BadHead, RequestHead, emptyLines, headEnd, parseHead
from twisted_ws.wire.door.hosts import MISDIRECTED, isMisdirected, remedy
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.keysharing import shareKeys
from twisted_ws.wire.loop.transports import abort, finishWriting, isSecure, peerOf, setProtocol
from twisted_ws.wire.tls.transport import reportFailure
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.runtime import Runtime
from twisted_ws.wire.websocket.states import States
from twisted_ws.wire.websocket.welcome import Welcome

# A logger of the module, not of a class, which would put the instance into each event, so keeping events would keep connections.
_log = Logger()


class Host(Protocol):
    """Decides on handshakes that RFC 6455 allows; the server implements it."""

    def upgrade(self, request: UpgradeRequest) -> Welcome | Deferred[Welcome]:
        """Find the service for `request` and ask it; return a Deferred if that takes time.

        The Deferred may be cancelled, when the peer has left or the deadline has come.

        Raises:
            Reject: the handshake is refused; the Deferred fails with the same, and with nothing else.
        """


class PlainHTTP(Protocol):
    """A protocol for plain HTTP that takes a connection over from the front door, and gives it back.

    Any other protocol is given the bytes of the head, and keeps the connection.
    """

    def takeOver(self, head: RequestHead, rest: bytes, handBack: Callable[[RequestHead, bytes], None]) -> None:
        """Answer the request of which `head` was read; called right after `makeConnection`.

        Args:
            head: the head.
            rest: what has come after it.
            handBack: call it when a later request is a handshake, with its head and what has come after that, once every answer
                before it is written and the transport has no producer. Leave the connection alone from then on.
        """


# Why a handshake is refused, as it is counted, if the status says so.
_REASONS = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    408: "timeout",
    421: "host",
    429: "rate",
    500: "error",
}


class _State(States):
    HEAD = 0  # the head is not whole yet
    DECIDING = 1  # the service decides
    HTTP = 2  # an HTTP protocol has the connection, until it hands it back
    REFUSED = 3  # the answer is on its way; input is dropped until the peer closes
    DONE = 4  # handed to a WebSocketConnection, or lost


# Use these, not the members: see `twisted_ws.wire.websocket.states`.
HEAD, DECIDING, HTTP, REFUSED, DONE = _State

ASKED = {HEAD: DECIDING, HTTP: DECIDING}
WELCOMED = {DECIDING: DONE}
HANDED_TO_HTTP = {HEAD: HTTP}
# These two are possible again after a MemoryError.
REFUSAL = dict.fromkeys((HEAD, DECIDING, HTTP, REFUSED), REFUSED)
LOST = dict.fromkeys(_State, DONE)


@implementer(IHalfCloseableProtocol)
class FrontDoor(TwistedProtocol):
    """The first protocol of each connection (see the module)."""

    wheelSlot: int | None = None
    counted = 0  # bytes, as `Runtime.intake` counts them
    _isAdmitted = True  # whether the gate still counts it
    _isWritten = False  # whether our side has ended
    _gone: Deferred[None] | None = None  # fires when the connection has ended
    _opened: WebSocketConnection | None = None  # what it has become
    _asked: tuple[str, RequestHead] | None = None  # the client's address and the head, once a handshake has named them
    transport: Any
    factory: FrontDoorFactory

    def __init__(self, factory: FrontDoorFactory, peer: tuple[str, int]) -> None:
        self.factory = factory
        self._peer = peer  # as the gate has counted it
        self._state: _State = HEAD
        self._received = b""
        self._searched = 0
        self._upgrade: Deferred[Welcome] | None = None
        self._http: Any = None

    @property
    def admittedAs(self) -> str:
        """The address that the gate has counted."""
        return self._peer[0]

    def connectionMade(self) -> None:
        """Start the one deadline for TLS handshake and head."""
        runtime = self.factory.runtime
        if not isinstance(self.transport, LaneServer):  # a lane's socket inherits it from its port
            try:
                self.transport.setTcpNoDelay(True)
            except (AttributeError, OSError):
                pass  # a UNIX socket
        runtime.wheel.after(self, runtime.limits.headDeadline)

    def dataReceived(self, data: bytes) -> None:
        """Collect the head, and what comes after it while the service decides."""
        if self._state is HTTP:
            self._http.dataReceived(data)
        elif self._state is HEAD:
            self._received += data
            self._lookForHead()
        elif self._state is DECIDING:
            self._received += data
            if len(self._received) > self.factory.runtime.limits.earlyBytes:
                self._refuse(400, "Wait for the 101 before you send messages.")
        if self._received or self.counted:
            self._note()

    def _note(self) -> None:
        """Count what came and has not been handled."""
        intake = self.factory.runtime.intake
        if len(self._received) != self.counted:
            intake.note(self, len(self._received))
            intake.relieve()

    def giveWay(self) -> None:
        """Refuse: all peers together have sent too much, and this one the most (see `twisted_ws.wire.loop.backlog.Holder`)."""
        self._refuse(503, "The server has no room at the moment.", (("Retry-After", "5"),), reason="limit")

    def _lookForHead(self) -> None:
        limits = self.factory.runtime.limits
        received = self._received
        if received.startswith(b"\r\n"):
            received = self._received = received[emptyLines(received) :]
        try:
            end = headEnd(received, self._searched, limits)
            if not end:
                self._searched = len(received)
                return
            raw, rest = received[:end], received[end:]
            head = parseHead(raw, limits)
        except BadHead as bad:
            self._refuse(bad.status, bad.message)
            return
        if isUpgrade(head):
            self._judge(head, rest)
        else:
            self._becomeHTTP(head, raw, rest)

    def _judge(self, head: RequestHead, rest: bytes) -> None:
        factory = self.factory
        self._received = rest
        countedFrom = factory.runtime.turns.seconds()
        transport = self.transport
        # On any other transport, the PROXY protocol may have said who the client really is.
        onLane = isinstance(transport, LaneServer)
        address, port = self._peer if onLane else peerOf(transport.getPeer())
        secure = transport.isSecure if onLane else isSecure(transport)
        client, isProxied = address, False
        if factory.proxies.areAny:
            isProxied = factory.proxies.trusts(address)
            client, secure = factory.proxies.client(address, secure, head)
        self._asked = client, head
        if not factory.allowedHosts.allows(head.host) and isMisdirected(head, transport, factory.allowedHosts, factory.proxies):
            self._refuse(421, MISDIRECTED, hint=remedy(head, transport))
            return
        verdict = decide(head, factory.origins, secure)
        if isinstance(verdict, Deny):
            reason = "origin" if verdict.status == 403 else ""
            self._refuse(verdict.status, verdict.message, verdict.headers, hint=verdict.hint, reason=reason)
            return
        if len(rest) > factory.runtime.limits.earlyBytes:
            self._refuse(400, "Wait for the 101 before you send messages.")
            return
        request = UpgradeRequest(
            head.target,
            head.headers,
            subProtocols=verdict.subProtocols,
            peerAddress=client,
            peerPort=port if client == address else 0,
            isSecure=secure,
            isProxied=isProxied,
            clientCertificate=factory.peerCertificate(self.transport) if factory.peerCertificate is not None else None,
        )
        self._state = ASKED[self._state]
        try:
            answer = factory.host.upgrade(request) if tracing.tracer is None else _inSpan(factory.host.upgrade, request)
        except Exception as error:
            self._rejected(Failure(error))
            return
        if isinstance(answer, Welcome):  # ten times as fast as finding out that it is not a Deferred
            try:
                self._welcome(answer, verdict, countedFrom)
            except Exception as error:
                self._failed(Failure(error))
            return
        if self._state is not DECIDING:  # the peer has left: onUpgrade has run the reactor
            answer.addErrback(lambda _: None)
            answer.cancel()
            return
        factory.runtime.wheel.after(self, factory.runtime.limits.upgradeDeadline)
        self._upgrade = answer
        factory.runtime.deciding.add(self)
        answer.addCallbacks(self._welcome, self._rejected, callbackArgs=(verdict, countedFrom)).addErrback(self._failed)

    def _welcome(self, welcome: Welcome, accept: Accept, countedFrom: float) -> None:
        if self._upgrade is not None:
            self._decided()
        factory, transport = self.factory, self.transport
        runtime = factory.runtime
        runtime.wheel.drop(self)
        connection = factory.connectionClass(runtime, welcome, self._peer[0])
        if self._state is not DECIDING:
            return
        self._state = WELCOMED[DECIDING]
        self._opened = connection
        setProtocol(transport, connection)
        connection.makeConnection(transport)
        early, self._received = self._received, b""
        if self.counted:
            self._note()
        connection.open(accept, early)
        runtime.counts.handshake.add(runtime.turns.seconds() - countedFrom)

    def _rejected(self, failure: Failure) -> None:
        self._decided()
        if self._state is not DECIDING:
            return  # for example, after our own cancel
        reject = failure.value
        if isinstance(reject, Reject):
            self._refuse(reject.status, reject.body, reject.headers, summary=reject.summary, reason=reject.counted, failed=reject)
        else:
            _log.failure("the decision on a handshake failed inside the server", failure, event="connection.broken")
            self._refuse(500, "Internal server error.")

    def _decided(self) -> Deferred[Welcome] | None:
        """End the wait for the service; return the Deferred that was waited for."""
        upgrade, self._upgrade = self._upgrade, None
        if upgrade is not None:
            self.factory.runtime.deciding.discard(self)
        return upgrade

    def _failed(self, failure: Failure) -> None:
        _log.failure("a connection failed inside the server while it opened", failure, event="connection.broken")
        abort(self.transport)

    def _becomeHTTP(self, head: RequestHead, raw: bytes, rest: bytes) -> None:
        http = None if self.factory.http is None else self.factory.http.buildProtocol(self.transport.getPeer())
        if http is None:
            self._refuse(426, "This port speaks WebSocket.", (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")))
            return
        self.factory.runtime.wheel.drop(self)
        self._state = HANDED_TO_HTTP[self._state]
        self._http = http
        self._received = b""
        if self.counted:
            self._note()
        http.makeConnection(self.transport)
        takeOver = getattr(http, "takeOver", None)
        if takeOver is None:
            http.dataReceived(raw + rest)
        else:
            takeOver(head, rest, self._takeBack)

    def _takeBack(self, head: RequestHead, rest: bytes) -> None:
        """Go on with a handshake that comes after plain requests (see `PlainHTTP`)."""
        self._http = None
        try:
            self._judge(head, rest)
        except Exception as error:
            self._failed(Failure(error))
        if self._received:
            self._note()

    def _refuse(
        self,
        status: int,
        message: str,
        headers: tuple[tuple[str, str], ...] = (),
        hint: str = "",
        summary: str = "",
        reason: str = "",
        failed: BaseException | None = None,
    ) -> None:
        """Answer with an error, and close so that the peer can read it; it is counted for the `reason`, or for its status."""
        self._state = REFUSAL[self._state]
        upgrade = self._decided()
        self._received = b""
        self._note()
        if upgrade is not None:
            upgrade.cancel()
        runtime = self.factory.runtime
        runtime.counts.turnedAway.add(reason or _REASONS.get(status, "malformed" if status < 500 else "unavailable"))
        address, head = self._asked or (peerOf(self.transport.getPeer())[0], None)
        # The path without the query: secrets travel there.
        path = "" if head is None else printable(head.target.partition("?")[0])
        origin = printable(", ".join(head.getAll("origin"))) if head is not None else ""
        runtime.throttle.info(
            _log,
            f"handshake refused with {status}",
            "{peer}: {status} {reason}{more}",
            peer=peerName(address),
            status=status,
            reason=printable(summary or message),  # "message" is taken: Twisted overwrites it for observers of its older log
            more=f" ({'; '.join(more)})" if (more := [each for each in (path, printable(hint)) if each]) else "",
            path=path,
            **tracing.ofError(failed),
            origin=origin,
            event="handshake.refused",
        )
        self.transport.write(response(status, message, headers))
        finishWriting(self.transport)
        runtime.wheel.after(self, runtime.limits.closeDeadline)

    def deadlineReached(self, now: float) -> None:
        """End what did not come in time: the head, the decision, or the peer's end of stream; called by the wheel."""
        try:
            if self._state is HEAD and self._received:
                self._refuse(408, "The request head did not arrive in time.")
            elif self._state is DECIDING:
                self._refuse(503, "The service did not decide in time.", (("Retry-After", "5"),), reason="timeout")
            else:
                abort(self.transport)
        except Exception as error:
            self._failed(Failure(error))

    def turnAway(self) -> None:
        """Drop the connection, whatever has become of it: its address has too many (see `twisted_ws.wire.door.gate.Census`)."""
        if self._opened is not None:
            self._opened.fail(TransportError("its address has as many connections as it may"))
        elif self.transport is not None:
            abort(self.transport)

    def stop(self, timeout: float) -> Deferred[None]:
        """Refuse a handshake that is being decided (see `twisted_ws.wire.websocket.runtime.OpenResponse`)."""
        gone: Deferred[None] = Deferred()
        self._gone = gone
        self._refuse(503, "The server is stopping.", (("Retry-After", "5"),), reason="draining")
        runtime = self.factory.runtime
        runtime.wheel.after(self, min(timeout, runtime.limits.closeDeadline))
        return gone

    def readConnectionLost(self) -> None:
        """Close, because the peer has ended its side; what was written is still sent."""
        if self._state is HTTP and IHalfCloseableProtocol.providedBy(self._http):
            self._http.readConnectionLost()
        elif self._state is REFUSED and not self._isWritten:
            self.transport.loseConnection()
        else:
            self.transport.connectionLost(Failure(ConnectionDone()))

    def writeConnectionLost(self) -> None:
        """Note that everything has been sent."""
        self._isWritten = True
        if IHalfCloseableProtocol.providedBy(self._http):
            self._http.writeConnectionLost()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """End: the peer has left before there was a WebSocket, or HTTP is done; after a MemoryError, the next call goes on."""
        awaited = self._state is HEAD
        self._state = LOST[self._state]
        self._received = b""
        self._note()
        self.factory.runtime.wheel.drop(self)
        if self._isAdmitted:
            self._isAdmitted = False
            self.factory.runtime.gate.release(self._peer[0])
        upgrade = self._decided()
        if upgrade is not None:
            upgrade.cancel()
        http, self._http = self._http, None
        if http is not None:
            try:
                http.connectionLost(reason)
            except MemoryError:
                self._http = http
                raise
        gone, self._gone = self._gone, None
        if gone is not None:
            gone.callback(None)
        if awaited:
            reportFailure(reason, self.factory.runtime.throttle, self.transport)


# In the order in which they are set.
_NAMES = (
    *("factory", "_peer", "_state", "_received", "_searched", "_upgrade", "_http", "connected", "transport", "wheelSlot"),
    *("_asked", "_opened", "counted", "_isAdmitted", "_isWritten", "_gone"),
)
shareKeys(FrontDoor, _NAMES)


def _inSpan(upgrade: Callable[[UpgradeRequest], Any], request: UpgradeRequest) -> Any:
    """Return what a host says of a handshake, and make a span of its decision."""
    attributes = {"url.path": request.path, "client.address": request.peerAddress, "network.protocol.name": "websocket"}
    parent = tracing.parentOf(request.headers.get)
    return tracing.traced("handshake", upgrade, request, kind="server", attributes=attributes, parent=parent)


_FRAMING = frozenset({"connection", "content-length", "transfer-encoding"})


def response(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Return a complete HTTP/1.1 response that closes the connection; the caller has checked `headers`."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Refused"
    body = (message + "\n").encode(errors="replace") if message else b""
    named = {name.lower() for name, _ in headers}
    # These say where the response ends: they are set below, once.
    others = [f"{name}: {value}" for name, value in headers if name.lower() not in _FRAMING]
    lines = [f"HTTP/1.1 {status} {phrase}", *others]
    if "content-type" not in named:
        lines.append("Content-Type: text/plain; charset=utf-8")
    lines += [
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + body


@implementer(IProtocolFactory)
@implementer(IProtocolNegotiationFactory)
class FrontDoorFactory(ServerFactory):
    """Makes the front doors of one port; any endpoint can listen with it.

    Attributes:
        runtime: what the server's connections share.
        connectionClass: the class of its WebSocket connections.
        host: decides on handshakes.
        origins: the web pages that may connect.
        allowedHosts: the names by which the server may be addressed on a loopback address.
        proxies: the proxies whose forwarding headers count.
        http: makes the protocols for plain HTTP requests (`PlainHTTP`, or any other); None: they get 426.
        peerCertificate: reads the client's certificate from a transport, None without mutual TLS.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        connectionClass: type[WebSocketConnection],
        host: Host,
        origins: AllowedOrigins,
        allowedHosts: AllowedHosts,
        proxies: TrustedProxies,
        http: IProtocolFactory | None = None,
        peerCertificate: Callable[[Any], Any] | None = None,
    ) -> None:
        self.runtime = runtime
        self.connectionClass = connectionClass
        self.host = host
        self.origins = origins
        self.allowedHosts = allowedHosts
        self.proxies = proxies
        self.http = http
        self.peerCertificate = peerCertificate

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Let a connection in, or return None to close it if there is no place for it."""
        return self._buildFor(peerOf(addr))

    def buildFor(self, address: tuple[Any, ...]) -> Any:
        """Do the same as `buildProtocol`, for an address as `socket.accept` gives it."""
        host: str = address[0]
        return self._buildFor((host.removeprefix("::ffff:") if "." in host else host, address[1]))

    def _buildFor(self, peer: tuple[str, int]) -> Any:
        gate = self.runtime.gate
        if not gate.admit(peer[0]):
            self.runtime.counts.turnedAway.add("limit")
            return None
        door = FrontDoor(self, peer)
        if gate.census is not None:
            gate.report(peer[0], door.turnAway)
        return door

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN may choose, for a port whose TLS is Twisted's: without this, it fails where a client offers any."""
        return [b"http/1.1", b"http/1.0"]

    def doStart(self) -> None:
        """Start the HTTP factory along with this one."""
        super().doStart()  # type: ignore[no-untyped-call]
        if self.http is not None and self.numPorts == 1:
            self.http.doStart()

    def doStop(self) -> None:
        """Stop the HTTP factory along with this one."""
        super().doStop()  # type: ignore[no-untyped-call]
        if self.http is not None and self.numPorts == 0:
            self.http.doStop()
