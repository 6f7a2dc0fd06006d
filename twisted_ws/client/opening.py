"""The opening handshake on a transport: the request out, the answer in, within bounds."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from twisted_ws.client.websocket.autobahn import agreed, offer
from twisted_ws.client.websocket.connection import ClientConnection
from twisted_ws.client.errors import BadHandshake, ConnectError, ConnectFailed
from twisted_ws.client.http.response import Response, bodyOf, checkStart, judge, parseResponse, refusal
from twisted_ws.client.handshake import newKey, request
from twisted_ws.client.http.tls import explain
from twisted_ws.client.options import Options
from twisted_ws.client.websocket.owner import ConnectionOwner
from twisted_ws.logs import printable
from twisted_ws.wire.loop.transports import abort, setProtocol

__all__ = ["Opening"]

# Bytes of the body of a refusal that are kept, and seconds that it has after its head: it is for a person to read.
BODY = 16 * 1024
BODY_SECONDS = 2.0

_END = b"\r\n\r\n"


class Opening(Protocol):
    """Speaks HTTP until the 101, and then gives the transport to a `ClientConnection`.

    Args:
        reactor: tells the time.
        options: what to ask for, and the limits.
        owner: of the connection.

    Attributes:
        opened: fires with the connection, or fails with a `ConnectError`.
    """

    transport: Any

    def __init__(self, reactor: Any, options: Options, owner: ConnectionOwner) -> None:
        self.opened: Deferred[ClientConnection] = Deferred(lambda _: self._end())
        self._reactor = reactor
        self._options = options
        self._owner = owner
        self._key = newKey()
        self._room = options.limits.head  # bytes that the head may still have
        self._data = b""
        self._refused: Response | None = None
        self._deadline: IDelayedCall | None = None
        self._done = False

    def connectionMade(self) -> None:
        """Send the request."""
        options = self._options
        extensions = offer() if options.compression else ""
        self.transport.write(request(options.address, self._key, options.subProtocols, extensions, options.headers))

    def dataReceived(self, data: bytes) -> None:
        """Collect the answer."""
        if self._done:
            return
        self._data += data
        try:
            while self._refused is None and (end := self._data.find(_END)) >= 0:
                self._head(end + len(_END))
                if self._done:
                    return
            if self._refused is not None:
                if len(self._data) >= BODY or bodyOf(self._refused, self._data)[1]:
                    self._refuse()
            elif len(self._data) > self._room:
                raise self._tooLarge()
            else:
                checkStart(self._data)
        except ConnectError as error:
            self._fail(error)

    def _tooLarge(self) -> BadHandshake:
        return BadHandshake(f"the server's answer has no end in {self._options.limits.head} bytes: it is no WebSocket server")

    def _head(self, size: int) -> None:
        if size > self._room:
            raise self._tooLarge()
        head, self._data = self._data[:size], self._data[size:]
        response = parseResponse(head, self._options.limits.headers)
        if response.status == 101:
            self._open(response)
        elif response.status >= 200:
            self._refused = response
            self._deadline = self._reactor.callLater(BODY_SECONDS, self._refuse)
        else:
            # RFC 9110 section 15.2: any number of these may come first.
            self._room -= size

    def _open(self, response: Response) -> None:
        options = self._options
        subProtocol, extensions = judge(response, self._key, options.subProtocols)
        deflate = agreed(extensions, options.compression)
        self._done = True
        rest, self._data = self._data, b""
        connection = ClientConnection(self._reactor, options.limits, self._owner, response, subProtocol, deflate)
        setProtocol(self.transport, connection)
        connection.makeConnection(self.transport)  # type: ignore[no-untyped-call]
        self.opened.callback(connection)
        if rest:
            connection.dataReceived(rest)

    def _refuse(self) -> None:
        assert self._refused is not None
        self._fail(refusal(self._refused, bodyOf(self._refused, self._data[:BODY])[0]))

    def _fail(self, error: ConnectError) -> None:
        if not self._done:
            self._end()
            self.opened.errback(Failure(error))

    def _end(self) -> None:
        self._done = True
        self._data = b""
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        if self.transport is not None:
            abort(self.transport)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """Fail, if there was no answer."""
        where, error = self._options.address.hostAndPort, reason.value
        if self._refused is not None and not self._done:
            self._refuse()
        elif isinstance(error, ConnectError):
            self._fail(error)
        elif isinstance(error, SSL.Error):
            self._fail(explain(self.transport, where, error))
        elif isinstance(error, ConnectionDone):
            self._fail(ConnectFailed(f"{where} closed the connection without an answer: check the port, and ws: or wss:"))
        else:
            self._fail(ConnectFailed(f"the connection to {where} broke before it was open: {printable(error)}"))
