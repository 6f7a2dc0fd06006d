"""What a connection tells the service behind it."""

from __future__ import annotations

from typing import Any, Protocol

from twisted_ws.errors import WebSocketError


class EventReceiver(Protocol):
    """The receiver of one connection's events: the connection calls it, and `twisted_ws.dispatch` implements it.

    Order: `opened` once; then any of the others; `closing` once; `closed` last and once. No method raises: user code is guarded
    behind it.
    """

    @property
    def caller(self) -> Any:
        """Return the `twisted_ws.caller.Caller` of the connection, or what stands for it while there is none."""

    def peer(self) -> str:
        """Return the peer's name for the log: behind a trusted proxy, that of the client it names."""

    def facts(self) -> dict[str, Any]:
        """Return what the log knows of it as fields (see `twisted_ws.logs.ofCaller`)."""

    def opened(self) -> None:
        """The 101 was written."""

    def messageReceived(self, message: str | bytes) -> None:
        """One whole message came: str for text, bytes for binary."""

    def pingReceived(self, data: bytes) -> bool:
        """A ping came. True: the service answers it; False: the connection sends the pong."""

    def pongReceived(self, data: bytes) -> None:
        """A pong came that does not answer one of the server's own keep-alive pings."""

    def idle(self) -> None:
        """No data frame was sent in either direction for the idle timeout."""

    def failed(self, error: WebSocketError) -> None:
        """The connection is about to be closed (or has broken) because of `error`."""

    def closing(self) -> None:
        """Nothing can be written any more; `closed` follows when the transport is gone."""

    def closed(self, statusCode: int, reason: str) -> None:
        """The connection is closed: the peer's code and reason; 1005 without a code, 1006 without a Close frame."""


class _Ended:
    """The receiver of a connection that has ended: ignores everything.

    A connection and its receiver refer to each other. Once this takes the receiver's place, both are freed as soon as nobody else
    refers to them, instead of when the collector of cycles runs.
    """

    __slots__ = ()

    def _nothing(self, *_: object) -> Any:
        return False

    def peer(self) -> str:
        return "a peer that has left"

    def facts(self) -> dict[str, Any]:
        return {}

    caller = None
    opened = messageReceived = pingReceived = pongReceived = idle = failed = closing = closed = _nothing


ENDED: EventReceiver = _Ended()
