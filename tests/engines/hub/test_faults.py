from __future__ import annotations

import random
from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from tests.engines.hub.worlds import World
from twisted_ws.engines.contract import EngineState, HistoryLimits
from twisted_ws.engines.hub.hub import PATIENCE
from twisted_ws.engines.hub.link import frameOf
from twisted_ws.engines.hub.spoke import SILENT
from twisted_ws.engines.hub.worker import PUBLISHING
from twisted_ws.errors import ChannelError
from twisted_ws.message import START, Message, Position

MANY = HistoryLimits(10_000, 300, 1 << 30)


def texts(history):
    """Return the payloads of a history."""
    return [each.payload.decode() for each in history.publications]


def test_cutAtEachByte():
    """Wherever the link of a publisher breaks, its message is there once and whole, or not at all, and it hears that."""
    whole = len(frameOf("publish", 1, "a", "text", b"hello", None, "k", b"f", None))
    for count in range(whole + 1):
        world = World()
        one, other = world.workers
        other.watch("a")
        one.toHub.room = count
        one.toHub.segment = 7
        answer = one.engine.publish("a", Message.of("hello"), None, "k", b"f")
        world.settle()
        one.toHub.lose()
        answered = world.result(answer)
        assert one.engine.state is EngineState.DOWN
        if count < whole:
            assert answered.code == "unavailable"
            assert other.node.publications == []
        else:
            assert answered.id == "e:1"
        # It is published again with its key, at a worker that is there.
        published = world.result(other.engine.publish("a", Message.of("hello"), None, "k", b"f"))
        assert published.id == "e:1"
        assert other.node.publications == [("a", 1, b"hello")]


@pytest.mark.parametrize("count", range(0, 60, 7))
def test_cutWhilePublishing(count):
    """A worker that is lost in the middle of a publication has no part in the answer, and its connections no part in anything."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("a")
    one.engine.enter("a", "node01.1", "ann", b"null")
    world.settle()
    one.fromHub.room = count
    answer = world.hub.publish("a", Message.of("x" * 40))
    world.settle()
    one.fromHub.lose()
    assert world.result(answer).recipients == 1
    world.advance(world.limits.presenceDelay + 1)
    assert other.node.notes[-1] == ("left", "a", "ann")
    assert world.result(world.hub.publish("a", Message.of("y"))).recipients == 1
    assert [node.id for node in world.result(world.hub.nodes())] == ["node02"]


def test_diesBeforeAcknowledging():
    """A worker that ends between a publication and its acknowledgement makes nobody wait."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("a")
    one.node.count = Deferred()
    answer = other.engine.publish("a", Message.of("x"))
    world.settle()
    assert one.node.publications == other.node.publications == [("a", 1, b"x")]
    assert not answer.called
    one.toHub.lose()
    assert world.result(answer).recipients == 1


@pytest.mark.parametrize("later", [True, False])
def test_passingOnFails(later):
    """A worker that cannot pass a message on says so, and stays."""
    world = World(1)
    (worker,) = world.workers
    worker.watch("a")
    failure = Failure(ZeroDivisionError())

    def fail(publication):
        if not later:
            raise failure.value
        worker.node.count = Deferred()
        world.clock.callLater(0, worker.node.count.errback, failure)

    worker.node.react = fail
    with capturedLogs() as logs:
        assert world.result(world.hub.publish("a", Message.of(b"x"))).recipients == 0
    assert [event["log_failure"].type for event in logs] == [ZeroDivisionError]
    assert not next(iter(world.hub.spokes.values())).sent


def test_entersWhenItHasLeft():
    """Whoever a worker announces after its goodbye does not stay on the channel for ever."""
    world = World(1)
    (worker,) = world.workers
    worker.engine.stop()
    worker.engine.enter("a", "node01.1", "ann", b"null")
    world.settle()
    worker.toHub.lose()
    world.settle()
    assert world.memory.members("a", "", 10, 1000).members == []


