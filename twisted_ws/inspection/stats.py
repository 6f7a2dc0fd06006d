"""Figures of the last seconds: what two looks at the counts of servers say together. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from twisted_ws.metrics.now import Now, quantile
from twisted_ws.telemetry.counts import SECONDS

# Looks that latencies are of: one a second.
WINDOW = 10
# Servers in one message.
NODES = 64
# What is worth a sentence: milliseconds that the reactor is late, shares of what there may be, seconds until a certificate ends.
LAG = 250
FULL = 0.9
QUEUED = 0.8
EXPIRES = 14 * 86400


class Stats(Struct, omit_defaults=True):
    """The figures of one server, or of all together."""

    websocket: int
    sse: int
    poll: int
    limit: int
    channels: int
    published: float
    delivered: float
    received: float
    delivery: tuple[float, float] | None
    lag: tuple[float, float] | None
    queue: int
    queueLimit: int
    slow: int
    dropped: float
    cpu: float
    memory: int
    id: str | UnsetType = UNSET
    worker: int | UnsetType | None = UNSET


class Problem(Struct):
    """What is wrong, in a sentence."""

    code: str
    count: int
    text: str


class Figures(Struct):
    """What is published once a second."""

    time: float
    total: Stats
    nodes: list[Stats]
    missing: list[str]
    problems: list[Problem]


class Look(Struct):
    """What one server says of itself.

    Attributes:
        now: its counts.
        worker: the number of the worker that it is; None if it is none.
        slow: callers for whom messages wait.
        dropped: total of messages that were dropped.
        engine: the state of its engine.
        expires: when its certificate ends, in Unix time; None if it has none.
    """

    now: Now
    worker: int | None
    slow: int
    dropped: int
    engine: str
    expires: float | None


class Watch:
    """Makes figures of looks."""

    def __init__(self) -> None:
        self._before: dict[str, deque[tuple[float, Look]]] = {}

    def figures(
        self, looks: Sequence[Look], missing: list[str], time: float, now: float, supervisor: Look | None = None
    ) -> Figures:
        """Return the figures since the last call, latencies since a few calls ago.

        Args:
            looks: what each server has said.
            missing: the ids of those that have not.
            time: Unix time.
            now: seconds of a monotonic clock.
            supervisor: the process that publishes for workers, and is no server itself; its share is in the total.
        """
        here = {each.now.node for each in (*looks, *(() if supervisor is None else (supervisor,)))}
        for node in [node for node in self._before if node not in here]:
            del self._before[node]
        nodes = [self._of(each, now) for each in looks]
        first = [self._before[each.now.node][0][1] for each in looks]
        total = _total(nodes, looks, first)
        if supervisor is not None:
            own = self._of(supervisor, now)
            # It has the channels, and knows how long it takes until all workers have a message.
            total.channels = max(total.channels, own.channels)
            total.delivery = own.delivery or total.delivery
            self._before[supervisor.now.node].append((now, supervisor))
            total.published = round(total.published + own.published, 1)
            total.cpu, total.memory = round(total.cpu + own.cpu, 3), total.memory + own.memory
        for each in looks:
            self._before[each.now.node].append((now, each))
        return Figures(round(time, 3), total, nodes[:NODES], missing, problems(total, nodes, looks, missing, time))

    def _of(self, look: Look, at: float) -> Stats:
        now = look.now
        known = self._before.get(now.node)
        if known is None:
            known = self._before[now.node] = deque([(at, look)], WINDOW)
        (since, before), first = known[-1], known[0][1].now
        seconds = at - since

        def rate(after: float, earlier: float) -> float:
            return round((after - earlier) / seconds, 1) if seconds > 0 and after > earlier else 0.0

        return Stats(
            now.callers,
            now.streams,
            now.polls,
            now.limit,
            max(now.channels, 0),
            rate(now.published, before.now.published),
            rate(now.deliveries + now.sent, before.now.deliveries + before.now.sent),
            rate(now.received, before.now.received),
            _both(now.delivery, first.delivery),
            _both(now.lag, first.lag),
            now.sendQueue,
            now.sendQueueLimit,
            look.slow,
            rate(look.dropped, before.dropped),
            round((now.cpu - before.now.cpu) / seconds, 3) if seconds > 0 else 0.0,
            now.rss,
            now.node,
            look.worker,
        )


def _both(after: Sequence[int], before: Sequence[int]) -> tuple[float, float] | None:
    """Return the median and the 99th percentile of what was counted meanwhile, in milliseconds; None for nothing."""
    if sum(after) <= sum(before) and list(after) == list(before):
        return None
    found = [quantile(share, after, before) for share in (0.5, 0.99)]
    longest = 2 * SECONDS[-1]
    shown = [round(1000 * min(each, longest), 1) for each in found if each is not None]
    return (shown[0], shown[1]) if len(shown) == 2 else None


def _total(nodes: Sequence[Stats], looks: Sequence[Look], first: Sequence[Look]) -> Stats:
    def sum_(name: str) -> float:
        return float(round(sum(getattr(each, name) for each in nodes), 3))

    def count(name: str) -> int:
        return int(sum(getattr(each, name) for each in nodes))

    def together(name: str) -> tuple[float, float] | None:
        after = [sum(each) for each in zip(*(getattr(look.now, name) for look in looks), strict=True)]
        before = [sum(each) for each in zip(*(getattr(look.now, name) for look in first), strict=True)]
        return _both(after, before)

    return Stats(
        count("websocket"),
        count("sse"),
        count("poll"),
        count("limit"),
        max((each.channels for each in nodes), default=0),
        sum_("published"),
        sum_("delivered"),
        sum_("received"),
        together("delivery"),
        together("lag"),
        count("queue"),
        count("queueLimit"),
        count("slow"),
        sum_("dropped"),
        sum_("cpu"),
        count("memory"),
    )


def problems(total: Stats, nodes: Sequence[Stats], looks: Sequence[Look], missing: Sequence[str], time: float) -> list[Problem]:
    """Return what is wrong, the worst first."""
    found = []
    if missing:
        found.append(Problem("missing", len(missing), f"{_servers(len(missing))} not answer: {', '.join(missing[:5])}."))
    down = sum(each.engine == "down" for each in looks)
    if down:
        found.append(Problem("engine", down, f"The engine cannot be reached from {down} of {len(looks)} servers."))
    late = [each for each in nodes if each.lag is not None and each.lag[1] > LAG]
    if late:
        worst = max(each.lag[1] for each in late if each.lag is not None)
        found.append(Problem("lag", len(late), f"The reactor is up to {worst:g} ms late: a handler may be blocking it."))
    if total.dropped:
        found.append(
            Problem("dropped", round(total.dropped), f"{total.dropped:g} messages a second are dropped for slow callers.")
        )
    if total.slow:
        who = "1 caller takes" if total.slow == 1 else f"{total.slow} callers take"
        found.append(Problem("slow", total.slow, f"{who} messages more slowly than they arrive."))
    if total.queueLimit and total.queue > QUEUED * total.queueLimit:
        share = round(100 * total.queue / total.queueLimit)
        found.append(
            Problem("queue", share, f"{share} % of the room for unsent messages is used: the largest caller will be closed.")
        )
    full = sum(0 < each.limit <= (each.websocket + each.sse + each.poll) / FULL for each in nodes)
    if full:
        found.append(Problem("connections", full, "There is almost no room for more connections (max-connections, descriptors)."))
    files = sum(0 < each.now.maxFds <= each.now.fds / FULL for each in looks)
    if files:
        found.append(Problem("files", files, "Nearly all file descriptors are in use: raise the limit (LimitNOFILE, ulimit -n)."))
    draining = sum(each.now.readiness == "draining" for each in looks)
    if draining:
        found.append(Problem("draining", draining, f"{_servers(draining, 'is', 'are')} about to stop."))
    expires = min((each.expires for each in looks if each.expires is not None), default=None)
    if expires is not None and expires - time < EXPIRES:
        days = int((expires - time) // 86400)
        when = f"expires in {days} days" if days > 1 else "expires within two days" if days >= 0 else "has expired"
        found.append(Problem("certificate", 1, f"The certificate {when}."))
    return found


def _servers(count: int, one: str = "does", many: str = "do") -> str:
    return f"1 server {one}" if count == 1 else f"{count} servers {many}"
