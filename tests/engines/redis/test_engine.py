from __future__ import annotations

import socket
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.engines.redis.harness import FaultyHarness
from tests.engines.redis.servers import Server
from tests.telemetry.test_tracing import parent, spans
from twisted_ws.engines.contract import EngineState, HistoryLimits
from twisted_ws.engines.redis import tail
from twisted_ws.engines.redis.publishing import TOGETHER, TOGETHER_BYTES, packedLimits
from twisted_ws.engines.redis.server import requests
from twisted_ws.engines.redis.server.contact import Times
from twisted_ws.engines.redis.server.scripts import HELLO, LONGEST, PUBLISH, REPAIR, VERSION
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.message import START, Cursor, Message, Position, parseAfter, parsePosition
from twisted_ws.telemetry import tracing
from twisted_ws.testing.engines import RecordingNode
from twisted_ws.testing.engines.harness import Data

__all__ = ["spans"]


class Harness(FaultyHarness):
    times = Times(closed=0.25, probe=0.5, lease=1.5)


@pytest.fixture
def harness():
    made = Harness()
    made.setUp()
    made.started = []
    yield made
    for node in made.started:
        made.wait(node.engine.stop())
    made.tearDown()


def watch(harness, node, channel):
    feed = node.watch(channel)
    assert harness.until(lambda: feed.isLive)
    return feed


def publish(harness, node, channel, *texts):
    return [harness.wait(node.engine.publish(channel, Message.of(text))) for text in texts]


def key(harness, name):
    return f"{harness.prefix}:tw1:{name}"


def test_flushed(harness, node):
    """When all data are deleted under a running server, what nodes remember comes back, and nothing is lost or doubled."""
    first, second = node(), node()
    feeds = [watch(harness, each, "a") for each in (first, second)]
    before = publish(harness, first, "a", "1", "2")
    harness.server.ask("FLUSHALL")
    after = publish(harness, second, "a", "3")
    assert harness.until(lambda: all(len(feed.heard) == 3 for feed in feeds))
    assert [feed.texts for feed in feeds] == [["1", "2", "3"]] * 2
    assert [feed.gaps for feed in feeds] == [[], []]
    assert parsePosition(after[0].id).offset == parsePosition(before[1].id).offset + 1
    history = harness.wait(first.engine.since("a", parsePosition(before[0].id)))
    assert (history.recovered, [each.payload for each in history.publications]) == (True, [b"2", b"3"])


def test_watchedUnderAPattern(harness, node):
    """Who has a pattern gets what is published while a channel of it is subscribed to, whichever connection is faster."""
    first, second = node(), node()
    watch(harness, first, "a.*")
    subscriber, waiting = first.engine._requests.link.subscriber, []
    pushed, subscriber.onPush = subscriber.onPush, waiting.append
    feed = first.watch("a.b")
    assert harness.until(lambda: any(reply[0] == b"subscribe" for reply in waiting))
    publish(harness, second, "a.b", "1")
    assert harness.until(lambda: {b"message", b"pmessage"} <= {reply[0] for reply in waiting})
    confirmed = next(reply for reply in waiting if reply[0] == b"subscribe")
    waiting.remove(confirmed)
    pushed(confirmed)  # the answer has the message's position, and comes before it
    assert harness.until(lambda: feed.isLive or any(reply[0] == b"pong" for reply in waiting))
    subscriber.onPush = pushed
    for reply in waiting:
        pushed(reply)
    assert harness.until(lambda: feed.isLive)
    assert [each.payload for each in first.publications] == [b"1"]


def test_leftUnderAPattern(harness, node):
    """Who has a pattern gets a message once, also when the only subscriber of its channel is gone because of it."""
    first, second = node(), node()
    watch(harness, first, "a.*")
    watch(harness, first, "a.b")
    first.onReceived = lambda publication: first.unwatch("a.b") if "a.b" in first.feeds else None
    publish(harness, second, "a.b", "1", "2")
    assert harness.until(lambda: [each.payload for each in first.publications][-1:] == [b"2"])
    assert [each.payload for each in first.publications] == [b"1", b"2"]


def test_readAfterFlush(harness, node):
    """Who reads first after all data were deleted gets what nodes remember, not the word of a server that has forgotten."""
    first, second = node(), node()
    watch(harness, first, "a")
    before = publish(harness, first, "a", "1", "2")
    harness.server.ask("FLUSHALL")
    history = harness.wait(second.engine.since("a", parsePosition(before[0].id)))
    assert (history.recovered, [each.payload for each in history.publications]) == (True, [b"2"])


