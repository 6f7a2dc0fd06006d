"""An echo service, to be served over TLS with a PKCS #12 key store."""

from twisted_ws import WebSocketService


class SecureEcho(WebSocketService):
    """Send each text back."""

    def onTextMessage(self, caller, text):
        """Answer with the same text."""
        return f"Echo: {text}"
