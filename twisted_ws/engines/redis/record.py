"""What a channel keeps of each message, and what subscribers get: a line about it, and the publisher's envelope."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from twisted_ws.errors import ChannelError
from twisted_ws.message import Kind, Message, Position, Publication

# The version of the envelope that is written, which is read too.
VERSION = 1

_KINDS = {"t": Kind.TEXT, "j": Kind.JSON, "b": Kind.BINARY}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}


class Envelope(msgspec.Struct, array_like=True, gc=False):
    """What a publisher puts around a message: an array of msgpack, to which later versions may add.

    Attributes:
        version: 1.
        kind: a letter.
        key: for conflation.
        payload: the message.
    """

    version: int
    kind: str
    key: str | None
    payload: bytes


class Line(NamedTuple):
    """What the server has noted of a message.

    Attributes:
        position: its id.
        uid: instance and number of the publisher.
        time: ms of the server's clock.
    """

    position: Position
    uid: bytes
    time: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Envelope).decode


class Unreadable(ValueError):
    """A record that this version cannot read."""


def encodeEnvelope(message: Message, key: str | None) -> bytes:
    """Return the envelope of a message."""
    return _encode(Envelope(VERSION, _LETTERS[message.kind], key, message.payload))


def parseLine(line: bytes) -> Line:
    """Return what a line says.

    Raises:
        Unreadable: it is not one.
    """
    try:
        epoch, offset, uid, time, _ = line.split(b" ", 5)[:5]
        return Line(Position(epoch.decode("ascii"), int(offset)), uid, int(time))
    except ValueError:
        raise Unreadable("a line that no server writes") from None


def decodeRecord(channel: str, record: bytes, at: float) -> tuple[Publication, bytes]:
    """Return the publication in a record, and its uid.

    Args:
        channel: the channel.
        record: the record.
        at: when it was published.

    Raises:
        Unreadable: another version, or garbage.
    """
    line, _, envelope = record.partition(b"\n")
    try:
        epoch, offset, uid, _, _ = line.split(b" ", 5)[:5]
        made = _decode(envelope)
        if made.version != VERSION:
            raise Unreadable(f"an envelope of version {made.version}")
        kind = _KINDS[made.kind]
        return Publication(channel, epoch.decode("ascii"), int(offset), kind, made.payload, made.key, at), uid
    except Unreadable:
        raise
    except (ValueError, KeyError):
        raise Unreadable("an envelope of an unknown form") from None


def parseId(text: bytes) -> Position:
    """Return the position in an id that a server wrote.

    Raises:
        ChannelError: it is not one.
    """
    epoch, _, offset = text.partition(b":")
    try:
        return Position(epoch.decode("ascii"), int(offset))
    except ValueError:
        raise ChannelError("internal-error", "The server has answered with an invalid position.") from None


def decodeMember(record: bytes) -> tuple[str, bytes]:
    """Return user and info of somebody who has come or gone.

    Raises:
        Unreadable: garbage.
    """
    size, space, rest = record[1:].partition(b" ")
    if not space or not size.isdigit() or int(size[:9]) > len(rest):
        raise Unreadable("a member of an unknown form")
    try:
        return rest[: int(size)].decode(), rest[int(size) :]
    except UnicodeDecodeError:
        raise Unreadable("a user that is not UTF-8") from None
