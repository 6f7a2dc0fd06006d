from __future__ import annotations

import pytest

from twisted_ws.wire import fanout
from twisted_ws.wire.framing import OutgoingMessage
from twisted_ws.wire.pure import BEGUN, NOT_THIS_WAY, WHOLE


class Connection:
    """Writes down what is asked of it, in one list for all; its sender is a name."""

    def __init__(self, log, name, takes=True):
        self.log = log
        self.sender = name
        self.takes = takes

    def goOn(self):
        self.log.append(("go on", self.sender))

    def send(self, message):
        self.log.append(("send", self.sender))
        return self.takes


@pytest.fixture
def log(monkeypatch):
    """A kernel in which the frames of b and c are begun, and never is no way to send."""
    log = []

    def sendMany(senders, data, now):
        log.append(("sent", list(senders), data, now))
        outcomes = bytes([{"b": BEGUN, "c": BEGUN, "never": NOT_THIS_WAY}.get(name, WHOLE) for name in senders])
        return outcomes if any(outcomes) else None

    monkeypatch.setattr(fanout, "sendMany", sendMany)
    return log


def test_order(log):
    """Who took it whole is not asked again; the others go on, or are written to in their own way, in order."""
    connections = [Connection(log, name) for name in ("a", "never", "b", "c")]
    assert fanout.fanOut(connections, OutgoingMessage(1, b"hello"), 5.0) == 4
    assert log == [
        ("sent", ["a", "never", "b", "c"], b"\x81\x05hello", 5.0),
        ("send", "never"),
        ("go on", "b"),
        ("go on", "c"),
    ]


def test_count(log):
    """Who is not open is not counted; nobody at all is 0."""
    assert fanout.fanOut([Connection(log, "never", False), Connection(log, "a")], OutgoingMessage(2, b"x"), 0.0) == 1
    assert fanout.fanOut([], OutgoingMessage(2, b"x"), 0.0) == 0


def test_keptSenders(log):
    """Who has kept the senders of the connections is not asked for them again."""
    fanout.fanOut([Connection(log, "b")], OutgoingMessage(2, b"x"), 0.0, ["a"])
    assert log == [("sent", ["a"], b"\x82\x01x", 0.0)]


def test_otherMessages(log):
    """What is no frame for all goes by each one's own way."""
    assert fanout.fanOut([Connection(log, "a"), Connection(log, "b", False)], object(), 0.0) == 1
    assert log == [("send", "a"), ("send", "b")]