def test_patience():
    """A publisher waits 2 seconds for a worker that does not acknowledge, and others are served meanwhile."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("a")
    one.freeze()
    answer = other.engine.publish("a", Message.of("1"))
    world.settle()
    assert other.node.publications == [("a", 1, b"1")]
    world.advance(PATIENCE - 0.5)
    assert not answer.called
    world.advance(1.5)
    assert world.result(answer).recipients == 1
    one.thaw()
    assert world.result(world.hub.publish("a", Message.of("2"))).recipients == 2
    assert one.node.publications == [("a", 1, b"1"), ("a", 2, b"2")]


def test_patienceOfMany():
    """Very many publishers that have waited long enough are answered in as many turns as that takes."""
    world = World(1)
    one = world.workers[0]
    one.watch("a")
    one.freeze()
    answers, left = [], []
    for _ in range(5000):
        answers.append(world.hub.publish("a", Message.of("x"), limits=MANY))
        answers[-1].addCallback(lambda published: left.append(world.turns.left) or published)
    world.advance(PATIENCE + 1)
    assert [world.result(answer).recipients for answer in answers] == [0] * 5000
    # Each turn begins with a full budget.
    assert sum(after > before for before, after in pairwise(left)) >= 4


def test_asksInVain():
    """Whoever asks all workers is answered by those that can, after 2 seconds; the list of nodes has the others, too."""
    world = World()
    one = world.workers[0]
    one.watch("a")
    one.freeze()
    answers = [world.hub.nodes(), world.hub.ask("x", b""), world.hub.broadcast(Message.of("x")), world.hub.describe("a")]
    world.advance(PATIENCE + 1)
    nodes, asked, count, described = map(world.result, answers)
    assert ([node.id for node in nodes], asked, count, described.subscribers) == (["node02", "node01"], [b"node02"], 1, 0)


def test_silent():
    """A worker that has acknowledged nothing for 10 seconds is let go of, with one line in the log."""
    world = World()
    one = world.workers[0]
    one.watch("a")
    one.freeze()
    with capturedLogs() as logs:
        world.hub.publish("a", Message.of("1"))
        world.advance(SILENT - 1)
        assert one.hubLink.isUp
        world.advance(2)
    assert not one.hubLink.isUp
    assert [formatEvent(event) for event in logs] == ["the link to node01 is dropped: it has acknowledged nothing for 10 seconds"]
    assert [*world.hub.spokes] == ["node02"]
    assert one.engine.state is EngineState.DOWN


def test_ourOwnDelay():
    """While the supervisor itself stands still, no worker is taken for silent."""
    world = World()
    one = world.workers[0]
    one.watch("a")
    one.freeze()
    world.hub.publish("a", Message.of("1"))
    world.advance(1)
    world.clock.advance(60)
    world.settle()
    one.thaw()
    world.advance(1)
    assert one.hubLink.isUp


def test_doesNotRead():
    """A worker that does not read costs a bounded number of bytes, whatever is published, and is let go of."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("b")
    one.freeze()
    most, refused = 0, 0
    with capturedLogs():
        for number in range(200):
            try:
                world.hub.publish("a", Message.of(bytes(1 << 20)))
            except ChannelError:
                refused += 1
            assert world.result(world.hub.publish("b", Message.of(b"x"))).recipients == 1
            most = max(most, one.hubLink.unread)
            world.advance(0 if number % 8 else 0.25)
    assert 16 << 20 <= most <= 66 << 20
    assert not one.hubLink.isUp
    # It was waited for only as long as it might still have gone on.
    assert 0 < refused < 60


def test_manyResume():
    """However many subscribers ask a worker for their history at once, its link stays, and all get theirs."""
    world = World()
    one, _ = world.workers
    for _ in range(8):
        world.hub.publish("a", Message.of(bytes(100_000)))
    one.watch("a")
    one.freeze()
    came = []
    for channel in ["a"] * 200 + ["b"]:
        one.engine.since(channel, Position("e", 0)).addCallback(lambda history, channel=channel: came.append(channel))
    world.settle()
    assert one.hubLink.unread < 8 << 20
    one.thaw()
    world.settle()
    # What is little does not wait for what is much.
    assert sorted(came) == ["a"] * 200 + ["b"]
    assert came.index("b") < 20
    assert one.hubLink.isUp


