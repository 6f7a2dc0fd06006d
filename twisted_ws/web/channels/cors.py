"""Which pages of other origins may use the channels of a WebSocket port over HTTP (the Fetch standard's CORS protocol)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted_ws.web.http.errors import HttpError
from twisted_ws.wire.door.handshake import checkOrigin
from twisted_ws.wire.door.origins import isFromElsewhere

if TYPE_CHECKING:
    from twisted_ws.web.http.request import HttpRequest
    from twisted_ws.wire.door.origins import AllowedOrigins

_METHODS = "GET, HEAD, POST"
_TAKEN = "Authorization, Channel-Token, Content-Type, If-None-Match, Last-Event-ID, Idempotency-Key"
_SHOWN = "ETag, Retry-After"
# How long a browser may cache the answer to a preflight; Chromium never does for more than 12 times as long.
_PREFLIGHT_SECONDS = 600


def isPreflight(request: HttpRequest) -> bool:
    """Return whether this is the preflight of a page that `Cors` has let in."""
    return bool(request.method == b"OPTIONS" and request.isShown and request.fields.get("access-control-request-method"))


class Cors:
    """Admits the pages that may also connect by WebSocket.

    Args:
        origins: their origins.
        named: the same without ``*``: a page that is admitted only because all are does not get the visitor's cookies.
    """

    def __init__(self, origins: AllowedOrigins, named: AllowedOrigins) -> None:
        self._origins = origins
        self._named = named

    def check(self, request: HttpRequest) -> None:
        """Set the headers that the page's browser needs, whatever the answer will be.

        A request without an Origin is not from a page, unless the browser says that a page of another site has made it
        (`isFromElsewhere`): it has no origin that could be allowed, so it is admitted only if all are.

        Raises:
            HttpError: 403 for a page that may not connect, 400 for a repeated Origin.
        """
        if self.show(request):
            return
        head = request.head
        if "origin" in head.values:
            if (denied := checkOrigin(head, self._origins, request.isSecure())) is not None:
                raise HttpError(denied.status, denied.message, hint=denied.hint)
        elif isFromElsewhere(head) and not self._origins.allows("null", head.host, request.isSecure()):
            raise HttpError(403, "Pages of other sites may not connect.")

    def show(self, request: HttpRequest) -> bool:
        """Let a page that may connect read the answer, whatever that will be; return whether it is from such a page."""
        request.say("Vary", "Origin")
        # Even without CORS, a page may load an answer as a script or a picture, into its own process.
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
        """Answer a preflight; `check` or `show` has admitted the page."""
        if isPreflight(request):
            request.say("Access-Control-Allow-Methods", _METHODS)
            request.say("Access-Control-Allow-Headers", _TAKEN)
            request.say("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS))
