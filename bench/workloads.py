"""The workloads, and the rows of figures that they yield. To add a workload, add an entry to `WORKLOADS`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench.figures import Row, Target
from bench.peers import PEERS, Peer
from bench.running import Failed, Load, Server, others, publishing, started

__all__ = ["WORKLOADS", "Effort", "Sample", "Workload"]

# Seconds of the same work before counting begins, to warm up just-in-time compilers and caches.
WARM = 0.5
# The sample of one workload for one server: figures by row; "busy", the share of core 0 that the server used; and "others", the
# share that went to other processes, or to other virtual machines on the same processor.
Sample = Mapping[str, float]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: the number of times that each workload runs for each peer.
        seconds: the duration of each measurement.
        quick: whether long workloads may be shortened.
    """

    rounds: int = 3
    seconds: float = 2.5
    quick: bool = False


@dataclass(frozen=True)
class Workload:
    """One kind of work.

    Attributes:
        name: its short name on the command line.
        run: runs it once against a server.
        rows: the figures that it yields.
        peers: the keys of the peers that take part; () for all that can.
        needs: returns whether a peer is able to take part.
        rounds: the maximum number of rounds.
    """

    name: str
    run: Callable[[Server, Effort], Sample]
    rows: tuple[Row, ...]
    peers: tuple[str, ...] = ()
    needs: Callable[[Peer], bool] = lambda peer: True
    rounds: int = 99

    def takes(self, peer: Peer) -> bool:
        """Return whether a peer takes part."""
        return (peer.key in self.peers if self.peers else not peer.apart) and self.needs(peer)


def _shares(server: Server, seconds: float) -> dict[str, float]:
    """Wait this long, and return "busy" and "others", measured in the middle of that time."""
    time.sleep(seconds * 0.15)
    begin, used, lost = time.monotonic(), server.cpu(), others()
    time.sleep(seconds * 0.7)
    used, lost, passed = server.cpu() - used, others() - lost, time.monotonic() - begin
    return {"busy": used / passed, "others": max(lost, 0.0) / passed}


