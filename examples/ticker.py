"""Streams: a handler returns an iterator, and each of its items is sent."""

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted_ws import WebSocketService


class Ticker(WebSocketService):
    """Counts down from the number it gets, as often as it is asked."""

    def onTextMessage(self, caller, text):
        """Return the stream; messages that come meanwhile are handled meanwhile."""
        return self.countdown(int(text))

    async def countdown(self, number):
        """Yield one number after the other; `finally` runs also when the caller leaves."""
        try:
            for left in range(number, 0, -1):
                yield str(left)
                await deferLater(reactor, 0.1)
            yield "lift-off"
        finally:
            print("the countdown is over")
