"""The open connections of a transport, found by connection id and by user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twisted_ws.caller import Caller
    from twisted_ws.channels.visitor import Visitor
    from twisted_ws.identity import Identity


class Roster:
    """The callers, or visitors, that are connected now, in the order in which they came; finding some looks at no others.

    A user is found when it is a str. Code that gives a caller or visitor another user calls `renamed`. One with a user is also
    found by the id of its token.
    """

    __slots__ = ("_byId", "_byToken", "_byUser")

    def __init__(self) -> None:
        self._byId: dict[str, Any] = {}
        self._byUser: dict[str, dict[Any, None]] = {}
        self._byToken: dict[str, dict[Any, None]] = {}

    def __len__(self) -> int:
        return len(self._byId)

    def __iter__(self) -> Iterator[Any]:
        # A copy: the loop may write and close, which changes the roster.
        return iter(tuple(self._byId.values()))

    def __contains__(self, client: Caller | Visitor) -> bool:
        return self._byId.get(client.connectionId) is client

    def add(self, client: Caller | Visitor) -> None:
        """Add one; do nothing if it is there."""
        connectionId, byId = client.connectionId, self._byId
        if byId.get(connectionId) is not client:
            byId[connectionId] = client
            if client._user is not None:
                self._name(client)

    def discard(self, client: Caller | Visitor) -> None:
        """Remove one; do nothing if it is not there."""
        connectionId, byId = client.connectionId, self._byId
        if byId.get(connectionId) is client:
            del byId[connectionId]
            if client._user is not None:
                self._unname(client, client._user)

    def renamed(self, client: Caller | Visitor, before: Any) -> None:
        """Note that the user of `client` is no longer `before`; do nothing if it is not there."""
        if client in self:
            self._unname(client, before)
            self._name(client)

    def renew(self, client: Caller | Visitor, identity: Identity) -> None:
        """Give a client the identity that counts from now on."""
        isHere = client in self
        if isHere:
            self._unname(client, client._user)
        client.request.identity = identity
        if isHere:
            self._name(client)

    def withToken(self, token: str) -> list[Any]:
        """Return those that came with the token of this id."""
        return list(self._byToken.get(token, ()))

    def find(self, connection: str | None = None, user: str | None = None) -> list[Any]:
        """Return the one with this connection id, then those of this user in the order in which they became that user."""
        found: dict[Any, None] = {}
        if connection in self._byId:
            found[self._byId[connection]] = None
        if user is not None:
            found.update(self._byUser.get(user, {}))
        return list(found)

    def _name(self, client: Caller | Visitor) -> None:
        if isinstance(client._user, str):
            if client._user not in self._byUser:
                self._byUser[client._user] = {}
            self._byUser[client._user][client] = None
        token = _tokenOf(client)
        if token is not None:
            if token not in self._byToken:
                self._byToken[token] = {}
            self._byToken[token][client] = None

    def _unname(self, client: Caller | Visitor, user: Any) -> None:
        if isinstance(user, str):
            others = self._byUser[user]
            del others[client]
            if not others:
                del self._byUser[user]
        token = _tokenOf(client)
        if token is not None and token in self._byToken:
            same = self._byToken[token]
            same.pop(client, None)
            if not same:
                del self._byToken[token]


def _tokenOf(client: Caller | Visitor) -> str | None:
    identity = client.request.identity
    return None if identity is None else identity.tokenId
