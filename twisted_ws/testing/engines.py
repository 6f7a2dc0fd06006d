"""Put an engine to the promises of its contract (`twisted_ws.engines.contract`)."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable

from twisted_ws import __version__
from twisted_ws.engines.contract import Command, EngineState, MaybeDeferred, Member, NodeInfo, Revocation
from twisted_ws.message import Message, Position, Publication

_LETTERS = string.ascii_lowercase + string.digits


class RecordingNode:
    """A `twisted_ws.engines.contract.Node` that writes down what its engine tells it.

    Attributes:
        id: random.
        recipients: what `received`, `broadcasted` and `obey` answer; may be a Deferred.
        counts: the subscribers of each channel, as `subscribers` answers.
        watching: the channels and patterns that `watched` answers.
        present: what `presence` answers.
        publications: what `received` was called with, in order; the other lists are the same for the other methods.
    """

    def __init__(self) -> None:
        self.id = "".join([secrets.choice(_LETTERS) for _ in range(6)])
        self.recipients: MaybeDeferred[int] = 1
        self.counts: dict[str, int] = {}
        self.watching: list[str] = []
        self.present: list[tuple[str, str, str, bytes]] = []
        self.publications: list[Publication] = []
        self.losses: list[tuple[str, Position]] = []
        self.broadcasts: list[Message] = []
        self.joins: list[tuple[str, Member]] = []
        self.leaves: list[tuple[str, Member]] = []
        self.commands: list[Command] = []
        self.revocations: list[Revocation] = []
        self.states: list[EngineState] = []

    def received(self, publication: Publication) -> MaybeDeferred[int]:
        """Write down a publication."""
        self.publications.append(publication)
        return self.recipients

    def lost(self, channel: str, position: Position) -> None:
        """Write down a loss."""
        self.losses.append((channel, position))

    def broadcasted(self, message: Message) -> MaybeDeferred[int]:
        """Write down a message to all."""
        self.broadcasts.append(message)
        return self.recipients

    def joined(self, channel: str, member: Member) -> None:
        """Write down who has come."""
        self.joins.append((channel, member))

    def left(self, channel: str, member: Member) -> None:
        """Write down who has left."""
        self.leaves.append((channel, member))

    def obey(self, command: Command) -> MaybeDeferred[int]:
        """Write down a command."""
        self.commands.append(command)
        return self.recipients

    def subscribers(self, channel: str) -> int:
        """Return what `counts` has."""
        return self.counts.get(channel, 0)

    def watched(self) -> Iterable[str]:
        """Return `watching`."""
        return self.watching

    def presence(self) -> Iterable[tuple[str, str, str, bytes]]:
        """Return `present`."""
        return self.present

    def info(self) -> NodeInfo:
        """Return a node with no connections."""
        return NodeInfo(self.id, 0, 0.0, __version__)

    def revoked(self, revocation: Revocation) -> None:
        """Write down a revocation."""
        self.revocations.append(revocation)

    def answer(self, kind: str, payload: bytes) -> MaybeDeferred[bytes]:
        """Return what was asked, after the id."""
        return f"{self.id} {kind} ".encode() + payload

    def stateChanged(self, state: EngineState) -> None:
        """Write down a state."""
        self.states.append(state)
