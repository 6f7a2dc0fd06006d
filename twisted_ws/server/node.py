"""This server as its engine sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred

from twisted_ws.caller import nodeIds
from twisted_ws.engines.contract import Command, Disconnect, EngineState, MaybeDeferred, Member, NodeInfo, Revocation
from twisted_ws.message import Message, Position, Publication

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted_ws.channels.channels import Channels
    from twisted_ws.server.callers import OpenCallers
    from twisted_ws.wire.loop.turns import Turns

# The cost of closing one caller, in steps of `Turns`.
CLOSING = 12


class LocalNode:
    """Implements `twisted_ws.engines.contract.Node`.

    Args:
        callers: those of the server.
        turns: its budget.
        version: of the package.

    Attributes:
        id: see `Node`.
        answers: what `Engine.ask` can ask, by kind.
        revocations: called with each revocation.
        worker: the number of the worker that this is, beginning with 1; None if it is none.
        expires: returns when its certificate ends, in Unix time; None if it has none.
    """

    def __init__(self, callers: OpenCallers, turns: Turns, version: str) -> None:
        self.id = next(nodeIds)
        self.worker: int | None = None
        self.expires: Callable[[], float | None] = lambda: None
        self.answers: dict[str, Callable[[bytes], MaybeDeferred[bytes]]] = {}
        self.revocations: list[Callable[[Revocation], object]] = []
        self._callers = callers
        # Straight to them, as in `attach`.
        self.broadcasted: Callable[[Message], MaybeDeferred[int]] = callers.send
        self._turns = turns
        self._version = version
        self._started = time.time()
        self._channels: Channels

    def attach(self, channels: Channels) -> None:
        """Set the channels; called once, before the engine starts."""
        self._channels = channels
        # Straight to them: a publication may come a hundred thousand times a second.
        self.received: Callable[[Publication], MaybeDeferred[int]] = channels.received
        self.subscribers: Callable[[str], int] = channels.count

    def lost(self, channel: str, position: Position) -> None:
        """See `Node`."""
        self._channels.lost(channel, position)

    def joined(self, channel: str, member: Member) -> None:
        """See `Node`."""
        self._channels.presence.joined(channel, member)

    def left(self, channel: str, member: Member) -> None:
        """See `Node`."""
        self._channels.presence.left(channel, member)

    def obey(self, command: Command) -> MaybeDeferred[int]:
        """See `Node`."""
        found = [
            *self._callers.find(command.connection, command.user),
            *self._channels.visitors.find(command.connection, command.user),
        ]
        return Deferred.fromCoroutine(self._obey(command, found)) if found else 0

    async def _obey(self, command: Command, found: list[Any]) -> int:
        concerned = 0
        async for each in self._turns.through(found, CLOSING):
            if isinstance(command, Disconnect):
                (each.membership or self._channels.enroll(each)).disconnect(command.code, command.reason)
                concerned += 1
            elif each.membership is not None:
                concerned += self._channels.unsubscribe(each.membership, command.channel, command.reason)
        return concerned

    def watched(self) -> Iterable[str]:
        """See `Node`."""
        return self._channels.watched()

    def presence(self) -> Iterable[tuple[str, str, str, bytes]]:
        """See `Node`."""
        return self._channels.presence.entered()

    def info(self) -> NodeInfo:
        """See `Node`."""
        return NodeInfo(self.id, len(self._callers) + len(self._channels.visitors), self._started, self._version)

    def revoked(self, revocation: Revocation) -> None:
        """See `Node`."""
        for each in self.revocations:
            each(revocation)

    def answer(self, kind: str, payload: bytes) -> MaybeDeferred[bytes]:
        """See `Node`."""
        answer = self.answers.get(kind)
        return b"" if answer is None else answer(payload)

    def stateChanged(self, state: EngineState) -> None:
        """See `Node`."""
        self._channels.stateChanged(state)