def test_unbornInCursors(harness, node):
    """The short form of a position of a channel that did not exist is as good as the long one."""
    first = node()
    cursor = Cursor(["a", "b"])
    for channel in ("a", "b"):
        cursor.begin(channel, harness.wait(first.engine.since(channel, None)).position)
    after = parseAfter(str(cursor), ["a", "b"])
    publish(harness, first, "a", "1")
    found = [harness.wait(first.engine.since(channel, after[channel])) for channel in ("a", "b")]
    assert [(each.recovered, len(each.publications)) for each in found] == [(True, 1), (True, 0)]


def test_unbornAndForgotten(harness, node):
    """A position of a channel that did not exist tells nothing of a server that may have forgotten the channel since."""
    first = node()
    position = harness.wait(first.engine.since("a", None)).position
    harness.server.ask("FLUSHALL")
    publish(harness, first, "b", "to be noticed")
    publish(harness, first, "a", "1")
    assert not harness.wait(first.engine.since("a", position)).recovered


def test_interleaved(harness, node):
    """What two nodes published in turns, and nobody watched, comes back in order."""
    first, second = node(), node()
    published = [publish(harness, (first, second)[number % 2], "a", str(number))[0] for number in range(10)]
    harness.server.ask("FLUSHALL")
    publish(harness, first, "a", "10")
    history = harness.wait(second.engine.since("a", parsePosition(published[0].id)))
    texts = [each.payload.decode() for each in history.publications]
    assert texts == [str(number) for number in range(1, 11)][-len(texts) :]
    assert history.recovered is (len(texts) == 10)


def test_scriptsForgotten(harness, node):
    """A server that forgets its scripts is taught them again; nothing is lost or doubled."""
    first = node()
    feed = watch(harness, first, "a")
    publish(harness, first, "a", "1")
    harness.server.ask("SCRIPT", "FLUSH")
    publish(harness, first, "a", "2", "3")
    assert harness.until(lambda: len(feed.heard) == 3)
    assert (feed.texts, feed.gaps) == (["1", "2", "3"], [])


def test_becomesReplica(harness, node):
    """A primary that has become a replica is left: messages wait for another one, and are there once."""
    first = node()
    feed = watch(harness, first, "a")
    publish(harness, first, "a", "1")
    with Server() as other:
        harness.server.ask("REPLICAOF", "127.0.0.1", str(other.port))
        answer = first.engine.publish("a", Message.of("2"))
        assert harness.until(lambda: first.engine.state is EngineState.DOWN)
        harness.server.ask("REPLICAOF", "NO", "ONE")
        harness.wait(answer)
    harness.isSpoilt = True
    assert harness.until(lambda: len(feed.heard) == 2)
    assert feed.texts == ["1", "2"]


def test_connectionsKilled(harness, node):
    """When the server kills connections again and again, everything comes once and in order."""
    first, second = node(), node()
    feeds = [watch(harness, each, "a") for each in (first, second)]
    answers = []
    for number in range(300):
        answers.append((first, second)[number % 2].engine.publish("a", Message.of(str(number))))
        harness.turn()
        if number % 50 == 10:
            harness.server.ask("CLIENT", "KILL", "TYPE", "pubsub" if number % 100 < 50 else "normal")
    for answer in answers:
        harness.wait(answer)
    assert harness.until(lambda: all(len(feed.heard) >= 300 for feed in feeds))
    assert feeds[0].texts == feeds[1].texts
    assert sorted(map(int, feeds[0].texts)) == [*range(300)]
    for parity in (0, 1):
        assert [int(each) for each in feeds[0].texts if int(each) % 2 == parity] == [*range(parity, 300, 2)]
    assert [feed.gaps for feed in feeds] == [[], []]


def test_deafSubscriber(harness, node):
    """A subscription that the server does not serve any more is noticed, though commands are answered."""
    first, second = node(), node()
    feed = watch(harness, first, "a")
    subscriber = harness.ways[first.engine].open[1]
    subscriber.there.transport.pauseProducing()
    publish(harness, second, "a", "1")
    assert harness.until(lambda: first.engine.state is not EngineState.UP, 3)
    assert harness.until(lambda: feed.texts == ["1"])
    assert feed.gaps == []


