"""Cursors of everybody on a page: many small messages, of which only the newest of each person counts."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta
from twisted_ws import WebSocketService

Part = Annotated[float, Meta(ge=0, le=1)]


@dataclass
class Move:
    """Where somebody points: parts of the width and the height."""

    x: Part
    y: Part


class Cursors(WebSocketService):
    """Tell everybody where the others point."""

    def onOpen(self, caller):
        """Let a caller hear the others; the first message says which of them it is itself."""
        caller.writeMessage({"you": caller.connectionId})
        caller.subscribe("cursors")

    def onMessage(self, caller, move: Move):
        """Pass a move on. A message that is not one never gets here: its sender is disconnected with 1003."""
        self.say(caller, x=move.x, y=move.y)

    def onClose(self, caller, statusCode, reason):
        """Take the cursor away."""
        self.say(caller, gone=True)

    def say(self, caller, **fields):
        """Publish something of a caller; by its key, what it said before need not be sent any more."""
        self.server.publish("cursors", {"who": caller.connectionId, **fields}, key=caller.connectionId)
