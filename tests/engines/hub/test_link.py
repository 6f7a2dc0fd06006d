from __future__ import annotations

import random
import socket

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.unix import Server
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from tests.engines.hub.links import Pair
from twisted_ws.engines.hub.link import LARGEST, TOGETHER, UNREAD, Link, frameOf
from twisted_ws.errors import ChannelError
from twisted_ws.wire.loop.turns import TURN, Turns


def gathered(link, kind):
    """Return a list that gets the fields of each frame of a kind."""
    found = []
    link.handle(kind, lambda *fields: found.append(fields))
    return found


def resultOf(later):
    """Return the result of a Deferred, or its exception; None if it has none yet."""
    found = []

    def come(result):
        found.append(result.value if isinstance(result, Failure) else result)
        return found[0]

    later.addBoth(come)
    return found[0] if found else None


def test_frames():
    """Frames arrive in order with their fields as they were, whatever these are."""
    pair = Pair()
    found = gathered(pair.other, "one")
    pair.connect()
    sent = [(1, "two", b"\x00\xff", None, 1.5, [1], {"a": True}), (), (b"x" * 300_000,), (-1,)]
    for fields in sent:
        pair.one.send("one", *fields)
    pair.settle()
    assert found == sent


@pytest.mark.parametrize("size", range(1, 40))
def test_inPieces(size):
    """Frames are the same in whatever pieces they arrive."""
    pair = Pair()
    found = gathered(pair.other, "one")
    pair.connect()
    stream = b"".join(frameOf("one", number, b"x" * number) for number in range(20))
    for start in range(0, len(stream), size):
        pair.other.dataReceived(stream[start : start + size])
    assert found == [(number, b"x" * number) for number in range(20)]


def test_request():
    """A request is answered with what its handler returns, at once or later."""
    pair, later = Pair(), Deferred()
    pair.other.answer("add", lambda one, other: one + other)
    pair.other.answer("wait", lambda: later)
    pair.connect()
    added, waited = pair.one.request("add", 1, 2), pair.one.request("wait")
    pair.settle()
    assert (resultOf(added), resultOf(waited)) == (3, None)
    later.callback([b"x"])
    pair.settle()
    assert resultOf(waited) == [b"x"]


def test_refusal():
    """A refusal comes with its code, text and channel."""
    pair = Pair()

    def refuse():
        error = ChannelError("key-reused", "No.")
        error.channel = "news"
        raise error

    pair.other.answer("ask", refuse)
    pair.connect()
    asked = pair.one.request("ask")
    pair.settle()
    error = resultOf(asked)
    assert (error.code, error.message, error.channel) == ("key-reused", "No.", "news")


def test_lost():
    """What waits for an answer when the link ends is unavailable, as is what is asked later."""
    pair = Pair()
    pair.other.answer("wait", Deferred)
    pair.connect()
    ended = []
    pair.one.onLost(lambda: ended.append(1))
    asked = pair.one.request("wait")
    pair.settle()
    pair.transports[1].lose()
    pair.settle()
    assert resultOf(asked).code == "unavailable"
    assert resultOf(pair.one.request("wait")).code == "unavailable"
    assert ended == [1]


def test_internalError():
    """A handler that fails is a line in the log and an error for whoever asked, and the link goes on."""
    pair = Pair()
    pair.other.answer("ask", lambda: 1 / 0)
    pair.other.answer("odd", lambda: object())
    pair.other.handle("tell", lambda: 1 / 0)
    pair.other.answer("sum", lambda *numbers: sum(numbers))
    pair.connect()
    with capturedLogs() as logs:
        asked, odd = pair.one.request("ask"), pair.one.request("odd")
        pair.one.send("tell")
        added = pair.one.request("sum", 1, 2, 3)
        pair.settle()
    assert (resultOf(asked).code, resultOf(odd).code, resultOf(added)) == ("internal-error", "internal-error", 6)
    assert len([event for event in logs if "log_failure" in event]) == 3


def test_cancelled():
    """A request that is cancelled is forgotten, and its answer dropped when it comes."""
    pair, later = Pair(), Deferred()
    pair.other.answer("wait", lambda: later)
    pair.other.answer("add", lambda one, other: one + other)
    pair.connect()
    asked = pair.one.request("wait")
    pair.settle()
    asked.cancel()
    assert isinstance(resultOf(asked), CancelledError)
    later.callback(1)
    added = pair.one.request("add", 1, 2)
    pair.settle()
    assert resultOf(added) == 3


def test_largest():
    """The largest frame passes, and one byte more is refused where it would be sent."""
    pair = Pair()
    found = gathered(pair.other, "a")
    pair.connect()
    payload = bytes(LARGEST - (len(frameOf("a", bytes(70_000))) - 4 - 70_000))
    pair.one.send("a", payload)
    pair.settle()
    assert found == [(payload,)]
    with pytest.raises(ChannelError, match="at most"):
        pair.one.send("a", payload + b"x")
    assert resultOf(pair.one.request("a", payload)).code == "too-large"


