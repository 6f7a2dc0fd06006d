"""A first service: it sends each message back."""

from twisted.logger import Logger
from twisted_ws import WebSocketService


class Echo(WebSocketService):
    """Echo text with a prefix, and binary unchanged."""

    _log = Logger()

    def onOpen(self, caller):
        """Greet a new caller."""
        caller.writeTextMessage(f"You are caller {caller.connectionId}.")

    def onTextMessage(self, caller, text):
        """Answer text with text: what a handler returns is sent to the caller."""
        return f"You said: {text}"

    def onBinaryMessage(self, caller, data):
        """Answer bytes with bytes."""
        return data

    def onClose(self, caller, statusCode, reason):
        """Log that a caller has left."""
        self._log.info("caller {id} left with {code}", id=caller.connectionId, code=statusCode)
