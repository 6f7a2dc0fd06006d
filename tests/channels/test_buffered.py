from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.channels.listeners import Ear
from tests.channels.test_mailbox import Steps
from tests.texts import Held
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld, framesOf
from twisted_ws import ConnectionClosed, Limits, WebSocketService
from twisted_ws.caller import Caller
from twisted_ws.channels.channels import ROOM
from twisted_ws.channels.subscribers.buffered import PIECE, STEPS, BufferedSubscriber
from twisted_ws.channels.subscribers.mailbox import CHARGE, Policy
from twisted_ws.channels.subscribers.subscriber import Subscriber
from twisted_ws.engines.replay import REPLAY_CHARGE
from twisted_ws.message import Start
from twisted_ws.testing import serve
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.loop.turns import STEPS as TURN
from twisted_ws.wire.speedups import NEVER

BIG = ROOM // 2 + 1  # of two of these, the second does not fit


class Service(WebSocketService):
    """Records how its callers end."""

    def __init__(self):
        self.heard = []

    def onError(self, caller, error):
        self.heard.append(error.code)

    def onClose(self, caller, statusCode, reason):
        self.heard.append((statusCode, caller.channels))


class World:
    """A server in memory."""

    def __init__(self, policy=None, **limits):
        self.service = Service()
        self.memory = serve({"/ws": self.service}, limits=Limits(pingInterval=0, **limits))
        self.server = self.memory.server
        self.policy = policy
        self.channels = self.server.channels
        self.backlog = self.server.runtime.backlog

    def connect(self, *channels):
        """Return a client and its caller."""
        client = self.memory.connect("/ws")
        if self.policy is not None:
            service = SimpleNamespace(policy=self.policy, left=lambda caller, channel: None)
            BufferedSubscriber(client.caller, self.channels, service)
        for channel in channels:
            client.caller.subscribe(channel)
        return client, client.caller

    def publish(self, *messages, channel="a", key=None):
        return [self.memory.publish(channel, message, key=key) for message in messages]


def big(text):
    """Return a message of which two do not fit."""
    return text * BIG


def heads(messages):
    """Return the first characters of messages."""
    return "".join([message[0] for message in messages])


def test_raw():
    """A caller gets messages as they were published: text, JSON text, binary."""
    world = World()
    client, caller = world.connect("a")
    assert caller.channels == ("a",)
    assert [answer.recipients for answer in world.publish("hi", {"a": 1}, b"\xff")] == [1, 1, 1]
    assert client.readMessages() == ["hi", '{"a":1}', b"\xff"]
    assert caller.unsubscribe("a")
    assert not caller.unsubscribe("a")
    assert caller.channels == ()
    assert world.publish("x")[0].recipients == 0


def test_resume():
    """What a caller missed comes before the handler goes on."""
    world = World()
    world.publish("1", "2")
    client, caller = world.connect()
    assert isinstance(caller.subscribe("a", "0").result, Start)
    assert client.readMessages() == ["1", "2"]


def test_afterTheEnd():
    """A caller that has gone is in no channel when onClose runs, and cannot join one."""
    world = World()
    client, caller = world.connect("a", "b")
    client.close()
    assert world.service.heard == [(1000, ())]
    assert world.channels.count("a") == 0
    refused = []
    caller.subscribe("c").addErrback(lambda failure: refused.append(failure.check(ConnectionClosed)))
    assert refused == [ConnectionClosed]
    assert world.channels.count("c") == 0


def test_noServer():
    """A caller that belongs to no server says so."""
    caller = Caller(World().connect()[0], UpgradeRequest("/ws"))
    assert caller.unsubscribe("a") is False
    with pytest.raises(RuntimeError, match="no server"):
        caller.subscribe("a")


