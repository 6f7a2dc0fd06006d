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
from twisted_ws.access.publishers.sessions import Session, cookiesIn
from twisted_ws.logs import peerName, printable
from twisted_ws.web.http.errors import HttpError, retryAfter
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.wire.door.hosts import MISDIRECTED, isMisdirected, remedy
from twisted_ws.wire.door.origins import AllowedOrigins, isFromElsewhere

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


# What the log says nothing of: it happens all the time, or changes nothing.
QUIET = frozenset(
    {
        *("broadcast", "post", "publish", "batch"),
        *("listChannels", "describe", "history", "presence", "nodes", "listCallers", "caller", "explain", "settings"),
    }
)
NOBODY = KeyHolder()
# What the admin page sends with each request that changes something.
PAGE_HEADER, PAGE_VALUE = "x-twisted-ws", "admin"
# A page of the host that it asks.
_OWN = AllowedOrigins()

_log = Logger()


def lacks(scope: str) -> str:
    """Return what the holder of a key is told that lacks a scope."""
    return f"The API key lacks the scope {scope}{' for this channel' if scope in OF_CHANNELS else ''}."


class GuardedResource(HttpResource):
    """A resource that needs credentials, and a server that is not stopping."""

    isTraced = True

    def __init__(self, server: WebSocketServer, credentials: Credentials, audit: AuditLog | None = None) -> None:
        super().__init__()
        self._server = server
        self._credentials = credentials
        self._audit = audit

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check path and method, then the credentials, before the body is read."""
        super().admit(request)
        if request.method == b"OPTIONS":
            return None
        waiting = self.authorize(request)
        if waiting is None:
            self.authorized(request)
        return waiting

    def authorize(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the credentials, if any are required.

        Raises:
            HttpError: for a page without a key, or a server that is stopping; for wrong credentials the Deferred fails with one.

        Returns:
            None if that is known at once; then whoever has asked calls `authorized`.
        """
        authorization = request.fields.getAll("authorization") if "authorization" in request.head.values else []
        if len(authorization) > 1:
            raise HttpError(400, "The request has more than one Authorization header.")
        session = self.session(request) if not authorization else None
        self._refuseBrowsers(request, authorization[0] if authorization else "", session is not None)
        self.refuseWhileDraining()
        request.by = NOBODY
        if not self._credentials.requiresCredentials:
            return None
        if session is not None:
            request.by = session.holder
            return None
        checked = self._credentials.check(authorization[0] if authorization else None, request.peerAddress)
        return checked.addCallbacks(self._known, self.unknown, callbackArgs=(request,), errbackArgs=(request,))

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

    def session(self, request: HttpRequest) -> Session | None:
        """Return the session of the admin page that a request belongs to, by its cookie; None without one."""
        for header in request.head.values.get("cookie", ()):
            for cookie in cookiesIn(header, request.isSecure()):
                found = self._credentials.sessions.find(cookie)
                if found is not None:
                    return found
        return None

    def _refuseBrowsers(self, request: HttpRequest, authorization: str, hasSession: bool) -> None:
        """Refuse a request that a web page sent with credentials of the browser, not its own; except for the admin page.

        Any page in the world can make its visitor's browser POST plain text to localhost, and the browser adds the passwords it
        remembers, and cookies. It never adds a bearer token by itself, and it names the page in Origin, or at least says that it
        is from another site.
        """
        bearer = self._credentials.requiresCredentials and authorization.lower().startswith("bearer ")
        head = request.head
        fromPage = "origin" in head.values or ("sec-fetch-site" in head.values and isFromElsewhere(head))
        if (fromPage or hasSession) and not bearer:
            self.requirePage(request, isAlways=fromPage)

    def requirePage(self, request: HttpRequest, isAlways: bool = True) -> None:
        """Refuse what does not come from the admin page of this server.

        Args:
            request: the request.
            isAlways: whether a GET needs the page's own header, too; a POST always does. No form can send it, and a script of
                another origin only after a preflight, which is never answered here.

        Raises:
            HttpError: 403; 421 if the page was loaded from a name that is not this server's.
        """
        head = request.head
        if isMisdirected(head, request.transport, self._server.hosts, self._server.proxies):
            raise HttpError(421, MISDIRECTED, hint=remedy(head, request.transport))
        origins = head.values.get("origin", ())
        isOwn = all(_OWN.allows(each, head.host, request.isSecure()) for each in origins)
        isNear = all(each in ("same-origin", "none") for each in head.values.get("sec-fetch-site", ()))
        isMarked = head.values.get(PAGE_HEADER) == [PAGE_VALUE]
        if not isOwn or not isNear or not (isMarked or (request.method in (b"GET", b"HEAD") and not isAlways)):
            raise HttpError(403, "A web page may publish only with an API key of its own.")

    def note(self, request: HttpRequest, operation: str, status: int, **fields: Any) -> None:
        """Note in the audit log, if there is one, what was done; without one, say in the log what is rare: all but publishing."""
        by = request.by.name
        self._server.counts.calls.add(by, operation)
        if self._audit is not None:
            now = self._server.runtime.unixTime()
            self._audit.note(Entry(now, by, operation, status, request.peerAddress, **fields))
        elif operation not in QUIET:
            _log.info(
                "{operation} by {key} from {peer}: {status}",
                operation=operation,
                key=by or "anybody",
                path=printable(request.path),
                method=printable(request.method),
                peer=peerName(request.peerAddress),
                status=status,
                event="api.called",
            )

    def refuseWhileDraining(self) -> None:
        """Refuse what would no longer reach anyone.

        Raises:
            HttpError: 503.
        """
        if self._server.isStopping:
            raise HttpError(503, "The server is stopping: nothing was sent.", headers=retryAfter())

    def unknown(self, failure: Failure, request: HttpRequest) -> Failure:
        """Turn what `Credentials` has refused into an answer."""
        error = failure.value
        if isinstance(error, Unauthenticated):
            challenges = self._credentials.challenges
            if "sec-fetch-mode" in request.head.values and request.head.values["sec-fetch-mode"] != ["navigate"]:
                # A script has asked: the browser would ask its user for a password before it lets the script know.
                challenges = tuple(each for each in challenges if not each.startswith("Basic")) or ('Bearer realm="broadcast"',)
            raise HttpError(401, str(error), headers={"WWW-Authenticate": challenges}, hint=error.hint)
        if isinstance(error, TooManyFailures):
            raise HttpError(429, str(error), headers=retryAfter(error.wait))
        if isinstance(error, CheckFailed):
            raise HttpError(503, str(error), headers=retryAfter())
        return failure
