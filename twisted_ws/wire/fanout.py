"""One message to many connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted_ws.wire.framing import OutgoingMessage
from twisted_ws.wire.speedups import sendMany

__all__ = ["fanOut"]


def fanOut(connections: Iterable[Any], message: OutgoingMessage) -> int:
    """Send a message to each connection that is open, and return how many took it.

    Those with nothing waiting are sent the same frame in one call; the kernel's answer is all that is looked at. The others, and
    those that take a part of it only, go on from their own outboxes: none waits for another.

    Args:
        connections: `twisted_ws.wire.protocol.WebSocketConnection` objects.
        message: the message.
    """
    filenos: list[int] = []
    ready: list[Any] = []
    later: list[Any] = []
    for connection in connections:
        fileno = connection.readyFileno()
        if fileno < 0:
            later.append(connection)
        else:
            filenos.append(fileno)
            ready.append(connection)
    if filenos:
        # No service is called before each rest is noted: it might close a connection whose descriptor is in the list, or write
        # into the middle of a frame.
        behind = sendMany(filenos, message.plain)
        for index, sent in behind:
            ready[index].noteRest(message.plain[sent:])
        for index, _ in behind:
            ready[index].goOn()
    return len(ready) + sum([bool(connection.send(message)) for connection in later])
