from __future__ import annotations

import pytest

from twisted_ws.wire.websocket.keepalive import KeepAlive, Verdict

INTERVAL, TIMEOUT = 25, 10
NOTHING = (0, 0)


def due(keepAlive, now, sending=NOTHING, excused=False, unread=False):
    return keepAlive.due(now, TIMEOUT, sending, excused, unread)


def asked(now=125.0, sending=NOTHING):
    """Return a keep-alive that has just sent its first ping, which the kernel has."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    assert keepAlive.dueAt == 125.0
    assert due(keepAlive, now, sending) is Verdict.PING
    keepAlive.handed(now, TIMEOUT)
    return keepAlive


def test_answered():
    """A pong with the ping's payload puts off the next ping; each ping has its own payload."""
    keepAlive = asked()
    first = keepAlive.payload
    assert keepAlive.dueAt == 135.0
    assert keepAlive.answers(first, 126.0, INTERVAL)
    assert (keepAlive.payload, keepAlive.dueAt) == (None, 151.0)
    assert not keepAlive.answers(first, 127.0, INTERVAL)
    assert due(keepAlive, 151.0) is Verdict.PING
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
    assert due(asked(), 135.0) is Verdict.DEAD


def test_excused():
    """A peer that could not answer gets another timeout, again and again."""
    keepAlive = asked()
    for now in (135.0, 145.0, 155.0):
        assert due(keepAlive, now, excused=True) is Verdict.WAIT
        assert keepAlive.dueAt == now + TIMEOUT
    assert due(keepAlive, 165.0) is Verdict.DEAD


def test_unread():
    """While something from the peer is unread, it gets one more timeout, enough to read it; after that it is no excuse."""
    keepAlive = asked()
    assert due(keepAlive, 135.0, unread=True) is Verdict.WAIT
    assert keepAlive.dueAt == 145.0
    assert due(keepAlive, 145.0, unread=True) is Verdict.DEAD
    keepAlive = asked()
    assert due(keepAlive, 135.0, unread=True) is Verdict.WAIT
    assert keepAlive.answers(keepAlive.payload, 136.0, INTERVAL)
    assert due(keepAlive, 161.0) is Verdict.PING
    keepAlive.handed(161.0, TIMEOUT)
    assert due(keepAlive, 171.0, unread=True) is Verdict.WAIT
    assert due(keepAlive, 181.0) is Verdict.DEAD


@pytest.mark.parametrize("counted", [True, False], ids=["counted", "not counted"])
def test_slowPeer(counted):
    """While the kernel still sends bytes, the ping may be on its way; once it does not, the peer is dead."""

    def sending(unsent):
        return unsent, (1_000_000 if counted else 0) - unsent

    keepAlive = asked(sending=sending(10_000))
    assert due(keepAlive, 135.0, sending(6_000)) is Verdict.WAIT
    assert due(keepAlive, 145.0, sending(2_000)) is Verdict.WAIT
    assert due(keepAlive, 155.0, sending(2_000)) is Verdict.DEAD
    keepAlive = asked(sending=sending(10_000))
    assert due(keepAlive, 135.0, NOTHING) is Verdict.WAIT  # by now the peer has the ping
    assert due(keepAlive, 145.0, NOTHING) is Verdict.DEAD


def test_slowPeerThatIsSentMore():
    """What is written after the ping does not delay it: a peer that has everything before it, and does not answer, is dead."""
    keepAlive = asked(sending=(10_000, 500_000))
    assert due(keepAlive, 135.0, (50_000, 504_000)) is Verdict.WAIT
    assert due(keepAlive, 145.0, (50_000, 508_000)) is Verdict.WAIT
    assert due(keepAlive, 155.0, (50_000, 512_000)) is Verdict.WAIT  # the ping is there, but not for long
    assert due(keepAlive, 165.0, (50_000, 520_000)) is Verdict.DEAD


def test_notHandedYet():
    """A ping that waits in our own queue cannot have been answered; the timeout counts from when the kernel has it."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    assert due(keepAlive, 125.0) is Verdict.PING
    assert due(keepAlive, 135.0) is Verdict.WAIT
    keepAlive.handed(140.0, TIMEOUT)
    assert keepAlive.dueAt == 150.0
    assert due(keepAlive, 150.0) is Verdict.DEAD


def test_handedBehindOthers():
    """A ping that reaches the kernel late is behind what the kernel has then."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    assert due(keepAlive, 125.0, (80_000, 5)) is Verdict.PING
    assert due(keepAlive, 135.0, (80_000, 5)) is Verdict.WAIT
    keepAlive.handed(140.0, TIMEOUT, (80_000, 60_005))
    assert due(keepAlive, 150.0, (90_000, 100_005)) is Verdict.WAIT
    assert due(keepAlive, 160.0, (90_000, 140_005)) is Verdict.WAIT
    assert due(keepAlive, 170.0, (90_000, 180_005)) is Verdict.DEAD


def test_handedAfterItsAnswer():
    """A pong that came before the hand-over was noticed counts."""
    keepAlive = KeepAlive(100.0, INTERVAL)
    due(keepAlive, 125.0)
    assert keepAlive.answers(keepAlive.payload, 126.0, INTERVAL)
    keepAlive.handed(127.0, TIMEOUT)
    assert keepAlive.dueAt == 151.0
