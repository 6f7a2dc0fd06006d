"""The endpoint that connects a client to the server, without sockets."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.identity import Identity
from twisted_ws.server.server import WebSocketServer
from twisted_ws.testing.connection import MemoryConnection
from twisted_ws.testing.network import Network
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.receiver import EventReceiver
from twisted_ws.wire.websocket.welcome import Welcome


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects one client, again for each of its attempts.

    It is also the host of the server's front door (see `twisted_ws.wire.frontdoor.Host`), and notes the dispatcher.

    Args:
        server: the server.
        network: carries the bytes.
        user: the request's, before onUpgrade.
        identity: the request's, without authenticators that find another.
        address: the client's IP address.
        isSecure: whether the connection looks like TLS to the server.
        certificate: the client's.
        segment: the most bytes that arrive at once; None: any number.

    Attributes:
        connection: the current connection, or the last one.
    """

    connection: MemoryConnection
    _receiver: EventReceiver
    _websocket: WebSocketConnection

    def __init__(
        self,
        server: WebSocketServer,
        network: Network,
        user: Any,
        identity: Identity | None,
        address: str,
        isSecure: bool,
        certificate: Any,
        segment: int | None,
    ) -> None:
        self._server = server
        self._network = network
        self._user = user
        self._identity = identity
        self._address = address
        self._isSecure = isSecure
        self._certificate = certificate
        self._segment = segment

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect at once."""
        connection = self.connection = MemoryConnection(self._address, next(self._network.ports), self._isSecure)
        connection.client.segment = connection.server.segment = self._segment
        frontDoor = self._server.factory(peerCertificate=lambda _: self._certificate)
        frontDoor.host = self
        client, theirs = factory.buildProtocol(connection.server.getHost()), frontDoor.buildProtocol(connection.client.getHost())
        connection.client.protocol, connection.server.protocol = client, theirs
        self._network.add(connection)
        client.makeConnection(connection.client)
        if theirs is None:
            connection.refuse()
        else:
            theirs.makeConnection(connection.server)
        return succeed(client)

    @property
    def dispatcher(self) -> Dispatcher:
        """What calls the service for the connection.

        Raises:
            RuntimeError: its client has not said yet who it is.
        """
        found = getattr(self.connection.server.protocol, "_receiver", None)  # another after a hand-over
        if isinstance(found, Dispatcher):
            self._receiver = found
        if not isinstance(self._receiver, Dispatcher):
            self._receiver = self._websocket._receiver
        if not isinstance(self._receiver, Dispatcher):
            raise RuntimeError("there is no caller before the client has said who it is")
        return self._receiver

    @property
    def isRunning(self) -> bool:
        """Whether a handler of the service is still running."""
        return isinstance(self._receiver, Dispatcher) and self._receiver._running

    def upgrade(self, request: UpgradeRequest) -> Welcome | Deferred[Welcome]:
        """Ask the server, and note the dispatcher in its answer."""
        request.identity = self._identity
        request.user = self._user
        if self._user is None and self._identity is not None and self._identity.user:
            request.user = self._identity.user
        answer = self._server.upgrade(request)
        return answer.addCallback(self._observed) if isinstance(answer, Deferred) else self._observed(answer)

    def _observed(self, welcome: Welcome) -> Welcome:
        attend = welcome.attend

        def observed(connection: WebSocketConnection) -> EventReceiver:
            self._websocket = connection
            events = self._receiver = attend(connection)
            return events

        welcome.attend = observed
        return welcome
