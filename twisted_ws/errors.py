"""What can go wrong, and whose fault it is.

Errors carry blame, because blame decides what happens next::

    WebSocketError                  something that ends (or refuses) one connection; has the close code
    ├── PeerError                   the peer did it: the code goes to the peer, one info line goes to the log
    │   ├── ProtocolError           1002  frames that RFC 6455 forbids
    │   ├── BindingError            1003  a message that does not fit the handler's annotation
    │   ├── InvalidPayload          1007  text that is not UTF-8, or data that does not inflate
    │   ├── PolicyViolation         1008  over a rate
    │   ├── MessageTooBig           1009  over the message limit
    │   ├── SlowConsumer            1013  more bytes queued for it than its cap
    │   └── TransportError          none  the connection broke, or the peer no longer answers
    ├── Overloaded                  1013  all peers together hold too much of the server's memory, and this one the most
    ├── HandlerError                1011  the service's handler raised: traceback in the log, no detail to the peer
    └── InternalError               1011  a bug of this package: traceback in the log, no detail to the peer
    ConnectionClosed                a write that can never reach the peer
    ChannelError                    a request about a channel that is refused; the connection goes on
    ConfigurationError              the operator's mistake: one line on standard error, exit code 1
    └── ServiceError                the service author's mistake: a service object that cannot be mounted
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

__all__ = [
    "BindingError",
    "ChannelError",
    "CloseCode",
    "ConfigurationError",
    "ConnectionClosed",
    "HandlerError",
    "InternalError",
    "InvalidPayload",
    "MessageTooBig",
    "Overloaded",
    "PeerError",
    "PolicyViolation",
    "ProtocolError",
    "ServiceError",
    "SlowConsumer",
    "TransportError",
    "WebSocketError",
]


class CloseCode(IntEnum):
    """The close codes that this server sends or reports (RFC 6455 section 7.4, and IANA's registry for 1012-1014)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


class WebSocketError(Exception):
    """Something that ends one connection.

    Attributes:
        code: the close code that goes on the wire (a `CloseCode`), or None if nothing can be sent any more.
        reason: the close reason that goes on the wire: short, fixed, and without internal details (at most 123 bytes).
    """

    code: int | None = None
    reason: str = ""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            # A Close frame has room for 123 bytes; characters are not split.
            self.reason = reason.encode(errors="replace")[:123].decode(errors="ignore")


class PeerError(WebSocketError):
    """The peer broke a rule or went away."""


class ProtocolError(PeerError):
    """The peer sent frames that RFC 6455 forbids."""

    code = CloseCode.PROTOCOL_ERROR
    reason = "protocol error"


class BindingError(PeerError):
    """A message does not fit the annotation of its handler.

    Attributes:
        field: the path of the field that does not fit (``"order.items[0].price"``); "" for the message as a whole.
    """

    code = CloseCode.UNSUPPORTED_DATA
    reason = "bad data"

    def __init__(self, message: str, reason: str | None = None, field: str = "") -> None:
        super().__init__(message, reason)
        self.field = field


class InvalidPayload(PeerError):
    """Text that is not UTF-8, or compressed data that does not inflate (RFC 6455 section 8.1, RFC 7692)."""

    code = CloseCode.INVALID_PAYLOAD
    reason = "invalid payload"


class PolicyViolation(PeerError):
    """The peer exceeded a rate: control frames or messages per second."""

    code = CloseCode.POLICY_VIOLATION
    reason = "policy violation"


class MessageTooBig(PeerError):
    """A message over the message limit, after inflation and with the charge for each fragment."""

    code = CloseCode.MESSAGE_TOO_BIG
    reason = "message too big"


class SlowConsumer(PeerError):
    """The peer takes messages more slowly than they are written to it, and its send buffer is full."""

    code = CloseCode.TRY_AGAIN_LATER
    reason = "too slow"


class TransportError(PeerError):
    """The connection broke, or the peer stopped answering or reading: nothing can be sent to it."""


class Overloaded(WebSocketError):
    """All peers together have sent more than the server may hold unhandled, and this one the most."""

    code = CloseCode.TRY_AGAIN_LATER
    reason = "overloaded"


class HandlerError(WebSocketError):
    """A handler of the service raised; the exception is this one's ``__cause__``.

    Attributes:
        event: the name of the handler, such as "onTextMessage".
    """

    code = CloseCode.INTERNAL_ERROR
    reason = "internal error"

    def __init__(self, message: str, event: str = "") -> None:
        super().__init__(message)
        self.event = event


class InternalError(WebSocketError):
    """A bug of this package; the log has its traceback."""

    code = CloseCode.INTERNAL_ERROR
    reason = "internal error"


class ConnectionClosed(Exception):
    """A write can never reach the peer, because the connection is closing or closed.

    Attributes:
        statusCode: the close code (1006 if there was no Close frame).
        reason: the close reason, "" if there was none.
    """

    def __init__(self, statusCode: int = CloseCode.ABNORMAL, reason: str = "") -> None:
        # Each end of a connection makes one, and hardly anybody reads its text.
        self.statusCode = int(statusCode)
        self.reason = reason

    def __str__(self) -> str:
        return f"the connection is closed ({self.statusCode}{': ' + self.reason if self.reason else ''})"


class ChannelError(Exception):
    """A refused request about a channel, such as to subscribe, publish or read it.

    Attributes:
        code: what is wrong, for programs: one of `STATUSES`, the same word in every transport.
        status: the HTTP status for it.
        message: what is wrong, for people; it goes to the client that asked.
        reason: one word that says more, such as "expired" of a subscription token; "" if there is nothing to say.
        retryAfter: seconds after which it may succeed, None if nobody knows.
        channel: the refused channel, if known; None if the request as a whole is refused.
    """

    STATUSES: ClassVar = {
        "bad-request": 400,
        "bad-channel": 400,
        "bad-position": 400,
        "unauthorized": 401,
        "forbidden": 403,
        "not-found": 404,
        "already-subscribed": 409,
        "not-subscribed": 409,
        "key-reused": 409,
        "too-large": 413,
        "too-many-channels": 429,
        "too-many-requests": 429,
        "internal-error": 500,
        "unavailable": 503,
    }

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.status: int = self.STATUSES[code]
        self.message = message
        self.retryAfter: float | None = None
        self.channel: str | None = None


class concerning:
    """Set `ChannelError.channel` of an error raised in the block: which of a request's channels it is about."""

    __slots__ = ("_channel",)

    def __init__(self, channel: str) -> None:
        self._channel = channel

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ChannelError) and error.code != "too-many-channels":  # that one is about all of them
            error.channel = self._channel


class ConfigurationError(Exception):
    """A mistake that the operator can fix; its text is one clear line.

    Attributes:
        key: where it is in the tables of the configuration file, from the top: ``("channels", "news.*", "publish")``; () if it is
            not there, or that is not known.
    """

    def __init__(self, message: str = "", key: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.key = key


class ServiceError(ConfigurationError):
    """A service object that cannot be mounted; its text names the class, the method and the mistake."""
