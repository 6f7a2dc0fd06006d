"""How messages look on the wire: a format makes, of one publication, what all subscribers that share the format are sent."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from twisted_ws.frames import OutgoingMessage, frame
from twisted_ws.message import TEXT, Kind, Message, Publication

SUBPROTOCOL = "twisted-ws.v1"

# From this many bytes on, the JSON of the last message is kept for the next format.
LARGE = 64 * 1024

_CONTROLS = bytes(range(32))
_AS_SPACES = bytes.maketrans(b"\r\n", b"  ")


class Format(Protocol):
    """Makes, of one publication, what `Subscriber.send` of all that share the format gets; called once for all of them."""

    def __call__(self, publication: Publication, /) -> Any:
        """Return a `ChannelMessage`, or whatever the transport sends."""


class ChannelMessage(OutgoingMessage):
    """A WebSocket message that knows what it was made of.

    Attributes:
        publication: what it was made of, for a subscriber that cannot take the message now and is to have it later.
    """

    __slots__ = ("publication",)

    def __init__(self, opcode: int, payload: bytes, publication: Publication) -> None:
        self.opcode = opcode
        self.payload = payload
        self.plain = frame(opcode, payload)  # now: a large message is made in a turn that has time for it (`fanout.Later`)
        self.publication = publication


def rawFormat(publication: Publication) -> ChannelMessage:
    """Make a message as it was published: text and JSON as text, binary as binary."""
    return ChannelMessage(publication.kind.opcode, publication.payload, publication)


def jsonFormat(publication: Publication) -> ChannelMessage:
    """Make a ``message`` of the subprotocol ``twisted-ws.v1``."""
    return ChannelMessage(TEXT, b"".join(jsonParts(publication)), publication)


def jsonParts(publication: Publication) -> tuple[bytes, ...]:
    """Return a ``message`` of ``twisted-ws.v1``, one line of JSON, in parts: joined with others, a large one is copied once."""
    return b'{"type":"message",', _head(publication), _json(publication.kind, publication.payload), b"}"


def jsonFields(publication: Publication) -> bytes:
    """Return the fields of a message in JSON, without braces."""
    return _head(publication) + _json(publication.kind, publication.payload)


def _head(publication: Publication) -> bytes:
    """Return everything that comes before the message itself, the name of its field included."""
    key = "" if publication.key is None else f'"key":{msgspec.json.encode(publication.key).decode()},'
    # Names and ids are ASCII without quotes: they need no encoding.
    place = f'"channel":"{publication.channel}","id":"{publication.epoch}:{publication.offset}"'
    return f'{place},{key}"{publication.kind.field}":'.encode()


def _json(kind: Kind, payload: bytes) -> bytes:
    """Return the message itself as a JSON value."""
    return _largeValue(kind, payload) if len(payload) >= LARGE else _value(kind, payload)


def _value(kind: Kind, payload: bytes) -> bytes:
    if kind is Kind.BINARY:
        return b'"' + base64.b64encode(payload) + b'"'
    if kind is Kind.TEXT:
        text = payload.decode()
        if len(payload) >= LARGE and len(payload.translate(None, _CONTROLS)) < len(payload) // 2:
            # Python's own is slower, but not for these, of which each becomes six characters: for a megabyte of NULs it takes a
            # third of the time.
            return json.dumps(text, ensure_ascii=False).encode()
        return msgspec.json.encode(text)
    if b"\n" in payload or b"\r" in payload:
        # They would end the line of an event stream; in JSON they are white space, and nothing else (RFC 8259 section 2). No
        # parser makes it shorter: there may be one more list in it than that can take just then.
        return payload.translate(_AS_SPACES)
    return payload


_largeValue = lru_cache(1)(_value)


def rawBroadcast(message: Message) -> OutgoingMessage:
    """Make a broadcast as it is: text and JSON as text, binary as binary."""
    return OutgoingMessage(message.kind.opcode, message.payload)


def jsonBroadcast(message: Message) -> OutgoingMessage:
    """Make a broadcast for callers that speak ``twisted-ws.v1``: none that could be taken for a message of a channel."""
    head = f'{{"type":"broadcast","{message.kind.field}":'.encode()
    return OutgoingMessage(TEXT, b"".join((head, _json(message.kind, message.payload), b"}")))
