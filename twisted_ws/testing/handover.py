"""A hand-over in a test: open connections go on with other service objects, as in the next worker of a server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from twisted_ws.channels.moving import Expectation
from twisted_ws.server.handover.arrival import RESTART, Arrival
from twisted_ws.server.handover.departure import Departure
from twisted_ws.server.handover.states import CallerState, decode
from twisted_ws.server.server import WebSocketServer
from twisted_ws.testing.transport import MemoryTransport
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.moving import Obstacle


def handOver(server: WebSocketServer, services: Mapping[str, object]) -> int:
    """Let the open callers of a server go on with other service objects; return how many do.

    Args:
        server: the server.
        services: by the paths at which they are to be mounted in place of those that are.
    """
    expectation = Expectation(server.channels)
    departure, arrival = Departure(server, expectation, None), Arrival(server, expectation, None)
    moved: list[tuple[CallerState, MemoryTransport]] = []
    for caller in tuple(server.callers):
        left = departure.depart(caller)
        if isinstance(left, Obstacle):
            caller.close(*RESTART)
        else:
            moved.append((decode(left[0]), left[1]))
    old = {path: server.remount(path, service) for path, service in services.items()}
    refused = [each for each in moved if arrival.refusal(each[0]) is not None]
    if refused:
        # They go back, as to the worker that they came from, and are asked to leave there.
        new = {path: server.remount(path, service) for path, service in old.items()}
        before = set(server.callers)
        for state, transport in refused:
            arrival.arrive(state, partial(_attach, transport))
        for caller in set(server.callers) - before:
            caller.close(*RESTART)
        for path, service in new.items():
            server.remount(path, service)
    for state, transport in moved:
        if (state, transport) not in refused:
            arrival.arrive(state, partial(_attach, transport))
    return len(moved) - len(refused)


def _attach(transport: MemoryTransport, connection: WebSocketConnection) -> None:
    transport.protocol = connection
    connection.makeConnection(transport)
