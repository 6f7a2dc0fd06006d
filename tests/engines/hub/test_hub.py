from __future__ import annotations

import pytest

from tests.engines.hub.links import connect
from tests.engines.hub.worlds import Worker, World
from twisted_ws.engines.contract import Disconnect, EngineState, Revocation
from twisted_ws.engines.hub.frames import VERSION
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.journal import Journal
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.message import START, Message, Position, Published


def test_publish():
    """A publication reaches every worker that watches its channel once, and its answer has the sum of their counts."""
    world = World(3)
    one, other, third = world.workers
    one.node.count, other.node.count = 3, 4
    assert (one.watch("a"), other.watch("a")) == (Position("e", 0), Position("e", 0))
    answer = world.result(third.engine.publish("a", Message.of("hi"), "k"))
    assert answer == Published("a", "e:1", 7)
    assert one.node.publications == other.node.publications == [("a", 1, b"hi")]
    assert third.node.publications == []


def test_fromTheSupervisor():
    """What is published, sent to all or commanded at the supervisor reaches its workers."""
    world = World()
    world.workers[0].watch("a.*")
    world.workers[0].watch("a.b")
    assert world.result(world.hub.publish("a.b", Message.of(b"x"))) == Published("a.b", "e:1", 1)
    assert world.result(world.hub.broadcast(Message.of({"a": 1}))) == 2
    assert world.result(world.hub.command(Disconnect("node02.7", None, 1000, ""))) == 1
    assert world.result(world.hub.command(Disconnect(None, "ann", 1000, ""))) == 2
    assert world.result(world.hub.ask("kind", b"!")) == [b"node01!", b"node02!"]
    assert [each.id for each in world.result(world.hub.nodes())] == ["node01", "node02"]
    assert world.workers[0].node.publications == [("a.b", 1, b"x")]


def test_journal():
    """While a worker keeps a journal, everything that reaches it is in there, in order, and still goes where it went before."""
    world = World()
    worker = world.workers[0]
    worker.watch("a")
    journals = [Journal(), Journal()]
    world.result(world.hub.publish("a", Message.of("before")))
    worker.engine.keepJournal(journals[0])
    world.result(world.hub.publish("a", Message.of("1")))
    worker.engine.keepJournal(journals[1])
    world.result(world.hub.broadcast(Message.of("to all")))
    worker.engine.endJournal(journals[0])
    world.result(world.hub.command(Disconnect(None, "ann", 1000, "")))
    worker.engine.endJournal(journals[1])
    world.result(world.hub.publish("a", Message.of("after")))
    kinds = [[each.kind for each in journal.since(0)] for journal in journals]
    assert kinds == [["publication", "broadcast"], ["broadcast", "command"]]
    assert [payload for _, _, payload in worker.node.publications] == [b"before", b"1", b"after"]
    assert [kind for kind, *_ in worker.node.notes if kind != "state"] == ["broadcast", "obey"]


def test_history():
    """A worker reads as much of a history as there is, whatever fits into one frame."""
    world = World()
    one = world.workers[0]
    for number in range(2500):
        world.hub.publish("a", Message.of(b"%d" % number * 100), "k")
    assert world.limits.historyMessages == 1000
    history = world.result(one.engine.since("a", Position("e", 1)))
    assert (history.position.epoch, history.recovered) == ("e", False)
    publications = [*history.publications]
    assert [each.offset for each in publications] == [*range(history.position.offset + 1, 2501)]
    assert publications[-1].payload == b"2499" * 100
    assert publications[-1].key == "k"


def test_state():
    """A worker's engine is up once it is welcome, and down when its link ends or it stops."""
    world = World()
    one, other = world.workers
    assert (one.engine.state, other.engine.state) == (EngineState.UP, EngineState.UP)
    one.fromHub.lose()
    other.engine.stop()
    world.settle()
    assert (one.engine.state, other.engine.state) == (EngineState.DOWN, EngineState.DOWN)
    assert world.hub.spokes == {}