def _echo(row: str, size: int, tls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Measure round trips of 64 clients, each with one message in flight."""

    def run(server: Server, effort: Effort) -> Sample:
        with Load("echo", server, 64, size, effort.seconds, tls=tls, options=("-w", WARM)) as load:
            load.opened()
            time.sleep(WARM)
            shares = _shares(server, effort.seconds)
            return {row: load.figures()["rate"], **shares}

    return run


def _fanOut(row: str, tls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Measure deliveries to 1,000 clients of 125-byte messages, posted one after another."""

    def run(server: Server, effort: Effort) -> Sample:
        with Load("fanout", server, 1000, effort.seconds, tls=tls, options=("-w", WARM)) as load:
            load.opened()
            with publishing(server, 125, effort.seconds + WARM + 10):
                time.sleep(WARM)
                shares = _shares(server, effort.seconds)
                return {row: load.figures()["rate"], **shares}

    return run


CHANNEL = "/channels/bench"


def _channel(server: Server, effort: Effort) -> Sample:
    """Measure deliveries through a channel with history against those of a plain broadcast, alternating."""
    by = {"plain": server, "channel": replace(server, peer=replace(server.peer, path=CHANNEL, broadcast=CHANNEL))}
    rates: dict[str, list[float]] = {"plain": [], "channel": []}
    for way in ("plain", "channel", "channel", "plain"):
        rates[way].append(_fanOut(way)(by[way], effort)[way])
        time.sleep(0.3)  # closing so many connections takes time, too
    plain, channel = sum(rates["plain"]), sum(rates["channel"])
    return {"channel": channel / plain, "plain rate": plain / 2, "channel rate": channel / 2}


PACE = 100  # messages per second that leave every server time


def _paced(row: str, path: str | None = None) -> Callable[[Server, Effort], Sample]:
    """Measure the processor time, over all processes of the server, of a message to 1,000 clients; some come each second.

    Args:
        row: the name of the figure.
        path: that of a channel; None: the message is for all callers.
    """

    def run(server: Server, effort: Effort) -> Sample:
        if path is not None:
            server = replace(server, peer=replace(server.peer, path=path, broadcast=path))
        seconds = 2 * effort.seconds
        posts = round(PACE * seconds)
        with Load("fanout", server, 1000, 10 * seconds, options=("-n", posts * 1000)) as load:
            load.opened()
            if path is not None:
                server.subscribed(1000)
            time.sleep(0.5)
            used = server.cpu()
            with publishing(server, 125, 8 * seconds, rate=PACE, posts=posts) as publisher:
                if publisher.wait():
                    raise Failed(f"{server.peer.title}: not all messages could be posted")
            used = server.cpu() - used
            return {row: used / posts * 1e6, f"{row} p50": load.figures()["p50"]}

    return run


PUBLISHERS = 4  # a single one would wait for the server of an engine


def _postAll(server: Server, each: int, seconds: float) -> float:
    """Let several publishers post so many messages each, and return the processor time of the server."""
    used = server.cpu()
    with ExitStack() as stack:
        publishers = [stack.enter_context(publishing(server, 125, seconds, posts=each)) for _ in range(PUBLISHERS)]
        for publisher in publishers:
            if publisher.wait():
                raise Failed(f"{server.peer.title}: not all messages could be posted")
    return server.cpu() - used


def _channelFanOut(row: str) -> Callable[[Server, Effort], Sample]:
    """Measure deliveries of a channel to 1,000 clients, per second of the server's processor time."""

    def run(server: Server, effort: Effort) -> Sample:
        server = replace(server, peer=replace(server.peer, path=CHANNEL, broadcast=CHANNEL))
        each = round(75 * effort.seconds)
        deliveries = PUBLISHERS * each * 1000
        with Load("fanout", server, 1000, 60 * effort.seconds, options=("-n", deliveries)) as load:
            load.opened()
            server.subscribed(1000)
            time.sleep(0.5)
            used = _postAll(server, each, 60 * effort.seconds)
            return {row: deliveries / used, f"{row} rate": load.figures()["rate"]}

    return run


def _enginePublish(server: Server, effort: Effort) -> Sample:
    """Measure publications to a channel that nobody hears, per second of the server's processor time."""
    server = replace(server, peer=replace(server.peer, broadcast=CHANNEL))
    each = round(2000 * effort.seconds)
    _postAll(server, each // 10, 60 * effort.seconds)
    begin = time.monotonic()
    used = _postAll(server, each, 60 * effort.seconds)
    return {"enginePublish": PUBLISHERS * each / used, "enginePublish rate": PUBLISHERS * each / (time.monotonic() - begin)}


def _metrics(server: Server, effort: Effort) -> Sample:
    """Measure what counting costs: the processor time of the same work without it, against that with it, alternating."""
    posts, echoes = round(30 * effort.seconds), round(100_000 * effort.seconds)
    publications = round(2500 * effort.seconds)

    def fanOut(server: Server) -> float:
        server = replace(server, peer=replace(server.peer, path=CHANNEL, broadcast=CHANNEL))
        with Load("fanout", server, 1000, 60 * effort.seconds, options=("-n", PUBLISHERS * posts * 1000)) as load:
            load.opened()
            time.sleep(0.5)
            return _postAll(server, posts, 60 * effort.seconds)

    def echo(server: Server) -> float:
        with Load("echo", server, 64, 125, 60 * effort.seconds, options=("-n", echoes)) as load:
            load.opened()
            used = server.cpu()
            found = load.figures()["msgs"]
            return (server.cpu() - used) / found

    def publish(server: Server) -> float:
        return _postAll(replace(server, peer=replace(server.peer, broadcast=CHANNEL)), publications, 60 * effort.seconds)

    # Servers are started anew each time: one process differs from the next of the same kind by as much as counting costs.
    uncounted = next(peer for peer in PEERS if peer.key == "uncounted")
    works = {"metricsFanOut": fanOut, "metricsEcho": echo, "metricsPublish": publish}
    spent = {(name, way): 0.0 for name in works for way in ("on", "off")}
    for turn in range(4):
        with started(replace(server.peer, key="counted")) as counted, started(uncounted) as without:
            both = [("on", counted), ("off", without)]
            for name, work in works.items():
                for way, each in both if turn % 2 else reversed(both):
                    spent[name, way] += work(each)
                    time.sleep(0.2)
    found = {name: spent[name, "off"] / spent[name, "on"] for name in works}
    found |= {f"{name} {way}": used for (name, way), used in spent.items()}
    return found


def _connects(row: str, tls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Measure handshakes per second of the server's processor time, 64 at a time; each connection ends as soon as it is open.

    A handshake costs a client about as much work as a fast server, so the load cannot always keep the server's core busy.
    """

    def run(server: Server, effort: Effort) -> Sample:
        with Load("connect", server, 64, effort.seconds, tls=tls, options=("-w", WARM)) as load:
            load.opened()
            time.sleep(WARM)
            shares = _shares(server, effort.seconds)
            rate = load.figures()["open_rate"]
            return {row: rate / min(max(shares["busy"], 0.01), 1.0), **shares, "rate": rate}

    return run


def _token(server: Server, effort: Effort) -> Sample:
    """Measure the processor time of a handshake with a token that is known against that of one without, alternating."""
    by = {
        "plain": replace(server, peer=replace(server.peer, showsToken=False)),
        "token": replace(server, peer=replace(server.peer, path="/token")),
    }
    spent, opened = dict.fromkeys(by, 0.0), dict.fromkeys(by, 0.0)

    def connect(way: str, count: int) -> tuple[float, float]:
        used = server.cpu()
        with Load("connect", by[way], 64, 60, options=("-n", count)) as load:
            found = load.figures()["open"]
            time.sleep(0.2)  # until the last ones are closed, too
        return server.cpu() - used, found

    for way in by:
        connect(way, 1000)  # what the first connections load and build
    for way in ("plain", "token", "token", "plain") * 2:
        used, found = connect(way, round(2000 * effort.seconds))
        spent[way] += used
        opened[way] += found
    plain, token = (spent[way] / opened[way] * 1e6 for way in ("plain", "token"))
    return {"token": token / plain, "token us": token, "plain us": plain}


def _idle(row: str, tls: bool = False) -> Callable[[Server, Effort], Sample]:
    """Measure the resident memory of an open, silent connection."""

    def run(server: Server, effort: Effort) -> Sample:
        connections = 2000 if effort.quick else 5000
        with Load("connect", server, 16, 60, tls=tls, options=("-n", 100)) as few:  # what the first connections load and build
            few.figures()
        time.sleep(0.2)
        before = server.memory()
        with Load("idle", server, connections, 60, tls=tls) as load:
            load.opened()
            time.sleep(0.5)
            return {row: (server.memory() - before) / connections}

    return run


def _stalled(server: Server, effort: Effort) -> Sample:
    """Measure what one client that never reads costs the others, and the server.

    First fill the kernel's buffers for it, so that later messages wait in the server. Then measure the latency of 100 messages of
    512 bytes per second to 1,000 clients, of which the lower of two counts. At the end, send more messages than the server may
    keep.
    """

    def post(posts: int) -> None:
        with publishing(server, 16384, 60, posts=posts) as publisher:
            if publisher.wait():
                raise Failed(f"{server.peer.title}: not all messages could be posted")

    def delivery(stalled: int) -> tuple[float, int]:
        options = ("-g", "-k", "-w", WARM, "-r", stalled)
        with Load("fanout", server, 1000, 2 * effort.seconds, options=options) as load:
            load.opened()
            peak = before = server.memory()
            kept = -1
            while server.unsent() > kept:
                kept = server.unsent()
                post(20)
            load.begin()
            with publishing(server, 512, 60, rate=100):
                latency = load.figures()["p99"]
            for _ in range(20):
                post(5)
                peak = max(peak, server.memory())
            return latency, peak - before

    found: dict[int, list[tuple[float, int]]] = {0: [], 1: []}
    for stalled in (0, 1, 0, 1):
        found[stalled].append(delivery(stalled))
        time.sleep(0.5)
    (without, usual), (beside, grown) = (tuple(map(min, zip(*found[stalled], strict=True))) for stalled in (0, 1))
    return {"stalled": beside / without, "stalledMemory": max(grown - usual, 0), "p99 without": without, "p99 beside": beside}


GROWTH = (100, 1000, 5000, 15000)


def _growth(server: Server, effort: Effort) -> Sample:
    """Measure the processor time of a delivery, for the same number of deliveries to more and more clients."""
    total = 300_000 if effort.quick else 1_500_000
    found: dict[str, float] = {}
    for clients in GROWTH[:-1] if effort.quick else GROWTH:
        posts = total // clients
        with Load("fanout", server, clients, 120, options=("-n", posts * clients)) as load:
            load.opened()
            time.sleep(0.5)
            used = server.cpu()
            with publishing(server, 125, 120, posts=posts) as publisher:
                if publisher.wait():
                    raise Failed(f"{server.peer.title}: not all messages could be posted")
            found[f"growth{clients}"] = (server.cpu() - used) / (posts * clients) * 1e6
            load.figures()
        time.sleep(0.5)  # closing so many connections takes time, too
    found["growth"] = max(found.values()) / found[f"growth{GROWTH[0]}"]
    return found


def _flat(server: Server, effort: Effort) -> Sample:
    """Measure the resident memory after the first tenth of many connects, and after all of them."""
    total = 20_000 if effort.quick else 200_000
    found, done = {}, 0
    for count in (total // 10, total // 2, total):
        with Load("connect", server, 64, 120, options=("-n", count - done)) as load:
            load.figures()
        done = count
        time.sleep(0.5)
        found[f"after {count}"] = float(server.memory())
    return {**found, "flat": found[f"after {total}"] / found[f"after {total // 10}"]}


def _echoes(peer: Peer) -> bool:
    return peer.echoes


def _secure(peer: Peer) -> bool:
    return peer.secure and peer.key != "pure"


def _secureEcho(peer: Peer) -> bool:
    return peer.echoes and _secure(peer)


_KIB = 1024
WORKLOADS = (
    Workload(
        "fanout",
        _fanOut("fanout"),
        (
            Row(
                "fanout",
                "fan-out, 1,000 x 125 B, deliveries",
                targets=(
                    Target(0.90, "yardstick"),
                    Target(1.0, "picows"),
                    Target(1.0, "nchan"),
                    Target(1.0, "bun"),
                    Target(2.0, "stock", "pure"),
                ),
            ),
        ),
    ),
    Workload(
        "echo",
        _echo("echo", 125),
        (
            Row(
                "echo",
                "echo, 64 x 125 B, messages",
                targets=(Target(0.80, "yardstick"), Target(1.0, "picows"), Target(2.0, "stock", "pure")),
            ),
        ),
        needs=_echoes,
    ),
    Workload(
        "echo16k",
        _echo("echo16k", 16384),
        (Row("echo16k", "echo, 64 x 16 KiB, messages", targets=(Target(1.0, "picows"),)),),
        needs=_echoes,
    ),
    Workload(
        "connects",
        _connects("connects"),
        (Row("connects", "connects, per second of the server's core", targets=(Target(2.0, "stock"), Target(0.9, "picows"))),),
    ),
    Workload(
        "idle",
        _idle("idle"),
        (Row("idle", "idle memory of a connection", "bytes", less=True, targets=(Target(6 * _KIB),)),),
        needs=lambda peer: peer.key not in ("yardstick", "pure"),
    ),
    Workload(
        "tls-fanout",
        _fanOut("tls-fanout", tls=True),
        (Row("tls-fanout", "TLS fan-out, 1,000 x 125 B, deliveries", targets=(Target(1.0, "picows"),)),),
        needs=_secure,
    ),
    Workload(
        "tls-echo",
        _echo("tls-echo", 125, tls=True),
        (Row("tls-echo", "TLS echo, 64 x 125 B, messages", targets=(Target(0.8, "picows"),)),),
        needs=_secureEcho,
    ),
    Workload(
        "tls-connects",
        _connects("tls-connects", tls=True),
        (Row("tls-connects", "TLS handshakes, per second of the server's core", targets=(Target(1.0, "picows"),)),),
        needs=_secure,
    ),
    Workload(
        "tls-idle",
        _idle("tls-idle", tls=True),
        (Row("tls-idle", "idle memory of a TLS connection", "bytes", less=True, targets=(Target(24 * _KIB),)),),
        needs=_secure,
    ),
    Workload(
        "channel",
        _channel,
        (Row("channel", "fan-out through a channel with history / plain broadcast", "x", targets=(Target(0.95),)),),
        peers=("twisted_ws",),
    ),
    Workload(
        "metrics",
        _metrics,
        tuple(
            Row(row, f"{title}, counted / not counted", "x", targets=(Target(0.97),))
            for row, title in (
                ("metricsFanOut", "fan-out of a channel"),
                ("metricsEcho", "echo"),
                ("metricsPublish", "a POST to a channel that nobody hears"),
            )
        ),
        peers=("twisted_ws",),
    ),
    Workload(
        "token",
        _token,
        (
            Row(
                "token", "a handshake with a token that is known / without", "x", less=True, targets=(Target(1.25, peer="rules"),)
            ),
        ),
        peers=("rules",),
    ),
    Workload(
        "rules-fanout",
        _channelFanOut("rulesFanOut"),
        (
            Row(
                "rulesFanOut",
                "fan-out of a channel, with rules and without, deliveries per second of the server's core",
                targets=(Target(0.95, "twisted_ws", "rules"),),
            ),
        ),
        peers=("twisted_ws", "rules"),
    ),
    Workload(
        "workers-broadcast",
        _paced("workersBroadcast"),
        (
            Row(
                "workersBroadcast",
                "processor time of a broadcast to 1,000",
                "us",
                less=True,
                targets=(Target(1.10, "twisted_ws", "workers1"), Target(1.25, "twisted_ws", "workers2")),
            ),
        ),
        peers=("twisted_ws", "workers1", "workers2"),
    ),
    Workload(
        "workers-channel",
        _paced("workersChannel", CHANNEL),
        (
            Row(
                "workersChannel",
                "processor time of a publication to 1,000",
                "us",
                less=True,
                targets=(Target(1.10, "twisted_ws", "workers1"), Target(1.25, "twisted_ws", "workers2")),
            ),
        ),
        peers=("twisted_ws", "workers1", "workers2"),
    ),
    Workload(
        "engine-fanout",
        _channelFanOut("engineFanOut"),
        (
            Row(
                "engineFanOut",
                "fan-out of a channel, deliveries per second of the server's core",
                targets=(Target(0.90, "twisted_ws", "redis"),),
            ),
        ),
        peers=("twisted_ws", "redis"),
    ),
    Workload(
        "engine-publish",
        _enginePublish,
        (Row("enginePublish", "publications that nobody hears, per second of the server's core"),),
        peers=("twisted_ws", "workers1", "workers2", "redis"),
    ),
    Workload(
        "stalled",
        _stalled,
        (
            Row("stalled", "delivery, p99: with a stalled reader / without", "x", less=True, targets=(Target(1.10),)),
            Row("stalledMemory", "memory that a stalled reader takes", "bytes", less=True, targets=(Target(1.25 * _KIB * _KIB),)),
        ),
        peers=("twisted_ws",),
    ),
    Workload(
        "growth",
        _growth,
        (
            *(
                Row(f"growth{clients}", f"processor time of a delivery, {clients:,} clients", "us", less=True)
                for clients in GROWTH
            ),
            Row("growth", "the most expensive of these / that of 100 clients", "x", less=True, targets=(Target(1.15),)),
        ),
        peers=("yardstick", "twisted_ws"),
    ),
    Workload(
        "flat",
        _flat,
        (Row("flat", "memory after 200,000 connects / after the first tenth", "x", less=True, targets=(Target(1.05),)),),
        peers=("twisted_ws",),
        rounds=1,
    ),
)
