"""How much of one connection's input is handled in one turn of the reactor."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.memory import clientFrame
from tests.moments import MOMENTS, collectAt
from tests.web.conftest import turn
from tests.wire.support import WireHost
from twisted_ws.limits import Limits
from twisted_ws.wire.loop.turns import QUANTUM, STEPS, TURN
from twisted_ws.wire.websocket.connection import MESSAGE, PIECE


def busy(host, seconds):
    """Return an open client, and a recorder whose handler takes that many seconds for each message."""
    client, recorder = host.open()
    recorder.onMessage = lambda recorder, message: setattr(host.clock, "rightNow", host.clock.rightNow + seconds)
    return client, recorder


KINDS = {
    "common": lambda n: clientFrame(1, b"%d" % n),
    "in fragments": lambda n: clientFrame(1, b"%d" % n, fin=False) + clientFrame(0),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("close", [False, True])
def test_manyMessages(kind, close):
    """If handlers are slow, the messages of one read are handled in many turns, in order, with reading paused until the end."""
    host = WireHost()
    client, recorder = busy(host, TURN / 10)
    count = 2000
    data = b"".join(map(KINDS[kind], range(count)))
    client.transport.protocol.dataReceived(data + (clientFrame(8, b"\x03\xe8") if close else b""))
    assert not client.transport.reading
    assert 10 <= len(recorder.messages()) <= 10 + PIECE // 7
    host.clock.advance(0)
    assert client.transport.reading
    assert recorder.messages() == [str(n) for n in range(count)]
    client.transport.settle()
    assert client.transport.closed is close
    if close:
        assert recorder.events[-1] == ("closed", 1000, "")


@pytest.mark.parametrize("kind", KINDS)
def test_alone(kind):
    """A single peer has the whole turn, however quick the handlers are; then the reactor has its turn."""
    host = WireHost()
    client, recorder = host.open()
    count = 2 * STEPS // MESSAGE
    client.transport.protocol.dataReceived(b"".join(map(KINDS[kind], range(count))))
    first = len(recorder.messages())
    assert 2 * QUANTUM // MESSAGE < first <= STEPS // MESSAGE + PIECE // 7
    assert not client.transport.reading
    assert turn(host.clock)
    assert first < len(recorder.messages()) - first // 2
    while turn(host.clock):
        pass
    assert recorder.messages() == [str(n) for n in range(count)]
    assert client.transport.reading


@pytest.mark.parametrize("kind", KINDS)
def test_flooders(kind):
    """However many peers flood, a turn has a fixed number of steps; each progresses within four, and a quiet one never waits."""
    host = WireHost()
    pairs = [host.open() for _ in range(15)]
    good, heard = host.open()
    count = 1000
    flood = b"".join(map(KINDS[kind], range(count)))
    for client, _ in pairs:
        client.transport.protocol.dataReceived(flood)
    seen = [[len(recorder.messages()) for _, recorder in pairs]]
    while turn(host.clock):
        seen.append([len(recorder.messages()) for _, recorder in pairs])
        good.transport.protocol.dataReceived(clientFrame(1, b"good"))
        assert len(heard.messages()) == len(seen) - 1
    for before, after in pairwise([[0] * len(pairs), *seen]):
        assert sum(after) - sum(before) <= STEPS // MESSAGE + PIECE // 7
    for before, after in zip(seen, seen[4:], strict=False):
        assert all(then < now or now == count for then, now in zip(before, after, strict=True))
    for client, recorder in pairs:
        assert recorder.messages() == [str(n) for n in range(count)]
        assert client.transport.reading


def test_moreComes():
    """Bytes that come during a pause, as from TLS, wait behind the earlier ones, even if a frame is split there."""
    host = WireHost()
    client, recorder = busy(host, TURN)
    data = b"".join(clientFrame(1, b"%d" % n) for n in range(300))
    cut = len(data) - 3
    client.transport.protocol.dataReceived(data[:cut])
    first = len(recorder.messages())
    assert 1 <= first <= PIECE // 7
    client.transport.protocol.dataReceived(data[cut:])
    assert len(recorder.messages()) == first
    for _ in range(10):
        host.clock.advance(0)
    assert recorder.messages() == [str(n) for n in range(300)]
    assert client.transport.reading


@pytest.mark.parametrize("how", ["leaves", "fails", "closes"])
def test_endBetweenTurns(how):
    """What is unhandled when the connection ends is dropped; after our Close only the peer's Close counts."""
    host = WireHost()
    client, recorder = busy(host, TURN)
    close = clientFrame(8, b"\x03\xe8") if how == "closes" else b""
    client.transport.protocol.dataReceived(b"".join(clientFrame(1, b"%d" % n) for n in range(300)) + close)
    connection, first = recorder.connection, len(recorder.messages())
    assert 1 <= first <= PIECE // 7
    if how == "leaves":
        client.hangUp()
    elif how == "fails":
        connection.abort()
    else:
        connection.startClose(b"\x03\xe8", 10)
    for _ in range(10):
        host.clock.advance(0)
        client.transport.settle()
    assert len(recorder.messages()) == first
    assert client.transport.closed
    assert recorder.events[-1][:2] == ("closed", 1000 if how == "closes" else 1006)
    assert host.clock.getDelayedCalls() == []


