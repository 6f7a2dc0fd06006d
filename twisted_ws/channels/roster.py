"""The open connections of a transport, found by connection id and by user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from twisted_ws.wire.loop.sharing import Sharing

if TYPE_CHECKING:
    from twisted_ws.caller import Caller
    from twisted_ws.channels.visitor import Visitor
    from twisted_ws.identity import Identity


class Roster:
    """The callers, or visitors, that are connected now, in the order in which they came; finding some looks at no others.

    A user is found when it is a str. Code that gives a caller or visitor another user calls `renamed`. One with an identity is
    also found by that, whatever user a service has given it since.

    Args:
        credentials: counts the memory of their identities.
    """

    __slots__ = ("_byId", "_byIdentity", "_byToken", "_byUser", "_credentials")

    def __init__(self, credentials: Sharing | None = None) -> None:
        self._credentials = credentials or Sharing()
        self._byId: dict[str, Any] = {}
        self._byUser: dict[str, dict[Any, None]] = {}
        self._byIdentity: dict[str, dict[Any, None]] = {}  # by its user, where that is not the one of `_byUser`
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
            if client._user is not None or client.request.identity is not None:
                self._name(client)

    def discard(self, client: Caller | Visitor) -> None:
        """Remove one; do nothing if it is not there."""
        connectionId, byId = client.connectionId, self._byId
        if byId.get(connectionId) is client:
            del byId[connectionId]
            if client._user is not None or client.request.identity is not None:
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

    def withIdentity(self, user: str) -> list[Any]:
        """Return those whose credentials are of a user; others may be among them."""
        return [*self._byUser.get(user, ()), *self._byIdentity.get(user, ())]

    def find(self, connection: str | None = None, user: str | None = None) -> list[Any]:
        """Return the one with this connection id, then those of this user in the order in which they became that user."""
        found: dict[Any, None] = {}
        if connection in self._byId:
            found[self._byId[connection]] = None
        if user is not None:
            found.update(self._byUser.get(user, {}))
        return list(found)

    def _name(self, client: Caller | Visitor) -> None:
        user, identity = client._user, client.request.identity
        if isinstance(user, str):
            _put(self._byUser, user, client)
        if identity is not None:
            self._credentials.hold(identity)
            if identity.user is not user and _isAnother(identity.user, user):
                _put(self._byIdentity, identity.user, client)
            if identity.tokenId is not None:
                _put(self._byToken, identity.tokenId, client)

    def _unname(self, client: Caller | Visitor, user: Any) -> None:
        identity = client.request.identity
        if isinstance(user, str):
            _take(self._byUser, user, client)
        if identity is not None:
            self._credentials.release(identity)
            if identity.user is not user and _isAnother(identity.user, user):
                _take(self._byIdentity, identity.user, client)
            if identity.tokenId is not None:
                _take(self._byToken, identity.tokenId, client)


def _isAnother(name: str, user: Any) -> bool:
    # A service may give any object as a user, and that may have any idea of what is equal to it.
    return bool(name) and (not isinstance(user, str) or name != user)


def _put(index: dict[str, dict[Any, None]], name: str, client: Any) -> None:
    same = index.get(name)
    if same is None:
        index[name] = {client: None}
    else:
        same[client] = None


def _take(index: dict[str, dict[Any, None]], name: str, client: Any) -> None:
    same = index.get(name)
    if same is not None:
        same.pop(client, None)
        if not same:
            del index[name]
