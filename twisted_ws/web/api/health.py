"""Health checks for load balancers and orchestrators: ``/healthz`` (the process works) and ``/readyz`` (it takes traffic)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.logger import Logger

from twisted_ws.web.http.errors import HttpError, retryAfter
from twisted_ws.web.http.resource import HttpResource
from twisted_ws.web.http.response import jsonBody

if TYPE_CHECKING:
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest


class Liveness(HttpResource):
    """200 while the reactor turns."""

    def render_GET(self, request: HttpRequest) -> bytes:
        """Answer: that is all there is to know."""
        request.operation = "health"
        request.say("Content-Type", "application/json")
        return jsonBody({"status": "ok"})


class Readiness(HttpResource):
    """200 while the server takes traffic, otherwise 503 with the reason; the answer says if the engine is slow.

    It is asked every few seconds, so the log has a line when the answer changes, and none for each request.
    """

    _log = Logger()

    def __init__(self, server: WebSocketServer) -> None:
        super().__init__()
        self._server = server
        self._reason: str | None = None

    def render_GET(self, request: HttpRequest) -> bytes:
        """Ask the server."""
        request.operation = "health"
        reason = self._server.readiness()
        if reason != self._reason:
            self._reason = reason
            if reason is None:
                self._log.info("/readyz answers 200 again", event="readiness.changed")
            else:
                self._log.info("/readyz answers 503: {reason}", reason=reason, event="readiness.changed")
        if reason is not None:
            raise HttpError(503, f"The server takes no new traffic: {reason}.", headers=retryAfter(), isLogged=False)
        request.say("Content-Type", "application/json")
        return jsonBody({"status": "ready", "engine": "slow"} if self._server.engine.isSlow else {"status": "ready"})
