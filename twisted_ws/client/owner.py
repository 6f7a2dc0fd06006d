"""What a connection tells, and whom."""

from __future__ import annotations

from typing import Protocol

from twisted_ws.errors import ConnectionClosed, WebSocketError

__all__ = ["Receiver"]


class Receiver(Protocol):
    """Who has the connection: the client."""

    def messageReceived(self, message: str | bytes) -> None:
        """A message came; may call `ClientConnection.pauseReading`."""

    def pingReceived(self, data: bytes) -> bool:
        """A ping came; say whether its pong is taken care of."""

    def pongReceived(self, data: bytes) -> None:
        """A pong came that answers none of our pings."""

    def ended(self, error: ConnectionClosed | WebSocketError) -> None:
        """Nothing more will come; told once."""

    def gone(self) -> None:
        """The transport is gone, and what becomes of each write is known; told once, after `ended`."""
