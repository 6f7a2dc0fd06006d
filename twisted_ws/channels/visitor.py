"""A client that uses channels over HTTP, as a service sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted_ws.caller import connectionIds
from twisted_ws.upgrade import Identified

if TYPE_CHECKING:
    from twisted_ws.access.lifetime import Lifetime
    from twisted_ws.channels.roster import Roster
    from twisted_ws.channels.subscribers.subscriber import Subscriber
    from twisted_ws.upgrade import UpgradeRequest


class Visitor(Identified):
    """One event stream, poll or POST: what hooks get in place of the `Caller` of a WebSocket connection.

    Attributes:
        connectionId: never used twice, also among callers.
        request: the request, as `onUpgrade` saw it.
        attributes: a dict for the service.
        membership: what takes its messages; None if it only publishes.
        roster: where it is found; None while it has no subscriptions.
        life: see `Caller.life`.
        since: when it came, in Unix time.
    """

    __slots__ = ("_connection", "_user", "attributes", "connectionId", "life", "membership", "request", "roster", "since")

    negotiatedSubProtocol = None

    def __init__(self, request: UpgradeRequest, since: float = 0.0) -> None:
        self.connectionId = next(connectionIds)
        self.request = request
        self.since = since
        self._connection: Any = None  # its event stream, while it has one
        self._user: Any = request.user
        self.attributes: dict[str, Any] = {}
        self.membership: Subscriber | None = None
        self.roster: Roster | None = None
        self.life: Lifetime | None = None

    @property
    def user(self) -> Any:
        """The user: ``request.user``, or what a service has set since."""
        return self._user

    @user.setter
    def user(self, user: Any) -> None:
        before, self._user = self._user, user
        if self.roster is not None:
            self.roster.renamed(self, before)

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels and patterns that it is subscribed to."""
        return () if self.membership is None else self.membership.channels

    def isSecure(self) -> bool:
        """Return whether the connection uses TLS."""
        return self.request.isSecure

    def __repr__(self) -> str:
        return f"<Visitor {self.connectionId} {self.request.path!r}>"
