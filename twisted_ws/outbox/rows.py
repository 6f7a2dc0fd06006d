"""The rows of the outbox, and what becomes of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from twisted_ws.errors import ChannelError
from twisted_ws.message import Message


class Row(NamedTuple):
    """A row that waits to be published.

    Attributes:
        id: its number.
        channel: the channel; None for NULL.
        key: the conflation key; None for NULL.
        data: its JSON; None for NULL, and for what is larger than a message may be, which is not even read.
        size: bytes of its JSON.
    """

    id: int
    channel: str | None
    key: str | None
    data: bytes | None
    size: int

    @property
    def idempotencyKey(self) -> str:
        """The key by which it is published once only."""
        return f"outbox:{self.id}"


class Outcome(NamedTuple):
    """What became of the rows that were to be published.

    Attributes:
        published: the ids of those that are published.
        refused: the ids of those that never can be, and why.
        wait: seconds after which the rest is to be tried again; None if there is no rest.
    """

    published: Sequence[int]
    refused: Sequence[tuple[int, str]] = ()
    wait: float | None = None


def contentOf(row: Row) -> tuple[str, Message]:
    """Return the channel and the message of a row.

    Raises:
        ChannelError: it has none that could be published.
    """
    if row.channel is None:
        raise ChannelError("bad-channel", "The channel is NULL.")
    if row.data is None:
        if row.size:
            raise ChannelError("too-large", f"The message has {row.size} bytes.")
        raise ChannelError("bad-request", "The data is NULL.")
    try:
        # A table that somebody else has made may hold what is not JSON.
        return row.channel, Message.ofData(msgspec.json.decode(row.data, type=msgspec.Raw))
    except (ValueError, RecursionError) as error:
        raise ChannelError("bad-request", f"The data is not JSON that can be sent: {error}.") from None


# Seconds between two attempts to reach a database: the first, and the most.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0


def pause(attempt: int, chance: float) -> float:
    """Return seconds to wait before the next attempt.

    Args:
        attempt: how many have failed in a row, from 1.
        chance: 0 to 1, at random: not all servers come back to a database at once.
    """
    longest: float = min(FIRST_PAUSE * 2 ** min(attempt - 1, 16), LONGEST_PAUSE)
    return longest * (0.5 + chance / 2)
