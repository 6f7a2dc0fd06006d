from __future__ import annotations

import pytest

from twisted_ws.wire import fanout
from twisted_ws.wire.framing import OutgoingMessage


class Connection:
    """Writes down what is asked of it, in one list for all."""

    def __init__(self, log, fileno, takes=True):
        self.log = log
        self.fileno = fileno
        self.takes = takes

    def readyFileno(self):
        return self.fileno

    def noteRest(self, rest):
        self.log.append(("rest", self.fileno, rest))

    def goOn(self):
        self.log.append(("go on", self.fileno))

    def send(self, message):
        self.log.append(("send", message.plain))
        return self.takes


@pytest.fixture
def kernel(monkeypatch):
    """A kernel in which descriptor 5 takes two bytes and 6 takes none."""
    log = []

    def sendMany(filenos, data):
        log.append(("sent", list(filenos)))
        return [(i, {5: 2, 6: 0}[n]) for i, n in enumerate(filenos) if n in (5, 6)]

    monkeypatch.setattr(fanout, "sendMany", sendMany)
    return log


def test_order(kernel):
    """All rests are noted before anybody goes on or is written to otherwise: each of these may call a service."""
    connections = [Connection(kernel, n) for n in (4, -1, 5, 6)]
    assert fanout.fanOut(connections, OutgoingMessage(1, b"hello")) == 4
    assert kernel == [
        ("sent", [4, 5, 6]),
        ("rest", 5, b"hello"),
        ("rest", 6, b"\x81\x05hello"),
        ("go on", 5),
        ("go on", 6),
        ("send", b"\x81\x05hello"),
    ]


def test_count(kernel):
    """Who is not open is not counted; nobody at all is 0."""
    assert fanout.fanOut([Connection(kernel, -1, False), Connection(kernel, 4)], OutgoingMessage(2, b"x")) == 1
    assert fanout.fanOut([], OutgoingMessage(2, b"x")) == 0
