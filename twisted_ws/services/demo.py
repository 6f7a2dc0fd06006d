"""The demo service: what ``/ws`` does until you mount a service of your own."""

from __future__ import annotations

from twisted_ws.caller import Caller
from twisted_ws.service import WebSocketService


class Demo(WebSocketService):
    """Keep every caller, and echo what it sends: text as ``Echo: <text>``, binary as it came.

    Attributes:
        callers: the open callers.
    """

    def __init__(self) -> None:
        self.callers: set[Caller] = set()

    def onOpen(self, caller: Caller) -> None:
        """Keep the new caller."""
        self.callers.add(caller)

    def onTextMessage(self, caller: Caller, text: str) -> str:
        """Echo a text: what a handler returns is sent to the caller."""
        return f"Echo: {text}"

    def onBinaryMessage(self, caller: Caller, data: bytes) -> bytes:
        """Echo bytes as bytes."""
        return data

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        """Forget a caller that has left."""
        self.callers.discard(caller)

    def onHandOver(self, caller: Caller) -> None:
        """Forget a caller that goes on in another process."""
        self.callers.discard(caller)

    def onResume(self, caller: Caller, state: object) -> None:
        """Keep a caller that has come from another process."""
        self.callers.add(caller)
