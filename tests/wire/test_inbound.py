"""How much of one connection's input is handled in one turn of the reactor."""

from __future__ import annotations

import pytest

from tests.memory import clientFrame
from tests.wire.support import WireHost
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
