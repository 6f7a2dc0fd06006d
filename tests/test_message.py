from __future__ import annotations

import re
from string import ascii_letters, digits

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws import ChannelError
from twisted_ws.message import (
    START,
    Cursor,
    Kind,
    Message,
    Position,
    Publication,
    cursor,
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
    """A cursor holds positions in several channels; one that it lacks begins now, and one that was not asked for is ignored."""
    positions = {"a": Position("e", 1), "b.c": Position("f", 2)}
    assert cursor(positions) == "a=e:1,b.c=f:2"
    assert parseAfter(cursor(positions), ["b.c", "a"]) == positions
    assert parseAfter(cursor(positions), ["a", "d"]) == {"a": Position("e", 1)}
    assert parseAfter(None, ["a"]) == {}
    assert parseAfter("e:5", ["a"]) == {"a": Position("e", 5)}
    assert parseAfter("0", ["a", "b"]) == {"a": START, "b": START}


def test_shortCursors():
    """A short cursor means the same to a reader that knows the channels, in any order; it has neither names nor epochs."""
    cursor = Cursor(["orders.2", "orders.1", "orders.*", "x"])
    assert not cursor
    cursor.begin("orders.1", Position("epoch1", 255))
    cursor.begin("orders.2", Position("epoch1", 7))
    cursor.begin("x", Position("epoch2", 2**53 - 1))
    cursor.move("orders.2", "epoch1", 16)
    cursor.move("orders.3", "epoch1", 99)  # by the pattern
    cursor.move("orders.*", "epoch1", 99)
    text = str(cursor)
    assert cursor
    assert re.fullmatch(r"~[\w-]{5}\.\.[\w-]{5}~ff\.10\.[\w-]{5}~1fffffffffffff", text)
    found = parseAfter(text, ["x", "orders.1", "orders.*", "orders.2"])
    assert {name: position.offset for name, position in found.items()} == {"orders.1": 255, "orders.2": 16, "x": 2**53 - 1}
    assert [found[name].isIn("epoch1") for name in ("orders.1", "orders.2", "x")] == [True, True, False]
    assert found["x"].isIn("epoch2")
    cursor.move("orders.2", "epoch3", 1)  # somebody has begun the channel anew
    cursor.end("orders.1")
    cursor.move("orders.1", "epoch1", 256)
    cursor.move("orders.2", "epoch3", 2)
    found = parseAfter(str(cursor), ["x", "orders.1", "orders.*", "orders.2"])
    assert {name: position.offset for name, position in found.items()} == {"orders.2": 2, "x": 2**53 - 1}
    assert found["orders.2"].isIn("epoch3")
    assert not found["orders.2"].isIn("epoch1")
    cursor.end("x")
    cursor.end("orders.2")
    assert not cursor


@pytest.mark.parametrize("channels", [["a"], ["a", "c"], ["a", "b", "c"]])
def test_shortCursorOfOthers(channels):
    """A short cursor that was made for other channels is a position in none of these: nothing of them counts as seen."""
    cursor = Cursor(["a", "b"])
    cursor.begin("a", Position("e", 1))
    found = parseAfter(str(cursor), channels)
    assert list(found) == channels
    assert not any(position.isIn("e") for position in found.values())
    assert START not in found.values()


LETTERS = st.text(ascii_letters + digits, min_size=1, max_size=32)
NAMES = st.lists(st.text("abyzABYZ0189_~-", min_size=1, max_size=10), min_size=1, max_size=4).map(".".join)


@given(
    st.dictionaries(
        NAMES,
        st.none() | st.tuples(LETTERS, st.integers(0, 2**53 - 1)),
        min_size=1,
        max_size=20,
    ),
    st.randoms(),
)
def test_anyShortCursor(places, chance):
    """Whatever the positions are, and however they came about, a short cursor is read back as it was written."""
    names = list(places)
    cursor = Cursor(names)
    for name, place in places.items():
        if place is not None:
            cursor.begin(name, Position(place[0], 0))
    for name in chance.sample(names, len(names)):
        if chance.random() < 0.5:
            str(cursor)
        if places[name] is not None:
            cursor.move(name, *places[name])
    chance.shuffle(names)
    found = parseAfter(str(cursor), names)
    assert {name: position.offset for name, position in found.items()} == {
        name: place[1] for name, place in places.items() if place is not None
    }
    assert all(position.isIn(places[name][0]) for name, position in found.items())


@pytest.mark.parametrize(
    "bad", ["1.1", "abcde~1", "abcde~1.g", "abcde~1.", "abcde~.1", "abcde~1.-1", "abcde~1.20000000000000", "a~1.1"]
)
def test_noShortCursors(bad):
    """A short cursor that was cut or changed on its way is refused, or is a place in none of the channels."""
    text = str(Cursor(["a", "b"])).partition(".")[0] + "." + bad
    try:
        found = parseAfter(text, ["a", "b"])
    except ChannelError as error:
        assert error.code == "bad-position"  # noqa: PT017 - some are read
    else:
        assert not any(position.isIn("e") for position in found.values())


def test_longCursor():
    """A cursor as long as a head can be costs no more than the channels that are meant."""
    parts = [f"c{number}=e:1" for number in range(1400)]
    assert parseAfter(",".join(parts), ["c7", "c1399"]) == {"c7": Position("e", 1), "c1399": Position("e", 1)}


@pytest.mark.parametrize("text", ["e:5", "a=e:5,", "a=", "=e:1,b", "a=e:1;b=e:2", ""])
def test_noCursors(text):
    """A bare position for two channels is refused, and so is a whole cursor with a malformed part."""
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
    made = Message.of(message)
    assert made == Message(kind, payload)
    assert made.value() == back
    assert Message.of(made) is made


@pytest.mark.parametrize(
    ("data", "made"),
    [
        (b'"x"', Message(Kind.TEXT, b"x")),
        (b'""', Message(Kind.TEXT, b"")),
        ('"é"'.encode(), Message(Kind.TEXT, "é".encode())),
        (b'"a\\n\\u00e9"', Message(Kind.TEXT, "a\né".encode())),
        (b'{"a": 1}', Message(Kind.JSON, b'{"a": 1}')),
        (b"null", Message(Kind.JSON, b"null")),
    ],
)
def test_ofData(data, made):
    """The data of a JSON text is a text when it is a string, else the JSON as it came."""
    assert Message.ofData(data) == Message.ofData(msgspec.Raw(data)) == made


def test_ofBase64():
    """Base64 is strict."""
    assert Message.ofBase64("AP8=") == Message(Kind.BINARY, b"\x00\xff")
    for wrong in ("AP8", "A P8=", "é==="):
        with pytest.raises(ChannelError, match="base64 is invalid"):
            Message.ofBase64(wrong)


def test_ownBytes():
    """Bytes-like objects become bytes of their own: a caller may change its buffer afterwards."""
    buffer = bytearray(b"before")
    made = Message.of(buffer)
    buffer[:] = b"after!"
    assert made.payload == b"before"


def test_repr():
    """A publication is shown by its channel and id, without what it says."""
    assert repr(Publication("a", "e", 5, Kind.TEXT, b"secret", None, 0)) == "<Publication a e:5>"
