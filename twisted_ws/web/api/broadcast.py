"""The HTTP broadcast site: one POST reaches every open caller, or everyone on a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from twisted_ws.errors import ChannelError
from twisted_ws.web.api.guard import GuardedResource
from twisted_ws.web.api.health import Liveness, Readiness
from twisted_ws.web.api.metrics import GuardedMetrics
from twisted_ws.web.api.resource import ELSEWHERE, ApiResource
from twisted_ws.web.http.content import checkBodyType, contentType, textMessage
from twisted_ws.web.http.coroutines import failed
from twisted_ws.web.http.errors import HttpError, httpError
from twisted_ws.web.http.resource import Directory
from twisted_ws.web.http.site import HttpSite

if TYPE_CHECKING:
    from twisted.web.resource import IResource

    from twisted_ws.access.publishers.audit import AuditLog
    from twisted_ws.access.publishers.credentials import Credentials
    from twisted_ws.inspection.inspector import Inspector
    from twisted_ws.metrics.scrape import Scrape
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


def broadcastSite(
    server: WebSocketServer,
    credentials: Credentials,
    audit: AuditLog | None = None,
    admin: IResource | None = None,
    inspector: Inspector | None = None,
    scrape: Scrape | None = None,
) -> HttpSite:
    """Return the factory of the broadcast port; `audit` notes calls, `admin` is the page for people, `scrape` looks at metrics.

    ======================================  ==========================================================
    ``POST /broadcaster/broadcast``         sends the body to every open caller of every service
    ``POST /channels/{channel}``            publishes the body to a channel
    ``/api/...``                            publishes to and describes channels (see `twisted_ws.web.api.operations`)
    ``GET /admin/``                         the admin page (see `twisted_ws.web.admin`)
    ``GET /metrics``                        metrics for Prometheus
    ``GET /healthz``, ``GET /readyz``       health, without credentials
    ======================================  ==========================================================
    """
    posted = ": messages are posted to /broadcaster/broadcast"
    root, broadcaster, api = Directory(ELSEWHERE), Directory(posted, posted), ApiResource(server, credentials, audit, inspector)
    root.putChild(b"broadcaster", broadcaster)
    broadcaster.putChild(b"broadcast", BroadcastResource(server, credentials, audit))
    root.putChild(b"api", api)
    root.putChild(b"channels", api)
    if admin is not None:
        root.putChild(b"admin", admin)
    if scrape is not None:
        root.putChild(b"metrics", GuardedMetrics(server, credentials, scrape))
    root.putChild(b"healthz", Liveness())
    root.putChild(b"readyz", Readiness(server))
    return HttpSite(
        root,
        server.runtime,
        counts=True,
        # If a key is needed, a web page has none.
        hosts=None if credentials.requiresCredentials else server.hosts,
        anyHost=(b"/healthz", b"/readyz"),
        proxies=server.proxies,
        name="broadcast",
    )


class BroadcastResource(GuardedResource):
    """``POST``: sends the body to every open caller of every service, and answers ``OK`` when all have been written to.

    The body is UTF-8 text whatever its type (curl's form type is not decoded), or binary with ``application/octet-stream``. An
    empty body is refused: it would be a legal message, but it is more likely a script's mistake.
    """

    allowedMethods = (b"POST", b"OPTIONS")

    def authorized(self, request: HttpRequest) -> None:
        """Refuse a key that is for channels only."""
        request.operation = "broadcast"
        try:
            self.require(request, "broadcast")
        except HttpError as error:
            self.note(request, "broadcast", error.status)
            raise

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the credentials, and whether the body's type can be passed on."""
        admitted = super().admit(request)
        if admitted is not None:
            return admitted.addCallback(lambda result: checkBodyType(request))
        if request.method == b"POST":
            checkBodyType(request)
        return None

    def render_POST(self, request: HttpRequest) -> bytes | int:
        """Send the body to all, and answer when the last one has been written to."""
        request.operation = "broadcast"
        self.refuseWhileDraining()  # which may have begun while the body was coming
        body = request.content.read()
        if not body:
            raise HttpError(400, "The body is empty: nothing was sent.", "empty-body")
        message = body if contentType(request) == "application/octet-stream" else textMessage(body)
        try:
            sent = self._server.broadcast(message)
        except ChannelError as error:
            self.note(request, "broadcast", error.status, bytes=len(body))
            raise httpError(error) from None
        self.note(request, "broadcast", 200, bytes=len(body))
        if sent.called and not isinstance(sent.result, Failure):
            return b"OK"
        sent.addCallbacks(lambda count: request.answer(b"OK"), failed, errbackArgs=(request,))
        return NOT_DONE_YET
