"""Service objects: what a team writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from twisted_ws.closecodes import SENDABLE
from twisted_ws.errors import CloseCode

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


class WebSocketService:
    """A convenience base for service objects; any object with some of the event methods is a service.

    The events (each optional; each plain, ``async`` or returning a Deferred; a returned value is sent to the caller):

    - ``onUpgrade(request)``: before the 101. Returns the service object for this connection, or ``(service, headers)``;
      raises `Reject` to refuse. Without it, this object serves every connection.
    - ``onOpen(caller)``: once, after the 101 is written.
    - ``onTextMessage(caller, text: str)``, ``onBinaryMessage(caller, data: bytes)``: each whole message, in order, one at a
      time for each connection.
    - ``onMessage(caller, message: T)``: a message that those two do not take, decoded as its annotation says.
    - ``on<Event>(caller, message: T)``: with `dispatcherKey`, by the value of that field of a JSON object.
    - ``onPing(caller, data: bytes)``, ``onPong(caller, data: bytes)``: control frames; onPing replaces the automatic pong.
    - ``onIdleTimeout(caller)``: no data frame in either direction for `idleTimeout` seconds; the connection is then closed
      with 1000 unless the handler wrote to the caller.
    - ``onError(caller, error)``: before an automatic close that an error causes.
    - ``onClose(caller, statusCode: int, reason: str)``: exactly once if and only if onOpen ran, unless onHandOver has.
    - ``onHandOver(caller)``: in place of onClose, where the open connection goes on in another process; returns what `onResume`
      is to know of it besides ``caller.attributes``, or raises `Stay`. It is not async.
    - ``onResume(caller, state)``: there, in place of onOpen; `state` is what onHandOver has returned, None without one.

    Attributes:
        subProtocols: the subprotocols that this service speaks (tokens, RFC 6455 section 4.1). Of the client's list, in
            the client's order, the first of these is chosen; none in common: accepted without one.
        idleTimeout: seconds without a data frame in either direction until onIdleTimeout; 0: never.
        dispatcherKey: the field of a JSON message that names the event; "" turns dispatching off.
        dispatcherStreamId: the field of a request that is copied into its reply; "" copies nothing.
        resumable: whether its connections can go on in another process, where an object of this class, or of a newer version of
            it, is mounted at the same path; None: if it has an onResume, or is never given a caller. A subclass with an onOpen,
            onClose or onUnsubscribe of its own has to say so again.
        hooks: methods that the service calls itself, with their parameters: they may be named like events without being
            events. For services that others subclass.
        server: the server that this service is mounted on; set when it is mounted.
    """

    subProtocols: list[str] = []  # noqa: RUF012 - the declared form of the contract; nothing here changes it
    idleTimeout: float = 0
    dispatcherKey: str = ""
    dispatcherStreamId: str = ""
    resumable: bool | None = None
    hooks: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    server: WebSocketServer


class Stay(Exception):
    """Raised by onHandOver: this connection does not go on in another process; it is closed with 1012, and onClose is called."""


def checkClose(code: int, reason: str) -> bytes:
    """Return the payload of a Close frame (RFC 6455 section 5.5.1).

    Args:
        code: 1000-1003, 1007-1014 or 3000-4999.
        reason: at most 123 bytes of UTF-8.

    Raises:
        ValueError: the code may not be sent, or the reason is too long or cannot be encoded.
        TypeError: the code is not an int, or the reason not a str.
    """
    if not isinstance(code, int) or isinstance(code, bool):
        raise TypeError(f"the close code must be an int, not {type(code).__name__}")
    if not isinstance(reason, str):
        raise TypeError(f"the close reason must be a str, not {type(reason).__name__}")
    if code not in SENDABLE and not 3000 <= code <= 4999:
        raise ValueError(f"close code {code} cannot be sent (1000-1003, 1007-1014 and 3000-4999 can)")
    try:
        encoded = reason.encode()
    except UnicodeEncodeError:
        raise ValueError("the close reason has a surrogate that UTF-8 cannot encode") from None
    if len(encoded) > 123:
        raise ValueError(f"the close reason has {len(encoded)} bytes of UTF-8 (at most 123)")
    return code.to_bytes(2, "big") + encoded


@dataclass(frozen=True, slots=True)
class CloseFrame:
    """Returned (or yielded) by a handler: close the connection with this code and reason.

    Raises:
        ValueError: a code that may not be sent (see `checkClose`), or a reason of more than 123 bytes.
    """

    code: int = CloseCode.NORMAL
    reason: str = ""

    def __post_init__(self) -> None:
        checkClose(self.code, self.reason)


def dispatches(value: str) -> Callable[[_Handler], _Handler]:
    """Mark a method as the handler of messages whose `dispatcherKey` field is exactly `value`.

    Args:
        value: any text that is not empty, even one that no method name can spell.

    Raises:
        TypeError: `value` is not a str (as with ``@dispatches`` without parentheses).
        ValueError: `value` is empty.
    """
    if not isinstance(value, str):
        raise TypeError('@dispatches takes the value of the dispatcher field: @dispatches("subscribe")')
    if not value:
        raise ValueError("@dispatches needs a value that is not empty")

    def mark(handler: _Handler) -> _Handler:
        handler.dispatches = value  # type: ignore[attr-defined]  # a mark on a function, read when the service is mounted
        return handler

    return mark
