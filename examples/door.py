"""A service that closes connections: with a code of its own, or for those who say nothing."""

from twisted_ws import CloseFrame, WebSocketService


class Door(WebSocketService):
    """Echoes until it hears "bye"."""

    idleTimeout = 600

    def onTextMessage(self, caller, text):
        """Close with a code from the private range, with `return` or with `caller.close`."""
        if text == "bye":
            return CloseFrame(4000, "see you")
        if text == "throw me out":
            caller.close(4001, "as you wish")
            return None
        return text
