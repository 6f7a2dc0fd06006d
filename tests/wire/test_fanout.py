from __future__ import annotations

import pytest

from twisted_ws.wire import fanout
from twisted_ws.wire.framing import OutgoingMessage


class Lane:
    """A transport that can be sent to at once; of its kind, descriptor 5 takes two bytes and 6 takes none."""

    def __init__(self, log, handle, kind):
        self.handle = handle
        self.sendMany = kind


class Connection:
    """Writes down what is asked of it, in one list for all."""

    def __init__(self, log, fileno, takes=True, kind=None):
        self.log = log
        self.fileno = fileno
        self.takes = takes
        self.kind = kind

    def readyLane(self):
        return None if self.fileno < 0 else Lane(self.log, self.fileno, self.kind)

    def noteRest(self, rest):
        self.log.append(("rest", self.fileno, rest))

    def goOn(self):
        self.log.append(("go on", self.fileno))

    def send(self, message):
        self.log.append(("send", message.plain))
        return self.takes


@pytest.fixture
def log():
    return []


@pytest.fixture
def kinds(log):
    """The functions that send to many, of two kinds of transport: in each, descriptor 5 takes two bytes and 6 takes none."""

    def kind(name):
        def sendMany(handles, data):
            log.append((name, list(handles)))
            return [(i, {5: 2, 6: 0}[n]) for i, n in enumerate(handles) if n in (5, 6)]

        return sendMany

    return kind("plain"), kind("TLS")


def test_order(log, kinds):
    """All rests are noted before anybody goes on or is written to otherwise: each of these may call a service."""
    plain, secure = kinds
    connections = [Connection(log, n, kind=kind) for n, kind in ((4, plain), (-1, None), (5, plain), (7, secure), (6, secure))]
    assert fanout.fanOut(connections, OutgoingMessage(1, b"hello")) == 5
    assert log == [
        ("plain", [4, 5]),
        ("rest", 5, b"hello"),
        ("TLS", [7, 6]),
        ("rest", 6, b"\x81\x05hello"),
        ("go on", 5),
        ("go on", 6),
        ("send", b"\x81\x05hello"),
    ]


def test_count(log, kinds):
    """Who is not open is not counted; nobody at all is 0."""
    connections = [Connection(log, -1, False), Connection(log, 4, kind=kinds[0])]
    assert fanout.fanOut(connections, OutgoingMessage(2, b"x")) == 1
    assert fanout.fanOut([], OutgoingMessage(2, b"x")) == 0
