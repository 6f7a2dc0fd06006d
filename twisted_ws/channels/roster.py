"""Who is connected, by whatever transport: found by connection id and by user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

__all__ = ["People", "Person"]


class Person(Protocol):
    """A `twisted_ws.caller.Caller`, or a `twisted_ws.channels.visitor.Visitor`.

    Attributes:
        connectionId: unique in this process.
        _user: who it is; found by it when it is a str. Whoever sets another one calls `People.renamed`.
    """

    connectionId: str
    _user: Any


class People:
    """Those who are connected now, in the order they came; to find some costs nothing for the others."""

    __slots__ = ("_byId", "_byUser")

    def __init__(self) -> None:
        self._byId: dict[str, Any] = {}
        self._byUser: dict[str, dict[Any, None]] = {}

    def __len__(self) -> int:
        return len(self._byId)

    def __iter__(self) -> Iterator[Any]:
        # A copy: whoever iterates writes and closes, and that may change it.
        return iter(tuple(self._byId.values()))

    def __contains__(self, person: Person) -> bool:
        return self._byId.get(person.connectionId) is person

    def add(self, person: Person) -> None:
        """Add one who came; nothing where it is there."""
        connectionId, byId = person.connectionId, self._byId
        if byId.get(connectionId) is not person:
            byId[connectionId] = person
            if person._user is not None:
                self._name(person)

    def discard(self, person: Person) -> None:
        """Take one away who leaves; nothing where it is not there."""
        connectionId, byId = person.connectionId, self._byId
        if byId.get(connectionId) is person:
            del byId[connectionId]
            if person._user is not None:
                self._unname(person, person._user)

    def renamed(self, person: Person, before: Any) -> None:
        """Note that somebody has another user than before; nothing where it is not there."""
        if person in self:
            self._unname(person, before)
            self._name(person)

    def find(self, connection: str | None = None, user: str | None = None) -> list[Any]:
        """Return those with this connection id, or of this user, in the order in which they became that."""
        found: dict[Any, None] = {}
        if connection in self._byId:
            found[self._byId[connection]] = None
        if user is not None:
            found.update(self._byUser.get(user, {}))
        return list(found)

    def _name(self, person: Person) -> None:
        if isinstance(person._user, str):
            if person._user not in self._byUser:
                self._byUser[person._user] = {}
            self._byUser[person._user][person] = None

    def _unname(self, person: Person, user: Any) -> None:
        if isinstance(user, str):
            others = self._byUser[user]
            del others[person]
            if not others:
                del self._byUser[user]
