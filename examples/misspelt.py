"""A service with a misspelt event, to see what happens at startup."""

from twisted_ws import WebSocketService


class Misspelt(WebSocketService):
    """Never receive a message."""

    def onTextMesage(self, caller, text):
        """Never be called: this is not an event."""