def test_revocations():
    """Every worker knows what was revoked once the answer is there, and one that comes later knows it from the start."""
    world = World()
    revocation = Revocation("t", None, 0.0, 1e12)
    assert world.result(world.workers[0].engine.revoke(revocation)) is None
    third = world.add("node03")
    for node in (world.node, *(worker.node for worker in world.workers)):
        assert ("revoked", revocation) in node.notes
    assert third.node.notes.index(("revoked", revocation)) < third.node.notes.index(("state", EngineState.UP))


def test_notTaken():
    """A worker of another version, or with the id of one that is there, is not taken, and learns why."""
    world = World(1)
    other = Worker(world, "node01")
    assert isinstance(world.result(other.started), ConfigurationError)
    link = Link(world.turns, "the supervisor")
    hubLink = Link(world.turns, "node03")
    world.hub.attach(hubLink)
    world.transports += connect(hubLink, link)
    refused = world.result(link.request("hello", 99, "node03", 0, 0.0, "9"))
    assert f"version {VERSION}, and not 99" in refused.message
    assert [*world.hub.spokes] == ["node01"]


def test_asksForSubscribersAtTheSupervisor():
    """Nobody can subscribe at the supervisor, which says so."""
    world = World(1)
    with pytest.raises(ChannelError, match="at a worker"):
        world.hub.watch("a")


def test_manyRevocations():
    """However many revocations there are, a worker that comes knows all of them before it is up."""
    world = World(1)
    for number in range(1000):
        world.hub.revoke(Revocation(f"t{number}", None, 0.0, 1e12))
    world.settle()
    notes = world.add("node02").node.notes
    assert [note[1].token for note in notes[:-1]] == [f"t{number}" for number in range(1000)]
    assert notes[-1] == ("state", EngineState.UP)


def test_stateOfTheEngine():
    """Workers know the state of the hub's engine, and refuse what cannot be done."""
    world = World(1)
    one = world.workers[0]
    world.hub.stop()
    world.settle()
    assert one.engine.state is EngineState.DOWN
    assert world.node.notes[-1] == ("state", EngineState.DOWN)
    assert world.result(one.engine.publish("a", Message.of("x"))).code == "unavailable"


def test_pages():
    """A history that is larger than one frame may be arrives whole; what is forgotten meanwhile makes it not recovered."""
    world = World(1, Limits(historyMessages=100, historyBytes=64 << 20))
    one = world.workers[0]
    for _ in range(30):
        world.hub.publish("a", Message.of(bytes(1 << 20)))
    history = world.result(one.engine.since("a", START))
    assert (history.recovered, [each.offset for each in history.publications]) == (True, [*range(1, 31)])
    assert [each.offset for each in world.result(one.engine.since("a", START, 5)).publications] == [1, 2, 3, 4, 5]
    asked = one.engine.since("a", START)
    for _ in range(6):
        for transport in world.transports:
            transport.turn()
    world.hub.forget("a")
    world.hub.publish("a", Message.of("new"))
    history = world.result(asked)
    assert (history.position, history.recovered) == (Position("e", 30), False)
    assert [each.payload for each in history.publications] == [b"new"]


def test_lost():
    """When the hub's engine has lost something, the workers that watch the channel learn it."""
    world = World()
    world.workers[0].watch("a")
    world.hub.lost("a", Position("f", 3))
    world.settle()
    lost = ("lost", "a", Position("f", 3))
    assert [lost in worker.node.notes for worker in world.workers] == [True, False]


def test_refusedWatch():
    """A worker that may not watch a channel does not, and another that may is told its position."""
    world = World(2, Limits(channels=1))
    one, other = world.workers
    assert one.watch("a") == Position("e", 0)
    assert world.result(one.engine.watch("b")).code == "unavailable"
    assert [*world.hub.watched()] == ["a"]
    one.engine.unwatch("b")
    one.engine.unwatch("a")
    assert other.watch("a") == Position("e", 0)
    assert other.watch("*") is one.watch("*") is None
    world.hub.publish("a", Message.of("x"))
    world.settle()
    assert one.node.publications == other.node.publications == [("a", 1, b"x")]