def test_standsStillWhileGreeted(harness, node):
    """A server that stands still before its gate is open is noticed, and another connection made."""
    harness.times = Times(closed=1.0, probe=0.3, lease=1.5)
    first = node()
    way = harness.ways[first.engine]
    way.sent.clear()
    harness.server.ask("FLUSHALL")
    answer = first.engine.publish("a", Message.of("1"))
    answer.addErrback(lambda failure: failure.trap(ChannelError))  # it may have waited for too long
    assert harness.until(lambda: HELLO.sha in b"".join(way.sent))
    before = [*way.open]
    for each in before:
        each.there.transport.pauseProducing()
    assert harness.until(lambda: first.engine.state is EngineState.UP)
    assert not {*before} & {*way.open}
    assert publish(harness, first, "b", "2")


@pytest.mark.parametrize(
    "record",
    [b"garbage", b"", b"+", b"+999 a", b"call \xc1", b"answer \xc1", b"x 1 y z 0\n\xc1", b"\xff" * 100_000],
    ids=range(8),
)
def test_hostileMessages(harness, node, record):
    """What anybody else publishes on our channels of pub/sub does no harm."""
    first = node()
    feed = watch(harness, first, "a")
    for name in ("ch:a", "ctl", f"node:{first.id}"):
        harness.server.ask("PUBLISH", key(harness, name), record.decode("latin-1"))
    publish(harness, first, "a", "1")
    assert harness.until(lambda: feed.texts == ["1"])
    assert first.engine.state is EngineState.UP


def test_hugeMessage(harness, node):
    """A message that is larger than any of ours ends the connection before it is collected, and the engine goes on."""
    first, second = node(), node(maxMessageSize=64)
    feed = watch(harness, second, "a")
    harness.server.ask("CONFIG", "SET", "proto-max-bulk-len", str(1 << 30))
    harness.server.ask("EVAL", "redis.call('PUBLISH', KEYS[1], string.rep('x', 12000000))", "1", key(harness, "ch:a"))
    assert harness.until(lambda: second.engine.state is EngineState.DOWN)
    publish(harness, first, "a", "1")
    assert harness.until(lambda: feed.texts == ["1"])
    assert feed.gaps == []


def test_hugeEntry(harness, node):
    """A message in the history that is larger than this server takes is lost, and said to be; what follows comes."""
    first, second = node(), node(maxMessageSize=64)
    publish(harness, first, "a", "1", "x" * 5000, "3")
    page = harness.wait(second.engine.since("a", START))
    assert [each.payload for each in page.publications] == [b"1"]
    position = [*page.publications][-1].position
    page = harness.wait(second.engine.since("a", position))
    assert (page.recovered, [each.payload for each in page.publications]) == (False, [b"3"])
    assert page.position.offset == position.offset + 1


def test_tooManyAtOnce(harness, node, monkeypatch):
    """More publications than can wait are refused at once, and those that were not refused arrive."""
    first = node()
    monkeypatch.setattr("twisted_ws.engines.redis.server.requests.WAITING", 200)
    harness.cut(first.engine)
    assert harness.until(lambda: first.engine.state is EngineState.DOWN)
    answers = []

    def publishMany():
        while len(answers) <= 200:
            answers.append(first.engine.publish("a", Message.of("x")))

    with pytest.raises(ChannelError) as caught:
        publishMany()
    assert caught.value.code == "unavailable"
    assert len(answers) > 100
    harness.heal(first.engine)
    ids = {harness.wait(answer).id for answer in answers}
    assert len(ids) == len(answers)


def test_cancelledWhileDown(harness, node):
    """A publication that is cancelled while the server is away is not made."""
    first, second = node(), node()
    feed = watch(harness, second, "a")
    harness.cut(first.engine)
    assert harness.until(lambda: first.engine.state is EngineState.DOWN)
    answer = first.engine.publish("a", Message.of("1"))
    answer.addErrback(lambda failure: None)
    answer.cancel()
    harness.heal(first.engine)
    publish(harness, first, "a", "2")
    assert harness.until(lambda: feed.texts == ["2"])


