"""What a connection tells the client that it belongs to."""

from __future__ import annotations

from typing import Protocol

from twisted_ws.errors import ConnectionClosed, WebSocketError


class ConnectionOwner(Protocol):
    """The owner of a `twisted_ws.client.websocket.connection.ClientConnection`, which calls these methods."""

    def messageReceived(self, message: str | bytes) -> None:
        """A message came; this may call `ClientConnection.pauseReading`."""

    def pingReceived(self, data: bytes) -> bool:
        """A ping came; return whether the owner answers it itself."""

    def pongReceived(self, data: bytes) -> None:
        """A pong came that answers none of our pings."""

    def ended(self, error: ConnectionClosed | WebSocketError) -> None:
        """Nothing more will come; called once."""

    def gone(self) -> None:
        """The transport is gone, and the outcome of each write is known; called once, after `ended`."""
