from __future__ import annotations

import re

import pytest
from twisted.internet.defer import succeed

from twisted_ws.caller import Caller
from twisted_ws.message import BINARY, PING, PONG, TEXT
from twisted_ws.upgrade import UpgradeRequest


class FakeLink:
    """A connection that records what it is asked."""

    def __init__(self):
        self.asked = []

    def writeFrame(self, opcode, payload):
        self.asked.append((opcode, payload))
        return succeed(None)

    def startClose(self, payload, timeout):
        self.asked.append((payload, timeout))
        return succeed(None)

    def isOpen(self):
        return True

    def isSecure(self):
        return False

    def bufferedAmount(self):
        return 17


@pytest.fixture
def link():
    return FakeLink()


@pytest.fixture
def caller(link):
    return Caller(link, UpgradeRequest("/ws?token=s3cret"), "json")


@pytest.mark.parametrize(
    ("method", "value", "asked"),
    [
        ("writeTextMessage", "grüß", (TEXT, "grüß".encode())),
        ("writeTextMessage", "", (TEXT, b"")),
        ("writeBinaryMessage", b"\xff", (BINARY, b"\xff")),
        ("writeBinaryMessage", bytearray(b"x"), (BINARY, b"x")),
        ("writeBinaryMessage", memoryview(b"x"), (BINARY, b"x")),
        ("writeMessage", "x", (TEXT, b"x")),
        ("writeMessage", memoryview(b"x"), (BINARY, b"x")),
        ("writeMessage", {"a": [1, None]}, (TEXT, b'{"a":[1,null]}')),
        ("writeMessage", None, (TEXT, b"null")),
        ("ping", b"x" * 125, (PING, b"x" * 125)),
        ("pong", bytearray(b"x"), (PONG, b"x")),
    ],
)
def test_writes(caller, link, method, value, asked):
    """Each kind of value goes out in its own kind of frame."""
    getattr(caller, method)(value)
    assert link.asked == [asked]


def test_emptyControls(caller, link):
    """Ping and pong without data carry none."""
    caller.ping()
    caller.pong()
    assert link.asked == [(PING, b""), (PONG, b"")]


@pytest.mark.parametrize(
    ("method", "value", "error", "text"),
    [
        ("writeTextMessage", b"bytes", TypeError, "a text message must be a str, not bytes"),
        ("writeTextMessage", "\ud800", ValueError, "lone surrogate"),
        ("writeBinaryMessage", "text", TypeError, "a binary message must be bytes, not str"),
        ("writeMessage", object(), TypeError, "object"),
        ("writeMessage", "\udfff", ValueError, "lone surrogate"),
        ("ping", b"x" * 126, ValueError, "at most 125 bytes, not 126"),
        ("pong", b"x" * 126, ValueError, "at most 125 bytes, not 126"),
        ("pong", "text", TypeError, "must be bytes"),
    ],
)
def test_wrongWrites(caller, link, method, value, error, text):
    """What no frame can carry raises at once, at the call, also under python -O."""
    with pytest.raises(error, match=text):
        getattr(caller, method)(value)
    assert link.asked == []


def test_close(caller, link):
    """A close has the given code and reason, and a minute to finish."""
    caller.close()
    caller.close(4000, "bye", 2.5)
    caller.close(timeout=0)
    assert link.asked == [(b"\x03\xe8", 60), (b"\x0f\xa0bye", 2.5), (b"\x03\xe8", 0)]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((1005,), ValueError, "1005 cannot be sent"),
        ((1000, "x" * 124), ValueError, "124 bytes"),
        ((1000, "", -1), ValueError, "0 or more and finite, not -1"),
        ((1000, "", float("nan")), ValueError, "0 or more and finite, not nan"),
        ((1000, "", float("inf")), ValueError, "0 or more and finite, not inf"),
        ((1000, "", "5"), TypeError, "a number, not str"),
        ((1000, "", True), TypeError, "a number, not bool"),
        ((1000, "", None), TypeError, "a number, not NoneType"),
    ],
)
def test_wrongCloses(caller, link, arguments, error, text):
    """An invalid close is refused before anything is sent."""
    with pytest.raises(error, match=text):
        caller.close(*arguments)
    assert link.asked == []


def test_attributes(caller, link):
    """A caller has what a handler wants to know, and a dict that is its own."""
    other = Caller(link, UpgradeRequest())
    caller.attributes["a"] = 1
    caller.attributes["b"] = 2
    assert (caller.attributes, other.attributes) == ({"a": 1, "b": 2}, {})
    (node, number), (same, later) = (each.connectionId.split(".") for each in (caller, other))
    assert node == same
    assert re.fullmatch("[a-z0-9]{6}", node)
    assert int(later) > int(number)
    assert (caller.negotiatedSubProtocol, other.negotiatedSubProtocol) == ("json", None)
    assert (caller.bufferedAmount, caller.isOpen(), caller.isSecure(), caller.user) == (17, True, False, None)
    assert repr(caller) == f"<Caller {caller.connectionId} '/ws'>"
