"""The server of an engine in a test: it writes down what it is told, and keeps the order of channels as a server does."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.python.failure import Failure

from twisted_ws import __version__
from twisted_ws.engines.contract import (
    Command,
    Disconnect,
    Engine,
    EngineState,
    History,
    MaybeDeferred,
    Member,
    NodeInfo,
    Revocation,
)
from twisted_ws.errors import ChannelError
from twisted_ws.message import Message, Position, Publication
from twisted_ws.names import isPattern

_LETTERS = string.ascii_lowercase + string.digits
# Publications that a feed asks for at once.
PAGE = 100


class Feed:
    """One subscription, as a server keeps it: in the order of offsets, each once, with the history where something is missing.

    It asks `Engine.since` only if a publication shows that something is missing, and again whenever the engine is up again: an
    engine that has missed the last publications has to notice that by itself.

    Attributes:
        channel: its name.
        position: that of the last publication.
        heard: the publications.
        gaps: the positions after which something is missing, as the engine said.
        isLive: whether it has all there was when it began, or when something was missing.
        errors: why the engine refused to say what is missing.
    """

    def __init__(self, engine: Engine, channel: str) -> None:
        self._engine = engine
        self.channel = channel
        self.position: Position | None = None
        self.heard: list[Publication] = []
        self.gaps: list[Position] = []
        self.isLive = False
        self.errors: list[str] = []
        self._asking = 0  # the number of the question whose answer is awaited; 0: none
        self._asked = 0
        self._held: list[Publication] = []
        self._former: set[str] = set()  # the epochs that it has left: what comes late of them was in the history

    @property
    def texts(self) -> list[str]:
        """The payloads of what was heard."""
        return [each.payload.decode() for each in self.heard]

    def begin(self, after: Position | None) -> None:
        """Subscribe, from `after` on; None: from now on."""
        maybeDeferred(self._engine.watch, self.channel).addCallbacks(self._watched, self._refused, callbackArgs=(after,))

    def received(self, publication: Publication) -> None:
        """Take a publication in any order."""
        if publication.epoch in self._former:
            return
        if not self.isLive or self.position is None:
            self._held.append(publication)
        elif publication.epoch != self.position.epoch or publication.offset > self.position.offset + 1:
            self._held.append(publication)
            self.isLive = False
            self._ask(self.position)
        elif publication.offset == self.position.offset + 1:
            self._take(publication)

    def lost(self, position: Position) -> None:
        """Go on from another position, because what is before it is lost; unless it was passed already."""
        here = self.position
        if here is not None and here.epoch == position.epoch and here.offset > position.offset:
            return
        if self.position is not None:
            self.gaps.append(self.position)
        self._move(position)
        self._asking = 0
        self.isLive = True
        self._held = [each for each in self._held if each.epoch == position.epoch]
        self._sort()

    def goOn(self) -> None:
        """Ask again, if the engine could not answer."""
        if not self.isLive and not self._asking and self.position is not None:
            self._ask(self.position)

    def _watched(self, position: Position | None, after: Position | None) -> None:
        if after is None:
            self.position, self.isLive = position, True
            self._sort()
        else:
            self._ask(after)

    def _ask(self, after: Position) -> None:
        self._asked += 1
        self._asking = number = self._asked
        answer = maybeDeferred(self._engine.since, self.channel, after, PAGE)
        answer.addCallbacks(self._answered, self._refused, callbackArgs=(after, number), errbackArgs=(number,))

    def _answered(self, history: History, after: Position, number: int) -> None:
        if self._asking != number:
            return  # the engine has said meanwhile where to go on
        self._asking = 0
        publications = [*history.publications]
        if not history.recovered and after.epoch:
            self.gaps.append(after)
        self._move(history.position)
        for each in publications:
            self._take(each)
        if publications:
            self._ask(publications[-1].position)
        else:
            self.isLive = True
            self._sort()

    def _refused(self, failure: Failure, number: int = 0) -> None:
        if self._asking == number:
            self._asking = 0
        failure.trap(ChannelError)
        self.errors.append(str(failure.value))

    def _sort(self) -> None:
        held, self._held = self._held, []
        for each in sorted(held, key=lambda publication: publication.offset):
            self.received(each)

    def _take(self, publication: Publication) -> None:
        self.heard.append(publication)
        self._move(publication.position)

    def _move(self, position: Position) -> None:
        if self.position is not None and self.position.epoch != position.epoch:
            self._former.add(self.position.epoch)
            self._former.discard(position.epoch)
        self.position = position


class RecordingNode:
    """A `twisted_ws.engines.contract.Node` that writes down what its engine tells it.

    Attributes:
        id: random.
        engine: the engine; set by whoever starts it.
        feeds: the channels that are watched by `watch`.
        counts: the subscribers of each channel, as `subscribers` answers.
        recipients: what `received` answers, which may be a Deferred; None: what `counts` has for the channel.
        connections: the users of the open connections, by id; None for none.
        publications: what `received` was called with, in order; the other lists are the same for the other methods.
        moves: joins and leaves in one list, in order: ("joined" or "left", channel, user).
        onReceived: called with each publication after it was written down.
    """

    def __init__(self) -> None:
        self.id = "".join([secrets.choice(_LETTERS) for _ in range(6)])
        self.engine: Any = None
        self.feeds: dict[str, Feed] = {}
        self.counts: dict[str, int] = {}
        self.recipients: MaybeDeferred[int] | None = None
        self.connections: dict[str, str | None] = {}
        self.publications: list[Publication] = []
        self.losses: list[tuple[str, Position]] = []
        self.broadcasts: list[Message] = []
        self.joins: list[tuple[str, Member]] = []
        self.leaves: list[tuple[str, Member]] = []
        self.moves: list[tuple[str, str, str]] = []
        self.commands: list[Command] = []
        self.revocations: list[Revocation] = []
        self.states: list[EngineState] = []
        self.onReceived: Callable[[Publication], object] = lambda publication: None
        self._present: dict[tuple[str, str], tuple[str, bytes]] = {}

    # What a server asks of its engine.

    def watch(self, channel: str, after: Position | None = None) -> Feed:
        """Subscribe to a channel or pattern, and return what comes of it: for a pattern, nothing but `publications` does."""
        feed = self.feeds[channel] = Feed(self.engine, channel)
        feed.begin(None if isPattern(channel) else after)
        return feed

    def unwatch(self, channel: str) -> None:
        """End the subscription."""
        del self.feeds[channel]
        self.engine.unwatch(channel)

    def enter(self, channel: str, number: int, user: str, info: bytes = b"null") -> None:
        """Let a connection of this node, known by its number, be on a channel."""
        connection = f"{self.id}.{number}"
        self._present[channel, connection] = user, info
        self.engine.enter(channel, connection, user, info)

    def leave(self, channel: str, number: int, *delay: float) -> None:
        """Let it be no longer there."""
        connection = f"{self.id}.{number}"
        self._present.pop((channel, connection), None)
        self.engine.leave(channel, connection, *delay)

    # What the engine asks.

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Write down a publication, and pass it to its feed."""
        self.publications.append(publication)
        feed = self.feeds.get(publication.channel)
        if feed is not None:
            feed.received(publication)
        self.onReceived(publication)
        return self.counts.get(publication.channel, 0) if self.recipients is None else self.recipients

    def lost(self, channel: str, position: Position) -> None:
        """Write down a loss, and let the feed go on behind it."""
        self.losses.append((channel, position))
        feed = self.feeds.get(channel)
        if feed is not None:
            feed.lost(position)

    def broadcasted(self, message: Message) -> MaybeDeferred[int]:
        """Write down a message, and return how many connections there are."""
        self.broadcasts.append(message)
        return len(self.connections)

    def joined(self, channel: str, member: Member) -> None:
        """Write down who has come."""
        self.joins.append((channel, member))
        self.moves.append(("joined", channel, member.user))

    def left(self, channel: str, member: Member) -> None:
        """Write down who has left."""
        self.leaves.append((channel, member))
        self.moves.append(("left", channel, member.user))

    def obey(self, command: Command) -> MaybeDeferred[int]:
        """Write down a command, and return how many connections it is about; those that it ends are gone."""
        self.commands.append(command)
        about = [
            connection
            for connection, user in self.connections.items()
            if connection == command.connection or (user is not None and user == command.user)
        ]
        if isinstance(command, Disconnect):
            for connection in about:
                del self.connections[connection]
        return len(about)

    def subscribers(self, channel: str) -> int:
        """Return what `counts` has."""
        return self.counts.get(channel, 0)

    def watched(self) -> Iterable[str]:
        """Return the channels and patterns of the feeds."""
        return tuple(self.feeds)

    def presence(self) -> Iterable[tuple[str, str, str, bytes]]:
        """Return who is there."""
        return [(channel, connection, *said) for (channel, connection), said in self._present.items()]

    def info(self) -> NodeInfo:
        """Return what other nodes may know of this one."""
        return NodeInfo(self.id, len(self.connections), 0.0, __version__)

    def revoked(self, revocation: Revocation) -> None:
        """Write down a revocation."""
        self.revocations.append(revocation)

    def answer(self, kind: str, payload: bytes) -> MaybeDeferred[bytes]:
        """Return the id and what was asked."""
        return f"{self.id} {kind} ".encode() + payload

    def stateChanged(self, state: EngineState) -> None:
        """Write down a state."""
        self.states.append(state)
        if state is EngineState.UP:
            for feed in self.feeds.values():
                feed.goOn()
