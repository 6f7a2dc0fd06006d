"""The contract of engines: what numbers, keeps and passes on the messages of channels, and knows the other processes.

`Engine` is what a server asks, `Node` is what an engine asks of the server that it works for. Above them, nothing knows how many
processes there are. `twisted_ws.testing.engines` has the tests that every engine passes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, Union

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.engines.replay import Replay
from twisted_ws.message import Message, Position, Publication, Published

if TYPE_CHECKING:
    from twisted_ws.limits import Limits
    from twisted_ws.wire.loop.wheel import Wheel

_T = TypeVar("_T")

# A value at once, or later: an engine that has to ask nobody makes no Deferreds. Never a coroutine.
MaybeDeferred = Union[_T, "Deferred[_T]"]


class EngineState(Enum):
    """Whether an engine can do its work.

    - UP: it can.
    - RESUMING: it reaches what it works with again, and is catching up.
    - DOWN: it does not reach what it works with: nothing is published, and subscribers hear nothing.
    """

    UP = "up"
    RESUMING = "resuming"
    DOWN = "down"


class HistoryLimits(NamedTuple):
    """How much of one channel is kept; whatever is reached first.

    Attributes:
        messages: how many.
        age: seconds.
        bytes: their size, with what is charged for each.
    """

    messages: int
    age: float
    bytes: int


class History(NamedTuple):
    """What is kept of a channel since a position.

    Attributes:
        position: the position before the first of `publications`, or the channel's last one.
        recovered: whether `publications`, and the pages that follow them, are all that were published since the position that was
            asked for.
        publications: in order and without gaps. A `Replay` takes no memory, and may lose what the history forgets before it is
            taken.
    """

    position: Position
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
        subscribers: the connections of all nodes that are subscribed to the channel itself, not through a pattern.
    """

    channel: str
    position: Position
    messages: int
    bytes: int
    oldest: Position | None
    subscribers: int


class Member(msgspec.Struct, frozen=True):
    """One user on a channel.

    Attributes:
        user: the `user` of the callers.
        info: what the service says of it, any JSON value.
        connections: how many of them there are, at all nodes; 0 if the user has just left, and nobody has been told yet.
    """

    user: str
    info: msgspec.Raw
    connections: int


class Members(NamedTuple):
    """A page of the users on a channel.

    Attributes:
        members: by name.
        next: the user to continue after; None if these are the last.
        subscribers: as in `Description`.
    """

    members: list[Member]
    next: str | None
    subscribers: int


class Disconnect(msgspec.Struct, frozen=True, tag="disconnect"):
    """Ends connections.

    Attributes:
        connection: the id of one; None for none.
        user: all of this user; None for none.
        code, reason: of the Close.
    """

    connection: str | None
    user: str | None
    code: int
    reason: str


class Unsubscribe(msgspec.Struct, frozen=True, tag="unsubscribe"):
    """Ends subscriptions.

    Attributes:
        connection, user: whose; see `Disconnect`.
        channel: to this channel or pattern.
        reason: what their clients are told.
    """

    connection: str | None
    user: str | None
    channel: str
    reason: str


Command = Disconnect | Unsubscribe


class Revocation(msgspec.Struct, frozen=True):
    """What is no longer accepted, at any node.

    Attributes:
        token: the id of a token; None for none.
        user: the tokens of this user that were issued before `issuedBefore`; None for none.
        issuedBefore: Unix time, seconds.
        until: when it may be forgotten, because what it revokes has expired by then; Unix time, seconds.
    """

    token: str | None
    user: str | None
    issuedBefore: float
    until: float


class NodeInfo(msgspec.Struct, frozen=True):
    """One server that works with the engine.

    Attributes:
        id: that of `Node`.
        connections: how many it has open.
        started: Unix time, seconds.
        version: of the package that it runs.
    """

    id: str
    connections: int
    started: float
    version: str


