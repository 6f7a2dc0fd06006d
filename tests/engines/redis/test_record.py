from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.engines.redis.record import Unreadable, decodeMember, decodeRecord, encodeEnvelope, parseLine
from twisted_ws.message import Kind, Message, Position

LINE = b"0192abc 17 inst-4 1700000000000 512\n"


@given(st.sampled_from(list(Kind)), st.binary(), st.none() | st.text(st.characters(exclude_categories=["Cs"])))
def test_roundTrip(kind, payload, key):
    """A message comes back as it was, with what the server has noted of it."""
    publication, uid = decodeRecord("a", LINE + encodeEnvelope(Message(kind, payload), key), 5.0)
    assert (publication.kind, publication.payload, publication.key) == (kind, payload, key)
    assert (publication.channel, publication.position, publication.at) == ("a", Position("0192abc", 17), 5.0)
    assert uid == b"inst-4"


def test_line():
    """The line of a record says where it is, who published it, and when."""
    assert parseLine(LINE[:-1]) == (Position("0192abc", 17), b"inst-4", 1700000000000)


ENVELOPE = encodeEnvelope(Message(Kind.TEXT, b"x"), None)


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"\n",
        LINE,
        b"garbage" * 1000,
        b"a b c d e\n" + ENVELOPE,
        b"a 1 c d\n" + ENVELOPE,
        b"\xff 1 c d e\n" + ENVELOPE,
        LINE + b"\xc1",
        LINE + ENVELOPE[:-1],
        LINE + ENVELOPE + b"\x00",
        LINE + b"\x94\x02" + ENVELOPE[2:],
        LINE + ENVELOPE.replace(b"\xa1t", b"\xa1z"),
    ],
)
def test_unreadable(record):
    """Another version and garbage are refused, not misread."""
    with pytest.raises(Unreadable):
        decodeRecord("a", record, 0)


def test_later():
    """What a later version has added to the envelope of this one is passed over."""
    publication, _ = decodeRecord("a", LINE + b"\x95" + ENVELOPE[1:] + b"\x07", 0)
    assert publication.payload == b"x"


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
