from __future__ import annotations

import gc
from weakref import ref

import pytest

from tests.memory import MemoryClient, SteadyClock, clientFrame
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld
from tests.wire.support import WireHost
from twisted_ws import WebSocketServer, WebSocketService
from twisted_ws.wire.loop.keysharing import shareKeys

NAMES = [f"name{n}" for n in range(20)]


def hasTable(instance):
    """Say whether an object has a table of names of its own."""
    return any(type(each) is dict for each in gc.get_referents(instance))


def test_shareKeys():
    """A thousand instances that get their attributes late share one table of names; without this each has its own."""

    class Shared:
        pass

    class Plain:
        pass

    shareKeys(Shared, NAMES)
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


def test_ends():
    """Nor has a front door, or a connection at the end of its life, however many came before."""
    host = WireHost()
    clients = [host.client() for _ in range(100)]
    doors = [client.transport.protocol for client in clients]
    for client in clients:
        client.connect("/ws")
    connections = [client.transport.protocol for client in clients]
    for client in clients:
        client.hangUp()
    assert len(host.recorders) == 100
    assert all(recorder.events[-1][0] == "closed" for recorder in host.recorders)
    assert not any(map(hasTable, doors))
    assert not any(map(hasTable, connections))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_servers(monkeypatch, implementation):
    """A server that is stopped and forgotten leaves nothing, whichever side ended its connections."""
    world = LaneWorld(implementation, monkeypatch, Echo())
    clients = [world.connect() for _ in range(3)]
    clients[0].close()
    clients[1].sendall(clientFrame(8, b"\x03\xe8"))
    world.readAll(clients[1])
    for caller in world.server.callers:
        caller.close()
    world.readAll(clients[2])
    clients[2].sendall(clientFrame(8, b"\x03\xe8"))
    for client in clients:
        client.close()
    for _ in range(5):
        world.turn()
    assert len(world.server.callers) == 0
    world.port.stopListening()
    for _ in range(5):
        world.turn()
    server = ref(world.server)
    del world, caller
    gc.collect()
    assert server() is None
