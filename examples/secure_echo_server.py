"""An echo, to be served over TLS with a PKCS #12 key store."""

from twisted_ws import WebSocketService


class SecureEcho(WebSocketService):
    """Says back what it hears."""

    def onTextMessage(self, caller, text):
        """Answer with the text."""
        return f"Echo: {text}"
