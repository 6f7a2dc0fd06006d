from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engines.redis.records import place, record
from twisted_ws.engines.redis.record import (
    HEAD,
    Unreadable,
    decodeBroadcast,
    decodeMember,
    decodeRecord,
    encodeBody,
    encodeBroadcast,
    encodeReceipt,
    parseHead,
)
from twisted_ws.engines.redis.server.scripts import VERSION
from twisted_ws.message import Kind, Message

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, st.lists)
MESSAGES = (
    st.builds(Message, st.just(Kind.TEXT), TEXTS.map(str.encode))
    | st.builds(
        Message, st.just(Kind.JSON), st.tuples(JSON, st.booleans()).map(lambda of: json.dumps(of[0], ensure_ascii=of[1]).encode())
    )
    | st.builds(Message, st.just(Kind.BINARY), st.binary())
)


@given(MESSAGES, st.none() | TEXTS, st.none() | st.binary())
def test_roundTrip(message, key, receipt):
    """A message comes back as it was, with what the server has noted of it."""
    made = decodeRecord(record("0192abc", 17, encodeBody(message, key, receipt), number=4))
    publication = made.publication("a", 5.0)
    assert (publication.kind, publication.payload, publication.key) == (message.kind, message.payload, key)
    assert (publication.channel, publication.position, publication.at) == ("a", place("0192abc", 17), 5.0)
    assert (made.instance, made.number, made.time) == ("instance", 4, 1700000000000)


@given(st.none() | TEXTS, st.none() | st.binary())
def test_spans(key, receipt):
    """With the span of its publisher, all else of a message comes back as it was, and so does the span."""
    made = decodeRecord(record("0192abc", 17, encodeBody(Message(Kind.TEXT, b"x"), key, receipt, "00-1-2-01"), number=4))
    publication = made.publication("a", 5.0)
    assert (publication.kind, publication.payload, publication.key) == (Kind.TEXT, b"x", key)
    assert (made.span, made.receipt, made.number) == ("00-1-2-01", receipt, 4)


@given(MESSAGES)
def test_broadcasts(message):
    """A message to all callers comes back as it was."""
    assert decodeBroadcast(encodeBroadcast(message)) == message


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (Kind.TEXT, b"\xff"),
        (Kind.TEXT, b"\xed\xa0\x80"),
        (Kind.JSON, b""),
        (Kind.JSON, b"{"),
        (Kind.JSON, b'1,"type":"subscribed"'),
        (Kind.JSON, b'"\xff"'),
        (Kind.JSON, b"[" * 100_000),
    ],
    ids=range(7),
)
def test_notOfItsKind(kind, payload):
    """A message that would make each client close its connection, or read something else, is refused, whoever has written it."""
    message = Message(kind, payload)
    with pytest.raises(Unreadable, match="not UTF-8"):
        decodeRecord(record("0192abc", 17, encodeBody(message, None)))
    with pytest.raises(Unreadable):
        decodeBroadcast(encodeBroadcast(message))


def test_head():
    """The head of a record says where it is, who published it, and when; in later versions too."""
    for version in (VERSION, VERSION + 1):
        head = parseHead(record("0192abc", 17, version=version, number=4))
        assert head == (place("0192abc", 17), b"instance", 4, 1700000000000)


BODY = encodeBody(Message(Kind.TEXT, b"x"), None)
RECORD = record("0192abc", 17, BODY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        RECORD[:HEAD],
        b"garbage" * 1000,
        RECORD[:-1],
        RECORD + b"\x00",
        RECORD[:HEAD] + b"\xc1",
        RECORD.replace(b"0192abc", b"\xff192abc"),
        record("0192abc", 17, BODY, version=VERSION + 1),
        record("0192abc", 17, b"\xc0\x03" + BODY[2:]),
        record("0192abc", 17, encodeBody(Message(Kind.TEXT, b"x"), None, None, "span"), version=VERSION + 1),
        b"\x9f" + RECORD[1:HEAD] + BODY + b"\x91" * 100_000,
    ],
    ids=range(12),
)
def test_unreadable(data):
    """Another version and garbage are refused, not misread."""
    with pytest.raises(Unreadable):
        decodeRecord(data)


@pytest.mark.parametrize(
    "data", [b"", encodeBroadcast(Message(Kind.TEXT, b"x"))[:-1], b"\x93\x7f\x00\xc4\x00", b"\x93\x02\x09\xc4\x00"]
)
def test_unreadableBroadcasts(data):
    """So they are in a message to all callers."""
    with pytest.raises(Unreadable):
        decodeBroadcast(data)


@pytest.mark.parametrize("data", [b"", RECORD[: HEAD - 1], b"x" * 100, RECORD.replace(b"0192abc", b"0192:bc")])
def test_unreadableHeads(data):
    """A position is never read from what is no head."""
    with pytest.raises(Unreadable):
        parseHead(data)


def test_otherVersion():
    """The version that cannot be read is named."""
    with pytest.raises(Unreadable, match="version 7"):
        decodeRecord(record("0192abc", 17, BODY, version=7))


def test_later():
    """What a later edition has added to a record of this version is passed over."""
    assert decodeRecord(b"\x9c" + RECORD[1:] + b"\x07").payload == b"x"


def test_receipts():
    """An idempotency key and its fingerprint are told apart by their sizes, whatever is in them."""
    assert encodeReceipt("k\0é", b"\0f") == b"\x00\x04k\0\xc3\xa9\x00\x02\0f"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_members(user, info):
    """Who has come comes back as it was, whatever the name."""
    encoded = user.encode()
    assert decodeMember(b"+%d %b%b" % (len(encoded), encoded, info)) == (user, info)


@pytest.mark.parametrize("record", [b"+", b"+x a", b"+5 abc", b"-1 \xff", b"+99999999999999999999 a"])
def test_unreadableMembers(record):
    """Garbage is nobody."""
    with pytest.raises(Unreadable):
        decodeMember(record)
