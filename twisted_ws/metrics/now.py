"""How a server is at the moment, in plain numbers: what a page or a terminal shows that looks once a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.metrics.process import look
from twisted_ws.telemetry.counts import SECONDS

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer


class Now(msgspec.Struct, frozen=True):
    """The state of one server. What is called a total only grows: a rate is the difference of two looks by that of `time`.

    Attributes:
        time: Unix time of the look.
        node: the server's id among those of its engine.
        started: Unix time at which the process began.
        callers: WebSocket connections that are open.
        streams: event streams that are open.
        polls: polls that wait.
        limit: how many connections may be open; 0 if there is no limit.
        channels: how many there are; -1 if the engine does not say.
        subscriptions: to all channels and patterns together.
        received: total of messages from callers.
        sent: total of messages to one caller alone.
        published: total of publications, whoever published them here.
        refused: total of publications that were refused.
        deliveries: total of messages to many, counted for each recipient.
        deliveredBytes: total of their payloads.
        delivery: how many publications took up to each of `twisted_ws.telemetry.counts.SECONDS` seconds, and longer, until all
            here that keep up had them; totals, not added up. See `quantile`.
        lag: the same for how late the reactor did what was due.
        sendQueue: bytes that wait for all peers.
        sendQueueLimit: beyond this, the connection for which most waits is ended.
        receiveQueue: bytes from all peers that are not whole or not handled yet.
        cpu: total of seconds of processor time.
        rss: bytes of resident memory.
        fds: open descriptors; 0 if the system does not say.
        maxFds: how many there may be.
        readiness: why it takes no new traffic, as in the answer of ``/readyz``; "" if it does.
    """

    time: float
    node: str
    started: float
    callers: int
    streams: int
    polls: int
    limit: int
    channels: int
    subscriptions: int
    received: int
    sent: int
    published: int
    refused: int
    deliveries: int
    deliveredBytes: int
    delivery: list[int]
    lag: list[int]
    sendQueue: int
    sendQueueLimit: int
    receiveQueue: int
    cpu: float
    rss: int
    fds: int
    maxFds: int
    readiness: str


def memoryOf(server: WebSocketServer) -> MemoryEngine | None:
    """Return the engine in memory if it is in this process: the server's own, or that of a supervisor."""
    engine: Any = server.engine
    engine = getattr(engine, "engine", engine)  # that of a hub
    return engine if isinstance(engine, MemoryEngine) else None


def now(server: WebSocketServer) -> Now:
    """Return how a server of this process is; it takes some tens of microseconds, however many callers there are."""
    runtime, counts, process, memory = server.runtime, server.counts, look(), memoryOf(server)
    return Now(
        time=runtime.unixTime(),
        node=server.node.id,
        started=process.started,
        callers=len(server.callers),
        streams=counts.streams,
        polls=counts.polls,
        limit=runtime.gate.limit,
        channels=-1 if memory is None else len(memory),
        subscriptions=server.channels.subscriptions,
        received=received(server)[0],
        sent=counts.sent,
        published=sum(counts.published.values()),
        refused=sum(counts.publishErrors.rows.values()),
        deliveries=counts.deliveries,
        deliveredBytes=counts.deliveredBytes,
        delivery=[*counts.delivery.counts],
        lag=[*runtime.wheel.lag.counts],
        sendQueue=runtime.backlog.total,
        sendQueueLimit=runtime.limits.maxSendBufferTotal,
        receiveQueue=runtime.intake.total,
        cpu=process.cpu,
        rss=process.rss,
        fds=process.fds,
        maxFds=process.maxFds,
        readiness=server.readiness() or "",
    )


def received(server: WebSocketServer) -> tuple[int, int]:
    """Return how many messages have come from callers, and the bytes of their frames."""
    counts, group = server.counts, server.runtime.group
    if group is None:
        return counts.received, counts.receivedBytes
    return counts.received + group.sockets.messages, counts.receivedBytes + group.sockets.frameBytes


def quantile(share: float, after: Sequence[int], before: Sequence[int] = (), bounds: Sequence[float] = SECONDS) -> float | None:
    """Return the value that a share of the counted values did not exceed, as the upper end of its bucket.

    Args:
        share: 0.5 for the median.
        after: the counts of buckets.
        before: those of an earlier look, to leave out; with other counts than `after`, as of another process, it is ignored.
        bounds: the upper ends of the buckets.

    Returns:
        None if nothing was counted; infinity above the last bound.
    """
    counts = [*after]
    if len(before) == len(counts) and all(new >= old for new, old in zip(after, before, strict=True)):
        counts = [new - old for new, old in zip(after, before, strict=True)]
    total = sum(counts)
    if not total:
        return None
    seen = 0
    for bound, count in zip((*bounds, float("inf")), counts, strict=True):
        seen += count
        if seen >= share * total:
            return bound
    return float("inf")
