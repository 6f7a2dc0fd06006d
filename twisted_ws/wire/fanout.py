"""One message to many connections."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress
from typing import Any

from twisted_ws.wire.framing import OutgoingMessage
from twisted_ws.wire.pure import BEGUN
from twisted_ws.wire.speedups import sendMany

__all__ = ["fanOut"]


def fanOut(connections: Collection[Any], message: Any, now: float, senders: Sequence[Any] | None = None) -> int:
    """Send a message to each connection that is open, and return how many took it.

    Those with nothing waiting are sent the same frame in one call; the kernel's answer is all that is looked at. The others, and
    those that take a part of it only, go on from their own outboxes: none waits for another.

    Args:
        connections: `twisted_ws.wire.protocol.WebSocketConnection` objects; a collection that nobody changes.
        message: an `OutgoingMessage`; or something else, which goes by their `send` alone.
        now: the wheel's time.
        senders: the `sender` of each connection, for who has kept them.
    """
    if not isinstance(message, OutgoingMessage):
        return sum([bool(connection.send(message)) for connection in connections])
    outcomes = sendMany([connection.sender for connection in connections] if senders is None else senders, message.plain, now)
    count = len(connections)
    if outcomes is None:
        return count
    # What was begun of each frame is noted: whoever is called from here on may write to any connection, and close it.
    for connection, outcome in compress(zip(connections, outcomes, strict=True), outcomes):
        if outcome == BEGUN:
            connection.goOn()
        elif not connection.send(message):
            count -= 1
    return count