def test_full(harness, node):
    """A server without memory refuses what is published; when it has some, all goes on."""
    first = node()
    feed = watch(harness, first, "a")
    harness.server.ask("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(ChannelError) as caught:
        publish(harness, first, "a", "1")
    harness.server.ask("CONFIG", "SET", "maxmemory", "0")
    assert caught.value.code == "unavailable"
    publish(harness, first, "a", "2")
    assert harness.until(lambda: feed.texts == ["2"])


@pytest.mark.parametrize(
    ("refuse", "permit"),
    [
        (["CONFIG", "SET", "min-replicas-to-write", "1"], ["CONFIG", "SET", "min-replicas-to-write", "0"]),
        (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]),
        (["ACL", "SETUSER", "default", "-zadd"], ["ACL", "SETUSER", "default", "+@all"]),
    ],
    ids=["replicas", "memory", "permission"],
)
def test_refusesToWrite(harness, node, refuse, permit):
    """While a server answers, but refuses to be written to, it is away: its clients are told once, and once when it is back."""
    first = node()
    feed = watch(harness, first, "a")
    before = len(first.states)
    way = harness.ways[first.engine]
    try:
        harness.server.ask(*refuse)
        assert harness.until(lambda: first.engine.state is EngineState.DOWN)
        tried = way.made
        assert harness.until(lambda: way.made >= tried + 8)  # four attempts
        assert first.states[before:] == [EngineState.DOWN]
    finally:
        harness.server.ask(*permit)
    assert harness.until(lambda: first.engine.state is EngineState.UP)
    assert first.states[before:].count(EngineState.DOWN) == 1
    publish(harness, first, "a", "1")
    assert harness.until(lambda: feed.texts == ["1"])


def test_aliensAmongTheNodes(harness, node):
    """Something among the nodes that is no name of one is removed like those that have died, and does not keep these there."""
    node()
    script = "for n = 1, 20 do redis.call('ZADD', KEYS[1], n, '\\255' .. n) end redis.call('ZADD', KEYS[1], 30, 'dead')"
    harness.server.ask("EVAL", script, "1", key(harness, "leases"))
    assert harness.until(lambda: harness.server.ask("ZCARD", key(harness, "leases")) == ":1")


def test_aliensAmongTheUsers(harness, node):
    """What somebody else has written is refused to whoever asks for it, and hurts nothing else."""
    first = node()
    feed = watch(harness, first, "a")
    link = first.engine._requests.link
    harness.server.ask("EVAL", "redis.call('ZADD', KEYS[1], 0, '\\255')", "1", key(harness, "z:a"))
    with pytest.raises(ChannelError, match="cannot be read"):
        harness.wait(first.engine.members("a", "", 10, 1000))
    publish(harness, first, "a", "1")
    assert harness.until(lambda: feed.texts == ["1"])
    assert first.engine._requests.link is link


def test_lateNode(harness, node):
    """What a node published before the server forgot it, and gives back too late, comes in its order if nobody was faster."""
    first, second = node(), node()
    feeds = [watch(harness, each, "a") for each in (first, second)]
    publish(harness, first, "a", "1")
    assert harness.until(lambda: all(len(feed.heard) == 1 for feed in feeds))
    harness.cut(second.engine)
    publish(harness, first, "a", "2", "3")
    harness.cut(first.engine)
    harness.server.ask("FLUSHALL")
    harness.heal(second.engine)
    publish(harness, second, "b", "so that the gate is open")
    harness.heal(first.engine)
    assert harness.until(lambda: len(feeds[1].heard) == 3)
    publish(harness, second, "a", "4")
    assert harness.until(lambda: all(len(feed.heard) == 4 for feed in feeds))
    assert [feed.texts for feed in feeds] == [["1", "2", "3", "4"]] * 2
    assert [feed.gaps for feed in feeds] == [[], []]


def test_tooLateNode(harness, node):
    """If somebody else was faster, nothing comes twice or out of order, and everybody is told that something is lost."""
    first, second = node(), node()
    feeds = [watch(harness, each, "a") for each in (first, second)]
    publish(harness, first, "a", "1")
    assert harness.until(lambda: all(len(feed.heard) == 1 for feed in feeds))
    harness.cut(second.engine)
    publish(harness, first, "a", "2", "3")
    harness.cut(first.engine)
    harness.server.ask("FLUSHALL")
    harness.heal(second.engine)
    publish(harness, second, "a", "4")
    harness.heal(first.engine)
    assert harness.until(lambda: all(feed.gaps for feed in feeds))
    publish(harness, second, "a", "5")
    assert harness.until(lambda: all(feed.texts[-1] == "5" for feed in feeds))
    assert [feed.texts for feed in feeds] == [["1", "2", "3", "5"], ["1", "4", "5"]]


