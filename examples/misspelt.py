"""A service with a misspelt event, to see what happens at start."""

from twisted_ws import WebSocketService


class Misspelt(WebSocketService):
    """Never hears a message."""

    def onTextMesage(self, caller, text):
        """Is no event."""
