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
    count = 0
    for connection in connections:
        fileno = connection.readyFileno()
        if fileno < 0:
            count += connection.send(message)
        else:
            filenos.append(fileno)
            ready.append(connection)
    if filenos:
        for index, sent in sendMany(filenos, message.plain):
            ready[index].sentPart(message.plain, sent)
    return count + len(ready)