@pytest.fixture
def split(harness, node):
    """Two nodes that watch "a", "b" and "c", each with a primary of its own; and what ends that."""
    first, second = nodes = [node(), node()]
    feeds = {channel: [watch(harness, each, channel) for each in nodes] for channel in "abc"}
    for channel in "abc":
        publish(harness, first, channel, "1")
    old = harness.server
    with Server(harness.binary, replicaof=f"127.0.0.1 {old.port}") as replica:

        def has():
            return all(replica.ask("STRLEN", key(harness, f"m:{channel}")) not in (None, ":0") for channel in "abc")

        assert harness.until(has)
        replica.ask("REPLICAOF", "NO", "ONE")
        harness.server = replica
        harness.ways[second.engine].drop()
        assert harness.until(lambda: second.engine.state is not EngineState.UP)
        assert harness.until(lambda: second.engine.state is EngineState.UP)
        yield nodes, feeds, harness.ways[first.engine].drop
        for each in nodes:
            harness.wait(each.engine.stop())
        harness.started.clear()
    harness.server = old


def test_splitBrain(harness, split):
    """Where two primaries have numbered a channel, both sides hear of a loss; where only one has, nothing is lost or doubled."""
    (first, second), feeds, heal = split
    position = parsePosition(publish(harness, first, "a", "2")[0].id)
    publish(harness, second, "a", "3", "4")
    publish(harness, first, "b", "2", "3")
    publish(harness, second, "c", "2", "3")
    heal()
    assert harness.until(lambda: all(feed.gaps for feed in feeds["a"]))
    for channel in "abc":
        publish(harness, first, channel, "5")
    assert harness.until(lambda: all(feed.texts[-1] == "5" for pair in feeds.values() for feed in pair))
    assert [feed.texts for feed in feeds["a"]] == [["1", "2", "5"], ["1", "3", "4", "5"]]
    assert [feed.texts for channel in "bc" for feed in feeds[channel]] == [["1", "2", "3", "5"]] * 4
    assert [feed.gaps for channel in "bc" for feed in feeds[channel]] == [[]] * 4
    # Who comes back from either side gets what follows the meeting, and is told.
    for each in (position, position._replace(offset=position.offset - 1)):
        history = harness.wait(second.engine.since("a", each))
        assert (history.recovered, [each.payload for each in history.publications]) == (False, [b"5"])


@pytest.mark.parametrize("age", [30.0, 0.0])
def test_splitBrainTraffic(harness, split, monkeypatch, age):
    """What others publish while a node comes from the old primary comes to it in order, and once, behind the loss.

    To see that there was one, a node needs no message: the position of its subscribers is enough.
    """
    monkeypatch.setattr(tail, "AGE", age)
    (first, second), feeds, heal = split
    publish(harness, first, "a", "2")
    publish(harness, second, "a", "3")
    assert harness.until(lambda: feeds["a"][1].isLive and len(feeds["a"][1].heard) == 2)
    heal()
    assert harness.until(lambda: first.engine.state is not EngineState.UP)
    answers = []
    while first.engine.state is not EngineState.UP:
        answers.append(second.engine.publish("a", Message.of(str(len(answers) + 4))))
        harness.turn()
    for answer in answers:
        harness.wait(answer)
    publish(harness, second, "a", "end")
    assert harness.until(lambda: all(feed.texts[-1] == "end" for feed in feeds["a"]))
    theirs, ours = feeds["a"][1].texts, feeds["a"][0].texts
    assert theirs == ["1", "3", *[str(number + 4) for number in range(len(answers))], "end"]
    assert ours == ["1", "2", *theirs[len(theirs) - len(ours) + 2 :]]
    assert [len(feed.gaps) for feed in feeds["a"]] == [1, 1]


def test_splitBrainAnswer(harness, split):
    """What came back from the old primary, but whose answer did not, is not published again at the new one."""
    (first, second), feeds, heal = split
    publish(harness, second, "a", "2")
    harness.ways[first.engine].deafenCommands()
    answer = first.engine.publish("a", Message.of("3"))
    assert harness.until(lambda: feeds["a"][0].texts == ["1", "3"])
    heal()
    assert harness.wait(answer).id.endswith(":2")
    publish(harness, second, "a", "4")
    assert harness.until(lambda: all(feed.texts[-1] == "4" for feed in feeds["a"]))
    assert [feed.texts for feed in feeds["a"]] == [["1", "3", "4"], ["1", "2", "4"]]


def test_claimsAfterLoss(harness, node):
    """What was claimed stays claimed when the server forgets."""
    first, second = node(), node()
    until = time.time() + 100
    assert harness.wait(first.engine.claim("k", until))
    harness.server.ask("FLUSHALL")
    assert harness.until(lambda: first.engine.state is not EngineState.UP, 3)
    assert harness.until(lambda: first.engine.state is second.engine.state is EngineState.UP)
    assert not harness.wait(second.engine.claim("k", until))


