"""A service that speaks two subprotocols."""

import json

from twisted_ws import WebSocketService


class Greeter(WebSocketService):
    """Greet in the negotiated subprotocol."""

    subProtocols = ["json", "plain"]

    def onOpen(self, caller):
        """Greet in JSON or in plain text; without a common subprotocol, in plain text."""
        if caller.negotiatedSubProtocol == "json":
            caller.writeTextMessage(json.dumps({"greeting": "hello"}))
        else:
            caller.writeTextMessage("hello")
