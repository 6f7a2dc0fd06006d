from __future__ import annotations

import msgspec
import pytest

from twisted_ws import ChannelError
from twisted_ws.delivery.publication import (
    START,
    Kind,
    Position,
    Publication,
    cursor,
    decode,
    encode,
    fromBase64,
    fromJson,
    parseAfter,
    parsePosition,
)


def test_positions():
    """A position is written epoch:offset and read back; 0 is before everything."""
    assert str(Position("k3v9", 17)) == "k3v9:17"
    assert parsePosition("k3v9:17") == Position("k3v9", 17)
    assert parsePosition("0") == START
    assert parsePosition(f"e:{2**53 - 1}").offset == 2**53 - 1


@pytest.mark.parametrize(
    "text", ["", "e", "e:", ":1", "e:-1", "e:1.0", "e:1:2", "é:1", "e:1\n", "x" * 33 + ":1", f"e:{2**53}", "e:٣", None, 5]
)
def test_noPositions(text):
    """Anything else is refused."""
    with pytest.raises(ChannelError) as caught:
        parsePosition(text)
    assert caught.value.code == "bad-position"


def test_cursors():
    """A cursor says positions in several channels; those it does not know begin now, those that are not meant do not count."""
    positions = {"a": Position("e", 1), "b.c": Position("f", 2)}
    assert cursor(positions) == "a=e:1,b.c=f:2"
    assert parseAfter(cursor(positions), ["b.c", "a"]) == positions
    assert parseAfter(cursor(positions), ["a", "d"]) == {"a": Position("e", 1)}
    assert parseAfter(None, ["a"]) == {}
    assert parseAfter("e:5", ["a"]) == {"a": Position("e", 5)}
    assert parseAfter("0", ["a", "b"]) == {"a": START, "b": START}


@pytest.mark.parametrize("text", ["e:5", "a=e:5,", "a=", "=e:1,b", "a=e:1;b=e:2", ""])
def test_noCursors(text):
    """A bare position for two channels is none of either, and a broken cursor is refused as a whole."""
    with pytest.raises(ChannelError) as caught:
        parseAfter(text, ["a", "b"])
    assert caught.value.code == "bad-position"


@pytest.mark.parametrize(
    ("message", "kind", "payload", "back"),
    [
        ("é", Kind.TEXT, "é".encode(), "é"),
        (b"\xff", Kind.BINARY, b"\xff", b"\xff"),
        (bytearray(b"x"), Kind.BINARY, b"x", b"x"),
        ({"a": [1]}, Kind.JSON, b'{"a":[1]}', {"a": [1]}),
        (None, Kind.JSON, b"null", None),
        (msgspec.Raw(b'{"a": 1}'), Kind.JSON, b'{"a": 1}', {"a": 1}),
    ],
)
def test_kinds(message, kind, payload, back):
    """A str is text, bytes are binary, the rest is JSON; JSON that is encoded already stays as it is."""
    assert encode(message) == (kind, payload)
    assert decode(kind, payload) == back


def test_fromJson():
    """The data of a frame is a text when it is a string, else the JSON as it came; base64 is strict."""
    assert fromJson(msgspec.Raw(b'"a\\n"')) == "a\n"
    assert bytes(fromJson(msgspec.Raw(b'{"a": 1}'))) == b'{"a": 1}'
    assert fromBase64("AP8=") == b"\x00\xff"
    for wrong in (b"{", b'"\\ud800"', b"[" * 100_000):
        with pytest.raises(ChannelError, match="no JSON"):
            fromJson(msgspec.Raw(wrong))
    for wrong in ("AP8", "A P8=", "é==="):
        with pytest.raises(ChannelError, match="base64"):
            fromBase64(wrong)


def test_repr():
    """A publication is shown by its channel and id, without what it says."""
    assert repr(Publication("a", "e", 5, Kind.TEXT, b"secret", None, 0)) == "<Publication a e:5>"
