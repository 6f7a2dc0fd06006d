"""A service that answers pings itself, and measures how long a caller's pong takes."""

import time

from twisted_ws import WebSocketService


class Pings(WebSocketService):
    """Tell each caller its round trip, and count its pings."""

    def onOpen(self, caller):
        """Send a ping whose payload identifies its pong."""
        caller.attributes.update(pings=0, sent=time.monotonic())
        caller.ping(b"clock")

    def onPong(self, caller, data):
        """Handle the pong for our ping."""
        if data == b"clock":
            seconds = time.monotonic() - caller.attributes["sent"]
            caller.writeTextMessage(f"round trip: {seconds:.3f} s")

    def onPing(self, caller, data):
        """Answer a ping: a service that defines onPing must send the pong."""
        caller.attributes["pings"] += 1
        caller.pong(data)

    def onTextMessage(self, caller, text):
        """Say how many pings have come."""
        return f"pings: {caller.attributes['pings']}"
