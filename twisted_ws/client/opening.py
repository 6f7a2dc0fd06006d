"""The opening handshake on a transport: the request out, then the 101 or a refusal."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall

from twisted_ws.client.handshake import handshakeRequest, judge, newKey, refusal
from twisted_ws.client.http.exchange import Exchange
from twisted_ws.client.http.response import Response
from twisted_ws.client.options import Options
from twisted_ws.client.websocket.autobahn import agreed, offer
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.client.websocket.owner import ConnectionOwner
from twisted_ws.wire.loop.transports import setProtocol

# Seconds for the body of a refusal after its head: it only adds to the error.
BODY_SECONDS = 2.0


class Opening(Exchange):
    """Speaks HTTP until the 101, then hands the transport to a `ClientConnection`, with which `result` fires.

    Args:
        reactor: tells the time.
        options: what to ask for, and the limits.
        owner: the connection's.
    """

    _deadline: IDelayedCall | None = None

    def __init__(self, reactor: Any, options: Options, owner: ConnectionOwner) -> None:
        self._key = newKey()
        super().__init__(options.address, handshakeRequest(options, self._key, offer() if options.compression else ""))
        self._reactor = reactor
        self._options = options
        self._owner = owner

    def interim(self, response: Response) -> None:
        """Open the WebSocket, if this is the 101."""
        if response.status != 101:
            return
        options = self._options
        subProtocol, extensions = judge(response, self._key, options.subProtocols)
        deflate = agreed(extensions, options.compression)
        rest = self.release()
        connection = ClientConnection(self._reactor, options.limits, self._owner, response, subProtocol, deflate)
        setProtocol(self.transport, connection)
        connection.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        self.result.callback(connection)
        if rest:
            connection.dataReceived(rest)

    def headReceived(self) -> None:
        """Wait a little for the body of a refusal."""
        self._deadline = self._reactor.callLater(BODY_SECONDS, self.finish)

    def responded(self, response: Response, body: bytes) -> None:
        """Fail with the refusal."""
        self.result.errback(refusal(response, body))

    def end(self) -> None:
        """Drop the transport."""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        super().end()
