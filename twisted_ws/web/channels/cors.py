"""Which pages of other origins may use the channels of a WebSocket port by HTTP (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted_ws.web.http.errors import HttpError
from twisted_ws.wire.door.handshake import checkOrigin
from twisted_ws.wire.door.origins import isFromElsewhere

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest
    from twisted_ws.wire.door.origins import AllowedOrigins

__all__ = ["Cors", "isPreflight"]

_METHODS = "GET, HEAD, POST"
_TAKEN = "Authorization, Content-Type, If-None-Match, Last-Event-ID, Idempotency-Key"
_SHOWN = "ETag, Retry-After"
# How long a browser may keep the answer to a preflight: as long as Chromium keeps it at most, within a factor of 12.
_PREFLIGHT_SECONDS = 600


def isPreflight(request: HttpRequest) -> bool:
    """Say whether the browser of a page that `Cors` has let in asks before it sends."""
    return bool(request.method == b"OPTIONS" and request.isShown and request.fields.get("access-control-request-method"))


class Cors:
    """Lets in the pages that may also connect by WebSocket.

    Args:
        origins: those.
        named: the same without ``*``. Who is let in only because anybody is does not get the visitor's cookies along.
    """

    def __init__(self, origins: AllowedOrigins, named: AllowedOrigins) -> None:
        self._origins = origins
        self._named = named

    def check(self, request: HttpRequest) -> None:
        """Put what the page's browser wants to know into the answer, whatever that will be.

        A request without an Origin is no page's, unless the browser says that a page of another site has made it
        (`isFromElsewhere`): that one has no origin that could be allowed, and gets in where any may.

        Raises:
            HttpError: 403 for a page that may not connect, 400 for two origins.
        """
        if self.show(request):
            return
        head = request.head
        if "origin" in head.values:
            denied = checkOrigin(head, self._origins, request.isSecure())
            assert denied is not None  # what `show` says, too
            raise HttpError(denied.status, denied.message, hint=denied.hint)
        if isFromElsewhere(head) and not self._origins.allows("null", head.host, request.isSecure()):
            raise HttpError(403, "Pages of other sites may not connect.")

    def show(self, request: HttpRequest) -> bool:
        """Let a page that may connect read the answer, whatever that will be; say whether there is one."""
        request.say("Vary", "Origin")
        # Without CORS a page may still load an answer as a script or picture, into its own process.
        request.say("Cross-Origin-Resource-Policy", "same-origin")
        head = request.head
        found = head.values.get("origin", ())
        if len(found) != 1 or not self._origins.allows(found[0], head.host, request.isSecure()):
            return False
        request.isShown = True
        request.say("Access-Control-Allow-Origin", found[0])
        if self._named.allows(found[0], head.host, request.isSecure()):
            request.say("Access-Control-Allow-Credentials", "true")
        request.say("Access-Control-Expose-Headers", _SHOWN)
        return True

    def preflight(self, request: HttpRequest) -> None:
        """Answer a browser that asks before it sends; `check`, or `show`, has let the page in."""
        if isPreflight(request):
            request.say("Access-Control-Allow-Methods", _METHODS)
            request.say("Access-Control-Allow-Headers", _TAKEN)
            request.say("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS))
