from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from tests.dispatch.support import Turns
from tests.memory import SteadyClock
from tests.texts import Held
from twisted_ws import ChannelError, Limits
from twisted_ws.engines.contract import Disconnect, EngineState, HistoryLimits, Revocation
from twisted_ws.engines.memory import FORGOTTEN_AT_ONCE, MemoryEngine
from twisted_ws.engines.replay import CHARGE
from twisted_ws.message import START, Kind, Message, Position
from twisted_ws.testing.engines import RecordingNode
from twisted_ws.wire.loop.wheel import AT_ONCE, TICK, Wheel

NOW = 1000.0
UNIX = 1_700_000_000.0


class World:
    def __init__(self, clock=None, **limits):
        self.clock = clock or SteadyClock()
        self.clock.advance(NOW)
        self.wheel = Wheel(self.clock)
        self.engine = MemoryEngine(Limits(**limits), self.wheel, self.wheel.seconds, "e", lambda: self.clock.seconds() + UNIX)
        self.node = RecordingNode()
        self.node.recipients = 3
        self.engine.start(self.node)
        self.passed = self.node.publications

    def publish(self, channel, *texts, **options):
        return [self.engine.publish(channel, Message.of(text), **options) for text in texts]

    def since(self, channel, after=START):
        """Return the answer to "what came since": (position, recovered, texts)."""
        position = Position("e", after) if isinstance(after, int) else after
        history = self.engine.since(channel, position)
        return str(history.position), history.recovered, [each.payload.decode() for each in history.publications]


@pytest.fixture
def world():
    return World()


def test_publish(world):
    """A message gets its channel's next id, is passed on, and the answer says to how many."""
    world.engine.watch("a")
    world.engine.watch("b")
    assert world.publish("a", "one", "two") == [("a", "e:1", 3), ("a", "e:2", 3)]
    assert world.publish("b", "three") == [("b", "e:1", 3)]
    first = world.passed[0]
    assert (first.channel, first.position, first.kind, first.payload, first.at) == ("a", ("e", 1), Kind.TEXT, b"one", NOW)
    assert [each.offset for each in world.passed] == [1, 2, 1]


def test_epochs():
    """Each engine without a given epoch has one of its own."""
    engines = [MemoryEngine(Limits(), Wheel(SteadyClock()), SteadyClock().seconds) for _ in range(2)]
    assert engines[0].epoch != engines[1].epoch
    assert engines[0].epoch.isalnum()


@pytest.mark.parametrize(
    ("after", "answer"),
    [
        (None, ("e:5", False, [])),
        (5, ("e:5", True, [])),
        (3, ("e:3", True, ["4", "5"])),
        (2, ("e:2", True, ["3", "4", "5"])),
        (1, ("e:2", False, ["3", "4", "5"])),
        (0, ("e:2", False, ["3", "4", "5"])),
        (6, ("e:5", False, [])),
        (Position("old", 4), ("e:2", False, ["3", "4", "5"])),
        (Position("old", 9), ("e:2", False, ["3", "4", "5"])),
        (START, ("e:2", True, ["3", "4", "5"])),
    ],
)
def test_since(after, answer):
    """A resume counts as recovered exactly if everything since is kept, and its position is right before the first message."""
    world = World(historyMessages=3)
    world.publish("a", *"12345")
    assert world.since("a", after) == answer


def test_unknownChannel(world):
    """A channel that does not exist has nothing, and a subscriber that was at its end has missed nothing."""
    assert world.since("a", None) == ("e:0", False, [])
    assert world.since("a", 0) == ("e:0", True, [])
    assert world.since("a", 1) == ("e:0", False, [])
    assert world.engine.describe("a") is None
    assert world.engine.forget("a") == 0
    assert "a" not in world.engine
    world.engine.unwatch("a")
    assert len(world.engine) == 0


