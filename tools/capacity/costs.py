"""The constants of the model, fitted from the measurements: microseconds of a core, and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from math import log, sqrt
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Costs", "Line", "busyIn", "fit", "read", "waking"]

_KIB = 1024
# The sizes of the messages that the measurements send.
_SMALL, _LARGE = 125, 4096


@dataclass(frozen=True)
class Line:
    """A cost that grows with the size of a message.

    Attributes:
        fixed: microseconds of an empty message.
        perKiB: microseconds for each KiB more.
    """

    fixed: float
    perKiB: float = 0

    def of(self, size: float) -> float:
        """Return the microseconds for a message of `size` bytes."""
        return self.fixed + self.perKiB * size / _KIB


@dataclass(frozen=True)
class Costs:
    """What one thing of each kind takes.

    A process that has nothing to do sleeps, and the longer it has slept, the more of what it needs has left the caches. What
    wakes it up costs `wake` and its like more, times the square root of the milliseconds that it has slept: an empirical law,
    which holds here from 0.02 ms to 10 ms (see `waking`).

    Attributes:
        wake: for the process that has the callers, alone or as a worker.
        publish: one process reads a POST, numbers the message, answers.
        begin: one process begins to send a message that it has published.
        deliver: one caller gets one message, among 1,000.
        deliverTls: the same with TLS.
        crowd: by how many connections the process has: how much more a delivery costs than among 1,000.
        answer: a caller's message is answered.
        answerTls: the same with TLS.
        connect: a connection from its SYN to its end.
        connectTls: the same with TLS.
        ping: a ping and its pong.
        pingTls: the same with TLS.
        hubWake: `wake` of the supervisor.
        hubPublish: the supervisor reads a POST, numbers the message, answers.
        hubWorker: the supervisor passes it on to one worker, and reads the acknowledgement, while it is busy: then those of
            several messages come together.
        hubAlone: how much more that costs when it is not, for each.
        receive: a worker reads a message from the supervisor, acknowledges it, and begins to send it.
        redisWake: `wake` of the database.
        redisPublish: the database numbers and keeps a message.
        redisNode: the database passes it on to one node.
        nodeWake: `wake` of a node that publishes.
        nodePublish: a node reads a POST, asks the database, answers.
        nodeReceive: a node reads a message from the database, and begins to send it.
        process: bytes of a process without callers.
        worker: bytes of a worker without callers.
        hub: bytes of the supervisor.
        connection: bytes of a connection in the process.
        connectionTls: the same with TLS.
        socket: bytes of a connection in the kernel.
    """

    wake: float
    publish: Line
    begin: float
    deliver: Line
    deliverTls: Line
    crowd: tuple[tuple[int, float], ...]
    answer: Line
    answerTls: Line
    connect: float
    connectTls: float
    ping: float
    pingTls: float
    hubWake: float
    hubPublish: Line
    hubWorker: Line
    hubAlone: float
    receive: Line
    redisWake: float
    redisPublish: Line
    redisNode: Line
    nodeWake: float
    nodePublish: Line
    nodeReceive: Line
    process: float
    worker: float
    hub: float
    connection: float
    connectionTls: float
    socket: float

    def times(self, factor: float) -> Costs:
        """Return the constants of a machine whose cores take `factor` times as long for everything; bytes stay."""
        changed: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Line):
                changed[each.name] = Line(value.fixed * factor, value.perKiB * factor)
            elif each.name not in ("crowd", "process", "worker", "hub", "connection", "connectionTls", "socket"):
                changed[each.name] = value * factor
        return replace(self, **changed)

    def crowdFactor(self, connections: float) -> float:
        """Return how much more a delivery costs in a process with that many connections than in one with 1,000.

        Between what was measured it grows with the logarithm; above that, it is that of the largest crowd that was measured.
        """
        points = self.crowd
        if connections <= points[0][0]:
            return points[0][1]
        for (few, low), (many, high) in pairwise(points):
            if connections <= many:
                return low + (high - low) * log(connections / few) / log(many / few)
        return points[-1][1]


def busyIn(sample: Mapping[str, float]) -> float:
    """Return the share of time in which the core of all parts was at work: they run on one."""
    return min(sum(took for key, took in sample.items() if key.startswith("cpu ")) / 1e6 / sample["seconds"], 1)


class _Samples:
    """The samples of one measurement, as medians over its rounds."""

    def __init__(self, found: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
        self._found = found

    def figure(self, name: str, key: str = "cpu") -> float:
        """Return a figure."""
        return median(sample[key] for sample in self._found[name])

    def each(self, name: str, part: str) -> tuple[float, float]:
        """Return the microseconds that a part took for a publication, and what `waking` says of the core's sleep before that."""
        samples = self._found[name]
        return (
            median(sample[f"cpu {part}"] / sample["posts 0"] for sample in samples),
            median(waking(sample["posts 0"] / sample["seconds"], busyIn(sample)) for sample in samples),
        )

    def busy(self, name: str, part: str) -> float:
        """Return the share of a core that a part took."""
        return median(sample[f"cpu {part}"] / 1e6 / sample["seconds"] for sample in self._found[name])


