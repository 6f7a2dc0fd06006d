"""``GET /metrics``: what Prometheus reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


class Text:
    """The metrics as text, of each format one at a time: all who ask while one is written get the next.

    So a thousand who ask at once cost the server, and its workers, as much as two. Nobody gets what is older than the request.

    Args:
        server: the server.
        scrape: looks at its metrics.
    """

    def __init__(self, server: WebSocketServer, scrape: Scrape) -> None:
        self._server = server
        self._scrape = scrape
        self._waiting: dict[str, list[Deferred[tuple[str, bytes]]]] = {}  # by format
        self._writing: set[str] = set()

    def get(self, accept: str) -> Deferred[tuple[str, bytes]]:
        """Return a Deferred of the type and the text that an Accept header asks for; it can be cancelled."""
        from twisted_ws.metrics.exposition import choose  # loads prometheus_client, unless whoever made `scrape` has

        form = choose(accept)[0]
        wanted: Deferred[tuple[str, bytes]] = Deferred()
        self._waiting.setdefault(form, []).append(wanted)
        if form not in self._writing:
            self._begin(form)
        return wanted

    def _begin(self, form: str) -> None:
        from twisted_ws.metrics.exposition import write

        waiting = [each for each in self._waiting.pop(form, ()) if not each.called]  # others have left
        if waiting:
            self._writing.add(form)
            written = Deferred.fromCoroutine(write(self._scrape.families(), form, self._server.runtime.turns))
            written.addBoth(self._done, form, waiting)

    def _done(self, result: Any, form: str, waiting: list[Deferred[tuple[str, bytes]]]) -> None:
        self._writing.discard(form)
        self._begin(form)
        for each in waiting:
            if not each.called:
                each.callback(result)


class GuardedMetrics(GuardedResource):
    """``/metrics`` of the broadcast site: with a key, one whose scopes include ``metrics``; also while the server drains."""

    def __init__(self, server: WebSocketServer, credentials: Credentials, scrape: Scrape) -> None:
        super().__init__(server, credentials)
        self._text = Text(server, scrape)

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
        return _answer(request, self._server, self._text)


class OpenMetricsResource(HttpResource):
    """``/metrics`` of a port of its own, without a key."""

    def __init__(self, server: WebSocketServer, scrape: Scrape) -> None:
        super().__init__()
        self._server = server
        self._text = Text(server, scrape)

    def render_GET(self, request: HttpRequest) -> int:
        """Answer with all metrics."""
        request.operation = "metrics"
        return _answer(request, self._server, self._text)


def metricsSite(server: WebSocketServer, scrape: Scrape) -> HttpSite:
    """Return the factory of a port that has ``/metrics`` and nothing else."""
    root = Directory(": metrics are at /metrics")
    root.putChild(b"metrics", OpenMetricsResource(server, scrape))
    return HttpSite(root, server.runtime, counts=True, hosts=server.hosts, proxies=server.proxies, name="metrics")


def _answer(request: HttpRequest, server: WebSocketServer, text: Text) -> int:
    return answerLater(request, _write(request, server, text), SECONDS)


async def _write(request: HttpRequest, server: WebSocketServer, text: Text) -> None:
    kind, body = await text.get(request.fields.get("accept", ""))
    request.say("Content-Type", kind)
    request.say("Vary", "Accept, Accept-Encoding")
    answerCompressed(request, body, server.limits.gzipFrom)
