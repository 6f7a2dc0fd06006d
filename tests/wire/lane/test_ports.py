from __future__ import annotations

import socket

import pytest
from twisted.internet.protocol import Factory
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs

from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld
from twisted_ws import WebSocketService
from twisted_ws.wire import speedups
from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.lane.ports import accelerate
from twisted_ws.wire.loop.wheel import Wheel


class FailingOnce:
    """An `acceptOne` whose first call fails after the kernel has accepted, as when its answer cannot be made."""

    def __init__(self, error):
        self.error = error
        self.real = speedups.acceptOne

    def __call__(self, listening):
        error, self.error = self.error, None
        if error is None:
            return self.real(listening)
        socket.socket(fileno=self.real(listening)[0]).close()
        raise error


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("any")], ids=repr)
def test_acceptFails(monkeypatch, implementation, error):
    """What goes wrong while one connection is accepted costs that connection; the port goes on after a second."""
    world = LaneWorld(implementation, monkeypatch, WebSocketService())
    monkeypatch.setattr(speedups, "acceptOne", FailingOnce(error))
    with world.dial() as first:
        world.turn()
        assert first.recv(1) == b""
    assert world.port.connected
    world.reactor.advance(1)
    world.connect()
    assert len(world.server.callers) == 1
    world.close()


def test_acceptFailsWithoutAGate(monkeypatch):
    """A port that no gate watches goes on at once; the log says what was wrong."""
    monkeypatch.setattr(speedups, "acceptOne", FailingOnce(MemoryError()))
    reactor = MemoryReactorClock()
    port = Port(0, Factory(), interface="127.0.0.1", reactor=reactor)
    port.startListening()
    assert accelerate(port, PollGroup(reactor, Wheel(reactor)))
    with socket.create_connection(("127.0.0.1", port.getHost().port)), capturedLogs() as logs:
        assert port.doRead() is None
    assert [event["log_failure"].type for event in logs] == [MemoryError]
    assert port in reactor.getReaders()
    port.connectionLost(None)


def test_cannotBeTaken(monkeypatch):
    """Connections that cannot be served are closed, and fill no log."""
    world = LaneWorld("compiled", monkeypatch, WebSocketService())

    def refuse(peer):
        raise RuntimeError("broken")

    monkeypatch.setattr(world.port.factory, "_buildFor", refuse)
    with capturedLogs() as logs:
        for _ in range(30):
            with world.dial() as client:
                world.turn()
                assert client.recv(1) == b""
    assert len(logs) == 10
    world.close()
