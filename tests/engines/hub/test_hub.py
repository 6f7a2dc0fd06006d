from __future__ import annotations

from tests.engines.hub.worlds import World
from twisted_ws.engines.contract import Disconnect, EngineState, Revocation
from twisted_ws.message import Message, Position, Published


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
