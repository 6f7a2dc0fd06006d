"""The contract of engines: what numbers and keeps the messages of channels, in this process or another."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from twisted_ws.engines.replay import Replay
from twisted_ws.message import Message, Position, Publication, Published


class History(NamedTuple):
    """What is kept of a channel since a position.

    Attributes:
        position: the position before the first of `publications`, or the channel's last one; None for a pattern.
        recovered: whether `publications` are all that were published since the position that was asked for.
        publications: in order. A `Replay` takes no memory, and may lose what the history forgets before it is taken.
    """

    position: Position | None
    recovered: bool
    publications: Replay | list[Publication]


class Description(NamedTuple):
    """What an engine knows of one channel.

    Attributes:
        channel: its name.
        position: that of its last message.
        messages: how many are kept.
        bytes: what is charged for these.
        oldest: the id of the first that is kept; None if none is.
    """

    channel: str
    position: Position
    messages: int
    bytes: int
    oldest: Position | None


class Engine(Protocol):
    """Numbers, keeps and passes on the messages of all channels.

    Each method returns its answer, or a Deferred of it if the engine has to ask another process; the one in memory needs no
    Deferreds. To refuse, a method raises `ChannelError` or fails its Deferred with it.

    Attributes:
        receive: set before anything else is called. The engine calls it with each message of a watched channel, in the order of
            offsets and without gaps. It returns how many subscribers of this process took the message, or, if sending to them
            takes several turns of the reactor, a Deferred of that, which never fails. It never raises.
    """

    receive: Callable[[Publication], int | Deferred[int]]

    def publish(
        self, channel: str, message: Message, key: str | None, idempotencyKey: str | None, fingerprint: bytes
    ) -> Published | Deferred[Published]:
        """Give a message the channel's next offset, keep it, and pass it to `receive` wherever the channel is watched.

        If the channel had the same `idempotencyKey` within `Limits.idempotencyAge`, do nothing and return the same answer; or
        refuse ("key-reused") if its `fingerprint` differs, so the publisher takes this message for a new one.
        """

    def watch(self, channel: str, after: Position | None, by: Hashable = None) -> History | Deferred[History]:
        """Begin to pass on the messages of a channel or pattern, and return what is kept of it since `after`.

        `Position.isIn` tells whether `after` belongs to the channel's numbering. `by` is the address that asks, if any: a single
        one must not create as many channels as there can be.

        Each message is in the answer, or is passed to `receive` after it, or (if the answer comes later) both. Called for each
        subscription; a pattern has no history.
        """

    def unwatch(self, channel: str) -> None:
        """Stop passing messages on: the last subscription of this process has ended."""

    def history(self, channel: str, after: Position | None) -> History | Deferred[History]:
        """Return what is kept of a channel since `after`; for None, only its present position."""

    def forget(self, channel: str) -> int | Deferred[int]:
        """Drop what is kept of a channel, and return how many messages that was; its numbering goes on."""

    def describe(self, channel: str) -> Description | Deferred[Description | None] | None:
        """Return what is known of a channel, None if there is none."""

    def list(self, prefix: str, after: str, limit: int) -> list[Description] | Deferred[list[Description]]:
        """Return the first `limit` channels by name, of those whose name begins with `prefix` and is greater than `after`."""
