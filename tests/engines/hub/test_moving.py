"""A hub that goes to another process, with the streams to its workers, which do not notice."""

from __future__ import annotations

import tempfile

from twisted.internet.defer import Deferred

from tests.engines.hub.links import Pair
from tests.engines.hub.test_link import gathered, resultOf
from tests.engines.hub.worlds import World
from twisted_ws.engines.contract import Revocation
from twisted_ws.engines.historyfile import blocksOf, recordsOf
from twisted_ws.engines.hub.hub import Hub
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.engines.snapshot import Here, Leaving, Watched
from twisted_ws.errors import ChannelError
from twisted_ws.limits import Limits
from twisted_ws.message import Message, Position


def hold(world):
    """Let all workers hold back what they would send."""
    held = [worker.hubLink.hold() for worker in world.workers]
    world.settle()
    assert [resultOf(each) for each in held] == [None] * len(held)
    assert all(each.called for each in held)
    assert world.hub.isQuiet
    for worker in world.workers:
        assert worker.hubLink.isQuiet
        worker.hubLink.pause()


def move(world):
    """Put another hub in the place of the first one, as in another process."""
    links = [worker.hubLink for worker in world.workers]
    number, said = world.hub.standing(links)
    world.memory = memory = MemoryEngine(world.limits, world.wheel, world.wheel.seconds)
    old, world.hub = world.hub, Hub(memory, world.limits, world.wheel, world.turns)
    world.hub.start(world.node)
    with tempfile.TemporaryFile() as file:
        for block in blocksOf([*old.engine.records(), *old.moving(links)]):
            file.write(block)
        file.seek(0)
        records = [*recordsOf(file)]
    living = [each for each in records if isinstance(each, (Watched, Here, Leaving))]
    memory.restore(each for each in records if each not in living)
    new = []
    for worker in world.workers:
        worker.hubLink = link = Link(world.turns, worker.node.id)
        world.hub.attach(link)
        worker.fromHub.protocol = link
        link.makeConnection(worker.fromHub)
        link.pause()
        new.append(link)
    world.hub.arrive(number, [*zip(new, said, strict=True)], living)
    for link in new:
        link.resume()
        link.goOn()
    world.settle()


