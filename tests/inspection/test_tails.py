"""Tails of callers: what they receive and send, and that nothing of it stays."""

from __future__ import annotations

import msgspec
import pytest
from twisted.internet.task import Clock

from twisted_ws import WebSocketServer
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.inspection.tails import (
    CONNECTION,
    FOLLOWED,
    FORGOTTEN,
    KIND,
    RATE,
    USER,
    WAITING,
    Asked,
    Tails,
    Wanted,
    answerTails,
)
from twisted_ws.testing.server import MemoryServer
from twisted_ws.wire.websocket.observing import unobserve


class Echo:
    """Echoes; its caller's name is in the query."""

    def onUpgrade(self, request):
        request.user = request.query["user"][0]
        return self

    def onOpen(self, caller):
        pass

    def onTextMessage(self, caller, text):
        return f"Echo: {text}"

    def onBinaryMessage(self, caller, data):
        return data


class World:
    """A server with tails.

    Attributes:
        tails: those of the server.
    """

    def __init__(self, service=None):
        self.clock = Clock()
        self.server = WebSocketServer(reactor=self.clock)
        self.server.mount("/ws", service or Echo())
        self.memory = MemoryServer(self.server, self.clock)
        self.tails: Tails = answerTails(self.server)

    def connect(self, user="ann", **options):
        return self.memory.connect(f"/ws?user={user}", **options)

    def ask(self, *wanted):
        """Ask for tails, and return what was seen of each: what, text and direction."""
        payload = msgspec.json.encode(Asked("site", wanted))
        answer = msgspec.json.decode(self.server.node.answers[KIND](payload))
        return answer["tails"]

    def lines(self, wanted):
        """Return the lines of one tail."""
        self.memory.settle()
        return [(each["what"], each.get("data", each.get("note"))) for each in self.ask(wanted)[wanted.id]["lines"]]


@pytest.fixture
def world():
    return World()


def one(world, number=0):
    """Return a tail of one caller."""
    return Wanted(f"site.{number}", CONNECTION, [*world.server.callers][number].connectionId)


def state(connection):
    """Return what a tail changes of a connection."""
    return type(connection), set(vars(connection)) - {"_heard"}, connection._receiver, connection._deliver, connection.sender.open


def test_caller(world):
    """A tail of a caller has what it sends, and what it is sent: replies, broadcasts, messages of channels, writes."""
    client = world.connect()
    tail = one(world)
    assert world.lines(tail) == []
    client.writeTextMessage("hi")
    client.writeBinaryMessage(b"\x00\x01")
    assert world.lines(tail) == [("received", "hi"), ("sent", "Echo: hi"), ("received", "AAE="), ("sent", "AAE=")]
    world.server.broadcast("all")
    (caller,) = world.server.callers
    caller.subscribe("a")
    world.server.publish("a", {"n": 1})
    caller.writeTextMessage("alone")
    caller.unsubscribe("a")
    found = world.ask(tail)[tail.id]["lines"]
    assert [(each["what"], each.get("data", each.get("channel"))) for each in found] == [
        ("sent", "all"),
        ("sent", '{"n":1}'),
        ("sent", "alone"),
    ]
    assert (found[1]["channel"], found[1]["kind"]) == ("a", "text")
    assert [client.readMessage() for _ in range(5)] == ["Echo: hi", b"\x00\x01", "all", '{"n":1}', "alone"]


def test_subscriptions(world):
    """It also has what the caller subscribes to, and leaves, and how it ends."""
    client = world.connect()
    tail = one(world)
    world.ask(tail)
    (caller,) = world.server.callers
    caller.subscribe("a")
    assert world.lines(tail)[0][0] == "subscribed"
    caller.unsubscribe("a")
    assert world.lines(tail)[0][0] == "unsubscribed"
    client.close(1000, "bye")
    assert ("closed", "1000 bye") in world.lines(tail)
    assert world.ask(tail)[tail.id]["isThere"] is False


def test_user(world):
    """A tail of a user follows all connections of the user, also those that come later, and nobody else's."""
    tail = Wanted("site.1", USER, "ann")
    world.connect("bob").writeTextMessage("bob")
    first = world.connect()
    world.ask(tail)
    second = world.connect()
    assert world.lines(tail) == [("opened", None)]
    first.writeTextMessage("1")
    second.writeTextMessage("2")
    assert [line for line in world.lines(tail) if line[0] == "received"] == [("received", "1"), ("received", "2")]