def test_tooLarge():
    """The end that is sent the length of a larger frame drops the link before any of it has come."""
    pair = Pair().connect()
    with capturedLogs() as logs:
        pair.other.dataReceived((LARGEST + 1).to_bytes(4, "big"))
    assert [formatEvent(event) for event in logs] == [
        f"the link to worker 1 is dropped: it sent a frame of {LARGEST + 1} bytes, and {LARGEST} are allowed"
    ]
    assert not pair.other.isUp


def test_unread():
    """An end that leaves too much unread is dropped, and what waits for it is forgotten."""
    pair = Pair().connect()
    pair.transports[1].pauseProducing()
    with capturedLogs() as logs:
        for _ in range(100):
            pair.one.send("a", bytes(1 << 20))
    assert UNREAD < pair.one.unread < UNREAD + (2 << 20)
    assert len(logs) == 1
    assert not pair.one.isUp
    pair.settle()
    assert pair.one.unread == 0


def test_largeAnswers():
    """Large answers are made as fast as the other side reads them, and hold up nothing else."""
    pair = Pair()
    made, came = [], []

    def make(number):
        made.append(number)
        return bytes(1 << 20)

    pair.one.answer("large", make, isLarge=lambda number: number != 50)
    pair.one.answer("small", lambda: "small")
    pair.connect()
    pair.transports[1].pauseProducing()
    for number in range(100):
        pair.other.request("large", number).addCallback(lambda answer, number=number: came.append(number))
    pair.settle()
    some = len(made)
    small = pair.other.request("small")
    pair.settle()
    assert (some, made) == (len(made), [*range(some - 1), 50])
    assert 1 < some < 6
    pair.transports[1].resumeProducing()
    pair.one.send("=", 0, bytes(4 << 20))
    pair.settle()
    assert resultOf(small) == "small"
    assert sorted(made) == sorted(came) == [*range(100)]


def test_largeAnswersForNobody():
    """Large answers that nobody waits for any more are not made."""
    pair = Pair()
    made = []
    pair.one.answer("large", lambda number: made.append(number) or bytes(4 << 20), isLarge=lambda *fields: True)
    pair.connect()
    pair.transports[1].pauseProducing()
    asked = [pair.other.request("large", number) for number in range(5)]
    pair.settle()
    for each in asked[1:4]:
        each.addErrback(lambda failure: failure.trap(CancelledError) and None)
        each.cancel()
    pair.settle()
    pair.transports[1].resumeProducing()
    pair.settle()
    assert made == [0, 4]


def test_largeAnswersAmongOthers():
    """Large answers come though the other side always has much to read."""
    pair = Pair()
    came = []
    pair.one.answer("large", lambda: bytes(1 << 20), isLarge=lambda *fields: True)
    pair.other.handle("a", lambda data: pair.one.send("a", data) if len(came) < 5 else None)
    pair.connect()
    for _ in range(8):
        pair.one.send("a", bytes(1 << 20))
    for number in range(5):
        pair.other.request("large").addCallback(lambda answer, number=number: came.append(number))
    pair.settle()
    assert came == [*range(5)]


def test_largeAnswersLost():
    """Requests that wait when a link ends are forgotten."""
    pair = Pair()
    made = []
    pair.one.answer("large", lambda: made.append(1) or bytes(4 << 20), isLarge=lambda *fields: True)
    pair.connect()
    pair.transports[1].pauseProducing()
    asked = [pair.other.request("large") for _ in range(5)]
    pair.settle()
    pair.transports[0].lose()
    pair.settle()
    assert [resultOf(each).code for each in asked] == ["unavailable"] * 5
    assert len(made) == 1


def test_turns():
    """Frames that take long are handled for some milliseconds in each turn, in order, and nothing more is read meanwhile."""
    pair = Pair()
    found = []

    def slow(number):
        found.append((number, pair.clock.seconds()))
        pair.clock.rightNow += 0.001

    pair.other.handle("a", slow)
    pair.other.answer("top", lambda: len(found))
    pair.connect()
    pair.other.dataReceived(b"".join(frameOf("a", number) for number in range(100)))
    top = pair.one.request("top")
    assert len(found) <= TURN / 0.001 + 1
    assert not pair.transports[1].reading
    pair.settle()
    assert [number for number, _ in found] == [*range(100)]
    assert resultOf(top) == 100


