"""What a channel keeps of each message, and what subscribers get: an array of msgpack, begun by the server."""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgspec

from twisted_ws.engines.redis.server.scripts import VERSION
from twisted_ws.errors import ChannelError
from twisted_ws.message import Kind, Message, Position, Publication

_TEXT, _JSON, _BINARY = Kind
_KINDS = {0: _TEXT, 1: _JSON, 2: _BINARY}

# What the server writes, each in its longest form: array, version, epoch, offset, instance, number, time, charged.
_HEAD = struct.Struct(">BBB14sBQB8sBQBQBQ")
HEAD = _HEAD.size
_MARKS = (0xAE, 0xCF, 0xA8, 0xCF, 0xCF, 0xCF)
_place = struct.Struct(">3x14sxQ").unpack_from


class Record(msgspec.Struct, array_like=True, gc=False):
    """A record, to which later versions may add.

    Attributes:
        version: that of the data model.
        epoch, offset: the position.
        instance, number: who has published it, and its how manieth message that was.
        time: ms of the server's clock.
        charged: bytes of the history before it, since the channel began.
        receipt: what the server needs to know an idempotency key again.
        kind: 0 text, 1 JSON, 2 binary.
        key: for conflation.
        payload: the message.
    """

    version: int
    epoch: str
    offset: int
    instance: str
    number: int
    time: int
    charged: int
    receipt: bytes | None
    kind: int
    key: str | None
    payload: bytes

    def publication(self, channel: str, at: float) -> Publication:
        """Return the publication in it.

        Args:
            channel: the channel.
            at: when it was published.
        """
        return Publication(channel, self.epoch, self.offset, _KINDS[self.kind], self.payload, self.key, at)


class TracedRecord(Record):
    """A record whose publisher's span is known; as it is kept, it has a pair of key and span in place of the key.

    Attributes:
        span: see `twisted_ws.telemetry.tracing.carried`.
    """

    span: str = ""


class _Paired(msgspec.Struct, array_like=True, gc=False):
    """That form."""

    version: int
    epoch: str
    offset: int
    instance: str
    number: int
    time: int
    charged: int
    receipt: bytes | None
    kind: int
    key: tuple[str | None, str]
    payload: bytes


class Head(NamedTuple):
    """What the server has noted of a message.

    Attributes:
        position: its id.
        instance, number: see `Record`.
        time: ms of the server's clock.
    """

    position: Position
    instance: bytes
    number: int
    time: int


class _Body(msgspec.Struct, array_like=True, gc=False):
    """What a publisher writes of a record: all but the head."""

    receipt: bytes | None
    kind: int
    key: str | tuple[str | None, str] | None
    payload: bytes


class _Broadcast(msgspec.Struct, array_like=True, gc=False):
    """A message to all callers."""

    version: int
    kind: int
    payload: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode
_decodePaired = msgspec.msgpack.Decoder(_Paired).decode
_decodeBroadcast = msgspec.msgpack.Decoder(_Broadcast).decode
_skipJSON = msgspec.json.Decoder(msgspec.Raw).decode


class Unreadable(ValueError):
    """A record that this version cannot read."""


def _numberOf(kind: Kind) -> int:
    # Faster than a look-up: the hash of an enum's member is Python code.
    return 0 if kind is _TEXT else 1 if kind is _JSON else 2


def encodeBody(message: Message, key: str | None, receipt: bytes | None = None, span: str | None = None) -> bytes:
    """Return what follows the head in the record of a message; `span` is that of its publisher, if it is to be known."""
    return _encode(_Body(receipt, _numberOf(message.kind), key if span is None else (key, span), message.payload))[1:]


def encodeReceipt(key: str, fingerprint: bytes) -> bytes:
    """Return an idempotency key and the fingerprint of its message, each after its size."""
    encoded = key.encode()
    return b"%b%b%b%b" % (len(encoded).to_bytes(2, "big"), encoded, len(fingerprint).to_bytes(2, "big"), fingerprint)


def encodeBroadcast(message: Message) -> bytes:
    """Return a message to all callers."""
    return _encode(_Broadcast(VERSION, _numberOf(message.kind), message.payload))


def decodeBroadcast(data: bytes) -> Message:
    """Return the message to all callers.

    Raises:
        Unreadable: another version, or garbage.
    """
    try:
        made = _decodeBroadcast(data)
        if made.version == VERSION and _isValid(made.kind, made.payload):
            return Message(_KINDS[made.kind], made.payload)
    except (ValueError, KeyError, RecursionError):
        pass
    raise _unreadable(data)


def decodeRecord(data: bytes) -> Record:
    """Return a record.

    Raises:
        Unreadable: another version, or garbage.
    """
    try:
        record = _decode(data)
    except (ValueError, RecursionError):
        try:
            record = _traced(_decodePaired(data))
        except (ValueError, RecursionError):
            raise _unreadable(data) from None
    if record.version == VERSION and 0 <= record.kind <= 2:
        if not _isValid(record.kind, record.payload):
            raise Unreadable("a record with text that is not UTF-8, or JSON that is not JSON")
        return record
    raise _unreadable(data)


def _isValid(kind: int, payload: bytes) -> bool:
    """Say whether a payload is of its kind: every client would close its connection for text that is not UTF-8."""
    try:
        if kind < 2 and not payload.isascii():
            payload.decode()
        if kind == 1:
            _skipJSON(payload)
    except (ValueError, RecursionError):
        return False
    return True


def _traced(pair: _Paired) -> TracedRecord:
    key, span = pair.key
    return TracedRecord(**{**msgspec.structs.asdict(pair), "key": key, "span": span})


def _unreadable(data: bytes) -> Unreadable:
    # An array of up to 15 elements, the first of which is the version.
    if len(data) > 1 and 0x91 <= data[0] <= 0x9F and data[1] < 0x80 and data[1] != VERSION:
        return Unreadable(f"a record of version {data[1]}")
    return Unreadable("a record of an unknown form")


def parseHead(record: bytes) -> Head:
    """Return what the head of a record says; it is the same in all versions.

    Raises:
        Unreadable: it is not one.
    """
    if len(record) >= HEAD:
        _, _, a, epoch, b, offset, c, instance, d, number, e, time, f, _ = _HEAD.unpack_from(record)
        if (a, b, c, d, e, f) == _MARKS and epoch.isalnum() and epoch.isascii():
            return Head(Position(epoch.decode("ascii"), offset), instance, number, time)
    raise Unreadable("a head that no server writes")


def idOf(head: bytes) -> str:
    """Return the id in a head that the server has just written."""
    epoch, offset = _place(head)
    return f"{epoch.decode('ascii')}:{offset}"


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
