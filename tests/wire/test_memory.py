from __future__ import annotations

import gc

from tests.memory import MemoryClient, SteadyClock, clientFrame
from twisted_ws import WebSocketServer, WebSocketService
from twisted_ws.wire.memory import shareNames

NAMES = [f"name{n}" for n in range(20)]


def hasTable(instance):
    """Say whether an object has a table of names of its own."""
    return any(type(each) is dict for each in gc.get_referents(instance))


def test_shareNames():
    """A thousand instances that get their attributes late share one table of names; without this each has its own."""

    class Shared:
        pass

    class Plain:
        pass

    shareNames(Shared, NAMES)
    for kind, expected in ((Plain, True), (Shared, False)):
        instances = [kind() for _ in range(1000)]
        for instance in instances:
            for name in NAMES:
                setattr(instance, name, None)
        assert hasTable(instances[-1]) is expected


class Echo(WebSocketService):
    def onTextMessage(self, caller, text):
        return text


def test_connections():
    """Connections that come all at once, and whose messages come in pieces and with pings between, have no table of their own."""
    clock = SteadyClock()
    server = WebSocketServer(reactor=clock)
    server.mount("/ws", Echo())
    clients = [MemoryClient(server.factory(), clock) for _ in range(100)]
    for client in clients:
        client.connect("/ws")
    for client in clients:
        client.send(clientFrame(1, b"a", fin=False) + clientFrame(9, b"?") + clientFrame(0, b"b")[:3])
        client.send(clientFrame(0, b"b")[3:] + clientFrame(1, b"c"))
    connections = [client.transport.protocol for client in clients]
    assert len(server.callers) == 100
    assert not any(map(hasTable, connections))
