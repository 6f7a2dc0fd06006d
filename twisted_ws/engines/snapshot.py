"""What the engine in memory keeps, as values: one `Head`, then for each channel a `Channel` and its messages, then the rest.

Times are those of the wall clock (Unix time, seconds), which goes on while no process runs.
"""

from __future__ import annotations

import msgspec


class Head(msgspec.Struct, tag=0, array_like=True, gc=False):
    """The numbering.

    Attributes:
        epoch: its name.
        floor: the highest offset of all channels that were forgotten.
        written: when.
    """

    epoch: str
    floor: int
    written: float


class Channel(msgspec.Struct, tag=1, array_like=True, gc=False):
    """One channel; as many `Kept` follow as `messages` says.

    Attributes:
        name: its name.
        top: the offset of its last message, which is the last that is kept.
        messages: how many are kept.
        touched: when it last had a message or a subscriber.
        limits: those of its own (`HistoryLimits`); None: those of the server.
    """

    name: str
    top: int
    messages: int
    touched: float
    limits: tuple[int, float, int] | None


class Kept(msgspec.Struct, tag=2, array_like=True, gc=False):
    """One message; see `twisted_ws.message.Publication`."""

    kind: str
    payload: bytes
    key: str | None
    at: float


class Receipt(msgspec.Struct, tag=3, array_like=True, gc=False):
    """The answer to a publication with an idempotency key.

    Attributes:
        channel, key, fingerprint: what it answers.
        offset, recipients: the answer.
        due: when it may be forgotten.
    """

    channel: str
    key: str
    fingerprint: bytes
    offset: int
    recipients: int
    due: float


class Claim(msgspec.Struct, tag=4, array_like=True, gc=False):
    """A key that was claimed, and until when."""

    key: str
    until: float


class Revoked(msgspec.Struct, tag=5, array_like=True, gc=False):
    """A revocation; see `twisted_ws.engines.contract.Revocation`."""

    token: str | None
    user: str | None
    issuedBefore: float
    until: float


class Watched(msgspec.Struct, tag=6, array_like=True, gc=False):
    """A channel or pattern that a worker watches.

    Attributes:
        worker: its number among those that are handed on, from 0.
        channel: the channel or pattern.
    """

    worker: int
    channel: str


class Here(msgspec.Struct, tag=7, array_like=True, gc=False):
    """A connection that is on a channel; see `twisted_ws.engines.contract.Engine.enter`.

    Attributes:
        worker: the number of the worker that has told it, as in `Watched`; -1: that one has gone.
        channel, connection, user, info: what it has told.
    """

    worker: int
    channel: str
    connection: str
    user: str
    info: bytes


class Leaving(msgspec.Struct, tag=8, array_like=True, gc=False):
    """A user whose last connection has left a channel, which is not told yet.

    Attributes:
        channel, user, info: as of `Here`.
        ago: seconds since it has left.
        wait: seconds from then on until it is told.
    """

    channel: str
    user: str
    info: bytes
    ago: float
    wait: float


# What is kept over a restart, and what only goes to a process that takes over from a living one.
Record = Head | Channel | Kept | Receipt | Claim | Revoked
Living = Watched | Here | Leaving