def test_workersDoNotNotice():
    """What workers publish meanwhile comes a little later, in order and once, and the numbering goes on."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("a.*")
    other.watch("a")
    first = world.result(other.engine.publish("a", Message.of("1"), None, "key", b"f"))
    hold(world)
    later = other.engine.publish("a", Message.of("2"))
    pattern = one.engine.publish("a.b", Message.of("3"))
    world.settle()
    assert not later.called
    move(world)
    assert (resultOf(later).id, resultOf(later).recipients) == ("e:2", 2)
    assert resultOf(pattern).recipients == 1
    assert one.node.publications == [("a", 1, b"1"), ("a", 2, b"2")]
    assert sorted(other.node.publications) == [("a", 1, b"1"), ("a", 2, b"2"), ("a.b", 1, b"3")]
    assert world.result(one.engine.publish("a", Message.of("1"), None, "key", b"f")) == first
    history = world.result(one.engine.since("a", Position("e", 0)))
    assert [each.payload for each in history.publications] == [b"1", b"2"]
    mark = world.result(one.engine.mark())
    assert world.result(world.hub.publish("a", Message.of("4"))).recipients == 2
    assert world.result(one.engine.mark()) == mark + 1  # numbers of a hand-over go on, too


def test_whoIsThere():
    """Whoever is there stays, a leave that was not told yet is told in its time, and nobody hears of anything else."""
    world = World(limits=Limits(presenceDelay=5))
    one, other = world.workers
    one.watch("a")
    one.engine.enter("a", "node01.1", "ann", b"1")
    other.engine.enter("a", "node02.1", "bob", b"2")
    other.engine.enter("a", "node02.2", "ann", b"1")
    other.engine.enter("a", "node02.3", "cy", b"3")
    world.settle()
    other.engine.leave("a", "node02.3")
    world.advance(2)
    before = [*one.node.notes]
    hold(world)
    other.engine.leave("a", "node02.1")
    move(world)
    members = world.result(one.engine.members("a", "", 10, 10_000)).members
    assert [(each.user, each.connections) for each in members] == [("ann", 2), ("bob", 0), ("cy", 0)]
    world.advance(2.5)
    assert one.node.notes == before
    world.advance(1)
    assert one.node.notes == [*before, ("left", "a", "cy")]
    world.advance(3)
    assert one.node.notes == [*before, ("left", "a", "cy"), ("left", "a", "bob")]
    other.fromHub.lose()
    one.engine.leave("a", "node01.1")
    world.advance(6)
    assert one.node.notes[-1] == ("left", "a", "ann")


def test_revocations():
    """What was revoked and claimed is known to the new hub, and to workers that come later."""
    world = World(1)
    revocation = Revocation("t", None, 0.0, 1e12)
    world.result(world.workers[0].engine.revoke(revocation))
    assert world.result(world.workers[0].engine.claim("ticket", 1e12)) is True
    hold(world)
    move(world)
    assert world.result(world.workers[0].engine.claim("ticket", 1e12)) is False
    assert ("revoked", revocation) in world.add("node02").node.notes


def test_itStays():
    """If nothing comes of it, the old hub goes on: what was held comes, and what is old is forgotten again."""
    world = World(limits=Limits(historyAge=5, idempotencyAge=5))
    one, other = world.workers
    one.watch("a")
    world.result(other.engine.publish("a", Message.of("1"), None, "key", b"f"))
    hold(world)
    assert [*world.hub.engine.records(), *world.hub.moving([])]
    later = other.engine.publish("a", Message.of("2"))
    there = world.hub.publish("a", Message.of("3"))  # by nobody, as HTTP is held: still nothing is lost
    world.advance(6)
    assert one.node.publications == [("a", 1, b"1")]
    for worker in world.workers:
        worker.hubLink.resume()
        worker.hubLink.goOn()
    world.memory.thaw()
    world.settle()
    assert one.node.publications == [("a", 1, b"1"), ("a", 2, b"3"), ("a", 3, b"2")]
    assert later.called
    assert there.called
    world.advance(12)
    assert (world.memory.messages, world.memory.keys) == (0, 0)


def test_oneThatDiesMeanwhile():
    """What a worker that has died by then had told is not known for ever."""
    world = World(limits=Limits(presenceDelay=1))
    one, other = world.workers
    one.watch("a")
    other.engine.enter("a", "node02.1", "bob", b"2")
    world.settle()
    hold(world)
    world.workers = [one]
    move(world)
    assert [*world.hub.spokes] == ["node01"]
    world.advance(3)
    assert one.node.notes[-1] == ("left", "a", "bob")


# Links.


def test_held():
    """A side that is asked to hold still answers, and sends the rest in order once it may."""
    pair = Pair()
    found = gathered(pair.one, "notice")
    pair.one.answer("ask", lambda number: found.append(number))
    pair.other.answer("add", lambda one, other: one + other)
    pair.connect()
    pair.other.send("notice", 1)
    held = pair.one.hold()
    pair.settle()
    assert held.called
    pair.other.send("notice", 2)
    asked = pair.other.request("ask", 3)
    added = pair.one.request("add", 1, 2)
    assert not pair.one.isQuiet
    pair.settle()
    assert (found, resultOf(added), asked.called) == ([(1,)], 3, False)
    assert pair.one.isQuiet
    pair.one.goOn()
    pair.settle()
    assert found == [(1,), (2,), 3]
    assert asked.called


def test_notQuiet():
    """A link is not quiet while something is on its way in either direction."""
    pair, later = Pair(), Deferred()
    pair.one.answer("wait", lambda: later)
    pair.connect()
    assert pair.one.isQuiet
    pair.other.request("wait")
    pair.settle()
    assert not pair.one.isQuiet
    later.callback(None)
    pair.settle()
    assert pair.one.isQuiet


def test_heldForTooLong():
    """What is held back counts as unread: a side that is never told to go on gives up before it takes all memory."""
    pair = Pair().connect()
    pair.one.hold()
    pair.settle()
    pair.other.mostUnread = 10_000
    for _ in range(5):
        pair.other.send("notice", b"x" * 1000)
    assert pair.other.isUp
    for _ in range(10):
        pair.other.send("notice", b"x" * 1000)
    assert not pair.other.isUp


def test_lostWhileHeld():
    """A link that ends while one side holds tells that side, and requests that were held back fail."""
    pair = Pair().connect()
    pair.one.hold()
    pair.settle()
    asked = pair.other.request("ask")
    pair.transports[1].lose()
    pair.settle()
    assert isinstance(resultOf(asked), ChannelError)