def test_keysAfterLoss(harness, node):
    """An idempotency key counts after the server has forgotten it, at any node, and with the fingerprint of its message."""
    first, second = node(), node()
    feed = watch(harness, second, "a")
    message = Message.of("1")
    before = harness.wait(first.engine.publish("a", message, None, "k\0é", b"\0fingerprint"))
    harness.server.ask("FLUSHALL")
    again = harness.wait(second.engine.publish("a", message, None, "k\0é", b"\0fingerprint"))
    assert again.id == before.id
    with pytest.raises(ChannelError) as caught:
        harness.wait(first.engine.publish("a", Message.of("2"), None, "k\0é", b"another"))
    assert caught.value.code == "key-reused"
    publish(harness, first, "a", "3")
    assert harness.until(lambda: len(feed.heard) >= 2)
    assert feed.texts == ["1", "3"]


def test_presenceAfterLoss(harness, node):
    """Who is on a channel is stated again when the server forgets, and nobody is told of it."""
    first, second = node(), node()
    watch(harness, second, "a")
    first.enter("a", 1, "ann")
    assert harness.until(lambda: second.joins)
    harness.server.ask("FLUSHALL")

    def present():
        page = harness.wait(second.engine.members("a", "", 10, 1000))
        return [(each.user, each.connections) for each in page.members]

    assert harness.until(lambda: first.engine.state is not EngineState.UP, 3)
    assert harness.until(lambda: present() == [("ann", 1)])
    assert second.leaves == []


def test_oneAddress(harness, node):
    """One address cannot make as many channels as there can be: further ones are refused until others are published to."""
    first = node(channelsPerAddress=2)

    def watching(channel):
        return harness.wait(first.engine.watch(channel, "address"))

    watching("a")
    watching("b")
    with pytest.raises(ChannelError) as caught:
        watching("c")
    assert caught.value.code == "too-many-channels"
    publish(harness, first, "a", "1")
    assert watching("c") is not None
    assert harness.wait(first.engine.watch("d", "another")) is not None


def test_longCut(harness, node):
    """Everything that was published during a cut comes afterwards, however much it is."""
    first, second = node(), node(historyMessages=5000)
    feed = watch(harness, first, "a")
    harness.cut(first.engine)
    answers = [second.engine.publish("a", Message.of(str(number))) for number in range(2500)]
    for answer in answers:
        harness.wait(answer)
    harness.heal(first.engine)
    assert harness.until(lambda: len(feed.heard) >= 2500)
    assert feed.texts == [str(number) for number in range(2500)]
    assert feed.gaps == []


def test_lateCommand(harness, node):
    """What the server executes only after it was sent again, because it had stood still, is not done twice."""
    first = node()
    feed = watch(harness, first, "a")
    sent = harness.ways[first.engine].sent
    sent.clear()
    publish(harness, first, "a", "1")
    late = b"".join(each for each in sent if b"EVALSHA" in each)
    publish(harness, first, "a", "2")
    with socket.create_connection(("127.0.0.1", harness.server.port), timeout=10) as connection:
        connection.sendall(late)
        assert b"known" in connection.recv(1000)
    publish(harness, first, "a", "3")
    assert harness.until(lambda: len(feed.heard) >= 3)
    assert feed.texts == ["1", "2", "3"]


def test_threeNodes(harness, node, monkeypatch):
    """Three nodes lose, double and reorder nothing, though the server goes back in time, twice, and stands still."""
    # A node that a busy machine keeps for longer is too late, and what it alone knows is lost, as it is told.
    harness.times = Times(closed=4.0, probe=0.5, lease=1.5)
    monkeypatch.setattr(requests, "HOLD", 60.0)
    nodes = [node() for _ in range(3)]
    feeds = [watch(harness, each, "a") for each in nodes]
    published = []

    def traffic(count):
        answers = []
        for number in range(count):
            text = f"{len(published)}"
            published.append(text)
            answers.append(nodes[number % 3].engine.publish("a", Message.of(text)))
            harness.turn()
        return answers

    waited = traffic(60)
    for _ in range(2):
        for answer in waited:
            harness.wait(answer)
        harness.save()
        for answer in traffic(70):
            harness.wait(answer)
        waited = traffic(20)
        harness.restart(Data.OLDER)
        waited += traffic(20)
    harness.server.stop()
    harness.advance(0.3)
    waited += traffic(20)
    harness.server.goOn()
    for answer in waited:
        harness.wait(answer)
    assert harness.until(lambda: all(len(feed.heard) >= len(published) for feed in feeds))
    assert feeds[0].texts == feeds[1].texts == feeds[2].texts
    assert sorted(map(int, feeds[0].texts)) == [*range(len(published))]
    assert [feed.gaps for feed in feeds] == [[], [], []]


