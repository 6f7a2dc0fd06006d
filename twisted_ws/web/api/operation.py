"""What one operation of the HTTP API is, and one call of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct

from twisted_ws.channels.channels import Channels
from twisted_ws.errors import ChannelError
from twisted_ws.names import checkName
from twisted_ws.web.api.guard import lacks

if TYPE_CHECKING:
    from twisted_ws.inspection.inspector import Inspector
    from twisted_ws.limits import Limits
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# What a path may name, by what precedes it.
PARTS = {"/channels/": "channel", "/api/callers/": "connection", "/api/tails/": "tail"}


@dataclass(slots=True)
class Call:
    """One request of an operation, parsed.

    Attributes:
        server: the server.
        request: the request.
        inspector: knows what only the process of the broadcast site has.
        channel: the channel in the path, unchecked; "" if there is none.
        part: what else the path names, unchecked: a connection or a tail; "" if it names nothing.
        query, body: as the operation takes them; None if it takes none.
    """

    server: WebSocketServer
    request: HttpRequest
    inspector: Inspector
    channel: str = ""
    part: str = ""
    query: Any = None
    body: Any = None

    @property
    def channels(self) -> Channels:
        """The server's channels."""
        return self.server.channels

    def require(self, scope: str, channel: str | None) -> None:
        """Refuse a call about a channel that the caller's key is not for.

        Raises:
            ChannelError: it is not.
        """
        if not self.request.by.scopes.allows(scope, channel):
            raise ChannelError("forbidden", lacks(scope))

    def count(self, channel: str) -> None:
        """Count a publication of the caller's key.

        Raises:
            ChannelError: there are too many.
        """
        if self.server.channelRules.rates is not None:
            checkName(channel, self.server.limits.channelName)
            self.server.channelRules.rates.checkKey(channel, self.request.by.name)


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that the API can do.

    Attributes:
        method, path: of its requests; ``{channel}`` in the path is a channel's name; see `PARTS` for others.
        summary: what it does, for the document.
        run: does it, and returns an `answer`.
        answer: the content of a 200.
        query, body: what it takes; None for nothing.
        scope: what whoever calls it must be allowed (see `Scopes`); a channel that is in the body is judged by
            `Call.require`.
        posts: whether its body is a message itself.
        check: refuses a body before it is decoded; None if decoding is little work, whatever the body has.
        errors: its statuses, besides those that any request can have.
    """

    method: str
    path: str
    summary: str
    run: Callable[[Call], Awaitable[Any]]
    answer: type[Struct]
    scope: str
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    posts: bool = False
    check: Callable[[bytes, Limits], None] | None = None
    errors: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the document: the function's."""
        return self.run.__name__


def limit(call: Call, default: int) -> int:
    """Return how many things a query asks for.

    Raises:
        ChannelError: more than one answer has.
    """
    most = call.server.limits.answerMessages
    wanted = min(default, most) if call.query.limit is UNSET else int(call.query.limit)
    if wanted > most:
        raise ChannelError("bad-request", f"limit must be 1 to {most}.")
    return wanted


def given(value: Any) -> Any:
    """Return a value, None if the client has left it out."""
    return None if value is UNSET else value
