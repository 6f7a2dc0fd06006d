from __future__ import annotations

import gc
from weakref import ref

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport, ITCPTransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from zope.interface.verify import verifyObject

from twisted_ws.testing import Restless
from twisted_ws.testing.connection import MemoryConnection
from twisted_ws.testing.network import Network


class Recorder(Protocol):
    """Records its events."""

    def __init__(self):
        self.data = b""
        self.reads = 0
        self.lost = []

    def dataReceived(self, data):
        self.data += data
        self.reads += 1

    def connectionLost(self, reason):
        self.lost.append(reason.type)


class Producer:
    def __init__(self):
        self.asked = 0
        self.stopped = False

    def resumeProducing(self):
        self.asked += 1

    def stopProducing(self):
        self.stopped = True


class World:
    def __init__(self, **options):
        self.clock = Clock()
        self.network = Network(self.clock)
        self.connection = MemoryConnection("192.0.2.1", 40000, **{"isSecure": False, **options})
        for end in (self.connection.client, self.connection.server):
            end.protocol = Recorder()
            end.protocol.makeConnection(end)
        self.network.add(self.connection)

    @property
    def lost(self):
        """The reasons with which both protocols ended."""
        return [end.protocol.lost for end in (self.connection.client, self.connection.server)]


@pytest.fixture
def world():
    return World()


def test_transport(world):
    """Each end is what a protocol expects of a TCP transport or, with TLS, of a transport with TLS."""
    for end, peer in ((world.connection.client, world.connection.server), (world.connection.server, world.connection.client)):
        assert verifyObject(ITCPTransport, end)
        assert (end.getHost(), end.getPeer()) == (peer.getPeer(), peer.getHost())
        end.setTcpNoDelay(True)
        end.setTcpKeepAlive(True)
        assert (end.getTcpNoDelay(), end.getTcpKeepAlive()) == (True, False)
        assert not ISSLTransport.providedBy(end)
    secure = World(isSecure=True).connection.server
    assert ISSLTransport.providedBy(secure)
    assert secure.getPeerCertificate() is None


def test_write(world):
    """Bytes arrive in the next turns, in order, no more than a read has at once."""
    client, server = world.connection.client, world.connection.server
    client.write(b"ab")
    client.writeSequence([b"c", b"d"])
    assert server.protocol.data == b""
    world.network.settle()
    assert (server.protocol.data, server.protocol.reads) == (b"abcd", 1)
    client.write(b"x" * 100_000)
    world.network.settle()
    assert (len(server.protocol.data), server.protocol.reads) == (100_004, 3)
    with pytest.raises(TypeError, match="bytes, not str"):
        client.write("text")


def test_room(world):
    """The network takes as many bytes as there is room for; the rest waits."""
    client, server = world.connection.client, world.connection.server
    client.room, client.segment = 5, 2
    client.write(b"abcdefgh")
    world.network.settle()
    assert (server.protocol.data, server.protocol.reads, client.room) == (b"abcde", 3, 0)
    client.room = None
    world.network.settle()
    assert server.protocol.data == b"abcdefgh"


def test_pauseProducing(world):
    """An end that does not read gets nothing, and learns of the close when it reads again."""
    client, server = world.connection.client, world.connection.server
    server.pauseProducing()
    client.write(b"ab")
    world.network.settle()
    assert server.protocol.data == b""
    client.loseWriteConnection()
    world.network.settle()
    server.resumeProducing()
    world.network.settle()
    assert server.protocol.data == b"ab"
    assert world.lost == [[ConnectionDone], [ConnectionDone]]
    server.resumeProducing()  # too late, and no harm
    assert world.connection.closed


def test_producer(world):
    """A pull producer is asked at once, and each time that all has gone out; with it, a close waits."""
    client, producer = world.connection.client, Producer()
    client.registerProducer(producer, False)
    assert producer.asked == 1
    with pytest.raises(RuntimeError, match="registered already"):
        client.registerProducer(producer, False)
    client.write(b"ab")
    client.segment = 1
    world.network.settle()
    assert producer.asked == 2
    client.loseConnection()
    world.network.settle()
    assert world.lost == [[], []]
    client.unregisterProducer()
    world.network.settle()
    assert world.lost == [[ConnectionDone], [ConnectionDone]]


def test_pushProducer(world):
    """A push producer is not asked too early, and learns of the end."""
    producer = Producer()
    world.connection.client.registerProducer(producer, True)
    assert producer.asked == 0
    world.connection.client.abortConnection()
    world.network.settle()
    assert producer.stopped


