"""The guard of the broadcast site: resources that need credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.access.credentials import CheckFailed, Credentials, TooManyFailures, Unauthenticated
from twisted_ws.web.http.errors import HttpError, retryAfter
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.wire.door.origins import isFromElsewhere

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


class GuardedResource(HttpResource):
    """A resource that needs credentials, and a server that is not stopping."""

    def __init__(self, server: WebSocketServer, credentials: Credentials) -> None:
        super().__init__()
        self._server = server
        self._credentials = credentials

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
        if not self._credentials.requiresCredentials:
            return None
        checked = self._credentials.check(authorization[0] if authorization else None, request.peerAddress)
        return checked.addCallbacks(lambda identity: None, self._unknown)

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
            raise HttpError(401, str(error), headers={"WWW-Authenticate": self._credentials.challenges})
        if isinstance(error, TooManyFailures):
            raise HttpError(429, str(error), headers=retryAfter(error.wait))
        if isinstance(error, CheckFailed):
            raise HttpError(503, str(error), headers=retryAfter())
        return failure
