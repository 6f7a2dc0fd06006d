"""What is published, and where it stands in its channel: messages, positions, cursors."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from twisted_ws.caller import BINARY, encodeMessage
from twisted_ws.delivery.names import concerning
from twisted_ws.errors import ChannelError

if TYPE_CHECKING:
    from twisted_ws.delivery.past import Past

__all__ = [
    "START",
    "History",
    "Kind",
    "Position",
    "Publication",
    "Published",
    "Start",
    "cursor",
    "decode",
    "encode",
    "fromBase64",
    "fromJson",
    "parseAfter",
    "parsePosition",
]

_POSITION = re.compile(r"([A-Za-z0-9]{1,32}):([0-9]{1,16})")
_FURTHEST = 2**53 - 1  # the largest integer that every JSON reader has exactly


class Kind(Enum):
    """What a message is, as it was published: it decides how it looks in JSON."""

    TEXT = "text"
    JSON = "json"
    BINARY = "binary"


class Position(NamedTuple):
    """A place in a channel: everything up to here was seen. As text, ``epoch:offset``: the id of the message before it.

    Attributes:
        epoch: which numbering the offset belongs to.
        offset: of one channel, each message has that of the one before it plus 1.
    """

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"


# Before everything that is kept, whatever that is.
START = Position("", 0)


class Publication:
    """One message of a channel, numbered.

    Attributes:
        channel: the channel's name.
        epoch, offset: its id; see `Position`.
        kind: what it was published as.
        payload: UTF-8 for text, one JSON value for JSON.
        key: conflation: of several messages with one key, the newest says it all. None without.
        at: when it was published (the reactor's seconds).
    """

    __slots__ = ("at", "channel", "epoch", "key", "kind", "offset", "payload")

    def __init__(self, channel: str, epoch: str, offset: int, kind: Kind, payload: bytes, key: str | None, at: float) -> None:
        self.channel = channel
        self.epoch = epoch
        self.offset = offset
        self.kind = kind
        self.payload = payload
        self.key = key
        self.at = at

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
        recipients: to how many connections it was written, or for how many it waits.
    """

    channel: str
    id: str
    recipients: int


class History(NamedTuple):
    """What is kept of a channel since some position.

    Attributes:
        position: the position before the first of `publications`, or the channel's last one; None for a pattern.
        recovered: whether `publications` are all there were since the position that was asked for.
        publications: in order; a `Past` takes no memory, and may lose what the history forgets before it is taken.
    """

    position: Position | None
    recovered: bool
    publications: Past | list[Publication]


class Start(NamedTuple):
    """The answer to a subscriber.

    Attributes:
        channel: the channel or pattern.
        position: the position before the first message that follows; None for a pattern.
        recovered: whether everything since the position that was asked for follows; False when none was.
        missed: how many messages of the past follow.
    """

    channel: str
    position: Position | None
    recovered: bool
    missed: int


def encode(message: Any) -> tuple[Kind, bytes]:
    """Return the kind and payload for any message: str is text, bytes-like is binary, the rest JSON (`msgspec.Raw` as it is).

    Raises:
        TypeError: JSON has no form for it.
        ValueError: text with a lone surrogate.
    """
    opcode, payload = encodeMessage(message)
    if opcode == BINARY:
        return Kind.BINARY, payload
    return (Kind.TEXT if isinstance(message, str) else Kind.JSON), payload


def decode(kind: Kind, payload: bytes) -> Any:
    """Return what `encode` was given, or what is equal to it in JSON."""
    if kind is Kind.BINARY:
        return payload
    return payload.decode() if kind is Kind.TEXT else msgspec.json.decode(payload)


def fromJson(value: msgspec.Raw) -> Any:
    """Return what to publish for the ``data`` of a JSON frame: a string is a text, anything else JSON as it came.

    Raises:
        ChannelError: it is no JSON.
    """
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ChannelError("bad-request", "The data is no JSON.") from None
    return found if isinstance(found, str) else value


def fromBase64(text: str) -> bytes:
    """Return the bytes of the ``base64`` of a JSON frame (RFC 4648 section 4).

    Raises:
        ChannelError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ChannelError("bad-request", "The base64 is none (RFC 4648 section 4).") from None


def parsePosition(text: str) -> Position:
    """Return the position that `text` says: ``epoch:offset``, or ``0`` for `START`.

    Raises:
        ChannelError: it says none.
    """
    if text == "0":
        return START
    match = _POSITION.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[2]) > _FURTHEST:
        raise ChannelError("bad-position", "A position is epoch:offset, as the id of a message has it, or 0.")
    return Position(match[1], int(match[2]))


def parseAfter(text: str | None, channels: Iterable[str]) -> dict[str, Position]:
    """Return the positions that `text` says, by channel; {} for None.

    Args:
        text: a cursor (``a=epoch:offset,b=epoch:offset``), a bare position where there is one channel, or ``0`` for all.
        channels: those that are meant; others in the cursor do not count.

    Raises:
        ChannelError: it cannot be read, or is a bare position for several channels.
    """
    wanted = list(channels)
    if text is None:
        return {}
    if "=" not in text:
        position = parsePosition(text)
        if len(wanted) > 1 and position != START:
            raise ChannelError("bad-position", "For several channels, after is channel=epoch:offset,channel=epoch:offset.")
        return dict.fromkeys(wanted, position)
    found = {}
    for part in text.split(","):
        name, _, place = part.partition("=")
        with concerning(name):
            found[name] = parsePosition(place)
    return {name: found[name] for name in wanted if name in found}


def cursor(positions: Mapping[str, Position]) -> str:
    """Return one text for positions in several channels; `parseAfter` reads it."""
    return ",".join(f"{channel}={position}" for channel, position in positions.items())