# What is counted of the input, for all peers together.


def test_intake():
    """A message counts while it is incomplete, however it is framed, and no longer once it is handled or the peer is gone."""
    host = WireHost()
    client, recorder = host.open()
    whole = clientFrame(2, b"x" * 50_000)
    client.send(whole[:30_000])
    assert 29_000 < host.runtime.intake.total <= 30_000
    client.send(whole[30_000:])
    assert host.runtime.intake.total == 0
    client.send(clientFrame(1, b"a" * 1000, fin=False) + clientFrame(0, b"b" * 1000, fin=False))
    assert host.runtime.intake.total == 2000
    client.send(clientFrame(9, b"ping"))
    assert host.runtime.intake.total == 2000
    client.send(clientFrame(0, b"c"))
    assert host.runtime.intake.total == 0
    assert [len(event[1]) for event in recorder.events if event[0] == "message"] == [50_000, 2001]
    client.send(whole[:30_000])
    client.hangUp()
    assert host.runtime.intake.total == 0


def test_intakeOfTheFailed():
    """What is dropped because a connection failed no longer counts."""
    host = WireHost(Limits(maxMessageSize=10_000))
    client, _ = host.open()
    client.send(clientFrame(2, b"x" * 6000, fin=False))
    assert host.runtime.intake.total == 6000
    client.send(clientFrame(0, b"x" * 6000))
    assert client.closeFrame() == (1009, "message too big")
    assert host.runtime.intake.total == 0


def test_intakeOfTheRest():
    """What waits for another turn counts by its size until it is handled."""
    host = WireHost()
    client, recorder = host.open()
    recorder.onMessage = lambda _, message: host.clock.advance(TURN / 10)
    client.transport.protocol.dataReceived(b"".join([clientFrame(1, b"%04d" % number) for number in range(500)]))
    assert 500 * 10 - PIECE <= host.runtime.intake.total <= 500 * 10
    host.clock.advance(0)
    host.clock.advance(0)
    while host.clock.getDelayedCalls() and host.runtime.intake.total:
        host.clock.advance(0)
    assert len([event for event in recorder.events if event[0] == "message"]) == 500
    assert host.runtime.intake.total == 0


def test_tooMuchTogether():
    """When all peers together send too much that is incomplete, the one with the most is closed with 1013; the others stay."""
    host = WireHost(Limits(maxReceiveBufferTotal=100_000))
    pairs = [host.open() for _ in range(3)]
    for size, (client, _) in zip((20_000, 40_000, 30_000), pairs, strict=True):
        client.send(clientFrame(2, b"x" * size, fin=False))
    pairs[0][0].send(clientFrame(0, b"x" * 15_000, fin=False))
    assert [client.closeFrame() for client, _ in pairs] == [None, (1013, "overloaded"), None]
    assert ("failed", "Overloaded", 1013) in pairs[1][1].events
    for client, recorder in (pairs[0], pairs[2]):
        client.send(clientFrame(0, b"y"))
        assert recorder.events[-1][0] == "message"
    assert host.runtime.intake.total == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("waits", [False, True])
def test_turnWithinAHandler(kind, waits):
    """What comes while a handler lets the reactor turn is handled after what came before, whole and in order."""
    host = WireHost()
    client, recorder = host.open()
    protocol = client.transport.protocol
    last = clientFrame(9, b"?") + KINDS[kind](4) + clientFrame(8, b"\x03\xe8")

    def onMessage(recorder, message):
        if message == "1":
            protocol.dataReceived(KINDS[kind](3)[:5])
            host.clock.advance(0)
            protocol.dataReceived(KINDS[kind](3)[5:] + last)
            host.clock.advance(0)

    recorder.onMessage = onMessage
    if waits:
        host.runtime.turns.left = 0
    protocol.dataReceived(b"".join(map(KINDS[kind], range(3))))
    while turn(host.clock):
        pass
    assert recorder.messages() == [str(n) for n in range(5)]
    client.transport.settle()
    assert ("failed",) not in [event[:1] for event in recorder.events]
    assert recorder.events[-1] == ("closed", 1000, "")


@pytest.mark.parametrize("inner", ["turn", "more"])
def test_finaliserWhileItWaits(inner):
    """If a finaliser lets the reactor turn while input is put back for another turn, everything is handled once, in order."""
    came = 0
    for number in MOMENTS:
        host = WireHost()
        client, recorder = host.open()
        protocol = client.transport.protocol
        data = [clientFrame(1, b"%d" % n) for n in range(100)]

        def act(host=host, protocol=protocol, data=data):
            if inner == "more":
                protocol.dataReceived(data.pop())
            turn(host.clock)

        last = data[-1]
        host.runtime.turns.left = 0
        with collectAt(number, act) as moment:
            protocol.dataReceived(b"".join(data[:-1]))
        came += moment.came
        if data[-1] == last:
            protocol.dataReceived(last)
        while turn(host.clock):
            pass
        messages, inOrder = recorder.messages(), [str(n) for n in range(100)]
        # A tracer allocates as a call begins: there, the inner input comes whole before the outer one.
        assert messages == inOrder or messages == [inOrder[-1], *inOrder[:-1]], f"at moment {number}"
        assert client.transport.reading
        if not moment.came:
            break
    assert came