def test_together(harness, node):
    """Messages of one turn go to the server as few commands: what is the same for all is said once."""
    first = node()
    publish(harness, first, "a", "0")
    harness.settle()
    sent = harness.ways[first.engine].sent
    sent.clear()
    answers = [first.engine.publish(f"c{number}", Message.of("x" * 100)) for number in range(TOGETHER + 1)]
    channels = [harness.wait(answer).channel for answer in answers]
    assert channels == [f"c{number}" for number in range(TOGETHER + 1)]
    data = b"".join(sent)
    assert data.count(PUBLISH.sha) == 2
    assert len(data) < 240 * len(answers) + 2 * 400


def test_largeOnesApart(harness, node):
    """Large messages are commands of their own: the server does nothing else while it executes one."""
    first = node(historyBytes=1 << 22)
    sent = harness.ways[first.engine].sent
    sent.clear()
    answers = [first.engine.publish("a", Message.of("x" * (TOGETHER_BYTES - 100))) for _ in range(3)]
    ids = [harness.wait(answer).id for answer in answers]
    assert [parsePosition(each).offset for each in ids] == [1, 2, 3]
    assert b"".join(sent).count(PUBLISH.sha) == 3


def test_oneRefusedOfMany(harness, node):
    """A message that the server refuses takes none of the others with it."""
    first = node()
    harness.server.ask("SET", key(harness, "m:c"), "x")
    answers = [first.engine.publish(channel, Message.of(text)) for channel, text in (("a", "1"), ("c", "2"), ("a", "3"))]
    for answer in (answers[0], answers[2]):
        harness.wait(answer)
    with pytest.raises(ChannelError) as caught:
        harness.wait(answers[1])
    assert caught.value.code == "unavailable"
    harness.server.ask("DEL", key(harness, "m:c"))
    history = harness.wait(first.engine.since("a", START))
    assert [each.payload for each in history.publications] == [b"1", b"3"]
    assert first.engine.state is EngineState.UP


def test_orderOfATurn(harness, node):
    """What is asked in one turn is done in that order, messages and all else."""
    first = node()
    publish(harness, first, "a", "0")
    answers = [
        first.engine.publish("a", Message.of("1")),
        first.engine.forget("a"),
        first.engine.publish("a", Message.of("2")),
        first.engine.since("a", START),
        first.engine.publish("a", Message.of("3")),
    ]
    results = [harness.wait(answer) for answer in answers]
    assert results[1] == 2
    assert [each.payload for each in results[3].publications] == [b"2"]


def test_recipientsAfterChanges(harness, node):
    """The number of recipients elsewhere is that of the others, however subscribers come, go, die and are forgotten."""
    first, second, third = node(), node(), node()
    for each, count in ((first, 2), (second, 3), (third, 4)):
        watch(harness, each, "a")
        each.counts["a"] = each.recipients = count

    def reached(node):
        return publish(harness, node, "a", "x")[0].recipients

    assert harness.until(lambda: reached(first) == reached(second) == 9)
    second.counts["a"] = second.recipients = 1
    assert harness.until(lambda: reached(first) == 7)
    harness.server.ask("FLUSHALL")
    assert harness.until(lambda: reached(first) == reached(third) == 7)
    harness.kill(third.engine)
    harness.started.remove(third)
    assert harness.until(lambda: reached(first) == 3)
    second.engine.unwatch("a")
    second.counts["a"] = second.recipients = 0
    assert harness.until(lambda: reached(first) == reached(second) == 2)
    assert harness.wait(first.engine.describe("a")).subscribers == 2


def test_olderData(harness, node):
    """Data of an earlier version are left alone: the start says which version they have."""
    harness.server.ask("HSET", key(harness, "gate"), "v", "1", "run", "x", "gen", "y", "until", "0")
    with pytest.raises(ConfigurationError, match="version 1, but this package knows version"):
        node()