def test_trimByCount():
    """If there are more messages than may be kept, the oldest are dropped."""
    world = World(historyMessages=2)
    world.publish("a", *"123")
    assert world.since("a") == ("e:1", True, ["2", "3"])


def test_trimByBytes():
    """If there are more bytes than may be kept, the oldest messages are dropped; one that alone is too large is not kept."""
    world = World(historyBytes=2 * CHARGE + 10)
    world.publish("a", "12345", "12345")
    assert world.since("a")[2] == ["12345", "12345"]
    world.publish("a", "!")
    assert world.since("a")[2] == ["12345", "!"]
    world.publish("a", "x" * 1000)
    assert world.since("a") == ("e:4", True, [])
    assert world.engine.bytes == 0


def test_trimByTotal():
    """When all channels together keep too much, the one that publishes keeps less."""
    world = World(historyTotal=3 * CHARGE + 10)
    world.publish("a", "1", "2")
    world.publish("b", "1", "2")
    assert world.since("a")[2] == ["1", "2"]
    assert world.since("b") == ("e:1", True, ["2"])
    world.publish("c", "1")
    assert world.since("c") == ("e:1", True, [])
    assert world.engine.bytes == 3 * CHARGE + 3


@pytest.mark.parametrize("age", [10, 9.9], ids=["swept", "before the sweep"])
def test_trimByAge(age):
    """A message is kept for historyAge, whether or not the sweep has come."""
    world = World(historyAge=age)
    world.publish("a", "1")
    world.clock.advance(4)
    world.publish("a", "2")
    world.clock.advance(age - 4.1)
    assert world.since("a") == ("e:0", True, ["1", "2"])
    world.clock.advance(0.1)
    assert world.since("a", 0) == ("e:1", False, ["2"])
    assert world.engine.describe("a").messages == 1


def test_nothingKept():
    """With historyMessages=0 nothing is kept, and a subscriber that has seen the last message has still missed nothing."""
    world = World(historyMessages=0)
    world.publish("a", "1", "2")
    assert world.since("a", 2) == ("e:2", True, [])
    assert world.since("a", 1) == ("e:2", False, [])


def test_forgotten():
    """A channel is forgotten historyAge after its last message or its last subscriber, whichever is later."""
    world = World(historyAge=10)
    engine = world.engine
    world.publish("published", "1")
    engine.watch("watched")
    engine.watch("left")
    world.publish("left", "1")
    world.clock.advance(5)
    engine.unwatch("left")
    world.clock.advance(5.25)
    assert [name for name in ("published", "watched", "left") if name in engine] == ["watched", "left"]
    world.clock.advance(4.5)
    assert "left" in engine
    world.clock.advance(0.5)
    assert "left" not in engine
    assert world.engine.bytes == 0
    world.clock.advance(1000)
    assert "watched" in engine
    engine.unwatch("watched")
    world.clock.advance(10.25)
    assert len(engine) == 0
    assert len(world.wheel) == 0


def test_touchedAgain():
    """A channel that is used again before its time lives on."""
    world = World(historyAge=10)
    world.publish("a", "1")
    for _ in range(5):
        world.clock.advance(9)
        world.publish("a", "2")
    world.clock.advance(9.5)
    assert world.since("a", 5)[:2] == ("e:5", True)
    world.engine.forget("a")
    world.clock.advance(1)
    assert "a" not in world.engine


def test_floor():
    """A channel that is created again is numbered above all that were forgotten, so no old position passes for a new one."""
    world = World(historyAge=10)
    world.publish("long", *"12345")
    world.publish("short", "1", "2")
    world.clock.advance(30)
    assert len(world.engine) == 0
    assert world.publish("short", "3")[0].id == "e:6"
    assert world.since("short", 2) == ("e:5", False, ["3"])
    assert world.since("long", 5) == ("e:5", True, [])
    assert world.publish("long", "6")[0].id == "e:6"
    assert world.since("long", 5) == ("e:5", True, ["6"])
    world.clock.advance(30)
    assert world.publish("x", "1")[0].id == "e:7"


