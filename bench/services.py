"""The service that the load talks to."""

from __future__ import annotations

from twisted_ws import Caller, WebSocketService


class Echo(WebSocketService):
    """Sends every message back."""

    def onTextMessage(self, caller: Caller, text: str) -> str:
        """Echo text."""
        return text

    def onBinaryMessage(self, caller: Caller, data: bytes) -> bytes:
        """Echo binary."""
        return data
