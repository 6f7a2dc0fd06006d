"""How much of one connection's input is handled in one turn of the reactor."""

from __future__ import annotations

import pytest

from tests.memory import clientFrame
from tests.wire.support import WireHost
from twisted_ws.limits import Limits
from twisted_ws.wire.inbound import BATCH, FEED, TURN


def busy(host, seconds):
    """Return an open client, and a recorder whose handler takes so many seconds for each message."""
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
    """What one read holds is handled in many turns when handlers take their time; in order, with reading paused, to the end."""
    host = WireHost()
    client, recorder = busy(host, TURN / 10)
    count = 2000
    data = b"".join(map(KINDS[kind], range(count)))
    client.transport.protocol.dataReceived(data + (clientFrame(8, b"\x03\xe8") if close else b""))
    assert not client.transport.reading
    assert BATCH <= len(recorder.messages()) <= FEED // 8
    host.clock.advance(0)
    assert client.transport.reading
    assert recorder.messages() == [str(n) for n in range(count)]
    client.transport.settle()
    assert client.transport.closed is close
    if close:
        assert recorder.events[-1] == ("closed", 1000, "")


def test_quickHandlers():
    """Any number of messages is handled at once as long as that takes no time."""
    host = WireHost()
    client, recorder = busy(host, 0)
    client.send(b"".join(clientFrame(1, b"%d" % n) for n in range(5000)))
    assert len(recorder.messages()) == 5000
    assert client.transport.reading


def test_moreComes():
    """Bytes that come although reading pauses, as from TLS, wait behind those that were there; and the frame may be cut there."""
    host = WireHost()
    client, recorder = busy(host, TURN)
    data = b"".join(clientFrame(1, b"%d" % n) for n in range(300))
    cut = len(data) - 3
    client.transport.protocol.dataReceived(data[:cut])
    assert len(recorder.messages()) == BATCH
    client.transport.protocol.dataReceived(data[cut:])
    assert len(recorder.messages()) == BATCH
    for _ in range(10):
        host.clock.advance(0)
    assert recorder.messages() == [str(n) for n in range(300)]
    assert client.transport.reading


@pytest.mark.parametrize("how", ["leaves", "fails", "closes"])
def test_endBetweenTurns(how):
    """What is left when the connection ends is dropped; after our own Close nothing counts but the peer's."""
    host = WireHost()
    client, recorder = busy(host, TURN)
    close = clientFrame(8, b"\x03\xe8") if how == "closes" else b""
    client.transport.protocol.dataReceived(b"".join(clientFrame(1, b"%d" % n) for n in range(300)) + close)
    connection = recorder.connection
    if how == "leaves":
        client.hangUp()
    elif how == "fails":
        connection.abort()
    else:
        connection.startClose(b"\x03\xe8", 10)
    for _ in range(10):
        host.clock.advance(0)
        client.transport.settle()
    assert len(recorder.messages()) == BATCH
    assert client.transport.closed
    assert recorder.events[-1][:2] == ("closed", 1000 if how == "closes" else 1006)
    assert host.clock.getDelayedCalls() == []


# What is counted of what has come, for all peers together.


def test_intake():
    """A message counts while it is not whole, whatever its frames are, and no more when it is handled or the peer has gone."""
    host = WireHost()
    client, recorder = host.open()
    whole = clientFrame(2, b"x" * 50_000)
    client.send(whole[:30_000])
    assert 29_000 < host.wire.intake.total <= 30_000
    client.send(whole[30_000:])
    assert host.wire.intake.total == 0
    client.send(clientFrame(1, b"a" * 1000, fin=False) + clientFrame(0, b"b" * 1000, fin=False))
    assert host.wire.intake.total == 2000
    client.send(clientFrame(9, b"ping"))
    assert host.wire.intake.total == 2000
    client.send(clientFrame(0, b"c"))
    assert host.wire.intake.total == 0
    assert [len(event[1]) for event in recorder.events if event[0] == "message"] == [50_000, 2001]
    client.send(whole[:30_000])
    client.hangUp()
    assert host.wire.intake.total == 0


def test_intakeOfTheFailed():
    """What is dropped because a connection has failed counts no more."""
    host = WireHost(Limits(maxMessageSize=10_000))
    client, _ = host.open()
    client.send(clientFrame(2, b"x" * 6000, fin=False))
    assert host.wire.intake.total == 6000
    client.send(clientFrame(0, b"x" * 6000))
    assert client.closeFrame() == (1009, "message too big")
    assert host.wire.intake.total == 0


def test_intakeOfTheRest():
    """What waits for another turn counts as what it takes, until it was handled."""
    host = WireHost()
    client, recorder = host.open()
    recorder.onMessage = lambda _, message: host.clock.advance(TURN / 10)
    client.transport.protocol.dataReceived(b"".join([clientFrame(1, b"%04d" % number) for number in range(10 * BATCH)]))
    assert host.wire.intake.total > 8 * BATCH * 50
    host.clock.advance(0)
    host.clock.advance(0)
    while host.clock.getDelayedCalls() and host.wire.intake.total:
        host.clock.advance(0)
    assert len([event for event in recorder.events if event[0] == "message"]) == 10 * BATCH
    assert host.wire.intake.total == 0


def test_tooMuchTogether():
    """When all together send too much that is not whole, the one with the most is closed with 1013, and the others go on."""
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
    assert host.wire.intake.total == 0