def test_closedInTheMiddle():
    """What has come is not handled any more once a handler has dropped or closed the link."""
    for end in (lambda link: link.drop("it had to be"), lambda link: link.close()):
        pair = Pair()
        found = []

        def take(number, pair=pair, found=found, end=end):
            found.append(number)
            if number == 2:
                end(pair.other)

        pair.other.handle("a", take)
        pair.connect()
        with capturedLogs():
            for number in range(5):
                pair.one.send("a", number)
            pair.settle()
        assert found == [0, 1, 2]
        assert not pair.one.isUp
        pair.one.send("a", 1)


def test_together():
    """What handlers send is written at once when all that came is handled, and what may share a frame does."""
    pair = Pair()
    acks = gathered(pair.one, "ack")
    gathered(pair.one, "b")
    written = []

    def take(number):
        pair.other.sendTogether("ack", number, number * 2)
        pair.other.send("b", number)

    pair.other.handle("a", take)
    pair.connect()
    write = pair.transports[1].write
    pair.transports[1].write = lambda data: (written.append(data), write(data))
    pair.other.dataReceived(b"".join(frameOf("a", number) for number in range(3)))
    pair.settle()
    assert written == [b"".join([*(frameOf("b", number) for number in range(3)), frameOf("ack", 0, 0, 1, 2, 2, 4)])]
    assert acks == [(0, 0, 1, 2, 2, 4)]
    pair.other.sendTogether("ack", 9, 9)
    pair.settle()
    assert acks[1:] == [(9, 9)]


def test_togetherButNotAll():
    """What shares a frame is little enough to be handled in one go, and stays in order."""
    pair = Pair()
    counts, found = [], []
    pair.other.handle("x", lambda: [pair.other.sendTogether("ack", number, 1) for number in range(1000)])
    pair.one.handle("ack", lambda *fields: (counts.append(len(fields)), found.extend(fields[::2])))
    pair.connect()
    pair.one.send("x")
    pair.settle()
    assert max(counts) <= TOGETHER
    assert found == [*range(1000)]


class Sockets:
    """Two links over a pair of UNIX sockets, which turn when the test says so."""

    def __init__(self, room=None):
        self.reactor = MemoryReactorClock()
        self.one, self.other = Link(Turns(self.reactor), "the supervisor"), Link(Turns(self.reactor), "worker 1")
        for end, link in zip(socket.socketpair(), (self.one, self.other), strict=True):
            end.setblocking(False)
            if room is not None:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            factory = Factory()
            factory.buildProtocol = lambda address, link=link: link
            with end:  # which is duplicated
                Server._fromConnectedSocket(end.fileno(), factory, self.reactor)

    def turn(self):
        """Turn once."""
        for each in tuple(self.reactor.getWriters()):
            why = each.doWrite()
            if why is not None:
                each.connectionLost(Failure(why))
        for each in tuple(self.reactor.getReaders()):
            why = each.doRead()
            if why is not None:
                each.connectionLost(Failure(why))
        self.reactor.advance(0)

    def until(self, condition):
        """Turn until a condition holds."""
        for _ in range(100_000):
            if condition():
                return
            self.turn()
        raise AssertionError("it never came")

    def end(self):
        ended = []
        for each in (self.one, self.other):
            each.onLost(lambda: ended.append(1))
            each.close()
        self.until(lambda: len(ended) == 2)


@pytest.mark.parametrize("room", [4096, None])
def test_sockets(room):
    """Over real sockets everything arrives in order, whatever the kernel takes of it at once, and nothing waits for a turn."""
    world = Sockets(room)
    chance = random.Random(1)
    sent = [chance.randbytes(chance.choice((0, 10, 3000, 200_000))) for _ in range(200)]
    found, back = gathered(world.other, "a"), gathered(world.one, "b")
    for payload in sent:
        world.one.send("a", payload)
        world.other.send("b", payload)
        if chance.random() < 0.3:
            world.turn()
    assert world.one.unread
    world.until(lambda: len(found) == len(back) == len(sent))
    assert found == back == [(payload,) for payload in sent]
    assert world.one.unread == world.other.unread == 0
    world.end()


def test_atOnce():
    """A frame for which the kernel has room is with the kernel when `send` returns."""
    world = Sockets()
    found = gathered(world.other, "a")
    world.one.send("a", 1)
    assert not world.reactor.getWriters()
    (reader,) = [each for each in world.reactor.getReaders() if each.protocol is world.other]
    reader.doRead()
    assert found == [(1,)]
    world.end()


def test_brokenSocket():
    """A link whose other side has gone notices when it reads, and what is sent until then is nobody's."""
    world = Sockets()
    lost = []
    world.one.onLost(lambda: lost.append(1))
    (reader,) = [each for each in world.reactor.getReaders() if each.protocol is world.other]
    reader.abortConnection()
    world.reactor.advance(0)
    world.one.send("a", bytes(1000))
    asked = world.one.request("b")
    world.until(lambda: lost)
    assert resultOf(asked).code == "unavailable"
    assert world.one.unread == 0
