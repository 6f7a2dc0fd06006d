from __future__ import annotations

import json

import pytest

from twisted_ws.delivery.framings import jsonBroadcast, jsonFields, jsonFrame, jsonFraming, raw, rawBroadcast
from twisted_ws.delivery.publication import Kind, Publication


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
    """In JSON a message has channel, id, and data or base64, in one line."""
    frame = jsonFrame(publication(kind, payload, key))
    assert json.loads(frame) == {"type": "message", "channel": "a.b", "id": "e:7", **fields}
    assert b"\n" not in frame
    assert b"\r" not in frame
    assert json.loads(b"{" + jsonFields(publication(kind, payload, key)) + b"}") == {"channel": "a.b", "id": "e:7", **fields}


def test_webSocket():
    """Raw, a message is text or binary as it was published; the subprotocol's are text."""
    for kind, opcode in (Kind.TEXT, 1), (Kind.JSON, 1), (Kind.BINARY, 2):
        each = publication(kind, b"5")
        assert (raw(each).opcode, raw(each).payload, raw(each).publication) == (opcode, b"5", each)
        framed = jsonFraming(each)
        assert (framed.opcode, framed.payload, framed.publication) == (1, jsonFrame(each), each)


@pytest.mark.parametrize(
    ("kind", "payload", "opcode", "fields"),
    [
        (Kind.TEXT, b'{"type":"message"}', 1, {"data": '{"type":"message"}'}),
        (Kind.JSON, b'{\n"type": "message"}', 1, {"data": {"type": "message"}}),
        (Kind.BINARY, b"\x00\xff", 2, {"base64": "AP8="}),
    ],
)
def test_broadcast(kind, payload, opcode, fields):
    """A broadcast goes out as it is, and in the subprotocol as a frame of its own kind, in one line."""
    plain, framed = rawBroadcast(kind, payload), jsonBroadcast(kind, payload)
    assert (plain.opcode, plain.payload) == (opcode, payload)
    assert framed.opcode == 1
    assert json.loads(framed.payload) == {"type": "broadcast", **fields}
    assert b"\n" not in framed.payload
