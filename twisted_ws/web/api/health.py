"""Health for load balancers and orchestrators: ``/healthz`` (the process works) and ``/readyz`` (it may get traffic)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted_ws.web.http.errors import RETRY_SECONDS, Endpoint, HttpError, jsonBody, retryAfter

if TYPE_CHECKING:
    from twisted_ws.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

__all__ = ["Liveness", "Readiness"]


class Liveness(Endpoint):
    """200 while the reactor turns."""

    def render_GET(self, request: HttpRequest) -> bytes:
        """Answer; that there is an answer is the news."""
        request.say("Content-Type", "application/json")
        return jsonBody({"status": "ok"})


class Readiness(Endpoint):
    """200 while the server may get traffic, else 503 with the reason."""

    def __init__(self, server: WebSocketServer) -> None:
        super().__init__()
        self._server = server

    def render_GET(self, request: HttpRequest) -> bytes:
        """Ask the server."""
        reason = self._server.readiness()
        if reason is not None:
            raise HttpError(503, f"The server takes no new traffic: {reason}.", headers=retryAfter(RETRY_SECONDS))
        request.say("Content-Type", "application/json")
        return jsonBody({"status": "ready"})
