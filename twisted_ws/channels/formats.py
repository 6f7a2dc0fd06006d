"""How a message looks on the wire: a format makes, of one publication or broadcast, what all who share it are sent."""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from twisted_ws.frames import OutgoingMessage
from twisted_ws.message import BINARY, TEXT, Kind, Publication

__all__ = [
    "LARGE",
    "SUBPROTOCOL",
    "ChannelMessage",
    "Format",
    "jsonBroadcast",
    "jsonFields",
    "jsonFormat",
    "jsonMessage",
    "jsonParts",
    "raw",
    "rawBroadcast",
]

SUBPROTOCOL = "twisted-ws.v1"

_CONTROLS = bytes(range(32))
_AS_SPACES = bytes.maketrans(b"\r\n", b"  ")


class Format(Protocol):
    """Makes, of one publication, what `Subscriber.send` of all who share the format gets; called once for all of them."""

    def __call__(self, publication: Publication, /) -> Any:
        """Return a `ChannelMessage`, or whatever the transport has."""


class ChannelMessage(OutgoingMessage):
    """A WebSocket message that knows what it was made of.

    Attributes:
        publication: that; for one who cannot take it now, and is to have it later.
    """

    __slots__ = ("publication",)

    def __init__(self, opcode: int, payload: bytes, publication: Publication) -> None:
        super().__init__(opcode, payload)
        self.publication = publication


def raw(publication: Publication) -> ChannelMessage:
    """Frame a message as it was published: text and JSON as text, binary as binary."""
    return ChannelMessage(BINARY if publication.kind is Kind.BINARY else TEXT, publication.payload, publication)


def jsonFormat(publication: Publication) -> ChannelMessage:
    """Frame a message as the subprotocol ``twisted-ws.v1`` has it."""
    return ChannelMessage(TEXT, jsonMessage(publication), publication)


def jsonMessage(publication: Publication) -> bytes:
    """Return the ``message`` frame of ``twisted-ws.v1``: one line of JSON."""
    return b'{"type":"message",' + jsonFields(publication) + b"}"


def jsonParts(publication: Publication) -> tuple[bytes, ...]:
    """Return the same in parts, for who joins it with more: a large one is not to be copied once for each of them."""
    if len(publication.payload) < LARGE:
        return (jsonMessage(publication),)
    return b'{"type":"message",', _head(publication), _jsonContent(publication.kind, publication.payload), b"}"


def jsonFields(publication: Publication) -> bytes:
    """Return the fields of a message in JSON, without braces."""
    return _head(publication) + _jsonContent(publication.kind, publication.payload)


def _head(publication: Publication) -> bytes:
    # Names and ids are ASCII without quotes: they need no encoding.
    head = f'"channel":"{publication.channel}","id":"{publication.epoch}:{publication.offset}",'.encode("ascii")
    return head if publication.key is None else head + b'"key":' + msgspec.json.encode(publication.key) + b","


# From so many bytes on, the last one is kept for the next format.
LARGE = 64 * 1024


def _jsonContent(kind: Kind, payload: bytes) -> bytes:
    """Return the field of JSON that has the message itself."""
    return _largeContent(kind, payload) if len(payload) >= LARGE else _content(kind, payload)


def _content(kind: Kind, payload: bytes) -> bytes:
    if kind is Kind.BINARY:
        return b'"base64":"' + base64.b64encode(payload) + b'"'
    if kind is Kind.TEXT:
        text = payload.decode()
        if len(payload) >= LARGE and len(payload.translate(None, _CONTROLS)) < len(payload) // 2:
            # Python's own is slower, but not for these, of which each becomes six.
            return b'"data":' + json.dumps(text, ensure_ascii=False).encode()
        return b'"data":' + msgspec.json.encode(text)
    if b"\n" in payload or b"\r" in payload:
        # They would end the line of an event stream; in JSON they are white space, and nothing else (RFC 8259 section 2). No
        # parser makes it shorter: there may be one more list in it than that can take just then.
        payload = payload.translate(_AS_SPACES)
    return b'"data":' + payload


_largeContent = lru_cache(1)(_content)


def rawBroadcast(kind: Kind, payload: bytes) -> OutgoingMessage:
    """Frame a broadcast as it is: text and JSON as text, binary as binary."""
    return OutgoingMessage(BINARY if kind is Kind.BINARY else TEXT, payload)


def jsonBroadcast(kind: Kind, payload: bytes) -> OutgoingMessage:
    """Frame a broadcast for who speaks ``twisted-ws.v1``: whatever is in it, it is never taken for a frame of a channel."""
    return OutgoingMessage(TEXT, b'{"type":"broadcast",' + _jsonContent(kind, payload) + b"}")