def test_watch(world):
    """Whoever begins to watch learns where the channel is, and gets what comes after; a pattern makes no channel."""
    world.publish("a", "1")
    assert world.engine.watch("a") == ("e", 1)
    assert world.engine.watch("a.*") is None
    assert len(world.engine) == 1
    world.publish("a", "2")
    world.publish("b", "3")
    assert [each.payload for each in world.passed] == [b"2"]


def test_patterns(world):
    """A channel that only patterns match is passed on while one of them is watched."""
    for pattern in ("a.*", "*"):
        world.engine.watch(pattern)
    assert world.publish("a.b", "1")[0].recipients == 3
    world.engine.unwatch("*")
    assert world.publish("a.b.c", "2")[0].recipients == 3
    assert [answer.recipients for answer in world.publish("b", "3")] == [0]
    world.engine.unwatch("a.*")
    assert world.publish("a.b", "4")[0].recipients == 0
    assert [each.payload for each in world.passed] == [b"1", b"2"]


def test_forget(world):
    """After a history is deleted, its numbering goes on, and a subscriber that had not seen all of it is not recovered."""
    world.publish("a", "1", "2")
    assert world.engine.forget("a") == 2
    assert world.engine.bytes == 0
    assert world.since("a", 1) == ("e:2", False, [])
    assert world.since("a", 2) == ("e:2", True, [])
    assert world.publish("a", "3")[0].id == "e:3"


def test_describe(world):
    """A channel is described by its last id and what is kept."""
    world.publish("a", "12", "3")
    world.node.counts["a"] = 4
    assert world.engine.describe("a") == ("a", ("e", 2), 2, 2 * CHARGE + 3, ("e", 1), 4)
    world.engine.forget("a")
    assert world.engine.describe("a") == ("a", ("e", 2), 0, 0, None, 4)


def test_list(world):
    """Channels are listed by name, from a name on, and by prefix."""
    for name in ("b", "a.2", "a.1", "c"):
        world.publish(name, "1")

    def names(*arguments):
        return [each.channel for each in world.engine.list(*arguments)]

    assert names("", "", 10) == ["a.1", "a.2", "b", "c"]
    assert names("", "a.2", 1) == ["b"]
    assert names("a.", "", 10) == ["a.1", "a.2"]
    assert names("z", "", 10) == []


def test_tooManyChannels():
    """Publishing to or watching one channel too many is refused, and existing channels go on."""
    world = World(channels=1)
    world.publish("a", "1")
    for refused in (lambda: world.publish("b", "1"), lambda: world.engine.watch("b")):
        with pytest.raises(ChannelError) as caught:
            refused()
        assert (caught.value.code, caught.value.status) == ("unavailable", 503)
    assert world.publish("a", "2")[0].id == "e:2"


def made(world, *names, by="1.2.3.4"):
    for name in names:
        world.engine.watch(name, by)


def names(world):
    return [each.channel for each in world.engine.list("", "", 100)]


def test_channelsOfOneAddress():
    """One address can watch a limited number of channels without messages, whatever others create; a message frees one."""
    world, addresses = World(channelsPerAddress=2), Held()
    made(world, "a", "b", by=addresses.text("1.2.3.4"))
    made(world, "a", "b", by="5.6.7.8")
    made(world, "c", by="5.6.7.8")
    with pytest.raises(ChannelError) as caught:
        made(world, "d")
    assert (caught.value.code, caught.value.status) == ("too-many-channels", 429)
    del caught  # its traceback holds what it came through
    world.publish("a", "1")
    made(world, "d", "a", "c")
    assert names(world) == ["a", "b", "c", "d"]
    assert len(addresses) == 1
    made(world, *"efgh", by=None)
    for name in "bcdefgh":
        world.engine.unwatch(name)
    world.clock.advance(400)
    assert names(world) == ["a"]
    assert len(addresses) == 0