def test_traced(harness, node, spans):
    """What one node publishes is delivered by all nodes in the same trace; what is kept is the same as without."""
    first, second = node(), node()
    feeds = [watch(harness, each, "a") for each in (first, second)]
    first.counts["a"], second.counts["a"] = 1, 2
    published = harness.wait(tracing.traced("publish", first.engine.publish, "a", Message.of("1"), "key"))
    assert harness.until(lambda: len(spans.named("deliver")) == 2)
    assert {parent(each) for each in spans.named("deliver")} == {spans.one("publish").context.span_id}
    assert sorted(each.attributes["twisted_ws.recipients"] for each in spans.named("deliver")) == [1, 2]
    (kept,) = harness.wait(second.engine.since("a", Position(feeds[1].position.epoch, 0))).publications
    assert (str(kept.position), kept.payload, kept.key) == (published.id, b"1", "key")
    assert [each.texts for each in feeds] == [["1"], ["1"]]


def test_look(harness, node):
    """Whoever only looks sees the nodes, and is none; data that no node could use are an error."""
    first, second = node(), node()
    engine = harness.engine(RecordingNode(), Limits())
    assert sorted(each.id for each in harness.wait(engine.look())) == sorted([first.id, second.id])
    assert len(harness.wait(first.engine.nodes())) == 2
    harness.server.ask("HSET", key(harness, "gate"), "v", "1")
    with pytest.raises(ConfigurationError, match=r"^The engine's server .* has data of version 1, but"):
        harness.wait(engine.look())


def test_moreThanTheKernelTakes(harness, node):
    """What the kernel does not take at once goes later, in order, and nothing of it is lost or sent twice."""
    first = node(historyBytes=1 << 26)
    commands = harness.ways[first.engine].open[0].transport
    commands.pauseProducing()
    answers = []
    for number in range(12):
        answers.append(first.engine.publish("a", Message.of(f"{number}" * 500_000)))
        harness.turn()
    commands.resumeProducing()
    ids = [harness.wait(answer).id for answer in answers]
    assert [parsePosition(each).offset for each in ids] == [*range(1, 13)]
    history = harness.wait(first.engine.since("a", START))
    assert [each.payload for each in history.publications] == [f"{number}".encode() * 500_000 for number in range(12)]
    assert first.engine.state is EngineState.UP


def test_slow(harness, node, monkeypatch):
    """A server that takes long to answer is called slow, before it answers and until it answers in time again."""
    monkeypatch.setattr("twisted_ws.engines.redis.server.contact.SLOW", 0.2)
    harness.times = Times(closed=0.05, probe=2.0, lease=6.0)
    first = node()
    assert not first.engine.isSlow
    server = harness.ways[first.engine].open[0].there.transport
    server.pauseProducing()
    assert harness.until(lambda: first.engine.isSlow)
    server.resumeProducing()
    assert harness.until(lambda: not first.engine.isSlow)
    assert EngineState.DOWN not in first.states


def test_muchToGiveBack(harness):
    """The gate stays closed while somebody gives back what the server does not have, but not for ever."""
    gate, gen, limits = key(harness, "gate"), "g" * 10, packedLimits(HistoryLimits(64, 0.064, 64)).decode("ascii")

    def evaluate(script, names, *words):
        return harness.server.ask("EVAL", script.text, str(len(names)), *names, *words)

    def field(name):
        return int(harness.server.ask("HGET", gate, name))

    def offer(channel):
        names, position = (gate, key(harness, f"m:{channel}"), key(harness, f"s:{channel}")), ("0192abc0000000", "7")
        words = (*position, "0", "60000", limits, "64", key(harness, ""), "1000")
        return evaluate(REPAIR, names, "run", gen, channel, *words)

    evaluate(HELLO, (gate, key(harness, "open")), str(VERSION), "run", gen, "1000", "ctl")
    assert field("most") == field("until") + 1000 * (LONGEST - 1)
    harness.server.ask("HSET", gate, "until", f"{harness.server.ask('TIME')[0]}000")
    before = field("until")
    assert offer("a") == ["ok"]
    after = field("until")
    assert after > before
    assert offer("a") == ["has"]
    assert field("until") == after
    harness.server.ask("HSET", gate, "most", str(after))
    assert offer("b") == ["ok"]
    assert field("until") == after


def test_spans(harness, node):
    """With OpenTelemetry, a call of the server is a span until it is answered, named by what it does; chores are none."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    one = node()
    tracer = provider.get_tracer("test")
    tracing.begin(tracer)
    try:
        publish(harness, one, "a", "0")  # of nobody
        with tracer.start_as_current_span("around"):
            asked = one.engine.publish("a", Message.of("1")), one.engine.describe("a")
        for each in asked:
            harness.wait(each)
    finally:
        tracing.end()
    assert sorted(span.name for span in exporter.get_finished_spans()) == ["around", "engine describe", "engine publish"]
