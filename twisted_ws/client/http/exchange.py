"""One HTTP request and its response on a transport, within bounds."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from twisted_ws.client.errors import BadHandshake, ConnectError, ConnectFailed
from twisted_ws.client.http.address import Address
from twisted_ws.client.http.response import Response, bodyOf, checkStart, parseResponse
from twisted_ws.client.http.tls import explain
from twisted_ws.limits import Limits
from twisted_ws.logs import printable
from twisted_ws.wire.loop.transports import abort

_END = b"\r\n\r\n"
_LIMITS = Limits()


class Exchange(Protocol):
    """Sends a request once connected, and collects the response; what to do with it is up to a subclass.

    Args:
        address: the server's, for errors.
        request: head and body.

    Attributes:
        address: as given.
        result: to be fired by the subclass; fails with a `ConnectError`. Cancelling it drops the connection.
        maxBody: bytes of the response's body that are kept.
    """

    maxBody = 16 * 1024
    transport: Any
    _room = _LIMITS.head  # bytes that the head may still have
    _data = b""
    _response: Response | None = None
    _done = False

    def __init__(self, address: Address, request: bytes) -> None:
        self.address = address
        self.result: Deferred[Any] = Deferred(lambda _: self.end())
        self._request = request

    # The subclass's part.

    def interim(self, response: Response) -> None:
        """Take a 1xx response; may call `release`."""

    def headReceived(self) -> None:
        """Note that the head of the final response has come, and its body follows."""

    def responded(self, response: Response, body: bytes) -> None:
        """Take the final response, with the beginning of its body; the transport is gone."""
        raise NotImplementedError

    # Protocol.

    def connectionMade(self) -> None:
        """Send the request."""
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        """Collect the response."""
        if self._done:
            return
        self._data += data
        try:
            self._parse()
        except ConnectError as error:
            self.fail(error)

    def _parse(self) -> None:
        while self._response is None:
            end = self._data.find(_END)
            size = len(self._data) if end < 0 else end + len(_END)
            if size > self._room:
                raise BadHandshake(f"the response head is larger than {_LIMITS.head} bytes: check the port")
            if end < 0:
                checkStart(self._data)
                return
            head, self._data = self._data[:size], self._data[size:]
            response = parseResponse(head, _LIMITS.headers)
            if response.status >= 200:
                self._response = response
                self.headReceived()
            else:
                # RFC 9110 section 15.2: any number of these may come first.
                self._room -= size
                self.interim(response)
                if self._done:
                    return
        if len(self._data) >= self.maxBody or bodyOf(self._response, self._data)[1]:
            self.finish()

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """Take what came as the whole response, or fail if that was nothing."""
        where, error = self.address.hostAndPort, reason.value
        if self._response is not None:
            self.finish()
        elif isinstance(error, ConnectError):
            self.fail(error)
        elif isinstance(error, SSL.Error):
            self.fail(explain(self.transport, where, error))
        elif isinstance(error, ConnectionDone):
            self.fail(ConnectFailed(f"{where} closed the connection without an answer: check the port, and whether it uses TLS"))
        else:
            self.fail(ConnectFailed(f"the connection to {where} broke before it was open: {printable(error)}"))

    # The ends.

    def finish(self) -> None:
        """Hand over the final response with as much of its body as has come."""
        if self._response is not None and not self._done:
            body = bodyOf(self._response, self._data[: self.maxBody])[0]
            self.end()
            self.responded(self._response, body)

    def release(self) -> bytes:
        """End without dropping the transport, which speaks another protocol from here on; return what came after the head."""
        self._done = True
        rest, self._data = self._data, b""
        return rest

    def fail(self, error: ConnectError) -> None:
        """Drop the transport, and let `result` fail."""
        if not self._done:
            self.end()
            self.result.errback(Failure(error))

    def end(self) -> None:
        """Drop the transport; nothing more comes of it."""
        self.release()
        if self.transport is not None:
            abort(self.transport)
