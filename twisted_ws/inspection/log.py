"""The warnings of all servers, for whoever looks at one of them: what is new since the last look."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET, Struct, UnsetType

from twisted_ws.telemetry.records import RECENT, RecentRecords, Record

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer

# What `Engine.ask` is asked for.
KIND = "log"
# Characters of a line.
LONGEST = 1000


class Warned(Struct, omit_defaults=True):
    """One warning."""

    time: float
    level: str
    namespace: str
    event: str
    message: str
    node: str
    worker: int | UnsetType = UNSET


class Answer(Struct):
    """What one server answers: how many warnings there have been, and the last of them, as far as they are new."""

    node: str
    total: int
    warnings: list[Warned]


class Warnings:
    """The warnings of one process.

    Args:
        server: the server that it has.
        recent: the last of them.
    """

    def __init__(self, server: WebSocketServer, recent: RecentRecords) -> None:
        self._server = server
        self._recent = recent

    def since(self, total: int) -> Answer:
        """Return those that are new to somebody who has seen so many."""
        count = min(max(self._recent.total - total, 0), RECENT)
        node = self._server.node.id
        records = self._recent.records()[-count:] if count else ()
        return Answer(node, self._recent.total, [warned(each, node) for each in records])

    def answer(self, payload: bytes) -> bytes:
        """Answer another server: the payload has how many it has seen, by server."""
        seen = msgspec.json.decode(payload, type=dict[str, int])
        return msgspec.json.encode(self.since(seen.get(self._server.node.id, 0)))


def warned(record: Record, node: str) -> Warned:
    """Return a record as it is shown."""
    try:
        time = datetime.fromisoformat(record.time).timestamp()
    except ValueError:
        time = 0.0
    worker = record.worker if isinstance(record.worker, int) else UNSET
    return Warned(time, record.level, record.namespace, record.event, record.message[:LONGEST], node, worker)


def answerLog(server: WebSocketServer, recent: RecentRecords) -> Warnings:
    """Let all servers with the same engine see the warnings of this process."""
    warnings = Warnings(server, recent)
    server.node.answers[KIND] = warnings.answer
    return warnings