class Node(Protocol):
    """The server, for its engine: called in the reactor's thread; nothing here raises.

    Attributes:
        id: distinguishes the servers that share an engine, of today and of earlier: 6 random letters or digits. Connection ids
            begin with that of the first server of their process.
    """

    id: str

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Take a publication of a watched channel, and return how many connections it is written to, or waits for.

        An engine that has answered `Engine.watch` with a value calls this in the order of offsets and without gaps. One that has
        answered with a Deferred may repeat itself, leave gaps, and be early: the server sorts, and asks `Engine.since` where
        something is missing.
        """

    def lost(self, channel: str, position: Position) -> None:
        """Learn that no engine has what follows the last publication of a channel any more; the next ones follow `position`.

        If the server is further already in the epoch of `position`, that is old news.
        """

    def broadcasted(self, message: Message) -> MaybeDeferred[int]:
        """Send a message to every open caller, and return to how many."""

    def joined(self, channel: str, member: Member) -> None:
        """Learn that the first connection of a user has come to a channel."""

    def left(self, channel: str, member: Member) -> None:
        """Learn that a user has left a channel, and has not come back in time (see `Engine.leave`)."""

    def obey(self, command: Command) -> MaybeDeferred[int]:
        """Do as told with the connections that are here, and return how many of them it concerned."""

    def subscribers(self, channel: str) -> int:
        """Return how many connections are subscribed here to the channel itself."""

    def watched(self) -> Iterable[str]:
        """Return the channels and patterns that the engine was asked to watch; for one that begins anew."""

    def presence(self) -> Iterable[tuple[str, str, str, bytes]]:
        """Return all that was told by `Engine.enter` and still holds, in the order of its arguments; for one that begins anew."""

    def info(self) -> NodeInfo:
        """Return what other nodes may know of this one."""

    def revoked(self, revocation: Revocation) -> None:
        """Learn of a revocation."""

    def answer(self, kind: str, payload: bytes) -> MaybeDeferred[bytes]:
        """Answer `Engine.ask`; b"" for an unknown kind."""

    def stateChanged(self, state: EngineState) -> None:
        """Learn that `Engine.state` has changed; or, with the same state again, that a part of the engine can work again."""


class Engine(Protocol):
    """Numbers, keeps and passes on the messages of all channels.

    Each method returns its answer, or a Deferred of it if another process has to be asked. To refuse, a method raises
    `ChannelError`, or its Deferred fails with one; nothing else is expected. A Deferred that is cancelled leaves nothing behind.

    Attributes:
        state: see `EngineState`; each change is told to `Node.stateChanged`.
    """

    state: EngineState

    @property
    def isSlow(self) -> bool:
        """Whether it works, but what it works with answers only after more than a second."""

    def start(self, node: Node) -> MaybeDeferred[None]:
        """Begin to work for a server; called once, before anything else.

        Fails with `twisted_ws.errors.ConfigurationError` if the operator has to mend something.
        """

    def stop(self) -> MaybeDeferred[None]:
        """End: what is being published is finished first, for at most 5 seconds; whatever comes later is "unavailable"."""

    def publish(
        self,
        channel: str,
        message: Message,
        key: str | None = None,
        idempotencyKey: str | None = None,
        fingerprint: bytes = b"",
        limits: HistoryLimits | None = None,
    ) -> MaybeDeferred[Published]:
        """Give a message the channel's next offset, keep it, and pass it to `Node.received` wherever the channel is watched.

        The answer comes after the subscribers of this node were served. If the channel had the same `idempotencyKey` within
        `Limits.idempotencyAge`, do nothing and return the same answer; or refuse ("key-reused") if its `fingerprint` differs, so
        the publisher takes this message for a new one. `limits` holds for the channel from now on; None: those of `Limits`.
        """

    def watch(self, channel: str, by: Hashable = None) -> MaybeDeferred[Position | None]:
        """Begin to pass on the publications of a channel or pattern; return the channel's position, None for a pattern.

        Called for the first subscription of this node, and not again before `unwatch`. Every publication after the returned
        position is passed on, some perhaps before the answer comes; where a pattern that is watched matches the channel, all up
        to that position were passed on before. `by` is the address that asks, if any: a single one must not create as many
        channels as there can be.
        """

    def unwatch(self, channel: str) -> None:
        """Stop passing publications on: the last subscription of this node has ended. The engine may go on for 10 seconds."""

    def since(self, channel: str, after: Position | None, limit: int | None = None) -> MaybeDeferred[History]:
        """Return what is kept of a channel since `after`; for None, only its present position.

        `Position.isIn` tells whether `after` belongs to the channel's numbering. With a `limit`, at most so many publications,
        the oldest; the rest follows when asked with the position of the last of them. Offsets have no gaps: whoever wants the
        newest asks with the offset before them (see `twisted_ws.engines.newest`).
        """

    def forget(self, channel: str) -> MaybeDeferred[int]:
        """Drop what is kept of a channel, and return how many messages that was; its numbering goes on."""

    def describe(self, channel: str) -> MaybeDeferred[Description | None]:
        """Return what is known of a channel, None if there is none."""

    def broadcast(self, message: Message) -> MaybeDeferred[int]:
        """Pass a message to `Node.broadcasted` of all nodes, and return the sum of what they answer."""

    def enter(self, channel: str, connection: str, user: str, info: bytes) -> None:
        """Learn that a connection of a user is on a channel; `info` is the JSON of what the service says of it."""

    def leave(self, channel: str, connection: str, delay: float | None = None) -> None:
        """Learn that a connection that has entered is no longer on a channel.

        If its user is not back within `delay` seconds, `Node.left` is called; None: within `Limits.presenceDelay`, as when the
        node of the connection has died. Without another delay, it is called with two arguments.
        """

    def members(self, channel: str, after: str, limit: int, size: int) -> MaybeDeferred[Members]:
        """Return the users on a channel by name, beginning after `after`: at most `limit`, and about `size` bytes."""

    def command(self, command: Command) -> MaybeDeferred[int]:
        """Pass a command to `Node.obey` of all nodes, and return the sum of what they answer."""

    def nodes(self) -> MaybeDeferred[list[NodeInfo]]:
        """Return the nodes that are alive."""

    def claim(self, key: str, until: float) -> MaybeDeferred[bool]:
        """Return True once for a key, over all nodes; False until Unix time `until`, when the key may be forgotten."""

    def revoke(self, revocation: Revocation) -> MaybeDeferred[None]:
        """Pass a revocation to `Node.revoked` of all nodes, and of those that come until it ends."""

    def ask(self, kind: str, payload: bytes) -> MaybeDeferred[list[bytes]]:
        """Return what `Node.answer` of each living node says."""

    def list(self, prefix: str, after: str, limit: int) -> MaybeDeferred[list[Description]]:
        """Return the first `limit` channels by name, of those whose name begins with `prefix` and is greater than `after`."""


class EngineSettings(NamedTuple):
    """What an engine is made of; a factory of the entry point group ``twisted_ws.engines`` takes it and returns an `Engine`.

    The name of the entry point is the scheme of the URLs that it is for.

    Attributes:
        url: as the operator gave it.
        password: from a file; None without one. A URL in the configuration must not have one.
        limits: the server's.
        wheel: its deadlines.
        reactor: its reactor.
    """

    url: str
    password: bytes | None
    limits: Limits
    wheel: Wheel
    reactor: Any
