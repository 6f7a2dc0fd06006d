"""One message to many connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted_ws.wire.framing import OutgoingMessage

__all__ = ["fanOut"]


def fanOut(connections: Iterable[Any], message: OutgoingMessage) -> int:
    """Send a message to each connection that is open, and return how many took it.

    Those with nothing waiting are sent the same frame in one call; the kernel's answer is all that is looked at. The others, and
    those that take a part of it only, go on from their own outboxes: none waits for another.

    Args:
        connections: `twisted_ws.wire.protocol.WebSocketConnection` objects.
        message: the message.
    """
    # Plain connections and those with TLS each have a function that sends to many.
    kinds: dict[Any, tuple[list[Any], list[Any]]] = {}
    later: list[Any] = []
    count = 0
    for connection in connections:
        lane = connection.readyLane()
        if lane is None:
            later.append(connection)
            continue
        kind = kinds.get(lane.sendMany)
        if kind is None:
            kind = kinds[lane.sendMany] = ([], [])
        kind[0].append(lane.handle)
        kind[1].append(connection)
        count += 1
    # No service is called before each rest is noted: it might close a connection whose handle is in the list, or write into the
    # middle of a frame.
    behind: list[Any] = []
    for sendMany, (handles, ready) in kinds.items():
        for index, sent in sendMany(handles, message.plain):
            ready[index].noteRest(message.plain[sent:])
            behind.append(ready[index])
    for connection in behind:
        connection.goOn()
    return count + sum([bool(connection.send(message)) for connection in later])
