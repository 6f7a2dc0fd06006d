"""What all rooms speak of: messages and how they are encoded, positions in channels, publications."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from twisted_ws.errors import ChannelError, concerning

# Opcodes (RFC 6455 section 5.2).
TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10


# Messages.


class Kind(Enum):
    """What a message was published as: it decides how the message looks in JSON.

    Attributes:
        opcode: that of the frames that carry it.
        field: the name of the JSON field that has it.
    """

    TEXT = "text"
    JSON = "json"
    BINARY = "binary"

    def __init__(self, value: str) -> None:
        self.opcode, self.field = (BINARY, "base64") if value == "binary" else (TEXT, "data")


# Python 3.11 runs Python code for each look-up of a member.
_TEXT, _JSON, _BINARY = Kind


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message, encoded once where it enters the server.

    Attributes:
        kind: what it is.
        payload: UTF-8 for text, one JSON value for JSON.
    """

    kind: Kind
    payload: bytes

    @classmethod
    def of(cls, value: Any) -> Message:
        """Encode a value: str as text, bytes-like as binary, anything else as JSON; return a `Message` as it is.

        Raises:
            TypeError: JSON has no form for `value`.
            ValueError: text with a lone surrogate.
        """
        if value.__class__ is cls:
            return value
        if isinstance(value, str):
            return cls(_TEXT, textPayload(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return cls(_BINARY, bytes(value))
        return cls(_JSON, msgspec.json.encode(value))

    @classmethod
    def ofData(cls, data: bytes | msgspec.Raw) -> Message:
        """Return the message in the ``data`` of a JSON text: a string is text, anything else is JSON, as it came.

        Args:
            data: a JSON value that msgspec has accepted, in valid UTF-8.
        """
        payload = bytes(data)
        if not payload.startswith(b'"'):
            return cls(_JSON, payload)
        return cls(_TEXT, msgspec.json.decode(payload, type=str).encode() if b"\\" in payload else payload[1:-1])

    @classmethod
    def ofBase64(cls, text: str) -> Message:
        """Return the binary message in the ``base64`` of a JSON text (RFC 4648 section 4).

        Raises:
            ChannelError: invalid base64.
        """
        try:
            return cls(_BINARY, base64.b64decode(text, validate=True))
        except ValueError:
            raise ChannelError("bad-request", "The base64 is invalid (RFC 4648 section 4).") from None

    def value(self) -> Any:
        """Return the value that the message was made of, or for JSON an equal one."""
        if self.kind is _BINARY:
            return self.payload
        return self.payload.decode() if self.kind is _TEXT else msgspec.json.decode(self.payload)


def textPayload(text: str) -> bytes:
    """Return the payload of a text message: UTF-8.

    Raises:
        TypeError: not a str.
        ValueError: a lone surrogate.
    """
    if not isinstance(text, str):
        raise TypeError(f"a text message must be a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has a lone surrogate, which UTF-8 cannot encode") from None


def binaryPayload(data: bytes | bytearray | memoryview) -> bytes:
    """Return the payload of a binary message.

    Raises:
        TypeError: not bytes-like.
    """
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a binary message must be bytes, not {type(data).__name__}")


def controlPayload(data: bytes | bytearray | memoryview) -> bytes:
    """Return the payload of a ping or pong.

    Raises:
        TypeError: not bytes-like.
        ValueError: more than 125 bytes (RFC 6455 section 5.5).
    """
    payload = binaryPayload(data)
    if len(payload) > 125:
        raise ValueError(f"a control frame carries at most 125 bytes, not {len(payload)}")
    return payload


# Positions.

_POSITION = re.compile(r"([A-Za-z0-9]{1,32}):([0-9]{1,16})")
_FURTHEST = 2**53 - 1  # the largest integer that every JSON reader reads exactly


class Position(NamedTuple):
    """A place in a channel: everything up to it was seen. As text, ``epoch:offset``: the id of the message before it.

    Attributes:
        epoch: the numbering that the offset belongs to; from a `Cursor`, a mark of it (`isIn` knows both).
        offset: in a channel, each message has that of the one before it plus 1.
    """

    epoch: str
    offset: int

    def isIn(self, epoch: str) -> bool:
        """Return whether this is a place in the numbering `epoch`."""
        return self.epoch == epoch or self.epoch == _mark(epoch)

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


_LAST = re.compile(r"0*[1-9][0-9]{0,8}", re.ASCII)

# Before everything that is kept.
START = Position("", 0)
# In no existing numbering: everything that is kept may be new to the subscriber.
NOWHERE = Position("~", 0)


def parsePosition(text: str) -> Position:
    """Return the position in a text: ``epoch:offset``, or ``0`` for `START`.

    Raises:
        ChannelError: there is none.
    """
    if text == "0":
        return START
    match = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[2]) > _FURTHEST:
        raise _badPosition()
    return Position(match[1], int(match[2]))


def parseBefore(text: str) -> Position:
    """Return the position before the message with an id.

    Raises:
        ChannelError: there is no id.
    """
    position = parsePosition(text)
    if position == START:
        raise _badPosition()
    return Position(position.epoch, position.offset - 1)


def parseLast(text: str | None, channels: Iterable[str]) -> dict[str, int]:
    """Return how many of the newest messages a URL asks for, by channel; {} for None.

    Args:
        text: a number for all channels, or one for each (``a=20,b=5``).
        channels: those that are asked for.

    Raises:
        ChannelError: it is not a number of 1 to 9 digits, or 0.
    """
    if text is None:
        return {}
    wanted = list(channels)
    found = dict([part.partition("=")[::2] for part in text.split(",")]) if "=" in text else dict.fromkeys(wanted, text)
    if not all(map(_LAST.fullmatch, found.values())):
        raise ChannelError("bad-request", "last must be a number of messages, 1 or more.")
    return {name: int(found[name]) for name in wanted if name in found}


def _badPosition() -> ChannelError:
    return ChannelError("bad-position", "A position is a message id (epoch:offset), or 0.")


def parseAfter(text: str | None, channels: Iterable[str]) -> dict[str, Position]:
    """Return the positions in a text by channel; {} for None.

    Args:
        text: the text of a `Cursor`, one with names (``a=epoch:offset,b=epoch:offset``), a bare position if there is one
            channel, or ``0`` for all.
        channels: those that are asked for; others in a cursor with names are ignored.

    Raises:
        ChannelError: an invalid text, or a bare position for several channels.
    """
    wanted = list(channels)
    if text is None:
        return {}
    if "=" in text:
        found = dict([part.partition("=")[::2] for part in text.split(",")])
        asked = frozenset(wanted)
        for name, place in found.items():
            # The others are checked, but nothing is made of them: there may be a thousand.
            if name in asked or (place != "0" and not _POSITION.fullmatch(place)):
                with concerning(name):
                    parsePosition(place)
        return {name: parsePosition(found[name]) for name in wanted if name in found}
    if text.startswith("~"):
        return _parseCursor(text, wanted)
    position = parsePosition(text)
    if len(wanted) > 1 and position != START:
        raise ChannelError("bad-position", "For several channels, after must be channel=epoch:offset,channel=epoch:offset.")
    return dict.fromkeys(wanted, position)


def cursor(positions: Mapping[str, Position]) -> str:
    """Return positions in several channels as one text with names, which `parseAfter` reads."""
    return ",".join(f"{channel}={position}" for channel, position in positions.items())


# A place in a cursor: a hexadecimal offset, after the mark of its epoch and "~" if that is not the epoch of the place before.
_PLACE = re.compile(r"(?:(?:([A-Za-z0-9_-]{5})~)?([0-9a-f]{1,14}))?")


def _hash(text: str) -> str:
    """Return 30 bits of a text's hash: enough to tell one epoch of a channel from the one before."""
    return base64.urlsafe_b64encode(blake2b(text.encode("ascii"), digest_size=6).digest())[:5].decode("ascii")


@lru_cache(4096)
def _mark(epoch: str) -> str:
    """Return the mark of an epoch in a position from a cursor; no epoch has this form."""
    return "~" + _hash(epoch)


class Cursor:
    """The positions of a subscriber in several channels, as one short text; `parseAfter` reads it, given the same channels.

    The text is the id of each event and comes back in one header, so it has no names: only a hash of all of them, then the
    places in the order of the names. If it comes back for other channels, it tells nothing about them (see `NOWHERE`).

    Args:
        channels: all channels and patterns, in any order.
    """

    __slots__ = ("_epochs", "_isWritten", "_numbers", "_offsets", "_parts")

    def __init__(self, channels: Iterable[str]) -> None:
        names = sorted(channels)
        # By number, from 1; number 0 is for unknown channels, and offset -1 means no place.
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._epochs = [""] * (len(names) + 1)
        self._offsets = [-1] * (len(names) + 1)
        self._parts = [_head(names), *[""] * len(names)]
        self._isWritten = True

    def __bool__(self) -> bool:
        return any(offset >= 0 for offset in self._offsets)

    def __str__(self) -> str:
        if not self._isWritten:
            self._write()
        return ".".join(self._parts)

    def begin(self, channel: str, position: Position) -> None:
        """Note the first position in a channel, which must be one of `channels`."""
        number = self._numbers[channel]
        self._epochs[number], self._offsets[number] = position
        self._isWritten = False

    def move(self, channel: str, epoch: str, offset: int) -> None:
        """Note the new position in a channel; ignore one that has none, such as a channel matched by a pattern."""
        number = self._numbers.get(channel, 0)
        if self._offsets[number] < 0:
            return
        self._offsets[number] = offset
        if epoch != self._epochs[number]:
            self._epochs[number] = epoch
            self._isWritten = False
        elif self._isWritten:
            mark, tilde, _ = self._parts[number].rpartition("~")
            self._parts[number] = f"{mark}{tilde}{offset:x}"

    def end(self, channel: str) -> None:
        """Leave out the position in a channel from now on."""
        self._offsets[self._numbers.get(channel, 0)] = -1
        self._isWritten = False

    def _write(self) -> None:
        before = None
        for number, (epoch, offset) in enumerate(zip(self._epochs, self._offsets, strict=True)):
            if offset >= 0:
                self._parts[number] = f"{offset:x}" if epoch == before else f"{_mark(epoch)[1:]}~{offset:x}"
                before = epoch
            elif number:
                self._parts[number] = ""
        self._isWritten = True


def _head(names: list[str]) -> str:
    return "~" + _hash(",".join(names))


def _parseCursor(text: str, wanted: list[str]) -> dict[str, Position]:
    names = sorted(wanted)
    head, *parts = text.split(".")
    if head != _head(names) or len(parts) != len(names):
        # It is for other channels: better to send everything that is kept again than to miss a message.
        return dict.fromkeys(names, NOWHERE)
    epoch, found = "", {}
    for name, part in zip(names, parts, strict=True):
        place = _PLACE.fullmatch(part)
        if place is None:
            raise ChannelError("bad-position", "The cursor is malformed.")
        epoch = f"~{place[1]}" if place[1] else epoch
        if part:
            if not epoch or int(place[2], 16) > _FURTHEST:
                raise ChannelError("bad-position", "The cursor is malformed.")
            found[name] = Position(epoch, int(place[2], 16))
    return found


# Publications.


class Publication:
    """One message of a channel, numbered.

    Attributes:
        channel: the channel's name.
        epoch, offset: its id; see `Position`.
        kind: what it was published as.
        payload: UTF-8 for text, one JSON value for JSON.
        key: for conflation: of several messages with one key, only the newest matters; None without one.
        at: when it was published (the reactor's seconds).
        size: the bytes of payload and key, charged wherever it is kept; the objects around them are charged there.
    """

    __slots__ = ("at", "channel", "epoch", "key", "kind", "offset", "payload", "size")

    def __init__(self, channel: str, epoch: str, offset: int, kind: Kind, payload: bytes, key: str | None, at: float) -> None:
        self.channel = channel
        self.epoch = epoch
        self.offset = offset
        self.kind = kind
        self.payload = payload
        self.key = key
        self.at = at
        self.size = len(payload) if key is None else len(payload) + key.__sizeof__()

    @property
    def position(self) -> Position:
        """Its id: the position after it."""
        return Position(self.epoch, self.offset)

    def __repr__(self) -> str:
        return f"<Publication {self.channel} {self.position}>"


class Published(NamedTuple):
    """The answer to a publisher.

    Attributes:
        channel: the channel.
        id: the message's id, as text.
        recipients: the number of connections that it was written to, or waits for.
    """

    channel: str
    id: str
    recipients: int


class Start(NamedTuple):
    """The answer to a subscriber.

    Attributes:
        channel: the channel or pattern.
        position: the position before the first message that follows; None for a pattern.
        recovered: whether everything since the position that was asked for follows; False if none was.
        missed: how many missed messages follow.
    """

    channel: str
    position: Position | None
    recovered: bool
    missed: int