def test_fair():
    """However long the histories that a worker reads, what is published meanwhile waits for no more than a few pages of them."""
    world = World()
    one, _ = world.workers
    for _ in range(16):
        world.hub.publish("old", Message.of(bytes(1 << 20)), limits=MANY)
    one.watch("live")
    came, passed, most = 0, 0, 0
    read = one.link.dataReceived

    def counted(data):
        nonlocal came
        came += len(data)
        read(data)

    one.link.dataReceived = counted
    histories = []
    for _ in range(20):
        one.engine.since("old", START).addCallback(lambda history: histories.append(len(history.publications)))
    began = 0

    def heard(publication):
        nonlocal passed, most
        most = max(most, came - began)
        passed += 1

    one.node.react = heard
    while len(histories) < 20:
        began, before = came, passed
        world.hub.publish("live", Message.of(b"now"))
        while passed == before:
            for each in world.transports:
                each.turn()
            world.clock.advance(0)
    assert histories == [16] * 20
    assert passed > 20
    assert most < 5 << 20


def test_behind():
    """Publishers to the channels of a worker that works but is behind are refused until it has caught up; others are not."""
    world = World()
    one, other = world.workers
    one.watch("a")
    other.watch("b")
    counts = []

    def slowly(publication):
        one.node.count = Deferred()
        counts.append(one.node.count)

    one.node.react = slowly
    for _ in range(20):
        world.hub.publish("a", Message.of(b"x"))
    world.settle()
    for _ in range(7):
        counts.pop(0).callback(1)
        world.advance(1)
    with pytest.raises(ChannelError, match="try later"):
        world.hub.publish("a", Message.of(b"x"))
    with pytest.raises(ChannelError, match="try later"):
        world.hub.broadcast(Message.of(b"x"))
    world.hub.publish("b", Message.of(b"x"))
    while counts:
        counts.pop(0).callback(1)
    world.settle()
    world.hub.publish("a", Message.of(b"x"))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xc1",
        b"\0\0\0\1\x90",
        b"\0\0\0\1\x01",
        b"\0\0\0\0",
        b"\0\0\0\2\x91\x90",
        frameOf("no such kind"),
        frameOf("publish", 1, "a"),
        frameOf("unwatch"),
        frameOf("unwatch", "a", "b"),
        frameOf("ack", *range(4))[:-1] + b"\xc1",
    ],
    ids=repr,
)
def test_garbage(garbage):
    """Garbage ends the link with one line in the log, and the others are served."""
    world = World()
    one, other = world.workers
    other.watch("a")
    with capturedLogs() as logs:
        one.toHub.write(garbage)
        world.settle()
    assert [formatEvent(event).startswith("the link to node01 is dropped: it sent ") for event in logs] == [True]
    assert [*world.hub.spokes] == ["node02"]
    assert world.result(world.hub.publish("a", Message.of("x"))).recipients == 1


def test_randomGarbage():
    """No bytes whatever make more of a link than its end."""
    chance = random.Random(1)
    for _ in range(300):
        world = World()
        one, other = world.workers
        with capturedLogs():
            for _ in range(20):
                body = chance.randbytes(chance.randrange(40))
                one.toHub.write(len(body).to_bytes(4, "big") + body)
            world.settle()
        assert not one.hubLink.isUp
        other.watch("a")
        assert world.result(world.hub.publish("a", Message.of("x"))).recipients == 1


def test_tooManyToPublish():
    """A worker whose publishers outrun the hub refuses the rest of what they publish, and goes on when there is room."""
    world = World(1)
    one = world.workers[0]
    one.hubLink.transport.pauseProducing()
    answers = [one.engine.publish("a", Message.of(b"x")) for _ in range(PUBLISHING)]
    with pytest.raises(ChannelError, match="try later"):
        one.engine.publish("a", Message.of(b"x"))
    one.hubLink.transport.resumeProducing()
    world.settle()
    assert {world.result(answer).channel for answer in answers} == {"a"}
    assert world.result(one.engine.publish("a", Message.of(b"x"))).id == f"e:{PUBLISHING + 1}"


