"""Every metric: its name, type and labels, what it says, and where its value is; the table of the reference is made from this.

A label has few values, which nobody outside chooses: never a channel, user, address or text. `namespace` is the pattern of a
table ``[channels]``, `service` a mounted path (of handlers: the class), `key` a name from the file of API keys.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from twisted_ws import __version__
from twisted_ws.engines.contract import EngineState
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.metrics.garbage import PAUSES
from twisted_ws.metrics.now import memoryOf, received
from twisted_ws.metrics.process import Process
from twisted_ws.telemetry.counts import RECIPIENTS, SECONDS, Buckets, BucketTable, Table
from twisted_ws.wire import speedups

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.telemetry.counts import Counts

# Before the name of each metric but those that every process has.
PREFIX = "twisted_ws_"


class Kind(Enum):
    """What a number means to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class OutboxCounts(Protocol):
    """What is read from the outbox.

    Attributes:
        isUp: whether its table can be read.
        waiting: the rows that wait.
        lag: the age of the oldest of them, in seconds.
        published: the rows that were published.
        refused: the rows that never can be.
    """

    @property
    def isUp(self) -> bool: ...  # noqa: D102
    @property
    def waiting(self) -> int: ...  # noqa: D102
    @property
    def lag(self) -> float: ...  # noqa: D102
    @property
    def published(self) -> int: ...  # noqa: D102
    @property
    def refused(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Source:
    """What values are read from.

    Attributes:
        server: the server.
        process: what its process uses.
        audit: the lines of the audit log that are lost; None without one.
        logs: the lines of the log that are lost; None if nobody knows.
        certificate: Unix time at which the certificate in use expires; None without one.
        handshakes: those of TLS that have ended; None without TLS.
        workers: how many workers accept connections, by state; None without workers.
        outbox: the outbox; None without one.
    """

    server: WebSocketServer
    process: Process
    audit: int | None = None
    logs: int | None = None
    certificate: float | None = None
    handshakes: Table | None = None
    workers: Mapping[str, int] | None = None
    outbox: OutboxCounts | None = None

    @property
    def counts(self) -> Counts:
        """What has happened at the server."""
        return self.server.counts


# What a metric reads: one number, several by their labels, or nothing, if there is no such thing here.
Reading = int | float | Buckets | Table | BucketTable | Mapping[Any, Any] | None


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without what comes before and after it (see `fullName`).
        kind: its type.
        help: what it says, in one sentence.
        read: returns its present value.
        labels: the names of its labels.
        bounds: of a histogram.
    """

    name: str
    kind: Kind
    help: str
    read: Callable[[Source], Reading]
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = SECONDS

    @property
    def family(self) -> str:
        """The name as it is in OpenMetrics, where a counter has none of its ``_total``."""
        return self.name if self.name.startswith("process_") else PREFIX + self.name

    @property
    def fullName(self) -> str:
        """The name as it is in a query; a histogram has three, which end with ``_bucket``, ``_count`` and ``_sum``."""
        return self.family + ("_total" if self.kind is Kind.COUNTER else "")

    def rows(self, source: Source) -> list[Row]:
        """Return its present values."""
        return [*_rows(self.read(source))]


# The values of the labels, and a number; or for a histogram the counts of its buckets, not added up, and the sum of the values.
Row = tuple[tuple[str, ...], int | float | tuple[list[int], float]]


def _rows(reading: Reading) -> Iterable[Row]:
    match reading:
        case None:
            return []
        case Buckets():
            return [((), _frozen(reading))]
        case Table():
            return [*reading.rows.items()]
        case BucketTable():
            return [(labels, _frozen(each)) for labels, each in reading.rows.items()]
        case Mapping():
            return [
                (labels if isinstance(labels, tuple) else (labels,), _frozen(each) if isinstance(each, Buckets) else each)
                for labels, each in reading.items()
            ]
        case _:
            return [((), reading)]


def _frozen(buckets: Buckets) -> tuple[list[int], float]:
    return [*buckets.counts], buckets.sum


def _connections(source: Source) -> Mapping[Any, int]:
    counts = source.counts
    return {"websocket": len(source.server.callers), "sse": counts.streams, "poll": counts.polls}


def _ofEngine(read: Callable[[MemoryEngine], int]) -> Callable[[Source], int | None]:
    def find(source: Source) -> int | None:
        engine = memoryOf(source.server)
        return None if engine is None else read(engine)

    return find


def _resting(source: Source) -> Mapping[Any, int]:
    found: dict[Any, int] = {}
    for name, each in source.server.authenticators.items():
        resting = getattr(each, "isResting", None)
        if resting is not None:
            found[name] = int(resting)
    return found


def _build(source: Source) -> Mapping[Any, int]:
    return {(__version__, platform.python_version(), "compiled" if speedups.compiled else "python"): 1}


COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS = (
    # Connections.
    Metric(
        "connections", GAUGE, "Connections of clients that are open; of polls, those that wait.", _connections, ("transport",)
    ),
    Metric(
        "connections_limit",
        GAUGE,
        "How many connections may be open, as settings and descriptors allow; 0 if nothing limits them.",
        lambda source: source.server.gate.limit,
    ),
    Metric(
        "connections_opened",
        COUNTER,
        "WebSocket connections and event streams that were opened.",
        lambda source: source.counts.opened,
        ("transport", "service"),
    ),
    Metric(
        "connections_closed",
        COUNTER,
        "WebSocket connections and event streams that have ended, by close code (other: a service's own) and who has ended them.",
        lambda source: source.counts.closed,
        ("transport", "code", "by"),
    ),
    Metric(
        "connections_refused",
        COUNTER,
        "Connections and handshakes that were refused, by reason.",
        lambda source: source.counts.turnedAway,
        ("reason",),
    ),
    Metric(
        "handshake_seconds",
        HISTOGRAM,
        "From the head of a handshake to its 101, with authentication and onUpgrade.",
        lambda source: source.counts.handshake,
    ),
    Metric(
        "tls_handshakes",
        COUNTER,
        "TLS handshakes that have ended.",
        lambda source: source.handshakes,
        ("version", "result"),
    ),
    # Who it is.
    Metric(
        "authentications",
        COUNTER,
        "Requests for which authenticators decided who sent them; by is empty if none had anything to say.",
        lambda source: source.counts.authentications,
        ("by", "result"),
    ),
    Metric(
        "authentication_seconds",
        HISTOGRAM,
        "How long authenticators that had to ask another server took.",
        lambda source: source.counts.authentication,
        ("by",),
    ),
    Metric(
        "identities_expired",
        COUNTER,
        "Connections that were closed because their credentials had expired.",
        lambda source: source.counts.expired,
        ("transport",),
    ),
    Metric(
        "identities_refreshed",
        COUNTER,
        "Credentials that were replaced by new ones over an open connection.",
        lambda source: source.counts.renewed,
    ),
    Metric(
        "hook_open",
        GAUGE,
        "1 while an authenticator's back end has failed so often that it is not asked.",
        _resting,
        ("by",),
    ),
    # Messages.
    Metric(
        "messages_received",
        COUNTER,
        "Messages that came from WebSocket callers.",
        lambda source: received(source.server)[0],
    ),
    Metric(
        "received_bytes",
        COUNTER,
        "Bytes that came over WebSocket connections, with the headers of frames.",
        lambda source: received(source.server)[1],
    ),
    Metric(
        "messages_sent",
        COUNTER,
        "Messages to one WebSocket caller alone: replies, and what a service writes to it.",
        lambda source: source.counts.sent,
    ),
    Metric(
        "deliveries",
        COUNTER,
        "Messages to many, published or broadcast, counted once for each client that took them.",
        lambda source: source.counts.deliveries,
    ),
    Metric(
        "delivered_bytes",
        COUNTER,
        "Payload bytes of messages to many, counted once for each client that took them.",
        lambda source: source.counts.deliveredBytes,
    ),
    Metric(
        "published",
        COUNTER,
        "Messages that were published to channels here.",
        lambda source: source.counts.published,
        ("source", "namespace"),
    ),
    Metric(
        "outbox_up",
        GAUGE,
        "1 while the table of the outbox can be read, by this server or another; 0 while it cannot.",
        lambda source: None if source.outbox is None else int(source.outbox.isUp),
    ),
    Metric(
        "outbox_waiting",
        GAUGE,
        "Rows of the outbox that wait to be published, up to 100,000; looked at every 5 seconds.",
        lambda source: None if source.outbox is None else source.outbox.waiting,
    ),
    Metric(
        "outbox_lag_seconds",
        GAUGE,
        "The age of the oldest row of the outbox that waits; 0 if none does.",
        lambda source: None if source.outbox is None else source.outbox.lag,
    ),
    Metric(
        "outbox_published",
        COUNTER,
        "Rows of the outbox that were published here.",
        lambda source: None if source.outbox is None else source.outbox.published,
    ),
    Metric(
        "outbox_refused",
        COUNTER,
        "Rows of the outbox that can never be published; they are in the table, with the reason.",
        lambda source: None if source.outbox is None else source.outbox.refused,
    ),
    Metric(
        "publish_errors",
        COUNTER,
        "Publications that were refused or failed.",
        lambda source: source.counts.publishErrors,
        ("code",),
    ),
    Metric(
        "delivery_seconds",
        HISTOGRAM,
        "From a publication to the moment when the kernel has it for everybody who keeps up.",
        lambda source: source.counts.delivery,
    ),
    Metric(
        "delivery_wait_seconds",
        HISTOGRAM,
        "How long the oldest message of a client that is behind has waited, looked at once a second.",
        lambda source: source.counts.wait,
    ),
    Metric(
        "recipients",
        HISTOGRAM,
        "How many clients took a publication.",
        lambda source: source.counts.recipients,
        bounds=RECIPIENTS,
    ),
    Metric(
        "messages_dropped",
        COUNTER,
        "Messages that a slow client did not get because of its policy; with latest, those that a newer one has replaced.",
        lambda source: source.counts.dropped,
        ("policy", "namespace"),
    ),
    Metric(
        "slow_consumers",
        COUNTER,
        "Connections that were closed because the client was too slow.",
        lambda source: source.counts.slow,
        ("transport",),
    ),
    Metric(
        "subscribers_behind",
        GAUGE,
        "Clients for which messages of channels wait.",
        lambda source: len(source.server.channels.behind),
    ),
    Metric(
        "resumes",
        COUNTER,
        "Subscriptions that came back: recovered, or lost because the history had moved on.",
        lambda source: source.counts.resumes,
        ("result", "transport"),
    ),
    Metric(
        "resumed_messages",
        COUNTER,
        "Messages that subscriptions that came back had missed, and got from the history.",
        lambda source: source.counts.resumed,
    ),
    # What is held.
    Metric("send_queue_bytes", GAUGE, "Bytes that wait for all clients.", lambda source: source.server.runtime.backlog.total),
    Metric(
        "send_queue_limit_bytes",
        GAUGE,
        "Bytes that may wait for all clients; beyond them, the client with the most is disconnected.",
        lambda source: source.server.limits.maxSendBufferTotal,
    ),
    Metric(
        "receive_queue_bytes",
        GAUGE,
        "Bytes from all clients that are not whole or not handled yet.",
        lambda source: source.server.runtime.intake.total,
    ),
    Metric("history_bytes", GAUGE, "Bytes charged for the history of all channels.", _ofEngine(lambda engine: engine.bytes)),
    Metric("history_messages", GAUGE, "Messages in the history of all channels.", _ofEngine(lambda engine: engine.messages)),
    Metric("channels", GAUGE, "Channels that the engine in memory knows.", _ofEngine(len)),
    Metric(
        "subscriptions",
        GAUGE,
        "Subscriptions to channels and patterns.",
        lambda source: source.server.channels.subscriptions,
    ),
    Metric(
        "presence_members",
        GAUGE,
        "Connections of users that are present on a channel, counted for each channel.",
        lambda source: len(source.server.channels.presence),
    ),
    Metric("idempotency_keys", GAUGE, "Idempotency keys that are remembered.", _ofEngine(lambda engine: engine.keys)),
    # Services.
    Metric(
        "handler_seconds",
        HISTOGRAM,
        "How long handlers that had to wait for something took; the others show in reactor_lag_seconds.",
        lambda source: source.counts.handling,
        ("service", "event"),
    ),
    Metric(
        "handler_errors",
        COUNTER,
        "Exceptions that handlers and hooks of services raised.",
        lambda source: source.counts.handlerErrors,
        ("service", "event"),
    ),
    Metric("handlers_running", GAUGE, "Handlers that wait for something now.", lambda source: source.counts.running),
    # HTTP.
    Metric(
        "http_requests",
        COUNTER,
        "Requests over HTTP that were answered, with the class of the status.",
        lambda source: source.counts.requests,
        ("site", "operation", "status"),
    ),
    Metric(
        "http_request_seconds",
        HISTOGRAM,
        "From the head of a request to its answer, without event streams and polls.",
        lambda source: source.counts.request,
        ("operation",),
    ),
    Metric(
        "api_calls",
        COUNTER,
        "Calls of publishers, by the name of their key.",
        lambda source: source.counts.calls,
        ("key", "operation"),
    ),
    # The process.
    Metric(
        "reactor_lag_seconds",
        HISTOGRAM,
        "How late the reactor did what was due, four times a second: what a handler that blocks costs everybody.",
        lambda source: source.server.runtime.wheel.lag,
    ),
    Metric(
        "gc_pause_seconds",
        HISTOGRAM,
        "Pauses of the garbage collector.",
        lambda source: PAUSES,
        ("generation",),
    ),
    Metric(
        "engine_up",
        GAUGE,
        "1 while the engine of channels works; 0 while nothing can be published.",
        lambda source: int(source.server.engine.state is EngineState.UP),
    ),
    Metric(
        "engine_slow",
        GAUGE,
        "1 while the engine works, but takes more than a second to answer.",
        lambda source: int(source.server.engine.isSlow),
    ),
    Metric(
        "engine_seconds",
        HISTOGRAM,
        "How long an engine in another process took to answer; for publications, see delivery_seconds.",
        lambda source: getattr(source.server.engine, "times", None),
        ("op",),
    ),
    Metric(
        "engine_repairs",
        COUNTER,
        "How often messages of a channel were asked for again, because some had not come or the engine was away.",
        lambda source: source.counts.refills,
    ),
    Metric("log_lines_lost", COUNTER, "Lines of the log that could not be written.", lambda source: source.logs),
    Metric("audit_lines_lost", COUNTER, "Lines of the audit log that could not be written.", lambda source: source.audit),
    Metric(
        "certificate_expiry_timestamp_seconds",
        GAUGE,
        "Unix time at which the certificate in use expires.",
        lambda source: source.certificate,
    ),
    Metric("draining", GAUGE, "1 while the server asks everybody to leave.", lambda source: int(source.server.isStopping)),
    Metric(
        "workers",
        GAUGE,
        "Workers that accept connections, and workers that should.",
        lambda source: source.workers,
        ("state",),
    ),
    Metric("build_info", GAUGE, "Which version this is; always 1.", _build, ("version", "python", "speedups")),
    # As everywhere.
    Metric("process_cpu_seconds", COUNTER, "Processor time, in seconds.", lambda source: source.process.cpu),
    Metric("process_resident_memory_bytes", GAUGE, "Resident memory.", lambda source: source.process.rss),
    Metric("process_open_fds", GAUGE, "Open descriptors.", lambda source: source.process.fds),
    Metric("process_max_fds", GAUGE, "How many descriptors may be open.", lambda source: source.process.maxFds),
    Metric("process_start_time_seconds", GAUGE, "Unix time at which the process began.", lambda source: source.process.started),
)
