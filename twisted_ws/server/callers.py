"""The open callers of a server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from twisted.internet.defer import Deferred

from twisted_ws.caller import Caller, Membership
from twisted_ws.channels.roster import Roster
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL, jsonBroadcast, rawBroadcast
from twisted_ws.identity import Identity
from twisted_ws.message import Message
from twisted_ws.wire.loop.sharing import Sharing
from twisted_ws.wire.websocket.crowd import Crowd
from twisted_ws.wire.websocket.fanout import EVERYBODY, FanOuts, stepsOf


class Callers(Collection[Caller]):
    """The open callers of a server at the moment, as a collection with `find`."""

    __slots__ = ("_roster",)

    def __init__(self, credentials: Sharing | None = None) -> None:
        self._roster = Roster(credentials)

    def __len__(self) -> int:
        return len(self._roster)

    def __iter__(self) -> Iterator[Caller]:
        return iter(self._roster)

    def __contains__(self, caller: object) -> bool:
        return isinstance(caller, Caller) and caller in self._roster

    def withToken(self, token: str) -> list[Caller]:
        """Return those that came with the token of this id, without searching."""
        return self._roster.withToken(token)

    def withIdentity(self, user: str) -> list[Caller]:
        """Return those whose credentials are of a user, without searching; others may be among them."""
        return self._roster.withIdentity(user)

    def find(self, connection: str | None = None, user: str | None = None) -> list[Caller]:
        """Return those with this `Caller.connectionId`, or of this user (a str), without searching."""
        return self._roster.find(connection, user)

    def __repr__(self) -> str:
        return f"<{len(self)} callers>"


class OpenCallers(Callers):
    """Those of the server itself; implements `twisted_ws.caller.Registry`."""

    __slots__ = ("_fanOuts", "_framed", "_plain", "enroll")

    enroll: Callable[[Caller], Membership]

    def __init__(self, fanOuts: FanOuts, credentials: Sharing | None = None) -> None:
        super().__init__(credentials)
        self._fanOuts = fanOuts
        self._plain = Crowd()
        self._framed = Crowd()  # those that speak twisted-ws.v1

    def _crowdOf(self, caller: Caller) -> Crowd:
        return self._framed if caller.negotiatedSubProtocol == SUBPROTOCOL else self._plain

    def add(self, caller: Caller) -> None:
        """Add a caller that came."""
        self._roster.add(caller)
        if self._fanOuts.pending:
            self._fanOuts.came(caller, EVERYBODY)
        caller._place = self._crowdOf(caller).add(caller._connection)

    def renamed(self, caller: Caller, before: Any) -> None:
        """Note that a caller, open or not, has a new user."""
        self._roster.renamed(caller, before)

    def renew(self, caller: Caller, identity: Identity) -> None:
        """Give a caller the identity that counts from now on."""
        self._roster.renew(caller, identity)

    def discard(self, caller: Caller) -> None:
        """Remove a caller that leaves."""
        self._roster.discard(caller)
        place, caller._place = caller._place, None
        if place is not None:
            self._crowdOf(caller).remove(caller._connection, place)

    def send(self, message: Message) -> int | Deferred[int]:
        """Send a message to all, and return to how many."""
        messages, parts = {}, []
        for crowd, form in (self._plain, rawBroadcast), (self._framed, jsonBroadcast):
            if crowd.groups:  # truth-testing the crowd itself would cost a call
                made = messages[crowd] = form(message)
                steps = stepsOf(made)
                parts += [(run, made, steps) for run in crowd.runs()]
        if not parts:
            return 0

        def find(person: Any) -> tuple[Any, Any] | None:
            made = messages.get(self._crowdOf(person)) if isinstance(person, Caller) else None
            return None if made is None else (person._connection, made)

        return self._fanOuts.send(parts, (EVERYBODY,), find, len(message.payload))
