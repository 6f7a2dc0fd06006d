"""A service that answers pings itself, and measures how long a caller needs for a pong."""

import time

from twisted_ws import WebSocketService


class Pings(WebSocketService):
    """Tells each caller its round trip, and counts the pings it gets."""

    def onOpen(self, caller):
        """Send a ping with a payload of our own, to recognize the pong."""
        caller.attributes.update(pings=0, sent=time.monotonic())
        caller.ping(b"clock")

    def onPong(self, caller, data):
        """Hear the pong for our ping."""
        if data == b"clock":
            seconds = time.monotonic() - caller.attributes["sent"]
            caller.writeTextMessage(f"round trip: {seconds:.3f} s")

    def onPing(self, caller, data):
        """Answer a ping: whoever defines onPing sends the pong too."""
        caller.attributes["pings"] += 1
        caller.pong(data)

    def onTextMessage(self, caller, text):
        """Say how many pings came."""
        return f"pings: {caller.attributes['pings']}"