def test_loseConnection(world):
    """A close sends what was written, and both sides end cleanly; what the other side has not sent is lost."""
    client, server = world.connection.client, world.connection.server
    server.pauseProducing()
    client.write(b"last")
    client.stopProducing()
    world.network.settle()
    assert world.lost == [[], []]
    server.write(b"too late")
    client.pauseProducing()
    server.resumeProducing()
    world.network.settle()
    assert server.protocol.data == b"last"
    assert client.protocol.data == b""
    assert world.lost == [[ConnectionDone], [ConnectionDone]]
    client.write(b"x")
    world.network.settle()


def test_loseWriteConnection(world):
    """Nothing can be written after the end of the stream; the other side closes."""
    client, server = world.connection.client, world.connection.server
    client.write(b"last")
    client.loseWriteConnection()
    client.write(b"more")
    world.network.settle()
    assert server.protocol.data == b"last"
    assert world.lost == [[ConnectionDone], [ConnectionDone]]


def test_loseWriteConnectionUnread(world):
    """An end that does not read does not see the end of the stream; once it reads, the connection ends and is forgotten."""
    world.connection.server.pauseProducing()
    world.connection.client.loseWriteConnection()
    world.network.settle()
    assert world.lost == [[], []]
    world.connection.server.resumeProducing()
    world.network.settle()
    assert world.lost == [[ConnectionDone], [ConnectionDone]]
    gone = ref(world.connection)
    del world.connection
    gc.collect()
    assert gone() is None


def test_abortConnection(world):
    """An abort drops what waits; one side knows of the abort, the other has lost the connection."""
    world.connection.server.write(b"x")
    world.connection.server.abortConnection()
    world.network.settle()
    assert world.connection.client.protocol.data == b""
    assert world.lost == [[ConnectionLost], [ConnectionAborted]]


def test_lose(world):
    """A cut is a lost connection for both."""
    world.connection.client.lose()
    world.connection.server.lose()
    world.connection.server.lose()
    world.network.settle()
    assert world.lost == [[ConnectionLost], [ConnectionLost]]


def test_closedByBoth(world):
    """Both may close at the same time."""
    world.connection.client.loseConnection()
    world.connection.server.loseConnection()
    world.network.settle()
    assert world.lost == [[ConnectionDone], [ConnectionDone]]


def test_turns(world):
    """What a timer makes due for now comes in the next turn, as in a reactor; what it cancels does not come."""
    order = []
    clock = world.clock

    def first():
        clock.callLater(0, order.append, "second turn")
        cancelled.cancel()
        moved.delay(1)
        order.append("first turn")

    clock.callLater(0, first)
    clock.callLater(0, order.append, "first turn, too")
    cancelled = clock.callLater(0, order.append, "cancelled")
    moved = clock.callLater(0, order.append, "a second later")
    world.network.settle()
    assert order == ["first turn", "first turn, too", "second turn"]
    world.network.advance(1)
    assert order[3:] == ["a second later"]


def test_advance(world):
    """Time goes from timer to timer, ends exactly, and stops early on request."""
    seen = []
    for delay in (0.5, 2, 2.0001):
        world.clock.callLater(delay, lambda: seen.append(world.clock.seconds()))
    assert world.network.advance(2) is False
    assert (seen, world.clock.seconds()) == ([0.5, 2], 2)
    assert world.network.advance(5, lambda: len(seen) == 3) is True
    assert world.clock.seconds() == 2.0001
    assert world.network.settle(lambda: True) is True


def test_restless(world, monkeypatch):
    """What has no end is named: a timer, or messages."""
    monkeypatch.setattr("twisted_ws.testing.network.TURNS", 50)

    def again():
        world.clock.callLater(0, again)

    again()
    with pytest.raises(Restless, match="again repeats itself without any time passing"):
        world.network.advance(1)
    endless = World()
    for end in (endless.connection.client, endless.connection.server):
        end.protocol.dataReceived = end.write
    endless.connection.client.write(b"x")
    with pytest.raises(Restless, match=r"^a message repeats itself"):
        endless.network.settle()


def test_raises(world):
    """What a timer raises is logged, and the others have their turn."""
    seen = []
    world.clock.callLater(0, [].pop)
    world.clock.callLater(0, seen.append, 1)
    with capturedLogs() as events:
        world.network.settle()
    assert (seen, events[0]["log_failure"].type) == ([1], IndexError)