def test_slow():
    """What does not fit waits in order, with notices and live messages among it; nothing is lost or sent twice."""
    world = World()
    client, caller = world.connect("a")
    client.pause()
    assert [answer.recipients for answer in world.publish(big("1"), big("2"), "3")] == [1] * 3
    caller.membership.write(b"4")
    world.publish("5")
    assert caller.bufferedAmount < ROOM
    assert world.server.runtime.backlog.total > 2 * BIG
    client.pause(BIG // 2)
    world.publish("6")
    client.resume()
    assert heads(client.readMessages()) == "123456"
    assert world.server.runtime.backlog.total == 0
    world.publish("7")
    assert client.readMessages() == ["7"]


def test_anySize():
    """A message of any size goes out at once if nothing waits; otherwise, it waits too."""
    world = World(maxSendBuffer=200_000)
    client, _ = world.connect("a")
    client.pause(100)
    world.publish("1" * 100_000, "2" * 100_000)
    client.resume()
    assert heads(client.readMessages()) == "12"


def test_longResume():
    """A resume longer than the send buffer goes out at the peer's pace, followed by live messages."""
    world = World(maxSendBuffer=BIG, historyBytes=100 * BIG)
    world.publish(*[big(letter) for letter in "abcdefgh"])
    client, caller = world.connect()
    client.pause(100)
    assert caller.subscribe("a", "0").result.missed == 8
    world.publish("i")
    assert caller.bufferedAmount < ROOM
    client.resume()
    assert heads(client.readMessages()) == "abcdefghi"


def test_resumesAndNothingElse():
    """However often a resume is begun and ended, no more memory is held than for one, however long the history is."""
    world = World(historyBytes=1000 * BIG)
    world.publish(*[big(letter) for letter in "abcdefgh"])
    client, caller = world.connect()
    client.pause()
    caller.subscribe("a", "0")
    held = world.backlog.total
    for _ in range(100):
        assert caller.unsubscribe("a")
        assert caller.subscribe("a", "0").result.missed == 8
    assert world.backlog.total <= held + REPLAY_CHARGE
    assert caller.isOpen()


def test_manyHistories():
    """Resuming many full channels costs a few bytes for each, and everything comes in order, including live messages."""
    world = World(maxSendBuffer=2 * BIG, historyBytes=100 * BIG)
    channels = [str(number) for number in range(100)]
    for channel in channels:
        world.publish(*[big(letter) for letter in "abcd"], channel=channel)
    client, caller = world.connect()
    client.pause(100)
    for channel in channels:
        caller.subscribe(channel, "0")
    assert world.backlog.total < 4 * BIG + 100 * REPLAY_CHARGE
    for _ in range(10):
        for channel in channels:
            world.publish(big("e"), channel=channel)
    assert world.backlog.total < 4 * BIG + 100 * REPLAY_CHARGE
    client.resume()
    found = ""
    while more := heads(client.readMessages()):
        found += more
    assert sorted(found) == sorted("abcdeeeeeeeeee" * 100)
    assert world.backlog.total == 0


def test_forgotten():
    """A caller that reads a replay more slowly than the history forgets it is closed, and learns of the gap on its return."""
    world = World(historyMessages=4, historyBytes=100 * BIG)
    world.publish(*[big(letter) for letter in "abcd"])
    client, caller = world.connect()
    client.pause(100)
    caller.subscribe("a", "0")
    world.publish("e")
    assert caller.isOpen()
    world.publish("f")
    assert not caller.isOpen()
    client.resume()
    assert client.closed == (1013, "too slow")
    assert world.backlog.total == 0


class Greedy:
    """The connection of a peer that takes everything at once, and says so at once.

    Attributes:
        sent: at each write, how many steps of its turn are left, and how many messages it has.
        kept: bytes that are held for the peer elsewhere.
    """

    sender = NEVER

    def __init__(self, turns, sent):
        self.turns, self.sent = turns, sent
        self.kept, self.goOn = 0, None

    def isOpen(self):
        return True

    def bufferedAmount(self):
        return 0

    waiting = bufferedAmount

    def keep(self, by):
        self.kept += by

    def hold(self, goOn, makeRoom=None):
        self.goOn = goOn

    def sendAll(self, messages):
        self.sent.append((self.turns.left, len(messages)))
        if self.goOn is not None:
            self.goOn()


def greedy(world, sent):
    """Return a subscriber with such a peer."""
    connection = Greedy(world.server.runtime.turns, sent)
    return BufferedSubscriber(Caller(connection, UpgradeRequest("/ws")), world.channels)


def test_pieces():
    """A long resume to a peer that takes all at once goes out a piece at a time."""
    world, sent = World(historyMessages=1000), []
    world.publish(*["x" * 1000] * 500)
    peer = greedy(world, sent)
    peer.subscribe("a", "0")
    world.memory.advance(0)
    sizes = [size for _, size in sent]
    assert sum(sizes) == 500
    assert set(sizes[:-1]) == {PIECE // 1000}
    assert peer.caller.bufferedAmount == world.backlog.total == 0


@pytest.mark.parametrize(("channels", "callers"), [(1, 1), (9, 1), (3, 3)])
@pytest.mark.parametrize("size", [1, 5000])
def test_inTurns(channels, callers, size):
    """All resumes together are bounded in each turn of the reactor, and nothing is left over."""
    count, most = (3000, TURN // STEPS + 256) if size == 1 else (180, TURN * 2048 // size)
    world, sent = World(historyMessages=3000), []
    for number in range(channels):
        world.publish(*["x" * size] * count, channel=f"a{number}")
    peers = [greedy(world, sent) for _ in range(callers)]
    for peer in peers:
        for number in range(channels):
            peer.subscribe(f"a{number}", "0")
    world.memory.advance(0)
    turns, before = [0], TURN
    for left, number in sent:
        if left > before:
            turns.append(0)
        before = left
        turns[-1] += number
    assert sum(turns) == channels * callers * count
    assert max(turns) <= most
    assert world.backlog.total == 0


@pytest.mark.parametrize("deep", [False, True])
def test_stepsOfWanted(deep):
    """Seeing whether a waiting message is still wanted takes a few steps, however long its name and many the channels."""
    world = World()
    name = ".".join("a" * (60 if deep else 2))
    client, caller = world.connect("a.*", *(f"b.{number}.*" for number in range(120)))
    client.pause()
    world.publish(big("1"), big("2"), channel="a.b")
    count = 500
    world.publish(*["x"] * count, channel=name)
    assert caller.unsubscribe("a.*")
    with Steps() as counted:
        client.resume()
        assert heads(client.readMessages()) == "1"
    assert counted.count < 100 * count


def test_unsubscribed():
    """Messages that wait are dropped when their subscription ends, unless another subscription wants them."""
    world = World()
    world.publish(big("a"), big("b"), big("c"), channel="a.a")
    client, caller = world.connect("b", "*")
    client.pause()
    world.publish(big("1"), big("2"), big("3"), channel="b")
    full = world.backlog.total
    assert caller.unsubscribe("b")
    assert world.backlog.total == full
    assert caller.unsubscribe("*")
    world.publish("4", channel="b")
    caller.subscribe("a.a", "0")
    caller.subscribe("a.*")
    world.publish("5", channel="a.a")
    assert caller.unsubscribe("a.a")
    client.resume()
    assert heads(client.readMessages()) == "15"
    assert world.backlog.total == 0


def test_dropped():
    """When a subscription ends, its waiting messages are dropped, and new ones go straight out."""
    world = World()
    client, caller = world.connect("a", "b")
    client.pause()
    world.publish(big("1"), big("2"), big("3"))
    assert world.backlog.total > 3 * BIG
    assert caller.unsubscribe("a")
    assert world.backlog.total < 2.1 * BIG
    before = caller.bufferedAmount
    world.publish("4", channel="b")
    assert caller.bufferedAmount > before  # not behind it
    client.resume()
    assert heads(client.readMessages()) == "14"


def test_tooSlow():
    """A caller that leaves too much unread is closed with 1013, leaves its channels, and costs no more memory."""
    world = World(maxSendBuffer=4 * BIG)
    client, caller = world.connect("a")
    other, _ = world.connect("a")
    client.pause()
    counts = []
    for each in "123456":
        counts += [answer.recipients for answer in world.publish(big(each))]
    assert counts == [2, 2, 2, 2, 1, 1]
    assert world.service.heard[0] == 1013
    assert caller.channels == ()
    assert heads(other.readMessages()) == "123456"
    client.resume()
    assert client.closed == (1013, "too slow")
    assert world.server.runtime.backlog.total == 0


def test_tooOld():
    """A caller that leaves a message unread for too long is closed when the next one comes."""
    world = World(subscriberLag=10)
    client, caller = world.connect("a")
    client.pause(10)
    world.publish(big("1"), big("2"))
    world.memory.advance(9)
    world.publish("3")
    assert caller.isOpen()
    world.memory.advance(1.25)
    world.publish("4")
    assert not caller.isOpen()
    assert world.service.heard[0] == 1013


@pytest.mark.parametrize(("policy", "seen"), [(Policy.DROP_OLDEST, "1789"), (Policy.LATEST, "169")])
def test_policies(policy, seen):
    """With another policy a slow caller stays, and gets what the policy leaves: the newest, or the newest of each key."""
    world = World(policy, maxSendBuffer=4 * BIG)
    client, caller = world.connect("a")
    client.pause(10)
    world.publish(*[big(each) for each in "123456"], key="k")
    world.publish(*[big(each) for each in "789"])
    assert caller.isOpen()
    assert world.server.runtime.backlog.total <= 6 * BIG
    client.resume()
    assert heads(client.readMessages()) == seen
    world.publish("!")
    assert client.readMessages() == ["!"]


def test_policiesByName():
    """What the operator says of a channel comes before what its service says; other channels are as the service says."""
    world = World(Policy.LATEST, maxSendBuffer=4 * BIG)
    world.server.setChannelRules({"a.*": {"policy": "drop-oldest"}, "a.c": {"policy": "close"}})
    for channel, seen in ("a.b", "1789"), ("a", "169"), ("a.c", None):
        client, caller = world.connect(channel)
        client.pause(10)
        world.publish(*[big(each) for each in "123456"], channel=channel, key="k")
        world.publish(*[big(each) for each in "789"], channel=channel)
        assert caller.isOpen() is (seen is not None)
        client.resume()
        if seen is not None:
            assert heads(client.readMessages()) == seen


@pytest.mark.parametrize(("policy", "seen"), [(Policy.DROP_OLDEST, "1B9"), (Policy.LATEST, "1B9"), (Policy.CLOSE, None)])
def test_besideABroadcast(policy, seen):
    """Waiting channel messages give way to a broadcast as they do to a publication, by the policy."""
    world = World(policy, maxSendBuffer=3 * BIG)
    client, caller = world.connect("a")
    client.pause(10)
    for number in "123456789":
        if caller.isOpen() or policy is not Policy.CLOSE:
            world.publish(big(number))
        if number == "8":
            world.server.broadcast(big("B"))
    assert caller.isOpen() is (seen is not None)
    assert world.server.runtime.backlog.total <= 6 * BIG
    if seen is not None:
        client.resume()
        assert sorted(heads(client.readMessages())) == sorted(seen)


def test_droppedWhileWaiting():
    """What is too old for its policy by the time the peer reads is not sent, and later messages go straight out."""
    world = World(Policy.DROP_OLDEST, subscriberLag=10)
    client, _ = world.connect("a")
    client.pause(10)
    world.publish(big("1"), big("2"), big("3"))
    world.memory.advance(11)
    client.resume()
    assert heads(client.readMessages()) == "13"
    assert world.server.runtime.backlog.total == 0
    world.publish("4")
    assert client.readMessages() == ["4"]


def test_frames():
    """A caller that never reads its notices is closed, whatever the policy."""
    world = World(Policy.DROP_OLDEST, maxSendBuffer=BIG)
    client, caller = world.connect("a")
    client.pause()
    for _ in range(4):
        caller.membership.write(b"x" * BIG)
    assert not caller.isOpen()
    caller.membership.write(b"x" * BIG)
    assert world.service.heard[0] == 1013


def test_allTogether():
    """The bytes that wait for all callers together are bounded: the caller with the most is closed."""
    world = World(maxSendBufferTotal=122_000)
    (small, one), (large, two) = world.connect("a"), world.connect("a", "b")
    small.pause()
    large.pause()
    world.publish(big("1"), big("2"))
    world.publish(big("3"), channel="b")
    world.publish(big("4"), channel="b")
    assert (one.isOpen(), two.isOpen()) == (True, False)
    small.resume()
    assert heads(small.readMessages()) == "12"


def test_closedWithMail():
    """A peer that leaves with mail waiting leaves nothing behind, also if the service keeps its caller."""
    world, keys = World(), Held()
    client, caller = world.connect("a")
    client.pause()
    for number in "123":
        world.publish(big(number), key=keys.text(number))
    client.cut()
    world.channels.forget("a")
    assert len(keys) == 0
    assert world.server.runtime.backlog.total == caller.bufferedAmount == 0
    assert world.publish("4")[0].recipients == 0


class Subscribed(WebSocketService):
    """Subscribes each caller to channel a."""

    def onOpen(self, caller):
        caller.subscribe("a")
        self.caller = caller


@pytest.fixture(params=IMPLEMENTATIONS)
def lane(monkeypatch, request):
    world = LaneWorld(request.param, monkeypatch, Subscribed(), Limits(pingInterval=0))
    yield world
    world.close()


def test_fastLane(lane):
    """A caller in the fast lane is sent the frame directly, except while something waits: then everything takes one way."""
    client, backlog = lane.connect(), lane.server.runtime.backlog
    caller = lane.server.services["/ws"].caller
    assert lane.server.publish("a", "hi").result.recipients == 1
    assert client.recv(100) == b"\x81\x02hi"
    assert [lane.server.publish("a", text).result.recipients for text in ("1" * ROOM, "2" * ROOM, "3")] == [1, 1, 1]
    assert 0 < caller.bufferedAmount < ROOM  # it was begun directly
    assert backlog.total >= caller.bufferedAmount + 2 * CHARGE + ROOM + 1  # the others wait in the mailbox
    received = framesOf(lane.readAll(client))
    assert [(payload[:1], len(payload)) for _, payload in received] == [(b"1", ROOM), (b"2", ROOM), (b"3", 1)]
    assert backlog.total == 0
    lane.server.publish("a", "4")
    assert client.recv(100) == b"\x81\x014"


def test_nothingOvertakesMail(lane):
    """What is published when the outbox has just become empty goes behind what waits in the mailbox."""
    client = lane.connect()
    caller = lane.server.services["/ws"].caller
    caller.writeTextMessage(big("0")).addCallback(lambda result: lane.server.publish("a", "3"))
    for text in big("1"), big("2"):
        lane.server.publish("a", text)
    assert [payload[:1] for _, payload in framesOf(lane.readAll(client))] == [b"0", b"1", b"2", b"3"]


def test_promises():
    """A transport raises for methods that it must implement; those that it may ignore do nothing."""
    subscriber = Subscriber(Ear().caller)
    subscriber.ended("a", "")
    subscriber.tell([])
    subscriber.lost(None)
    subscriber.degraded(True)
    assert not subscriber.sender.open
    for call in (
        lambda: subscriber.send(None),
        lambda: subscriber.begin(None, [], None),
        lambda: subscriber.disconnect(4000, ""),
        lambda: subscriber.goOn(),
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_disconnect():
    """A caller is disconnected with a code, and as much of the reason as fits into a Close frame."""
    world = World()
    client, caller = world.connect("a")
    caller.membership.disconnect(4403, "é" * 100)
    assert client.closed == (4403, "é" * 61)
