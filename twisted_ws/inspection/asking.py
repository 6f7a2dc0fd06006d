"""Questions to all servers that work with the same engine, and which of them have not answered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.internet.defer import Deferred

from twisted_ws.engines.contract import NodeInfo

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer


class Answers(NamedTuple):
    """What servers have answered.

    Attributes:
        answers: their answers, undecoded; not of those that know nothing of the question.
        nodes: all that are alive, or were a moment ago.
    """

    answers: list[bytes]
    nodes: list[NodeInfo]

    def missing(self, answered: set[str]) -> list[str]:
        """Return the ids of those that have not answered."""
        return sorted({each.id for each in self.nodes} - answered)


async def askAll(server: WebSocketServer, kind: str, payload: bytes = b"") -> Answers:
    """Ask each server; one that is gone or stuck is waited for a second or two.

    Raises:
        ChannelError: "unavailable": the engine does not reach what it works with.
    """
    # Both at once: each waits for whoever does not answer.
    answers, nodes = server.engine.ask(kind, payload), server.engine.nodes()
    try:
        found = await ready(answers)
    except BaseException:
        if isinstance(nodes, Deferred):
            nodes.addErrback(lambda _: None)
            nodes.cancel()
        raise
    return Answers([each for each in found if each], await ready(nodes))


async def ready(answer: Any) -> Any:
    """Return what an engine answers, now or later."""
    return await answer if isinstance(answer, Deferred) else answer
