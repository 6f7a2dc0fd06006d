"""The first service: each message comes back."""

from twisted.logger import Logger
from twisted_ws import WebSocketService


class Echo(WebSocketService):
    """Echoes text with a word of its own, and binary as it came."""

    _log = Logger()

    def onOpen(self, caller):
        """Greet whoever has connected."""
        caller.writeTextMessage(f"You are caller {caller.connectionId}.")

    def onTextMessage(self, caller, text):
        """Answer text with text: what a handler returns is sent to its caller."""
        return f"You said: {text}"

    def onBinaryMessage(self, caller, data):
        """Answer bytes with bytes."""
        return data

    def onClose(self, caller, statusCode, reason):
        """Say in the log who has left."""
        self._log.info("caller {id} left with {code}", id=caller.connectionId, code=statusCode)
