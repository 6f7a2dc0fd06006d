from __future__ import annotations

from itertools import pairwise

import hiredis
import pytest
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from twisted_ws.engines.redis.server.protocol import LOOK, PARTIAL, TURN, Lost, RedisProtocol


class Transport(StringTransport):
    aborted = False

    def abortConnection(self):
        self.aborted = True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def protocol(clock):
    made = RedisProtocol(clock, 1000)
    made.makeConnection(Transport())
    return made


def sent(clock, protocol):
    clock.advance(0)
    written = protocol.transport.value()
    protocol.transport.clear()
    return written


def test_oneWriteForEachTurn(clock, protocol):
    """All commands of one turn of the reactor are written together, in order."""
    replies = []
    protocol.send(("GET", "a"), replies.append)
    protocol.send(("GET", b"\r\n"), replies.append)
    assert protocol.transport.value() == b""
    assert sent(clock, protocol) == b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n"
    assert protocol.waiting == 2


def test_byteByByte(clock, protocol):
    """Replies are the same however they are cut, and each goes to its own command."""
    replies = []
    for number in range(5):
        protocol.send(("X",), lambda reply, number=number: replies.append((number, reply)))
    for byte in b"+OK\r\n:7\r\n$4\r\na\r\nb\r\n*2\r\n$-1\r\n*1\r\n:1\r\n-ERR no\r\n":
        protocol.dataReceived(bytes([byte]))
    assert replies[:4] == [(0, b"OK"), (1, 7), (2, b"a\r\nb"), (3, [None, [1]])]
    assert replies[4][0] == 4
    assert isinstance(replies[4][1], hiredis.ReplyError)
    assert (protocol.waiting, protocol.bytes) == (0, 0)


def test_errorsOfCommands(protocol):
    """An error of the server is one of its command; the connection goes on."""
    failures = []
    protocol.ask("X").addErrback(failures.append)
    protocol.dataReceived(b"-WRONGTYPE of\r\n")
    assert failures[0].check(hiredis.ReplyError)
    assert not protocol.transport.aborted


@pytest.mark.parametrize(
    ("garbage", "spoken"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "but HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "but TLS"),
        (b"*1\r\n!", r"but answers '*1\\r\\n!'"),
    ],
)
def test_garbage(protocol, garbage, spoken):
    """What is not the protocol ends the connection, and all that waits; the reason says what it is."""
    replies, ends = [], []
    protocol.onLost = ends.append
    protocol.send(("X",), replies.append)
    protocol.send(("Y",), replies.append)
    protocol.dataReceived(garbage)
    assert protocol.transport.aborted
    assert ends == [f"it does not speak the protocol of Redis, {spoken}"]
    assert [type(each) for each in replies] == [Lost, Lost]


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"-ERR max number of clients reached\r\n"])
def test_unasked(protocol, reply):
    """A reply to nothing ends the connection."""
    protocol.dataReceived(reply)
    assert protocol.transport.aborted


def test_tooMuch(protocol):
    """A reply that is larger than anything that may come is not collected."""
    protocol.send(("X",), lambda reply: None)
    protocol.dataReceived(b"$100000000\r\n")
    for _ in range((PARTIAL + 2000) // 65536 + 1):
        assert not protocol.transport.aborted
        protocol.dataReceived(bytes(65536))
    assert protocol.transport.aborted


def test_messages(clock, protocol):
    """After the first command of pub/sub, messages come without being asked for."""
    pushes = []
    protocol.onPush = pushes.append
    protocol.push("SUBSCRIBE", "a")
    assert sent(clock, protocol) == b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n"
    protocol.dataReceived(b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\n17\r\n")
    assert pushes == [[b"subscribe", b"a", 1], [b"message", b"a", b"17"]]


class Turns:
    """A reactor that turns when told, with time that passes when told."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def seconds(self):
        return self.now

    def callLater(self, seconds, call):
        self.calls.append(call)
        return call

    def turn(self):
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_turns():
    """Of very many messages, as many as fit into some milliseconds are handled in one turn, and no more is read meanwhile."""
    reactor, pushes = Turns(), []

    def take(reply):
        pushes.append(reply)
        reactor.now += 0.001

    protocol = RedisProtocol(reactor, 1000)
    protocol.makeConnection(Transport())
    protocol.onPush = take
    protocol.push("SUBSCRIBE", "a")
    reactor.turn()
    protocol.dataReceived(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n" * 100)
    done = [0, len(pushes)]
    while len(pushes) < 100:
        assert protocol.transport.producerState == "paused"
        reactor.turn()
        done.append(len(pushes))
    assert max(after - before for before, after in pairwise(done)) <= TURN / 0.001 + LOOK
    reactor.turn()
    assert protocol.transport.producerState == "producing"


def test_afterTheEnd(clock, protocol):
    """A command for a connection that has ended fails at once, and nothing is written."""
    protocol.drop("enough")
    replies = []
    protocol.send(("X",), replies.append)
    assert [str(each) for each in replies] == ["enough"]
    assert sent(clock, protocol) == b""


def test_cancelled(protocol):
    """A command that nobody waits for any more leaves its place, so that later replies go to the right ones."""
    first, replies = protocol.ask("X"), []
    protocol.ask("Y").addCallback(replies.append)
    first.addErrback(lambda failure: None)
    first.cancel()
    protocol.dataReceived(b":1\r\n:2\r\n")
    assert replies == [2]
