"""A site: a tree of Twisted resources, served by strict connections."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol
from twisted.web.server import Site

from twisted_ws.telemetry.counts import LEAST, Buckets
from twisted_ws.web.http.connection import HttpConnection
from twisted_ws.web.http.errors import HttpError
from twisted_ws.web.http.request import HttpRequest
from twisted_ws.wire.door.hosts import MISDIRECTED, isMisdirected, remedy
from twisted_ws.wire.door.origins import AllowedHosts
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.loop.transports import abort, peerOf
from twisted_ws.wire.websocket.runtime import Runtime

if TYPE_CHECKING:
    from twisted.internet.interfaces import IAddress
    from twisted.web.resource import IResource


class _Refusal(Protocol):
    """For a connection that is refused. None would do for TCP, but not for Twisted's TLS wrapper."""

    def connectionMade(self) -> None:
        abort(self.transport)


class HttpSite(Site):
    """A site of Twisted resources, served by `HttpConnection`.

    Args:
        resource: the root; a `twisted_ws.web.http.resource.HttpResource` in the tree is asked before a body is read.
        runtime: what it shares with the server's other connections.
        counts: whether the gate counts its connections here; False if the front door does.
        keepAlive: whether a connection may have a second request.
        hosts: the host names that it answers for on a loopback address; None: any.
        anyHost: the paths that are answered for any host name.
        proxies: those that are trusted to report a client's address.
        name: as its requests are counted.

    Attributes:
        limits, wheel, turns, backlog, intake, throttle: the runtime's.
        essential: it can be reached, on its own port, even when there is no room for more callers.
    """

    essential = True
    protocol = HttpConnection  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        resource: IResource,
        runtime: Runtime,
        counts: bool = False,
        keepAlive: bool = True,
        hosts: AllowedHosts | None = None,
        anyHost: Collection[bytes] = (),
        proxies: TrustedProxies | None = None,
        name: str = "pages",
    ) -> None:
        # Twisted's own timeout is off: a connection has deadlines.
        super().__init__(resource, HttpRequest, parsePOSTFormSubmission=False, timeout=None, reactor=runtime.reactor)  # type: ignore[no-untyped-call]
        self.limits = runtime.limits
        self.wheel = runtime.wheel
        self.turns = runtime.turns
        self.backlog = runtime.backlog
        self.intake = runtime.intake
        self.throttle = runtime.throttle
        self.keepAlive = keepAlive
        self.proxies = proxies or TrustedProxies()
        self._gate = runtime.gate if counts else None
        self._name = name
        self._counts = runtime.counts
        self._hosts = hosts
        self._anyHost = frozenset(anyHost)
        self._answers: dict[tuple[str, int], Buckets] = {}  # where a request is counted, by its operation and status

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol for a connection, or one that closes it if there is no room."""
        if self._gate is None:
            return super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        address = peerOf(addr)[0]
        if not self._gate.admit(address, essential=True):
            self._counts.turnedAway.add("limit")
            return _Refusal()
        connection: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        connection.address = address
        self._gate.enroll(connection)
        return connection

    def checkHost(self, request: HttpRequest) -> None:
        """Refuse a request that is not meant for this server.

        Raises:
            HttpError: 421.
        """
        hosts, head = self._hosts, request.head
        if hosts is None or hosts.allows(head.host) or request.path in self._anyHost:
            return
        if isMisdirected(head, request.transport, hosts, self.proxies):
            raise HttpError(421, MISDIRECTED, hint=remedy(head, request.transport))

    def countRequest(self, request: HttpRequest) -> None:
        """Count a request that has been answered; called by its connection."""
        times = self._answers.get((request.operation, request.code)) or self._answersLike(request)
        passed = self.turns.seconds() - request.countedFrom
        times.total += 1
        times.sum += passed
        if passed > LEAST:
            times.rank(passed)

    def _answersLike(self, request: HttpRequest) -> Buckets:
        times = self._counts.answers.of(self._name, request.operation or "other", f"{request.code // 100}xx")
        self._answers[request.operation, request.code] = times
        return times

    def left(self, connection: HttpConnection) -> None:
        """Stop counting a connection; called by the connection."""
        address, connection.address = connection.address, None
        if self._gate is not None and address is not None:
            self._gate.release(address, connection)

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN may choose. Twisted would add h2, which this is not, if its library is installed."""
        return [b"http/1.1", b"http/1.0"]

    def startFactory(self) -> None:
        """Start nothing: without an access log, no clock is needed for its lines."""

    def stopFactory(self) -> None:
        """Stop nothing."""

    def log(self, request: object) -> None:
        """Write no access log."""