def test_leftChannelsOfOneAddress():
    """Of the channels that one address created and left, a limited number are kept; those left first are dropped first."""
    world, addresses = World(channelsPerAddress=3, channels=4), Held()
    world.engine.watch("other", addresses.text("5.6.7.8"))
    for number in range(100):
        made(world, str(number))
        world.engine.unwatch(str(number))
        assert len(world.engine) <= 4
    made(world, "98")
    made(world, "100")
    assert names(world) == ["100", "98", "99", "other"]
    assert world.engine.watch("98") == ("e", 0)
    for name in ("98", "100", "other"):
        world.engine.unwatch(name)
    world.clock.advance(400)
    assert (len(world.engine), len(addresses), len(world.wheel)) == (0, 0, 0)


def test_idempotency():
    """A key publishes once in its channel for idempotencyAge, and has the same answer each time."""
    world = World(idempotencyAge=10)
    for name in "ab":
        world.engine.watch(name)
    answers = [world.publish("a", "1", idempotencyKey="k")[0] for _ in range(2)]
    assert answers == [("a", "e:1", 3)] * 2
    assert world.publish("a", "2", idempotencyKey="l")[0].id == "e:2"
    assert world.publish("b", "1", idempotencyKey="k")[0].id == "e:1"
    assert len(world.passed) == 3
    world.clock.advance(9)
    assert world.publish("a", "1", idempotencyKey="k")[0].id == "e:1"
    world.clock.advance(1)
    assert world.publish("a", "1", idempotencyKey="k")[0].id == "e:3"


def test_idempotencyOfAnother():
    """A key that comes with another message than before is refused, and neither message is published again."""
    world = World()
    world.engine.watch("a")
    world.publish("a", "1", idempotencyKey="k", fingerprint=b"1")
    with pytest.raises(ChannelError) as caught:
        world.publish("a", "2", idempotencyKey="k", fingerprint=b"2")
    assert (caught.value.code, caught.value.status) == ("key-reused", 409)
    assert world.publish("a", "1", idempotencyKey="k", fingerprint=b"1")[0].id == "e:1"
    assert len(world.passed) == 1


def test_idempotencyForgotten():
    """Keys are forgotten once they expire, even if no other comes."""
    world, keys = World(idempotencyAge=10, historyAge=1), Held()
    world.publish("a", "1", idempotencyKey=keys.text("k"))
    world.clock.advance(5)
    world.publish("a", "2", idempotencyKey=keys.text("l"))
    assert len(keys) == 2
    world.clock.advance(5.25)
    assert len(keys) == 1
    world.clock.advance(5)
    assert len(keys) == 0
    assert len(world.wheel) == 0


def test_manyIdempotencyKeys():
    """Keys that expire together are forgotten a bounded number at a time, and none counts after it has expired."""
    world, keys = World(idempotencyAge=10), Held()
    count = 2 * FORGOTTEN_AT_ONCE + 100
    for number in range(count):
        world.publish("a", "1", idempotencyKey=keys.text(str(number)), fingerprint=b"1")
    while len(keys) == count:
        world.clock.advance(TICK)
    before = len(keys)
    assert count - before <= FORGOTTEN_AT_ONCE
    assert world.publish("a", "2", idempotencyKey="new", fingerprint=b"2")[0].id == f"e:{count + 1}"
    last = str(count - 1)
    assert world.publish("a", "2", idempotencyKey=last, fingerprint=b"2")[0].id == f"e:{count + 2}"
    assert before - len(keys) < 10
    before = len(keys)
    while before:
        world.clock.advance(TICK)
        assert before - len(keys) <= FORGOTTEN_AT_ONCE
        assert len(keys) < before
        before = len(keys)
    assert world.publish("a", "2", idempotencyKey=last, fingerprint=b"2")[0].id == f"e:{count + 2}"


