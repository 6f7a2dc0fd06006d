"""Announcements: whoever has the page open gets each one, and who comes later the last one."""

from twisted_ws import WebSocketService

LONGEST = 200


class Broadcaster(WebSocketService):
    """Send what one caller says to all of them."""

    def __init__(self):
        self.last = None

    def onOpen(self, caller):
        """Greet a caller with the last announcement."""
        if self.last is not None:
            caller.writeMessage(self.last)

    async def onTextMessage(self, caller, text):
        """Announce a text, and tell its author how many it has reached."""
        self.last = {"announcement": text[:LONGEST]}
        return {"reached": await self.server.broadcast(self.last)}
