from __future__ import annotations

import base64
import json
from base64 import b64encode

import msgspec
import pytest

from twisted_ws.channels.subscribers.formats import (
    LARGE,
    jsonBroadcast,
    jsonFields,
    jsonFormat,
    jsonParts,
    rawBroadcast,
    rawFormat,
)
from twisted_ws.message import Kind, Message, Publication


def publication(kind, payload, key=None):
    return Publication("a.b", "e", 7, kind, payload, key, 0)


@pytest.mark.parametrize(
    ("kind", "payload", "key", "fields"),
    [
        (Kind.TEXT, 'é "\n'.encode(), None, {"data": 'é "\n'}),
        (Kind.JSON, b'{"x": [1, null]}', None, {"data": {"x": [1, None]}}),
        (Kind.JSON, b'{\n"x":\r\n1}', "k\n", {"data": {"x": 1}, "key": "k\n"}),
        (Kind.BINARY, b"\x00\xff", None, {"base64": "AP8="}),
        (Kind.BINARY, b"", "", {"base64": "", "key": ""}),
    ],
)
def test_json(kind, payload, key, fields):
    """In JSON, a message has its channel, its id, and data or base64, on one line."""
    line = jsonFormat(publication(kind, payload, key)).payload
    assert json.loads(line) == {"type": "message", "channel": "a.b", "id": "e:7", **fields}
    assert b"\n" not in line
    assert b"\r" not in line
    assert json.loads(b"{" + jsonFields(publication(kind, payload, key)) + b"}") == {"channel": "a.b", "id": "e:7", **fields}


@pytest.mark.parametrize(
    "text",
    ["".join(map(chr, range(0x300))) + "\u2028\u20ac\U0001f600", "\x00\x1b", '"\\', "\n", "\r\n", "\x7fé"],
)
def test_large(text):
    """A large text is encoded in JSON as a small one is, whatever it contains."""
    small, large = text.encode(), (text * (LARGE // len(text) + 1)).encode()
    one = jsonFields(publication(Kind.TEXT, small)).removesuffix(b'"').rpartition(b'"data":"')[2]
    framed = jsonFields(publication(Kind.TEXT, large))
    assert framed.removesuffix(b'"').rpartition(b'"data":"')[2] == one * (LARGE // len(text) + 1)


@pytest.mark.parametrize("text", [b"[\n]", b"[\r\n[1,\r2]\n]"])
def test_nested(text):
    """What was accepted as JSON can be sent from anywhere, however deeply it is nested: no parser reads it again."""

    def within(calls):
        return within(calls - 1) if calls else jsonFields(publication(Kind.JSON, nested))

    nested = b"[" * 900 + text + b"]" * 900
    msgspec.json.decode(nested, type=msgspec.Raw)
    fields = within(200)
    assert fields.endswith(b"]" * 900)
    assert b"\n" not in fields
    assert b"\r" not in fields


def test_largeOnce(monkeypatch):
    """A large message is encoded in JSON once for all formats that need it, including later subscribers."""
    made = []

    def encode(data):
        made.append(data)
        return b64encode(data)

    monkeypatch.setattr(base64, "b64encode", encode)
    large, other = publication(Kind.BINARY, b"x" * LARGE), publication(Kind.BINARY, b"y" * LARGE)
    lines = [b"".join(jsonParts(large)), jsonFormat(large).payload, b"".join(jsonParts(large))]
    assert lines == [b'{"type":"message",' + jsonFields(large) + b"}"] * 3
    assert jsonBroadcast(Message(large.kind, large.payload)).payload.endswith(b'"base64":"%b"}' % b64encode(large.payload))
    assert made == [large.payload]
    assert jsonFields(other) != jsonFields(large)


def test_webSocket():
    """A raw message is text or binary as it was published; those of the subprotocol are text."""
    for kind, opcode in (Kind.TEXT, 1), (Kind.JSON, 1), (Kind.BINARY, 2):
        each = publication(kind, b"5")
        assert (rawFormat(each).opcode, rawFormat(each).payload, rawFormat(each).publication) == (opcode, b"5", each)
        framed = jsonFormat(each)
        assert (framed.opcode, framed.payload, framed.publication) == (1, b"".join(jsonParts(each)), each)


@pytest.mark.parametrize(
    ("kind", "payload", "opcode", "fields"),
    [
        (Kind.TEXT, b'{"type":"message"}', 1, {"data": '{"type":"message"}'}),
        (Kind.JSON, b'{\n"type": "message"}', 1, {"data": {"type": "message"}}),
        (Kind.BINARY, b"\x00\xff", 2, {"base64": "AP8="}),
    ],
)
def test_broadcast(kind, payload, opcode, fields):
    """A broadcast goes out as it is, and in the subprotocol as a `broadcast`, in one line."""
    plain, framed = rawBroadcast(Message(kind, payload)), jsonBroadcast(Message(kind, payload))
    assert (plain.opcode, plain.payload) == (opcode, payload)
    assert framed.opcode == 1
    assert json.loads(framed.payload) == {"type": "broadcast", **fields}
    assert b"\n" not in framed.payload
