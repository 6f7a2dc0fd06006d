"""What can go wrong for a client, with one class for each cause; each message says what to do.

::

    twisted_ws.WebSocketError
    ├── ConnectError                there is no connection: from `connect`, or when reconnecting is given up
    │   ├── InvalidURL              not a WebSocket URL (also a ValueError)
    │   ├── ConnectFailed           no such host, nothing listens, no route, or broken off
    │   ├── ProxyRefused            the proxy refused; has status
    │   ├── TLSFailed               the TLS handshake failed
    │   │   ├── UntrustedCertificate
    │   │   └── WrongName
    │   ├── HandshakeTimeout        (also a TimeoutError)
    │   ├── HandshakeRefused        a response other than 101; has status, headers and body
    │   │   └── Redirected          3xx; has location
    │   └── BadHandshake            a response that breaks RFC 6455
    ├── PeerError                   the server broke a rule after the 101, or went silent: ProtocolError, InvalidPayload,
    │   │                           MessageTooBig, TransportError (see `twisted_ws.errors`)
    │   └── BindingError
    │       └── UnexpectedMessage   a message of another kind or shape than expected; has received
    ├── ReadTimeout                 nothing came in time; the connection stays open (also a TimeoutError)
    └── WriteBufferFull             too much waits to be sent
    PublishError                    `AgentPublisher`: the server has not said that it did what was asked
    twisted_ws.ConnectionClosed     closed by a Close frame, or without one (1006)
"""

from __future__ import annotations

from twisted.internet import error as neterror

from twisted_ws.errors import BindingError, WebSocketError
from twisted_ws.logs import printable
from twisted_ws.upgrade import Headers

__all__ = [
    "BadHandshake",
    "ConnectError",
    "ConnectFailed",
    "HandshakeRefused",
    "HandshakeTimeout",
    "InvalidURL",
    "ProxyRefused",
    "PublishError",
    "ReadTimeout",
    "Redirected",
    "TLSFailed",
    "UnexpectedMessage",
    "UntrustedCertificate",
    "WriteBufferFull",
    "WrongName",
]


class ConnectError(WebSocketError):
    """There is no connection."""


class InvalidURL(ConnectError, ValueError):
    """The URL is not a WebSocket's."""


class ConnectFailed(ConnectError):
    """The server could not be reached, or the connection broke before it was open."""


class ProxyRefused(ConnectError):
    """The proxy did not make the connection.

    Attributes:
        status: the HTTP status of the proxy's response; 0 if there is none (SOCKS, or no response).
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class TLSFailed(ConnectError):
    """The TLS handshake failed."""


class UntrustedCertificate(TLSFailed):
    """The server's certificate was not issued by a trusted authority, or is not valid now."""


class WrongName(TLSFailed):
    """The server's certificate is for another name."""


class HandshakeTimeout(ConnectError, TimeoutError):
    """The connection did not open in time."""


class HandshakeRefused(ConnectError):
    """The server answered with a status other than 101.

    Attributes:
        status: the HTTP status.
        headers: of the response; names in any case.
        body: the beginning of the response's body, at most 16 KiB.
        retryAfter: the seconds that Retry-After asks for; None without it.
    """

    def __init__(self, message: str, status: int, headers: Headers, body: bytes = b"", retryAfter: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = body
        self.retryAfter = retryAfter


class Redirected(HandshakeRefused):
    """The server answered with a redirect, which is not followed.

    Attributes:
        location: the target, as the server wrote it.
    """

    @property
    def location(self) -> str:
        """Return the Location header, "" without one."""
        return self.headers.get("location", "")


class BadHandshake(ConnectError):
    """The response breaks RFC 6455: it is not from a WebSocket server, or was changed on the way."""


class ReadTimeout(WebSocketError, TimeoutError):
    """No message came in time; the connection stays open, and no message is lost."""


class WriteBufferFull(WebSocketError):
    """Too many bytes wait to be sent, because the server is slow or away; the message was not queued."""


class UnexpectedMessage(BindingError):
    """The next message has another kind or shape than expected; it was taken off the queue.

    Attributes:
        received: the message, str or bytes.
        field: the path of the field that does not fit; "" if that is the whole message.
    """

    def __init__(self, message: str, received: str | bytes, field: str = "") -> None:
        super().__init__(message, field=field)
        self.received = received


def seconds(value: float) -> str:
    """Return a duration in words: "1 second", "2.5 seconds"."""
    return f"{value:g} second{'' if value == 1 else 's'}"


def quoted(text: object, limit: int = 100) -> str:
    """Return what a server sent, escaped, cut and in quotes, for an error message."""
    return f'"{printable(text, limit)}"'


def unreachable(where: str, error: Exception) -> ConnectFailed:
    """Return the error for an endpoint that failed.

    Args:
        where: host and port.
        error: what Twisted's endpoint failed with.
    """
    if isinstance(error, neterror.DNSLookupError):
        return ConnectFailed(f"there is no address for {where}: check the name, and this machine's DNS")
    if isinstance(error, neterror.ConnectionRefusedError):
        return ConnectFailed(f"nothing listens at {where}: check the port, and that the server runs")
    if isinstance(error, neterror.NoRouteError):
        return ConnectFailed(f"there is no route to {where}: check this machine's network")
    if isinstance(error, (neterror.TimeoutError, neterror.TCPTimedOutError)):
        return ConnectFailed(f"{where} did not answer: check the address, and firewalls on the way")
    return ConnectFailed(f"{where} could not be reached: {printable(error)}")


class PublishError(Exception):
    """The server has not said that it did what was asked.

    Attributes:
        code: the server's word for it, such as ``forbidden`` or ``unavailable``; ``no-answer`` if there was none, ``http`` if the
            answer is not the server's own.
        status: the HTTP status of the last answer; None if there was none.
        mayBeDone: whether it may have been done all the same, because the answer was lost. Calling again with the same
            idempotency key never does it twice.
    """

    def __init__(self, message: str, code: str, status: int | None = None, mayBeDone: bool = False) -> None:
        super().__init__(f"{message} ({code if status is None else f'{status} {code}'})")
        self.code = code
        self.status = status
        self.mayBeDone = mayBeDone
