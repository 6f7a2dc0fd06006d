from __future__ import annotations

from math import inf

import pytest

from twisted_ws import ChannelService, WebSocketService
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.errors import ChannelError
from twisted_ws.metrics.now import now, quantile
from twisted_ws.testing import serve


class Echo(WebSocketService):
    def onTextMessage(self, caller, text):
        return text


def test_messages():
    """Each message from a caller, each to it alone, and each delivery of a message to many is counted once."""
    with serve({"/echo": Echo()}) as server:
        first, second = server.connect("/echo"), server.connect("/echo", compression=True)
        for text in "one", "two", "three":
            first.writeTextMessage(text)
            assert first.readTextMessage() == text
        server.broadcast("all")
        assert [each.readTextMessage() for each in (first, second)] == ["all", "all"]
        seen = now(server.server)
    assert (seen.callers, seen.received, seen.sent) == (2, 3, 3)
    assert (seen.deliveries, seen.deliveredBytes) == (2, 6)
    assert now(server.server).callers == 0


def test_answers():
    """An answer to a request about channels is a message to its caller alone, counted once."""
    with serve({"/channels": ChannelService()}) as server:
        client = server.connect("/channels", subProtocols=[SUBPROTOCOL])
        told = len(client.readMessages())  # of the connection itself
        for _ in range(2):
            client.writeMessage({"type": "ping"})
            assert client.readTextMessage() == '{"type":"pong"}'
        assert now(server.server).sent == told + 2


def test_publications():
    """A publication is counted with its latency and its recipients, and one that is refused as such."""
    with serve({"/channels": ChannelService()}) as server:
        clients = [server.connect("/channels?channel=a", subProtocols=[SUBPROTOCOL]) for _ in range(3)]
        server.publish("a", "text")
        server.publish("b", "nobody")
        with pytest.raises(ChannelError):
            server.publish("", "text")
        seen = now(server.server)
        assert (seen.published, seen.refused, seen.deliveries, seen.subscriptions, seen.channels) == (2, 1, 3, 3, 2)
        assert sum(seen.delivery) == 2
        assert server.server.counts.recipients.sum == 3
        for each in clients:
            each.close()
        assert now(server.server).subscriptions == 0


def test_lag():
    """The reactor's lag is how late it did what was due."""
    with serve({"/echo": Echo()}) as server:
        server.connect("/echo")
        for _ in range(8):
            server.clock.advance(0.25)
        punctual = now(server.server).lag
        server.clock.advance(1.25)
        seen = now(server.server).lag
    assert punctual[0] == sum(punctual) > 0
    assert quantile(1, seen, punctual) == 1.024


def test_quantiles():
    """A quantile is the end of the bucket in which it lies, of what was counted since an earlier look."""
    assert quantile(0.5, [0, 0, 0], bounds=(1, 2)) is None
    assert quantile(0.5, [5, 4, 1], bounds=(1, 2)) == 1
    assert quantile(0.9, [5, 4, 1], bounds=(1, 2)) == 2
    assert quantile(0.99, [5, 4, 1], bounds=(1, 2)) == inf
    assert quantile(0.5, [5, 4, 1], [5, 1, 1], bounds=(1, 2)) == 2
    assert quantile(0.5, [5, 4, 1], [6, 0, 0], bounds=(1, 2)) == 1, "of a process that began anew, all counts"
