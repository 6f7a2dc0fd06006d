"""``/api/events``: event streams of the channels of the server itself, for the admin page and for programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred

from twisted_ws.access.publishers.scopes import WATCH, Scopes
from twisted_ws.access.publishers.sessions import cookiesIn
from twisted_ws.channels.service import ChannelService
from twisted_ws.channels.visitor import Visitor
from twisted_ws.errors import ChannelError, concerning
from twisted_ws.inspection.board import STATS, TAIL, Board
from twisted_ws.inspection.tails import CHANNEL
from twisted_ws.names import isPattern
from twisted_ws.upgrade import Reject, UpgradeRequest
from twisted_ws.web.api.guard import GuardedResource, lacks
from twisted_ws.web.channels.events import openEvents
from twisted_ws.web.channels.request import ChannelRequest
from twisted_ws.web.http.coroutines import answerLater
from twisted_ws.web.http.errors import httpError, notAllowed

if TYPE_CHECKING:
    from twisted_ws.access.publishers.audit import AuditLog
    from twisted_ws.access.publishers.credentials import Credentials
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

PATH = "/api/events"


class _Stage:
    """What stands for the server, for streams of the board: the server, but with other channels and counts."""

    def __init__(self, server: WebSocketServer, board: Board) -> None:
        self._server = server
        self.channels = board.channels
        self.runtime = board.runtime
        self.counts = board.runtime.counts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


class BoardService(ChannelService):
    """The service of the server's own channels. Whoever comes here may read: each stream's credentials were looked at before."""

    def __init__(self, server: WebSocketServer, board: Board) -> None:
        super().__init__(policy="drop-oldest")
        self.server = cast("WebSocketServer", _Stage(server, board))
        self._board = board

    async def onSubscribe(self, caller: Any, channel: str) -> None:
        """Refuse what is no channel of the board."""
        try:
            await self._board.prepare(channel)
        except ChannelError as error:
            if error.code == "not-found":
                raise Reject(404, error.message) from None
            raise Reject(503, error.message) from None


class EventsResource(GuardedResource):
    """``GET``: an event stream of one or more channels of the server."""

    allowedMethods = (b"GET", b"HEAD", b"OPTIONS")

    def __init__(
        self, server: WebSocketServer, credentials: Credentials, board: Callable[[], Board], audit: AuditLog | None = None
    ) -> None:
        super().__init__(server, credentials, audit)
        self._board = board
        self._made: BoardService | None = None

    @property
    def _service(self) -> BoardService:
        if self._made is None:
            self._made = BoardService(self._server, self._board())
        return self._made

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check method and credentials, and what they are for."""
        if request.method not in self.allowedMethods:
            raise notAllowed(self.allowedMethods)
        if request.method == b"OPTIONS":
            return None
        service, target = self._service, request.head.target
        upgrade = UpgradeRequest(target, request.head.headers, peerAddress=request.peerAddress, isSecure=request.isSecure())
        try:
            names = service.channelsOf(upgrade)
            for name in names:
                if isPattern(name):
                    with concerning(name):
                        raise ChannelError("forbidden", "Patterns are not allowed here.")
            if not names:
                raise ChannelError("bad-request", f"No channel: name one, such as {PATH}?channel={STATS}.")
        except ChannelError as error:
            raise httpError(error) from None
        query = {name: values[-1] for name, values in upgrade.query.items()}
        query["format"] = "json"
        visitor = Visitor(upgrade, self._server.runtime.unixTime())
        request.found = ChannelRequest(service, visitor, names, query, service.permissions.access)
        waiting = self.authorize(request)
        if waiting is None:
            self.authorized(request)
        return waiting

    def authorized(self, request: HttpRequest) -> None:
        """Refuse channels that the credentials are not for."""
        for name in request.found.names:
            scope = scopeOf(self._board(), name)
            if not mayWatch(request.by.scopes, scope):
                with concerning(name):
                    error = ChannelError("forbidden", lacks(scope[0]))
                error.channel = name
                raise httpError(error)

    def render_GET(self, request: HttpRequest) -> int:
        """Begin the stream."""
        request.say("Vary", "Cookie, Authorization")
        return answerLater(request, self._open(request), self._server.limits.upgradeDeadline)

    render_HEAD = render_GET

    async def _open(self, request: HttpRequest) -> None:
        visitor = request.found.visitor
        await openEvents(request, request.found)
        subscriber = visitor.membership
        if subscriber is not None and not subscriber.gone:
            self._board().watched(subscriber, self._staying(request))
            request.notifyFinish().addBoth(lambda _: self._board().left(subscriber))

    def _staying(self, request: HttpRequest) -> Callable[[], bool]:
        """Return what says whether whoever has sent a request may still watch."""
        credentials = self._credentials
        if not credentials.requiresCredentials:
            return lambda: True
        generation = credentials.generation
        cookies = [each for header in request.head.values.get("cookie", ()) for each in cookiesIn(header, request.isSecure())]
        if "authorization" in request.head.values or not cookies:
            return lambda: credentials.generation == generation
        return lambda: any(credentials.sessions.find(each) is not None for each in cookies)


def scopeOf(board: Board, channel: str) -> tuple[str, str | None]:
    """Return the scope that a channel of the board asks for, and the channel that it is about."""
    if channel == STATS:
        return "metrics", None
    if channel.startswith(TAIL) and channel[len(TAIL) :].isdigit():
        tail = board.tails.get(int(channel[len(TAIL) :]))
        if tail is not None:
            return ("read", tail.name) if tail.kind == CHANNEL else ("admin", None)
    return WATCH, None


def mayWatch(scopes: Scopes, scope: tuple[str, str | None]) -> bool:
    """Return whether scopes are enough."""
    return scopes.allows(*scope)
