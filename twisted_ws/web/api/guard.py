"""The guard of the broadcast site: resources that need credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.publishers.audit import AuditLog, Entry
from twisted_ws.access.publishers.credentials import CheckFailed, Credentials, TooManyFailures, Unauthenticated
from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.access.publishers.scopes import OF_CHANNELS
from twisted_ws.logs import peerName
from twisted_ws.web.http.errors import HttpError, retryAfter
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.wire.door.origins import isFromElsewhere

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


# What the log says nothing of: it happens all the time, or changes nothing.
QUIET = frozenset({"broadcast", "post", "publish", "batch", "listChannels", "describe", "history", "presence", "nodes"})
NOBODY = KeyHolder()

_log = Logger()


def lacks(scope: str) -> str:
    """Return what the holder of a key is told that lacks a scope."""
    return f"The API key lacks the scope {scope}{' for this channel' if scope in OF_CHANNELS else ''}."


class GuardedResource(HttpResource):
    """A resource that needs credentials, and a server that is not stopping."""

    def __init__(self, server: WebSocketServer, credentials: Credentials, audit: AuditLog | None = None) -> None:
        super().__init__()
        self._server = server
        self._credentials = credentials
        self._audit = audit

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check path and method, then the credentials, before the body is read."""
        super().admit(request)
        return None if request.method == b"OPTIONS" else self.authorize(request)

    def authorize(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the credentials, if any are required.

        Raises:
            HttpError: for a page without a key, or a server that is stopping; for wrong credentials the Deferred fails with one.
        """
        authorization = request.fields.getAll("authorization") if "authorization" in request.head.values else []
        if len(authorization) > 1:
            raise HttpError(400, "The request has more than one Authorization header.")
        self._refuseBrowsers(request, authorization[0] if authorization else "")
        self.refuseWhileDraining()
        request.by = NOBODY
        if not self._credentials.requiresCredentials:
            return None
        checked = self._credentials.check(authorization[0] if authorization else None, request.peerAddress)
        return checked.addCallbacks(self._known, self._unknown, callbackArgs=(request,))

    def _known(self, holder: KeyHolder, request: HttpRequest) -> None:
        request.by = holder
        self.authorized(request)

    def authorized(self, request: HttpRequest) -> None:
        """Decide whether whoever made a request, ``request.by``, may do so.

        Raises:
            HttpError: 403.
        """

    def require(self, request: HttpRequest, scope: str, channel: str | None = None) -> None:
        """Refuse a request of somebody without a scope (see `twisted_ws.access.publishers.scopes.Scopes.allows`).

        Raises:
            HttpError: 403.
        """
        if not request.by.scopes.allows(scope, channel):
            raise HttpError(403, lacks(scope))

    def _refuseBrowsers(self, request: HttpRequest, authorization: str) -> None:
        """Refuse a request that a web page sent with credentials of the browser, not its own.

        Any page in the world can make its visitor's browser POST plain text to localhost, and the browser adds the passwords it
        remembers. It never adds a bearer token by itself, and it names the page in Origin, or at least says that it is from
        another site.
        """
        bearer = self._credentials.requiresCredentials and authorization.lower().startswith("bearer ")
        head = request.head
        if ("origin" in head.values or ("sec-fetch-site" in head.values and isFromElsewhere(head))) and not bearer:
            raise HttpError(403, "A web page may publish only with an API key of its own.")

    def note(self, request: HttpRequest, operation: str, status: int, **fields: Any) -> None:
        """Note in the audit log, if there is one, what was done; without one, say in the log what is rare: all but publishing."""
        by = request.by.name
        if self._audit is not None:
            now = self._server.runtime.unixTime()
            self._audit.note(Entry(now, by, operation, status, request.peerAddress, **fields))
        elif operation not in QUIET:
            _log.info(
                "{operation} by {by} from {peer}: {status}",
                operation=operation,
                by=by or "anybody",
                peer=peerName(request.peerAddress),
                status=status,
            )

    def refuseWhileDraining(self) -> None:
        """Refuse what would no longer reach anyone.

        Raises:
            HttpError: 503.
        """
        if self._server.isStopping:
            raise HttpError(503, "The server is stopping: nothing was sent.", headers=retryAfter())

    def _unknown(self, failure: Failure) -> Failure:
        error = failure.value
        if isinstance(error, Unauthenticated):
            raise HttpError(401, str(error), headers={"WWW-Authenticate": self._credentials.challenges}, hint=error.hint)
        if isinstance(error, TooManyFailures):
            raise HttpError(429, str(error), headers=retryAfter(error.wait))
        if isinstance(error, CheckFailed):
            raise HttpError(503, str(error), headers=retryAfter())
        return failure
