"""A service that speaks two subprotocols."""

import json

from twisted_ws import WebSocketService


class Greeter(WebSocketService):
    """Greets in the subprotocol that was negotiated."""

    subProtocols = ["json", "plain"]

    def onOpen(self, caller):
        """Greet; without a subprotocol in common, there is none."""
        if caller.negotiatedSubProtocol == "json":
            caller.writeTextMessage(json.dumps({"greeting": "hello"}))
        else:
            caller.writeTextMessage("hello")
