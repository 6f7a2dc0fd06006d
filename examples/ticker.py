"""Streams: a handler returns an iterator, and each item is sent."""

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted_ws import WebSocketService


class Ticker(WebSocketService):
    """Count down from the number that a caller sends."""

    def onTextMessage(self, caller, text):
        """Return the stream; later messages are handled while it runs."""
        return self.countdown(int(text))

    async def countdown(self, number):
        """Yield one number after another; `finally` also runs when the caller leaves."""
        try:
            for left in range(number, 0, -1):
                yield str(left)
                await deferLater(reactor, 0.1)
            yield "lift-off"
        finally:
            print("the countdown is over")
