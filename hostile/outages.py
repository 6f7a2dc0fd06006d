"""Faults of several processes that serve the same channels, and of what is between them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from hostile.cluster import CarefulSentinels, Cluster, Nodes, NodesOnRedis, NodesWithWorkers, Sentinels, Workers, until
from hostile.faults import CHANNELS, Clients, FaultRow
from hostile.publisher import Publisher
from hostile.subscribers import KINDS
from hostile.valkey import Valkey

__all__ = ["OUTAGES", "Outage", "Stage", "endure"]

# Seconds until a subscriber gives up a connection: longer than any fault, so that only the server ends connections.
SILENCE = 120.0
# Seconds that a publisher waits for an answer: longer than a server holds a message for an engine that is away.
PATIENCE = 8.0
_C = TypeVar("_C", bound=Cluster)


@dataclass
class Stage:
    """What an outage is applied to.

    Attributes:
        cluster: the servers.
        clients: the subscribers.
        publisher: the publisher.
        scale: the share of an outage's duration to run.
        healed: when what had failed was there again, or had gone for good (the monotonic clock's seconds).
    """

    cluster: Cluster
    clients: Clients
    publisher: Publisher
    scale: float = 1.0
    healed: float = 0.0

    def wait(self, seconds: float) -> None:
        """Let everything go on for a while."""
        time.sleep(seconds * self.scale)

    def heal(self) -> None:
        """Note that nothing fails any more."""
        self.healed = time.monotonic()

    def publish(self, count: int) -> None:
        """Wait until this many more messages are published to each channel."""
        wanted = {name: published + count for name, published in self.publisher.published.items()}
        until("more is published", lambda: all(self.publisher.published[name] >= count for name, count in wanted.items()))


@dataclass(frozen=True)
class Outage:
    """An outage.

    Attributes:
        name: its name, a few words.
        sentence: what happens.
        run: makes it happen.
        world: makes the servers.
        tells: whether losses may be reported to subscribers.
        belated: whether what is reported may have come before what has been delivered already.
        size: the size of each message in bytes.
        rate: messages per second.
        limits: the table ``[limits]`` of each daemon.
    """

    name: str
    sentence: str
    run: Callable[[Stage, Any], None]
    world: type[Cluster]
    tells: bool = False
    belated: bool = False
    size: int = 100
    rate: float = 100
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


OUTAGES: list[Outage] = []


def outage(name: str, world: type[_C], **more: Any) -> Callable[[Callable[[Stage, _C], None]], Callable[[Stage, _C], None]]:
    """Register a function as an outage; its docstring is the sentence."""

    def register(run: Callable[[Stage, _C], None]) -> Callable[[Stage, _C], None]:
        OUTAGES.append(Outage(name, " ".join((run.__doc__ or "").split()), run, world, **more))
        return run

    return register


# One machine: three workers and a hub.


@outage("worker killed", Workers)
def workerKilled(stage: Stage, cluster: Workers) -> None:
    """Each of three workers is killed (SIGKILL), one every 2 s."""
    (daemon,) = cluster.daemons
    for pid in cluster.workersOf(daemon):
        os.kill(pid, signal.SIGKILL)
        stage.heal()
        until("another worker", lambda pid=pid: _whole(cluster, pid))  # type: ignore[misc]
        stage.wait(2)


def _whole(cluster: Cluster, without: int) -> bool:
    found = [cluster.workersOf(daemon) for daemon in cluster.daemons]
    return all(len(workers) == cluster.workers and without not in workers for workers in found)


@outage("worker stopped", Workers)
def workerStopped(stage: Stage, cluster: Workers) -> None:
    """A worker is stopped (SIGSTOP) and never goes on: the supervisor has to notice."""
    pid = cluster.workersOf(cluster.daemons[0])[0]
    os.kill(pid, signal.SIGSTOP)
    stage.heal()
    until("another worker", lambda: _whole(cluster, pid))
    stage.wait(2)


@outage("rolling reload", Workers)
def rolled(stage: Stage, cluster: Workers) -> None:
    """All workers are replaced one by one (`twisted-ws reload --services`), twice."""
    (daemon,) = cluster.daemons
    for _ in range(2):
        before = cluster.workersOf(daemon)
        stage.heal()
        cluster.reloadServices(daemon)
        assert not set(before) & set(cluster.workersOf(daemon))
        stage.wait(2)


@outage("hub stopped", Workers)
def hubStopped(stage: Stage, cluster: Workers) -> None:
    """The supervisor, which has the hub, is stopped for 5 s (SIGSTOP), then goes on."""
    (daemon,) = cluster.daemons
    before = cluster.workersOf(daemon)
    daemon.signal(signal.SIGSTOP)
    stage.wait(5)
    daemon.signal(signal.SIGCONT)
    stage.heal()
    stage.wait(2)
    assert cluster.workersOf(daemon) == before, "workers have ended"


@outage("hub killed", Workers, tells=True)
def hubKilled(stage: Stage, cluster: Workers) -> None:
    """The supervisor is killed (SIGKILL) and started again at once, twice; its history was in memory and is gone."""
    for _ in range(2):
        cluster.daemons[0].kill()
        stage.publisher.generation += 1
        cluster.again(cluster.daemons[0])
        stage.heal()
        stage.wait(4)


# Three nodes and one server of Valkey.


@outage("nothing with an engine", Nodes)
def nothing(stage: Stage, cluster: Nodes) -> None:
    """Nothing fails."""
    stage.heal()
    stage.wait(4)


def _restarted(stage: Stage, cluster: Nodes) -> None:
    before = cluster.valkey.about("server")["run_id"] if cluster.valkey.process and cluster.valkey.process.poll() is None else ""
    cluster.valkey.start()
    stage.heal()
    assert cluster.valkey.about("server")["run_id"] != before
    stage.wait(4)


@outage("Valkey killed", Nodes)
def valkeyKilled(stage: Stage, cluster: Nodes) -> None:
    """Valkey is killed (SIGKILL) and restarted with its append-only file, which is written once a second; twice."""
    for _ in range(2):
        cluster.valkey.kill()
        stage.wait(1)
        _restarted(stage, cluster)


@outage("Valkey with older data", Nodes)
def valkeyOlder(stage: Stage, cluster: Nodes) -> None:
    """Valkey is killed, and restarted with the data that it had 3 s earlier."""
    cluster.valkey.save()
    stage.wait(3)
    stage.publish(10)
    cluster.valkey.kill()
    cluster.valkey.goBack()
    _restarted(stage, cluster)


@outage("Valkey without data", Nodes)
def valkeyEmpty(stage: Stage, cluster: Nodes) -> None:
    """Valkey is killed, and restarted empty."""
    cluster.valkey.kill()
    cluster.valkey.forget()
    _restarted(stage, cluster)


@outage("Valkey away for 12 s", Nodes)
def valkeyAway(stage: Stage, cluster: Nodes) -> None:
    """Valkey is killed, and restarted with its data 12 s later: publishers are refused meanwhile."""
    cluster.valkey.kill()
    stage.wait(12)
    _restarted(stage, cluster)


@outage("Valkey stopped", Nodes)
def valkeyStopped(stage: Stage, cluster: Nodes) -> None:
    """Valkey is stopped for 20 s (SIGSTOP), then goes on."""
    cluster.valkey.signal(signal.SIGSTOP)
    stage.wait(20)
    cluster.valkey.signal(signal.SIGCONT)
    stage.heal()
    stage.wait(4)


@outage("Valkey flushed", Nodes, tells=True)
def valkeyFlushed(stage: Stage, cluster: Nodes) -> None:
    """Somebody sends FLUSHALL."""
    cluster.valkey.ask("FLUSHALL")
    stage.heal()
    stage.wait(4)


@outage("failover by hand", Nodes)
def failedOver(stage: Stage, cluster: Nodes) -> None:
    """Valkey is killed; a replica that has missed the last 3 s is promoted by hand, and takes the address over."""
    cluster.replica.ask("REPLICAOF", "127.0.0.1", "1")
    stage.wait(3)
    stage.publish(10)
    cluster.valkey.kill()
    _promoted(stage, cluster)


def _promoted(stage: Stage, cluster: Nodes) -> None:
    cluster.replica.ask("REPLICAOF", "NO", "ONE")
    for way in cluster.ways:
        way.target = cluster.replica.port
    stage.heal()
    stage.wait(4)


@outage("failover by Sentinel", Sentinels)
def sentinels(stage: Stage, cluster: Sentinels) -> None:
    """Valkey is killed; three Sentinels promote a replica that has missed the last 3 s."""
    cluster.replica.ask("REPLICAOF", "127.0.0.1", "1")
    stage.wait(3)
    stage.publish(10)
    cluster.valkey.kill()
    until("a new primary", lambda: cluster.replica.about("replication")["role"] == "master")
    stage.heal()
    stage.wait(6)


@outage("split brain", Sentinels, tells=True, belated=True)
def splitBrain(stage: Stage, cluster: Sentinels) -> None:
    """The network falls apart: one node still reaches the primary, and Sentinels promote the replica for the two others.

    Both take messages for 6 s; then the network is whole again, and the old primary becomes a replica.
    """
    _split(stage, cluster)


@outage("split brain with min-replicas-to-write", CarefulSentinels, tells=True, belated=True)
def carefulSplit(stage: Stage, cluster: CarefulSentinels) -> None:
    """The same with two replicas, and a primary that has not heard of one for 2 s (`min-replicas-max-lag`) refuses messages."""
    _split(stage, cluster)


def _split(stage: Stage, cluster: Sentinels) -> None:
    cluster.way.divide(cluster.daemons[0].pid)
    until("a new primary", lambda: any(_isPrimary(each) for each in cluster.replicas))
    stage.wait(6)
    (new,) = filter(_isPrimary, cluster.replicas)
    assert _last(cluster.valkey) != _last(new), "only one has taken messages"
    cluster.way.heal()
    until("the old primary is a replica", lambda: not _isPrimary(cluster.valkey))
    stage.heal()
    stage.wait(4)


def _isPrimary(valkey: Valkey) -> bool:
    """Return whether a server is the primary, or has cut this question off: it does that when its role changes."""
    try:
        return valkey.about("replication")["role"] == "master"
    except OSError:
        return True


def _last(valkey: Valkey) -> list[str]:
    """Return the last message of a channel that a server has."""
    ((_, fields),) = valkey.ask("XREVRANGE", f"tw1:s:{CHANNELS[0]}", "+", "-", "COUNT", "1")
    return list(fields)


@outage("connections to Valkey cut", Nodes)
def connectionsCut(stage: Stage, cluster: Nodes) -> None:
    """All connections of all nodes to Valkey are cut (CLIENT KILL), ten times."""
    killed = 0
    for _ in range(10):
        for kind in ("normal", "pubsub"):
            killed += cluster.valkey.ask("CLIENT", "KILL", "TYPE", kind)
        stage.heal()
        stage.wait(0.7)
    assert killed >= 30, killed


ROOMY = MappingProxyType({"historyBytes": 64 << 20, "historyMessages": 10_000})


def _overrun(stage: Stage, cluster: Nodes) -> None:
    def ends() -> int:
        return int(cluster.valkey.about("stats")["client_output_buffer_limit_disconnections"])

    # What waits there are references to the messages, which are not counted themselves.
    cluster.valkey.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 30kb 30kb 1")
    before = ends()
    everybody = stage.publisher.ports
    stage.publisher.ports = everybody[1:]  # the first node cannot publish either
    cluster.ways[0].pause()
    try:
        until("the buffer is full", lambda: ends() > before)
        stage.publish(20)
    finally:
        cluster.ways[0].goOn()
        stage.publisher.ports = everybody
    stage.heal()
    stage.wait(4)


@outage("buffer of pub/sub overrun", Nodes, size=20_000, rate=60, limits=ROOMY)
def overrun(stage: Stage, cluster: Nodes) -> None:
    """A node does not read, until Valkey ends its connection because too much is waiting; all of it is in the history."""
    _overrun(stage, cluster)


@outage("buffer overrun beyond the history", Nodes, size=20_000, rate=60, tells=True)
def overrunShort(stage: Stage, cluster: Nodes) -> None:
    """The same, but the history keeps a megabyte of each channel only."""
    _overrun(stage, cluster)


@outage("node cut off", Nodes)
def nodeCutOff(stage: Stage, cluster: Nodes) -> None:
    """The network between a node and Valkey drops everything for 12 s; publishers go to other nodes."""
    cluster.ways[0].pause()
    stage.wait(12)
    cluster.ways[0].heal()
    stage.heal()
    stage.wait(4)


@outage("node refused", Nodes)
def nodeRefused(stage: Stage, cluster: Nodes) -> None:
    """A node's connections to Valkey are reset, and new ones are refused, for 12 s."""
    cluster.ways[0].cut()
    stage.wait(12)
    cluster.ways[0].heal()
    stage.heal()
    stage.wait(4)


@outage("all nodes cut off", Nodes)
def allCutOff(stage: Stage, cluster: Nodes) -> None:
    """The network in front of Valkey drops everything for 8 s; then Valkey is there with the data of 3 s before that."""
    cluster.valkey.save()
    stage.wait(3)
    for way in cluster.ways:
        way.pause()
    stage.wait(8)
    cluster.valkey.kill()
    cluster.valkey.goBack()
    for way in cluster.ways:
        way.heal()
    _restarted(stage, cluster)


@outage("node killed", Nodes)
def nodeKilled(stage: Stage, cluster: Nodes) -> None:
    """A node is killed (SIGKILL), and started again 3 s later; its clients and publishers go to others."""
    cluster.daemons[0].kill()
    stage.heal()
    stage.wait(3)
    cluster.again(cluster.daemons[0])
    stage.wait(3)


@outage("node drained", Nodes)
def nodeDrained(stage: Stage, cluster: Nodes) -> None:
    """Each node is stopped (SIGTERM) and started again, one after the other: a deploy."""
    for daemon in cluster.daemons:
        stage.heal()
        daemon.stop()
        cluster.again(daemon)
        stage.wait(1)


@outage("node stopped", Nodes)
def nodeStopped(stage: Stage, cluster: Nodes) -> None:
    """A node is stopped for 15 s (SIGSTOP), longer than its lease, then goes on."""
    cluster.daemons[0].signal(signal.SIGSTOP)
    stage.wait(15)
    cluster.daemons[0].signal(signal.SIGCONT)
    stage.heal()
    stage.wait(4)


@outage("slow engine", Nodes)
def slow(stage: Stage, cluster: Nodes) -> None:
    """Everything between the nodes and Valkey takes 0.6 s in each direction, for 8 s."""
    for way in cluster.ways:
        way.slow(0.6)
    stage.wait(8)
    for way in cluster.ways:
        way.heal()
    stage.heal()
    stage.wait(2)


@outage("Redis 7 killed", NodesOnRedis)
def redisKilled(stage: Stage, cluster: NodesOnRedis) -> None:
    """Debian's Redis in the place of Valkey is killed (SIGKILL) and restarted with its append-only file; twice."""
    valkeyKilled(stage, cluster)


@outage("Redis 7 with older data", NodesOnRedis)
def redisOlder(stage: Stage, cluster: NodesOnRedis) -> None:
    """Redis is killed, and restarted with the data that it had 3 s earlier."""
    valkeyOlder(stage, cluster)


@outage("Redis 7 without data", NodesOnRedis)
def redisEmpty(stage: Stage, cluster: NodesOnRedis) -> None:
    """Redis is killed, and restarted empty."""
    valkeyEmpty(stage, cluster)


@outage("Redis 7 stopped", NodesOnRedis)
def redisStopped(stage: Stage, cluster: NodesOnRedis) -> None:
    """Redis is stopped for 20 s (SIGSTOP), then goes on."""
    valkeyStopped(stage, cluster)


@outage("failover of Redis 7 by hand", NodesOnRedis)
def redisFailedOver(stage: Stage, cluster: NodesOnRedis) -> None:
    """Redis is killed; a replica that has missed the last 3 s is promoted by hand, and takes the address over."""
    failedOver(stage, cluster)


@outage("Valkey killed under workers", NodesWithWorkers)
def workersOlder(stage: Stage, cluster: NodesWithWorkers) -> None:
    """With two workers on each node: Valkey is killed, and restarted with the data that it had 3 s earlier."""
    valkeyOlder(stage, cluster)


@outage("workers killed at an engine", NodesWithWorkers)
def workersKilled(stage: Stage, cluster: NodesWithWorkers) -> None:
    """With two workers on each node: one worker of each is killed, then the workers of one node are replaced."""
    for daemon in cluster.daemons:
        pid = cluster.workersOf(daemon)[0]
        os.kill(pid, signal.SIGKILL)
        stage.heal()
        until("another worker", lambda pid=pid: _whole(cluster, pid))  # type: ignore[misc]
        stage.wait(1)
    stage.heal()
    cluster.reloadServices(cluster.daemons[0])
    stage.wait(2)


def endure(each: Outage, directory: Path, count: int = 9, scale: float = 1.0) -> FaultRow:
    """Let an outage happen, and count messages.

    Args:
        each: the outage.
        directory: the directory of all processes.
        count: the number of subscribers of each kind, with and without TLS.
        scale: the share of its duration to run.
    """
    begun, row = time.monotonic(), FaultRow(each.name)
    with ExitStack() as stack:
        cluster = stack.enter_context(each.world(directory, each.limits))
        words = {
            "places": cluster.ports,
            "kinds": list(KINDS),
            "mount": "/channels",
            "channels": CHANNELS,
            "count": count,
            "secure": True,
            "silence": SILENCE,
            "belated": each.belated,
        }
        clients = stack.enter_context(Clients(words, None))
        row.subscribers = clients.tell("begin")["subscribers"]
        publisher = Publisher(cluster.http, CHANNELS, each.rate, each.size, PATIENCE)
        stage = Stage(cluster, clients, publisher, scale)
        with publisher:
            stage.wait(1)
            try:
                each.run(stage, cluster)
            except (AssertionError, RuntimeError) as error:
                row.faults.append(f"it did not happen: {error}")
            stage.wait(1)
        account = clients.tell("rest", json.dumps(publisher.published), json.dumps(publisher.unsure))
    row.judge(account, publisher, each.tells)
    row.whole = max(account["late"] - stage.healed, 0.0) if stage.healed else 0.0
    row.seconds = time.monotonic() - begun
    return row
