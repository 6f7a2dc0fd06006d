from __future__ import annotations

import msgspec
import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_ws import ChannelService, Limits, WebSocketServer
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.engines.contract import Disconnect
from twisted_ws.engines.hub.hub import Hub
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.worker import HubEngine
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.testing.server import MemoryServer
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel


class SoonTransport:
    """Delivers what is written in the next turn of a clock."""

    def __init__(self, clock):
        self.clock = clock

    def write(self, data):
        self.clock.callLater(0, self.other.protocol.dataReceived, data)

    def registerProducer(self, producer, streaming):
        self.producer = producer
        self.clock.callLater(0, self.goOn)
        producer.resumeProducing()

    def goOn(self):
        if self.producer is not None:
            self.producer.resumeProducing()
            self.clock.callLater(0, self.goOn)

    def unregisterProducer(self):
        self.producer = None

    def loseConnection(self):
        for each in (self, self.other):
            self.clock.callLater(0, each.protocol.connectionLost, Failure(ConnectionDone()))

    abortConnection = loseConnection

    def pauseProducing(self):
        """Deliver even so: what is paused keeps it."""

    resumeProducing = pauseProducing

    def getPeer(self):
        return IPv4Address("TCP", "127.0.0.1", 1)


class Machine:
    """A supervisor and its workers, each with its server.

    Attributes:
        hub: the supervisor's server.
        workers: those of the workers, as tests see them.
    """

    def __init__(self, workers=2):
        clock = self.clock = Clock()
        limits = Limits(pingInterval=0)
        wheel, turns = Wheel(clock), Turns(clock)
        hub = Hub(MemoryEngine(limits, wheel, wheel.seconds), limits, wheel, turns)
        self.hub = WebSocketServer(reactor=clock, limits=limits, engine=hub)
        self.workers = []
        for number in range(workers):
            here, there = Link(Turns(clock), "the supervisor"), Link(turns, f"worker {number}")
            hub.attach(there)
            mine, theirs = SoonTransport(clock), SoonTransport(clock)
            for one, other, link in ((mine, theirs, here), (theirs, mine, there)):
                one.other, one.protocol = other, link
            here.makeConnection(mine)
            there.makeConnection(theirs)
            engine = HubEngine(here, limits, Wheel(clock))
            server = WebSocketServer(reactor=clock, limits=limits, unixTime=clock.seconds, engine=engine)
            server.mount("/", ChannelService(publish=True, presence=True))
            self.workers.append(MemoryServer(server, clock))
        self.settle()

    def settle(self):
        for worker in self.workers:
            worker.settle()

    def result(self, later):
        found = []
        later.addCallback(found.append)
        self.settle()
        return found[0]

    def connect(self, worker, user, *channels, **more):
        """Return a client that has subscribed to channels."""
        client = self.workers[worker].connect("/", user=user, subProtocols=[SUBPROTOCOL])
        for channel in channels:
            client.writeTextMessage(msgspec.json.encode({"type": "subscribe", "ref": 1, "channel": channel, **more}).decode())
        self.settle()
        return client


def heard(client, *kinds):
    """Return what a client was sent of some types."""
    return [found for each in client.readMessages() if (found := msgspec.json.decode(each))["type"] in kinds]


@pytest.fixture
def machine():
    return Machine()


def test_publish(machine):
    """Subscribers at every worker hear what is published at the supervisor, or by a client at any of them, in one order."""
    clients = [machine.connect(number % 2, f"u{number}", "news") for number in range(4)]
    assert machine.result(machine.hub.publish("news", "one")).recipients == 4
    clients[3].writeTextMessage('{"type":"publish","channel":"news","data":"two","ref":1}')
    machine.settle()
    for client in clients[:3]:
        assert [each["data"] for each in heard(client, "message")] == ["one", "two"]
    (published,) = heard(clients[3], "published")
    assert published["recipients"] == 4


def test_resume(machine):
    """A client that comes back at another worker gets what it has missed, and then what is new."""
    machine.connect(0, "ann", "news")
    for number in range(5):
        published = machine.result(machine.hub.publish("news", str(number)))
    epoch, _, offset = published.id.partition(":")
    client = machine.connect(1, "ann", "news", after=f"{epoch}:{int(offset) - 3}")
    machine.hub.publish("news", "new")
    machine.settle()
    came = [msgspec.json.decode(each) for each in client.readMessages()]
    assert [each["recovered"] for each in came if each["type"] == "subscribed"] == [True]
    assert [each["data"] for each in came if each["type"] == "message"] == ["2", "3", "4", "new"]


def test_presence(machine):
    """Who comes and goes is told at all workers, and a user that changes workers has never left."""
    ann = machine.connect(0, "ann", "room", presence=True)
    bob = machine.connect(1, "bob", "room", presence=True)
    assert [each["member"]["user"] for each in heard(ann, "join")] == ["bob"]
    (subscribed,) = heard(bob, "subscribed")
    assert [each["user"] for each in subscribed["presence"]["members"]] == ["ann", "bob"]
    bob.close()
    machine.connect(0, "bob", "room")
    machine.workers[0].advance(10)
    assert heard(ann, "leave", "join") == []


def test_everybody(machine):
    """A broadcast and a disconnect concern the callers of all workers."""
    clients = [machine.connect(number % 2, "ann") for number in range(3)]
    assert machine.result(machine.hub.broadcast("all")) == 3
    assert machine.result(machine.workers[1].server.broadcast("all")) == 3
    for client in clients:
        assert len(heard(client, "broadcast")) == 2
    one = next(iter(machine.workers[1].server.callers)).connectionId
    assert machine.result(machine.workers[0].server.engine.command(Disconnect(one, None, 4000, "bye"))) == 1
    assert machine.result(machine.hub.engine.command(Disconnect(None, "ann", 4000, "bye"))) == 2
    assert [len(worker.server.callers) for worker in machine.workers] == [0, 0]


def test_described(machine):
    """The supervisor knows how many are subscribed at all workers, and what is kept."""
    for number in range(3):
        machine.connect(number % 2, f"u{number}", "news")
    machine.result(machine.hub.publish("news", "x"))
    described = machine.result(machine.hub.channels.describe("news"))
    assert (described.subscribers, described.messages) == (3, 1)
    assert len(machine.result(machine.hub.engine.nodes())) == 2