def test_manyOfOneUser(world):
    """Of a user with very many connections, only some are followed."""
    for _ in range(FOLLOWED + 5):
        world.connect()
    world.ask(Wanted("site.1", USER, "ann"))
    assert sum(hasattr(each._connection, "isObserved") for each in world.server.callers) == FOLLOWED


def test_nothingStays(world):
    """A connection that is not followed is as it was made, before, beside and after: no code of tails runs for it."""
    client, other = world.connect(), world.connect("bob")
    connections = [each._connection for each in world.server.callers]
    before = [
        (type(each), vars(each).keys() - {"_heard"}, each._receiver, each._deliver, each.sender.open) for each in connections
    ]
    tail = one(world)
    world.ask(tail)
    assert type(connections[0]) is not before[0][0]
    assert type(connections[1]) is before[1][0]
    client.writeTextMessage("x")
    world.ask()
    client.writeTextMessage("y")
    other.writeTextMessage("z")
    world.memory.settle()
    after = [
        (type(each), vars(each).keys() - {"_heard"}, each._receiver, each._deliver, each.sender.open) for each in connections
    ]
    assert after == before
    assert client.readMessages() == ["Echo: x", "Echo: y"]
    assert world.ask(tail)[tail.id]["lines"] == []


def test_forgotten(world):
    """A tail ends by itself a few seconds after it was asked for last."""
    client = world.connect()
    (connection,) = [each._connection for each in world.server.callers]
    kind = type(connection)
    world.ask(one(world))
    world.clock.pump([0.25] * (4 * round(FORGOTTEN) + 4))
    assert len(world.tails) == 0
    assert type(connection) is kind
    client.writeTextMessage("x")
    assert client.readMessage() == "Echo: x"


def test_twoTails(world):
    """Two tails of one caller both have everything, and the end of one does not end the other."""
    client = world.connect()
    both = one(world), Wanted("site.9", USER, "ann")
    world.ask(*both)
    client.writeTextMessage("1")
    world.memory.settle()
    assert [len(seen["lines"]) for seen in world.ask(*both).values()] == [2, 2]
    world.ask(both[1])
    client.writeTextMessage("2")
    assert len(world.lines(both[1])) == 2


def test_twoSites(world):
    """What one site wants is nothing to another: each has its own tails of the same caller."""
    client = world.connect()
    mine, theirs = one(world), Wanted("other.0", CONNECTION, one(world).name)
    answer = world.server.node.answers[KIND]
    world.ask(mine)
    answer(msgspec.json.encode(Asked("other", (theirs,))))
    client.writeTextMessage("1")
    world.memory.settle()
    assert len(world.ask(mine)[mine.id]["lines"]) == 2
    assert len(msgspec.json.decode(answer(msgspec.json.encode(Asked("other", (theirs,)))))["tails"]["other.0"]["lines"]) == 2
    assert WAITING <= RATE


def test_closedWhileFollowed(world):
    """A connection that ends while it is followed is freed as any other."""
    world.connect()
    tail = one(world)
    world.ask(tail)
    for caller in world.server.callers:
        caller.close(1001, timeout=0)
    world.memory.settle()
    world.lines(tail)
    assert len(world.server.callers) == 0
    world.ask()
    assert len(world.tails) == 0


def test_handOver(world):
    """A hand-over finds a connection that is followed as it was made; if it stays after all, the tail goes on."""
    client = world.connect()
    (connection,) = [each._connection for each in world.server.callers]
    before, tail = state(connection), one(world)
    world.ask(tail)
    unobserve(connection)
    assert state(connection) == before
    world.ask(tail)
    client.writeTextMessage("x")
    assert world.lines(tail) == [("received", "x"), ("sent", "Echo: x")]
    world.ask()
    assert state(connection) == before


def test_subprotocol():
    """With the subprotocol, the requests of the client are there as it has sent them, and the frames that it gets."""
    from twisted_ws import ChannelService

    world = World(ChannelService())
    client = world.memory.connect("/ws", subProtocols=[SUBPROTOCOL])
    tail = one(world)
    world.ask(tail)
    client.writeTextMessage('{"type":"subscribe","channel":"a","ref":1}')
    kinds = [what for what, _ in world.lines(tail)]
    assert kinds[:2] == ["received", "sent"]
    assert "subscribed" in kinds