def test_fullOfOldKeys():
    """Expired keys take up no room, even before they are forgotten."""
    world, keys = World(idempotencyAge=10, idempotencyKeys=3), Held()
    world.clock.advance(0.1)  # so the wheel turns a while after their time
    for key in "abc":
        world.publish("a", "1", idempotencyKey=keys.text(key))
    world.clock.advance(10.05)
    assert len(keys) == 3
    for key in "defd":
        world.publish("a", "1", idempotencyKey=key)
    assert world.engine.describe("a").position.offset == 6


def test_manyStreamsAtOnce():
    """Channels that expire together are forgotten a bounded number in each turn of the reactor."""
    world = World(historyAge=10, clock=Turns())
    for number in range(10 * AT_ONCE):
        world.publish(str(number), "1")
    counts = [len(world.engine)]
    while counts[-1]:
        world.clock.turn()
        counts.append(len(world.engine))
        assert counts[-2] - counts[-1] <= AT_ONCE
        if counts[-1] == counts[-2]:  # nothing was due
            world.clock.rightNow += TICK
    assert world.engine.bytes == 0
    assert world.engine.list("", "", 10) == []


def test_idempotencyFull():
    """A new key beyond the limit is refused, along with its publication, rather than an old one forgotten."""
    world = World(idempotencyKeys=1)
    world.publish("a", "1", idempotencyKey="k")
    with pytest.raises(ChannelError) as caught:
        world.publish("a", "2", idempotencyKey="l")
    assert caught.value.code == "unavailable"
    assert world.publish("a", "1", idempotencyKey="k")[0].id == "e:1"
    assert world.publish("a", "2")[0].id == "e:2"


def test_limitsOfChannel(world):
    """A publisher may limit what is kept of its channel: for that channel alone, until a message comes with other limits."""
    small = HistoryLimits(2, 300, 1 << 20)
    for text in "123":
        world.publish("a", text, limits=small)
        world.publish("b", text)
    assert (world.since("a")[2], world.since("b")[2]) == (["2", "3"], ["1", "2", "3"])
    world.publish("a", "4", "5", limits=HistoryLimits(100, 300, 2 * CHARGE + 2))
    assert world.since("a")[2] == ["4", "5"]
    world.publish("a", "6")
    assert world.since("a")[2] == ["4", "5", "6"]


def test_ageOfChannel(world):
    """A channel with an age of its own is kept for that long, though it was published to with another before."""
    world.publish("long", "1", limits=HistoryLimits(10, 1000, 1 << 20))
    world.publish("short", "1")
    world.publish("short", "2", limits=HistoryLimits(10, 10, 1 << 20))
    world.clock.advance(9.9)
    assert world.since("short")[2] == ["1", "2"]
    world.clock.advance(0.5)
    assert "short" not in world.engine
    world.clock.advance(980)
    assert world.since("long")[2] == ["1"]
    world.clock.advance(10)
    assert (len(world.engine), len(world.wheel)) == (0, 0)


def test_pages(world):
    """With a limit, a history comes in pages without gaps, each after the last message of the one before."""
    world.publish("a", *"12345")
    position, pages = START, []
    while True:
        history = world.engine.since("a", position, 2)
        pages.append(([each.payload.decode() for each in history.publications], history.recovered))
        if not history.publications:
            break
        position = [*history.publications][-1].position
    assert pages == [(["1", "2"], True), (["3", "4"], True), (["5"], True), ([], True)]
    assert [*world.engine.since("a", None, 2).publications] == []


def test_noDeferreds(world, monkeypatch):
    """Publishing, watching and reading the history make no Deferreds."""

    def made(*arguments):
        raise AssertionError("a Deferred was made")

    monkeypatch.setattr(Deferred, "__init__", made)
    world.engine.watch("a")
    world.publish("a", "1", idempotencyKey="k")
    world.publish("a", "1", idempotencyKey="k")
    assert world.since("a") == ("e:0", True, ["1"])


