"""The contract of engines: what numbers and keeps the messages of channels, in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

from twisted.internet.defer import Deferred

from twisted_ws.channels.replay import Replay
from twisted_ws.message import Message, Position, Publication, Published

__all__ = ["Description", "Engine", "History"]


class History(NamedTuple):
    """What is kept of a channel since some position.

    Attributes:
        position: the position before the first of `publications`, or the channel's last one; None for a pattern.
        recovered: whether `publications` are all there were since the position that was asked for.
        publications: in order; a `Replay` takes no memory, and may lose what the history forgets before it is taken.
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
        bytes: what these are charged.
        oldest: the id of the first that is kept, None without one.
    """

    channel: str
    position: Position
    messages: int
    bytes: int
    oldest: Position | None


class Engine(Protocol):
    """Numbers, keeps and passes on the messages of all channels.

    Each method answers at once, or with a Deferred of the same: an engine that asks another process answers later, the one in
    memory costs no Deferred. What an engine refuses it raises, or fails its Deferred with: `ChannelError`.

    Attributes:
        receive: set before anything else is called. The engine calls it with each message of a channel that is watched, in the
            order of offsets and without a gap; it returns how many subscribers of this process took it, or a Deferred of that,
            which never fails, where they are so many that it takes several turns of the reactor. It never raises.
    """

    receive: Callable[[Publication], int | Deferred[int]]

    def publish(
        self, channel: str, message: Message, key: str | None, idempotencyKey: str | None, fingerprint: bytes
    ) -> Published | Deferred[Published]:
        """Give a message the channel's next offset, keep it, and pass it to `receive` wherever the channel is watched.

        With an `idempotencyKey` that the channel had within `Limits.idempotencyAge`: do nothing, and give that answer again;
        or refuse ("key-reused"), when it had another `fingerprint` then: of a message that the publisher believes to be new.
        """

    def watch(self, channel: str, after: Position | None, by: Hashable = None) -> History | Deferred[History]:
        """Begin to pass on the messages of a channel or pattern, and return what is kept of it since `after`.

        Whether `after` is a place in the channel's numbering is for `Position.isIn` to say. `by` is the address that asks, if
        any: one must not make up as many channels as there can be.

        Each message is in the answer, or is passed to `receive` after it, or (when the answer comes later) both; none is in
        neither. Called for each subscription; a pattern has no history.
        """

    def unwatch(self, channel: str) -> None:
        """Pass on no more: the last subscription of this process has ended."""

    def history(self, channel: str, after: Position | None) -> History | Deferred[History]:
        """Return what is kept of a channel since `after`; None: nothing, but the position of now."""

    def forget(self, channel: str) -> int | Deferred[int]:
        """Drop what is kept of a channel, and return how many messages that were; its numbers go on."""

    def describe(self, channel: str) -> Description | Deferred[Description | None] | None:
        """Return what is known of a channel, None for one that is not there."""

    def list(self, prefix: str, after: str, limit: int) -> list[Description] | Deferred[list[Description]]:
        """Return at most `limit` channels by name, of those whose name begins with `prefix` and is greater than `after`."""