def _through(small: float, large: float) -> Line:
    """Return the line through the costs of a small and of a large message; it falls with no size, whatever chance says."""
    slope = max((large - small) / (_LARGE - _SMALL), 0)
    return Line(max(small - slope * _SMALL, 0), slope * _KIB)


def waking(rate: float, busy: float) -> float:
    """Return the square root of the milliseconds that a process sleeps before each event.

    Args:
        rate: events per second.
        busy: the share of time in which its core is at work.
    """
    return sqrt(1000 * max(1 - busy, 0) / rate) if rate else 0.0


class _Sum:
    """Costs that are sums of unknown ones: finds those that explain all of them best, by their relative errors."""

    def __init__(self) -> None:
        self._rows: list[tuple[dict[str, float], float]] = []

    def add(self, cost: float, **terms: float) -> None:
        """Add a cost that was measured, and how often each unknown one is in it."""
        self._rows.append((terms, cost))

    def solve(self) -> dict[str, float]:
        """Return the unknown costs by name; what would be less than 0 is 0."""
        names = sorted({name for terms, _ in self._rows for name in terms})
        left = list(names)
        while True:
            found = dict(zip(left, self._least(left), strict=True))
            if not found or min(found.values()) >= 0:
                return {name: found.get(name, 0.0) for name in names}
            left.remove(min(found, key=lambda name: found[name]))

    def _least(self, names: Sequence[str]) -> list[float]:
        rows = [[*(terms.get(name, 0.0) / cost for name in names), 1.0] for terms, cost in self._rows]
        size = len(names)
        matrix = [[sum(row[a] * row[b] for row in rows) for b in range(size + 1)] for a in range(size)]
        for at in range(size):
            best = max(range(at, size), key=lambda row: abs(matrix[row][at]))
            matrix[at], matrix[best] = matrix[best], matrix[at]
            for row in range(size):
                if row != at:
                    factor = matrix[row][at] / matrix[at][at]
                    matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[at], strict=True)]
        return [matrix[row][size] / matrix[row][row] for row in range(size)]


_SMALL_KIB, _LARGE_KIB = _SMALL / _KIB, _LARGE / _KIB
# How much a run says which has callers at each of so many workers, in the order of their rates.
_WATCHING = ("watching slowly", "watching", "watching, 4 KiB", "watching, flat out")


def _sizeOf(name: str) -> float:
    return _LARGE_KIB if "4 KiB" in name else _SMALL_KIB


def _callerSide(samples: _Samples, grows: float) -> dict[str, float]:
    """Return what a process with callers takes: for its own publications, and for those of a hub and of a database.

    Args:
        samples: what was measured.
        grows: what a delivery takes more for each KiB.
    """
    total = _Sum()
    for name in ("publish seldom", "publish slowly", "publish", "publish 4 KiB"):
        cost, slept = samples.each(name, "server")
        total.add(cost, publish=1, publishKiB=_sizeOf(name), wake=slept)
    for count in (10, 100):
        cost, slept = samples.each(f"deliver to {count}", "server")
        total.add(cost, publish=1, publishKiB=_SMALL_KIB, begin=1, deliver=count, wake=slept)
    for count in (1, 2):
        for name in _WATCHING[:3]:
            cost, slept = samples.each(f"hub: {count} {name}", "workers")
            larger = 20 * grows * (_sizeOf(name) - _SMALL_KIB)
            total.add(cost / count - larger, receive=1, receiveKiB=_sizeOf(name), deliver=20, wake=slept)
    for name in _WATCHING[:3]:
        cost, slept = samples.each(f"redis: 1 {name}", "callers")
        larger = 10 * grows * (_sizeOf(name) - _SMALL_KIB)
        total.add(cost - larger, nodeReceive=1, nodeReceiveKiB=_sizeOf(name), deliver=10, wake=slept)
    return total.solve()