class Passing:
    """Messages that the server passes on in several turns: they are on their way until `arrive`."""

    def __init__(self, world):
        self.world, self.on = world, []
        world.engine.watch("a")
        world.node.received = self.received

    def received(self, publication):
        self.on.append(Deferred())
        return self.on[-1]

    def arrive(self, recipients):
        self.on.pop(0).callback(recipients)


def answers(*answers):
    """Return the list in which answers that come later appear."""
    came = []
    for each in answers:
        each.addBoth(came.append)
    return came


def test_passedOnLater(world):
    """The answer comes after the message was passed on; whoever publishes it again meanwhile gets the same one."""
    passing = Passing(world)
    came = answers(*world.publish("a", "1", "1", "2"), *world.publish("a", "3", "3", idempotencyKey="k"))
    assert (came, len(passing.on)) == ([], 4)
    for recipients in (5, 6, 7, 8):
        passing.arrive(recipients)
    assert came == [("a", "e:1", 5), ("a", "e:2", 6), ("a", "e:3", 7), ("a", "e:4", 8), ("a", "e:4", 8)]
    assert world.publish("a", "3", idempotencyKey="k") == [("a", "e:4", 8)]


def test_cancelled(world):
    """A publisher that waits no longer takes nothing from the others, and leaves nothing behind."""
    passing = Passing(world)
    first, second, third = world.publish("a", "1", "1", "1", idempotencyKey="k")
    came = answers(first, second, third)
    first.cancel()
    second.cancel()
    assert [failure.check(CancelledError) for failure in came] == [CancelledError] * 2
    passing.arrive(4)
    assert came[2:] == [("a", "e:1", 4)]
    assert world.engine.stop() is None


def test_passingFails(world):
    """An error inside the server while a message is passed on is logged, and the publisher learns that it is published."""
    passing = Passing(world)
    came = answers(*world.publish("a", "1", "1", idempotencyKey="k"))
    with capturedLogs() as log:
        passing.on.pop().errback(ZeroDivisionError())
    assert came == [("a", "e:1", 0)] * 2
    assert [event["log_failure"].type for event in log] == [ZeroDivisionError]


def test_start(world):
    """An engine that has started is up, until it is stopped; the server is told."""
    assert (world.engine.state, world.node.states) == (EngineState.UP, [EngineState.UP])
    assert world.engine.stop() is None
    assert (world.engine.state, world.node.states) == (EngineState.DOWN, [EngineState.UP, EngineState.DOWN])
    assert world.engine.stop() is None
    assert len(world.node.states) == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.publish("a", Message.of("")),
        lambda engine: engine.watch("a"),
        lambda engine: engine.since("a", None),
        lambda engine: engine.forget("a"),
        lambda engine: engine.describe("a"),
        lambda engine: engine.members("a", "", 1, 1),
        lambda engine: engine.broadcast(Message.of("")),
        lambda engine: engine.command(Disconnect(None, "ann", 1000, "")),
        lambda engine: engine.nodes(),
        lambda engine: engine.claim("k", 2e9),
        lambda engine: engine.revoke(Revocation("t", None, 0, 2e9)),
        lambda engine: engine.ask("k", b""),
    ],
)
def test_stopped(world, call):
    """What comes after a stop is refused; whoever leaves then may."""
    world.engine.enter("a", "1", "ann", b"null")
    world.engine.watch("a")
    world.engine.stop()
    with pytest.raises(ChannelError) as caught:
        call(world.engine)
    assert caught.value.code == "unavailable"
    world.engine.leave("a", "1")
    world.engine.unwatch("a")
    world.engine.unwatch("*")


def test_stopWaits(world):
    """A stop waits for messages that are being passed on, and their publishers get their answers."""
    passing = Passing(world)
    came = answers(*world.publish("a", "1", "2"))
    stops = answers(world.engine.stop(), world.engine.stop())
    passing.arrive(1)
    world.clock.advance(4)
    assert stops == []
    passing.arrive(2)
    assert (came, stops) == ([("a", "e:1", 1), ("a", "e:2", 2)], [None, None])


