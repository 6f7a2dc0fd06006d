from __future__ import annotations

import pytest

from twisted_ws.wire.keepalive import KeepAlive, Verdict

INTERVAL, TIMEOUT = 25, 10


def asked(now=125.0, unsent=0):
    """Return a keep-alive that has just sent its first ping, which the kernel has."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    assert keepAlive.dueAt == 125.0
    assert keepAlive.due(now, TIMEOUT, unsent, False) is Verdict.PING
    keepAlive.handed(now, TIMEOUT)
    return keepAlive


def test_answered():
    """A pong with the ping's payload puts the next ping off; each ping has a payload of its own."""
    keepAlive = asked()
    first = keepAlive.payload
    assert keepAlive.dueAt == 135.0
    assert keepAlive.answers(first, 126.0, INTERVAL)
    assert (keepAlive.payload, keepAlive.dueAt) == (None, 151.0)
    assert not keepAlive.answers(first, 127.0, INTERVAL)
    assert keepAlive.due(151.0, TIMEOUT, 0, False) is Verdict.PING
    assert keepAlive.payload != first
    assert len(keepAlive.payload) <= 125


@pytest.mark.parametrize("payload", [b"", b"keep-alive 2", b"other"])
def test_otherPongs(payload):
    """A pong with anything else answers nothing."""
    keepAlive = asked()
    assert not keepAlive.answers(payload, 126.0, INTERVAL)
    assert keepAlive.dueAt == 135.0


def test_noPong():
    """Without a pong in time, and without an excuse, the peer is dead."""
    assert asked().due(135.0, TIMEOUT, 0, False) is Verdict.DEAD


def test_excused():
    """A peer that could not answer has another timeout, again and again."""
    keepAlive = asked()
    for now in (135.0, 145.0, 155.0):
        assert keepAlive.due(now, TIMEOUT, 0, True) is Verdict.WAIT
        assert keepAlive.dueAt == now + TIMEOUT
    assert keepAlive.due(165.0, TIMEOUT, 0, False) is Verdict.DEAD


def test_slowPeer():
    """While the kernel gets rid of bytes, the ping may still be on its way; when it does not, the peer is dead."""
    keepAlive = asked(unsent=10_000)
    assert keepAlive.due(135.0, TIMEOUT, 6_000, False) is Verdict.WAIT
    assert keepAlive.due(145.0, TIMEOUT, 2_000, False) is Verdict.WAIT
    assert keepAlive.due(155.0, TIMEOUT, 2_000, False) is Verdict.DEAD


def test_notHandedYet():
    """A ping that waits in our own queue cannot have been answered; the timeout counts from when the kernel has it."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    assert keepAlive.due(125.0, TIMEOUT, 0, False) is Verdict.PING
    assert keepAlive.due(135.0, TIMEOUT, 0, False) is Verdict.WAIT
    keepAlive.handed(140.0, TIMEOUT)
    assert keepAlive.dueAt == 150.0
    assert keepAlive.due(150.0, TIMEOUT, 0, False) is Verdict.DEAD


def test_handedAfterItsAnswer():
    """A pong that came before the hand-over was noticed is not forgotten."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    keepAlive.due(125.0, TIMEOUT, 0, False)
    assert keepAlive.answers(keepAlive.payload, 126.0, INTERVAL)
    keepAlive.handed(127.0, TIMEOUT)
    assert keepAlive.dueAt == 151.0