def test_publishInside():
    """What is published while a message is being taken comes after it at every worker."""
    world = World(3)
    for worker in world.workers:
        worker.watch("a")
    one = world.workers[0]
    one.node.react = lambda publication: (
        publication.payload < b"5" and one.engine.publish("a", Message.of(b"%d" % (int(publication.payload) + 1)))
    )
    world.result(world.hub.publish("a", Message.of(b"1")))
    world.settle()
    for worker in world.workers:
        assert [payload for _, _, payload in worker.node.publications] == [b"1", b"2", b"3", b"4", b"5"]


def interleave(chance):
    """Do 60 things in a random order, and check what came of it."""
    world = World(2)
    # By worker and channel: the position that the watch began with, and what came since.
    watched = {}
    began = []

    def begin(worker, channel):
        key = worker.node.id, channel
        watched[key] = mine = [None, len(worker.node.publications)]
        began.append((worker, channel, mine))

        def come(position):
            mine[0] = position

        worker.engine.watch(channel).addCallback(come)

    for transport in world.transports:
        transport.segment = chance.choice((None, 1, 10, 100))
    published = 0
    for _ in range(60):
        worker, channel = chance.choice(world.workers), chance.choice("ab")
        what = chance.random()
        if what < 0.4:
            chance.choice((worker.engine, world.hub)).publish(channel, Message.of(f"{published}"), limits=MANY)
            published += 1
        elif what < 0.5 and (worker.node.id, channel) not in watched:
            begin(worker, channel)
        elif what < 0.55 and watched.get((worker.node.id, channel), [None])[0] is not None:
            mine = watched.pop((worker.node.id, channel))
            mine.append(len(worker.node.publications))
            worker.engine.unwatch(channel)
        else:
            chance.choice(world.transports).turn()
    for transport in world.transports:
        transport.segment = None
    world.settle()
    tops = {channel: world.memory.since(channel, None).position.offset for channel in "ab"}
    assert sum(tops.values()) == published
    for worker in world.workers:
        for channel in "ab":
            offsets = [offset for name, offset, _ in worker.node.publications if name == channel]
            assert offsets == sorted(set(offsets))
    for worker, channel, (position, begin, *end) in began:
        assert position is not None
        got = [offset for name, offset, _ in worker.node.publications[begin:] if name == channel and offset > position.offset]
        if end:
            got = [offset for name, offset, _ in worker.node.publications[begin : end[0]] if name == channel]
            got = [offset for offset in got if offset > position.offset]
            assert got == [*range(position.offset + 1, position.offset + 1 + len(got))]
        else:
            assert got == [*range(position.offset + 1, tops[channel] + 1)]
    assert texts(world.memory.since("a", START)) == texts(world.result(world.workers[0].engine.since("a", START)))


@pytest.mark.exhaustive
@pytest.mark.parametrize("tens", range(10))
def test_interleavings(tens):
    """Whenever others publish, watch and unwatch: after its answer, a watch misses nothing, and everything is in order."""
    for seed in range(tens * 100, tens * 100 + 100):
        interleave(random.Random(seed))


def test_forgottenInTurns():
    """What a worker with very many channels and users leaves behind is removed in as many turns as that takes."""
    world = World()
    one, other = world.workers
    for number in range(5000):
        one.engine.watch(f"c{number}")
        one.engine.enter(f"c{number}", f"node01.{number}", f"u{number}", b"null")
    world.settle()
    other.watch("c4999")
    one.fromHub.lose()
    one.fromHub.turn()
    assert len([*world.hub.watched()]) > 1000
    world.settle()
    assert [*world.hub.watched()] == ["c4999"]
    world.advance(world.limits.presenceDelay + 5)
    assert ("left", "c4999", "u4999") in other.node.notes
    assert world.result(other.engine.since("c4999", None)).position == Position("e", 0)