def test_stopWaitsForSoLong(world):
    """A stop does not wait longer than 5 seconds; the answer may come even then."""
    passing = Passing(world)
    came = answers(*world.publish("a", "1"))
    cancelled, stopped = world.engine.stop(), world.engine.stop()
    answers(cancelled)
    cancelled.cancel()
    stops = answers(stopped)
    world.clock.advance(4.9)
    assert stops == []
    world.clock.advance(0.5)
    assert (stops, came) == ([None], [])
    passing.arrive(2)
    assert came == [("a", "e:1", 2)]


def test_presence(world):
    """Users on a channel are told of, listed with the number of subscribers, and told of again when they do not come back."""
    engine, node = world.engine, world.node
    for connection, user in enumerate(("bob", "ann", "ann", "eve")):
        engine.enter("a", str(connection), user, b'{"n":1}')
    node.counts["a"] = 7
    assert [(channel, member.user, member.connections) for channel, member in node.joins] == [
        ("a", "bob", 1),
        ("a", "ann", 1),
        ("a", "eve", 1),
    ]
    page = engine.members("a", "", 2, 10_000)
    assert ([(each.user, each.connections) for each in page.members], page.next, page.subscribers) == (
        [("ann", 2), ("bob", 1)],
        "bob",
        7,
    )
    engine.leave("a", "0")
    world.clock.advance(5.25)
    assert [(channel, member.user, bytes(member.info)) for channel, member in node.leaves] == [("a", "bob", b'{"n":1}')]


def test_askTheServer(world):
    """With one server, a broadcast, a command and a question are its business; its answer is the sum of all."""
    message, command = Message.of("hello"), Disconnect("c.1", None, 1000, "bye")
    world.node.connections = {"c.1": None, "c.2": None}
    assert (world.engine.broadcast(message), world.engine.command(command)) == (2, 1)
    assert (world.node.broadcasts, world.node.commands) == ([message], [command])
    assert [each.id for each in world.engine.nodes()] == [world.node.id]
    assert world.engine.ask("kind", b"payload") == [world.node.answer("kind", b"payload")]
    later = Deferred()
    world.node.answer = lambda kind, payload: later
    came = answers(world.engine.ask("kind", b""))
    later.callback(b"late")
    assert came == [[b"late"]]


def test_claim():
    """A key is claimed once until its time is over, and never after it; over the limit, a new one is refused."""
    world = World(claims=2)
    now = world.clock.seconds() + UNIX
    assert [world.engine.claim("k", now + 10) for _ in range(3)] == [True, False, False]
    assert world.engine.claim("l", now + 20)
    with pytest.raises(ChannelError):
        world.engine.claim("m", now + 20)
    assert not world.engine.claim("l", now + 20)
    world.clock.advance(10)
    assert not world.engine.claim("k", now + 10)
    assert world.engine.claim("m", now + 20)


def test_revoke():
    """What is revoked is told to the server at once, and to one that starts until it ends; more than can be kept is refused."""
    world = World(revocations=2)
    now = world.clock.seconds() + UNIX
    revocations = [Revocation("t", None, 0, now + 10), Revocation(None, "ann", now, now + 20)]
    for each in revocations:
        world.engine.revoke(each)
    assert world.node.revocations == revocations
    with pytest.raises(ChannelError):
        world.engine.revoke(Revocation("u", None, 0, now + 10))
    later = Revocation(None, "ann", now + 5, now + 15)
    world.engine.revoke(later)
    assert world.node.revocations == [*revocations, later]
    world.engine.stop()
    for node, kept in ((RecordingNode(), 2), (RecordingNode(), 1), (RecordingNode(), 0)):
        world.engine.start(node)
        both = [revocations[0], Revocation(None, "ann", now + 5, now + 20)]
        assert node.revocations == both[2 - kept :]
        world.clock.advance(10.25)
