"""What a server says of itself to whoever makes figures, once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from twisted_ws.inspection.stats import Look
from twisted_ws.limits import KIB
from twisted_ws.metrics.now import now

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "look"
# Bytes that wait for a caller that counts as slow: less may be there for a moment.
SLOW = 4 * KIB


def look(server: WebSocketServer) -> Look:
    """Return how a server is; the counts are those of `twisted_ws.metrics`."""
    node, dropped = server.node, sum(server.counts.dropped.rows.values())
    return Look(now(server), node.worker, server.runtime.backlog.count(SLOW), dropped, server.engine.state.value, node.expires())


def answerLook(server: WebSocketServer) -> None:
    """Let all servers with the same engine have figures of this one."""
    server.node.answers[KIND] = lambda payload: msgspec.json.encode(look(server))
