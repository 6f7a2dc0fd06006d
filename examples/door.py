"""A service that closes connections: with its own codes, or after silence."""

from twisted_ws import CloseFrame, WebSocketService


class Door(WebSocketService):
    """Echo until a caller says "bye"."""

    idleTimeout = 600

    def onTextMessage(self, caller, text):
        """Close with a code from the private range, by `return` or by `caller.close`."""
        if text == "bye":
            return CloseFrame(4000, "see you")
        if text == "throw me out":
            caller.close(4001, "as you wish")
            return None
        return text