def _hubSide(samples: _Samples, publishKiB: float) -> dict[str, float]:
    """Return what the supervisor takes; reading a POST grows with its size as in one process."""
    total = _Sum()
    for name in ("hub: publish slowly", "hub: publish"):
        cost, slept = samples.each(name, "hub")
        total.add(cost - publishKiB * _SMALL_KIB, publish=1, wake=slept)
    for count in (1, 2):
        for name in (f"hub: {count} {each}" for each in _WATCHING):
            cost, slept = samples.each(name, "hub")
            free = 1 - samples.busy(name, "hub")
            size = _sizeOf(name)
            total.add(cost - publishKiB * size, publish=1, worker=count, workerKiB=count * size, alone=count * free, wake=slept)
    return total.solve()


def _databaseSide(samples: _Samples) -> tuple[dict[str, float], dict[str, float]]:
    """Return what the database takes, and what the node takes that publishes."""
    database, node = _Sum(), _Sum()
    runs = [(f"redis: {name}", 0) for name in ("publish slowly", "publish", "publish 4 KiB")]
    runs += [(f"redis: 1 {name}", 1) for name in _WATCHING[:3]] + [("redis: 2 watching", 2)]
    for name, count in runs:
        size = _sizeOf(name)
        cost, slept = samples.each(name, "redis")
        database.add(cost, publish=1, publishKiB=size, node=count, nodeKiB=count * size, wake=slept)
        cost, slept = samples.each(name, "publisher")
        node.add(cost, publish=1, publishKiB=size, wake=slept)
    return database.solve(), node.solve()


def fit(found: Mapping[str, Any]) -> Costs:
    """Return the constants for what `measure` has found."""
    samples = _Samples(found["samples"])

    def grows(small: str, large: str) -> float:
        more = samples.each(large, "server")[0] - samples.each(small, "server")[0]
        return max(more / 1000 / (_LARGE_KIB - _SMALL_KIB), 0)

    plain, secure = "deliver to 1,000", "deliver with TLS to 1,000"
    perKiB = grows(plain, "deliver 4 KiB to 1,000")
    perKiBTls = grows(secure, "deliver 4 KiB with TLS to 1,000")
    caller = _callerSide(samples, perKiB)
    wake, publish = caller["wake"], Line(caller["publish"], caller["publishKiB"])

    def delivery(name: str, count: int) -> float:
        cost, slept = samples.each(name, "server")
        return (cost - publish.of(_SMALL) - caller["begin"] - slept * wake) / count

    many = {count: delivery(f"deliver to {count:,}", count) for count in (1000, 5000, 15000)}
    crowd = {100: caller["deliver"], **many}
    hub = _hubSide(samples, publish.perKiB)
    database, node = _databaseSide(samples)
    answer = _through(samples.figure("answer"), samples.figure("answer 4 KiB"))
    return Costs(
        wake=wake,
        publish=publish,
        begin=caller["begin"],
        deliver=Line(many[1000] - perKiB * _SMALL_KIB, perKiB),
        deliverTls=Line(delivery(secure, 1000) - perKiBTls * _SMALL_KIB, perKiBTls),
        crowd=tuple((count, cost / many[1000]) for count, cost in crowd.items()),
        answer=answer,
        answerTls=Line(answer.fixed + samples.figure("answer with TLS") - samples.figure("answer"), answer.perKiB + perKiBTls),
        connect=samples.figure("connect"),
        connectTls=samples.figure("connect with TLS"),
        ping=samples.figure("silent", "ping"),
        pingTls=samples.figure("silent with TLS", "ping"),
        hubWake=hub["wake"],
        hubPublish=Line(hub["publish"], publish.perKiB),
        hubWorker=Line(hub["worker"], hub["workerKiB"]),
        hubAlone=hub["alone"],
        receive=Line(caller["receive"], caller["receiveKiB"]),
        redisWake=database["wake"],
        redisPublish=Line(database["publish"], database["publishKiB"]),
        redisNode=Line(database["node"], database["nodeKiB"]),
        nodeWake=node["wake"],
        nodePublish=Line(node["publish"], node["publishKiB"]),
        nodeReceive=Line(caller["nodeReceive"], caller["nodeReceiveKiB"]),
        process=samples.figure("silent", "empty process"),
        worker=samples.figure("empty workers", "worker"),
        hub=samples.figure("empty workers", "hub"),
        connection=samples.figure("silent", "process"),
        connectionTls=samples.figure("silent with TLS", "process"),
        socket=samples.figure("silent", "kernel"),
    )


def read(file: Path) -> Costs:
    """Return the constants for the measurements in a file."""
    return fit(json.loads(file.read_text()))
