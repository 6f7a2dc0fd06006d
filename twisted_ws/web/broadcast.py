"""The HTTP broadcast site: one POST reaches every open caller."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.credentials import CheckFailed, Credentials, TooManyFailures, Unauthenticated
from twisted_ws.logs import printable
from twisted_ws.web.answers import Directory, Endpoint, HttpError, retryAfter
from twisted_ws.web.health import RETRY_SECONDS, Liveness, Readiness
from twisted_ws.web.site import HttpSite
from twisted_ws.wire.transports import peerOf

if TYPE_CHECKING:
    from twisted_ws.access.credentials import Identity
    from twisted_ws.server import WebSocketServer
    from twisted_ws.web.request import HttpRequest

__all__ = ["Broadcast", "Guarded", "broadcastSite"]

_CHARSET = re.compile(r";[ \t]*charset=\"?([^\";]*)", re.IGNORECASE)


def broadcastSite(server: WebSocketServer, credentials: Credentials, reactor: Any = None) -> HttpSite:
    """Return the factory of the broadcast port.

    ======================================  ==========================================================
    ``POST /broadcaster/broadcast``         sends the body to every open caller of every service
    ``GET /healthz``, ``GET /readyz``       health, without credentials
    ======================================  ==========================================================
    """
    root, broadcaster = Directory(), Directory()
    root.putChild(b"broadcaster", broadcaster)
    broadcaster.putChild(b"broadcast", Broadcast(server, credentials))
    root.putChild(b"healthz", Liveness())
    root.putChild(b"readyz", Readiness(server))
    return HttpSite(root, server.limits, server.gate, reactor)


class Guarded(Endpoint):
    """An endpoint for those who have credentials, while the server does not stop."""

    def __init__(self, server: WebSocketServer, credentials: Credentials) -> None:
        super().__init__()
        self._server = server
        self._credentials = credentials

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the credentials, before the body is asked for."""
        super().admit(request)
        if request.method == b"OPTIONS":
            return None
        authorization = request.fields.getAll("authorization")
        if len(authorization) > 1:
            raise HttpError(400, "The request has more than one Authorization header.")
        self._refuseBrowsers(request, authorization[0] if authorization else "")
        self._refuseWhileDraining()
        checked = self._credentials.check(authorization[0] if authorization else None, peerOf(request.client)[0])
        return checked.addCallbacks(self._known, self._unknown, callbackArgs=(request,))

    def _refuseBrowsers(self, request: HttpRequest, authorization: str) -> None:
        """Refuse a request that a web page sent with what the browser has, and not the page.

        Any page in the world can make its visitor's browser POST plain text to localhost, and the browser adds the passwords it
        remembers. It never adds a bearer token of its own, and it names the page in Origin.
        """
        bearer = self._credentials.requiresCredentials and authorization.lower().startswith("bearer ")
        if request.fields.getAll("origin") and not bearer:
            raise HttpError(403, "A web page may publish only with an API key of its own.")

    def _refuseWhileDraining(self) -> None:
        # A server that is merely full still serves the callers it has.
        if self._server.readiness() == "draining":
            raise HttpError(503, "The server stops: nothing was sent.", headers=retryAfter(RETRY_SECONDS))

    def _known(self, identity: Identity, request: HttpRequest) -> None:
        request.publisher = identity.name

    def _unknown(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, Unauthenticated):
            raise HttpError(401, str(error), headers={"WWW-Authenticate": self._credentials.challenges})
        if isinstance(error, TooManyFailures):
            raise HttpError(429, str(error), headers=retryAfter(error.wait))
        if isinstance(error, CheckFailed):
            raise HttpError(503, str(error), headers=retryAfter(RETRY_SECONDS))
        return failure


class Broadcast(Guarded):
    """``POST``: the body goes to every open caller of every service; the answer is ``OK`` when all have been written to.

    The body is UTF-8 text whatever its type (curl's form type is taken as it is, and not decoded), and binary with
    ``application/octet-stream``. An empty one is refused: it is a legal message, but more often a mistake of a script.
    """

    _log = Logger()

    allowedMethods = (b"POST", b"OPTIONS")

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the credentials, and whether the body's type can be sent on."""
        admitted = super().admit(request)
        if admitted is not None:
            admitted.addCallback(lambda result: self._checkType(request))
        return admitted

    def _checkType(self, request: HttpRequest) -> None:
        codings = [coding.strip().lower() for coding in request.fields.get("content-encoding", "identity").split(",")]
        if codings != ["identity"]:
            raise HttpError(415, "The body must not be compressed.", headers={"Accept-Encoding": "identity"})
        kind = self._type(request)
        if kind.startswith("multipart/"):
            raise HttpError(415, "The body is sent on as it is, so it must not be a multipart form (with curl: -d, not -F).")
        charset = _CHARSET.search(request.fields.get("content-type", ""))
        if charset is not None and charset[1].strip().lower() not in ("utf-8", "utf8", "us-ascii"):
            raise HttpError(415, "Text must be UTF-8.")

    @staticmethod
    def _type(request: HttpRequest) -> str:
        return request.fields.get("content-type", "").partition(";")[0].strip().lower()

    def render_POST(self, request: HttpRequest) -> bytes:
        """Send the body on."""
        self._refuseWhileDraining()  # that may have begun while the body came
        body = request.content.read()
        if not body:
            raise HttpError(400, "The body is empty: nothing was sent.", "empty-body")
        message = body if self._type(request) == "application/octet-stream" else self._text(body)
        count = self._server.broadcast(message)
        self._log.debug("{user} sent to {count} callers", user=printable(request.publisher) or "somebody", count=count)
        return b"OK"

    @staticmethod
    def _text(body: bytes) -> str:
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise HttpError(
                400, "The body is not UTF-8; binary needs Content-Type: application/octet-stream.", "not-utf-8"
            ) from None
