"""``GET /metrics``: what Prometheus reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from twisted_ws.web.api.guard import GuardedResource
from twisted_ws.web.http.compression import answerCompressed
from twisted_ws.web.http.coroutines import answerLater
from twisted_ws.web.http.resource import Directory, HttpResource
from twisted_ws.web.http.site import HttpSite

if TYPE_CHECKING:
    from twisted_ws.access.publishers.credentials import Credentials
    from twisted_ws.metrics.scrape import Scrape
    from twisted_ws.server.server import WebSocketServer
    from twisted_ws.web.http.request import HttpRequest

# Seconds for an answer: that of the workers, and the writing.
SECONDS = 10


class GuardedMetrics(GuardedResource):
    """``/metrics`` of the broadcast site: with a key, one whose scopes include ``metrics``; also while the server drains."""

    def __init__(self, server: WebSocketServer, credentials: Credentials, scrape: Scrape) -> None:
        super().__init__(server, credentials)
        self._scrape = scrape

    def admit(self, request: HttpRequest) -> Deferred[None] | None:
        """Check the key."""
        request.operation = "metrics"
        return super().admit(request)

    def authorized(self, request: HttpRequest) -> None:
        """Refuse a key that is not for metrics."""
        self.require(request, "metrics")

    def refuseWhileDraining(self) -> None:
        """Refuse nothing: how a drain goes is worth a look."""

    def render_GET(self, request: HttpRequest) -> int:
        """Answer with all metrics."""
        return _answer(request, self._server, self._scrape)


class OpenMetricsResource(HttpResource):
    """``/metrics`` of a port of its own, without a key."""

    def __init__(self, server: WebSocketServer, scrape: Scrape) -> None:
        super().__init__()
        self._server = server
        self._scrape = scrape

    def render_GET(self, request: HttpRequest) -> int:
        """Answer with all metrics."""
        request.operation = "metrics"
        return _answer(request, self._server, self._scrape)


def metricsSite(server: WebSocketServer, scrape: Scrape) -> HttpSite:
    """Return the factory of a port that has ``/metrics`` and nothing else."""
    root = Directory(": metrics are at /metrics")
    root.putChild(b"metrics", OpenMetricsResource(server, scrape))
    return HttpSite(root, server.runtime, counts=True, hosts=server.hosts, proxies=server.proxies, name="metrics")


def _answer(request: HttpRequest, server: WebSocketServer, scrape: Scrape) -> int:
    return answerLater(request, _write(request, server, scrape), SECONDS)


async def _write(request: HttpRequest, server: WebSocketServer, scrape: Scrape) -> None:
    from twisted_ws.metrics.exposition import write  # loads prometheus_client, unless whoever made `scrape` has

    kind, body = await write(scrape.families(), request.fields.get("accept", ""), server.runtime.turns)
    request.say("Content-Type", kind)
    request.say("Vary", "Accept, Accept-Encoding")
    answerCompressed(request, body, server.limits.gzipFrom)
