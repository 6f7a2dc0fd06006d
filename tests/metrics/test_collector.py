"""A server that has seen every event, in memory, and what is said of it."""

from __future__ import annotations

import gc
import gzip
from collections.abc import Iterator
from typing import Any

import msgspec
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock, deferLater

from tests.channels.listeners import Ear, LateEngine, World
from tests.dispatch.support import Turns
from tests.metrics.scraped import OF_A_DAEMON, values, wrong
from tests.web.worlds import Client, EventClient
from twisted_ws import ChannelService, Limits, Reject, WebSocketServer, WebSocketService
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.channels.subscribers.formats import SUBPROTOCOL
from twisted_ws.client import HandshakeRefused
from twisted_ws.errors import ChannelError
from twisted_ws.identity import Identity
from twisted_ws.message import Position
from twisted_ws.metrics import Collector
from twisted_ws.metrics.collector import PART
from twisted_ws.metrics.declared import METRICS, Source
from twisted_ws.metrics.exposition import STEPS, write
from twisted_ws.metrics.process import look
from twisted_ws.metrics.pulse import Pulse
from twisted_ws.metrics.reports import report
from twisted_ws.metrics.scrape import Scrape
from twisted_ws.telemetry.counts import MOST_ROWS, Buckets, BucketTable, Counts, Table
from twisted_ws.testing.server import MemoryServer, serve
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import Turns as LoopTurns

LIMITS = Limits(maxSendBuffer=8192, pingInterval=0, subscriberLag=3600, writeDeadline=3600)
MESSAGE = "x" * 4000


class Chat(WebSocketService):
    """Answers later; raises if it is told to."""

    async def onTextMessage(self, caller: Any, text: str) -> str:
        await deferLater(self.server.reactor, 0.01)
        if text == "raise":
            raise ValueError
        return text


class Site:
    """Knows everybody, after a moment; and its back end has been away."""

    isResting = True

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def identify(self, request: Any) -> Deferred[Identity]:
        if "authorization" not in request.headers:
            raise Reject(401, "Who are you?")
        later: Deferred[Any] = deferLater(self._clock, 0.01)
        return later.addCallback(lambda _: Identity(user="ann", expiresAt=self._clock.seconds() + 5))


class Place:
    """A server in memory and its sites.

    Attributes:
        server: the server.
        pages: what speaks HTTP on its WebSocket port.
        site: the broadcast site.
    """

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        own = server.server
        credentials = Credentials((), None, own.limits, server.clock)
        self.pages = own.factory(pagesSite(own))
        self.site = broadcastSite(own, credentials, scrape=Scrape(Collector(own)))

    def scrape(self, *headers: str) -> str:
        """Return what ``/metrics`` answers."""
        response = Client(self.site, self.server.clock).get("/metrics", *headers)
        assert response.status == 200, response
        return response.body.decode()


@pytest.fixture
def place() -> Iterator[Place]:
    """Yield a server with services of each kind."""
    clock = Clock()
    clock.advance(1000)
    server = WebSocketServer(
        limits=LIMITS,
        reactor=clock,
        unixTime=clock.seconds,
        authenticators={"site": Site(clock)},
        channelRules={"*": {"subscribe": "anyone", "publish": "anyone"}, "drops.*": {"policy": "drop-oldest"}},
    )
    server.mount("/chat", Chat())
    server.mount("/channels", ChannelService(publish=True, presence=True))
    server.mount("/private", Chat(), authenticate=["site"])
    pulse = Pulse(server)
    with serve(server) as memory:
        pulse.startService()
        yield Place(memory)
        pulse.stopService()
        memory.flushErrors()


def everything(place: Place) -> None:
    """Let everything happen that is counted."""
    server, own = place.server, place.server.server
    # A conversation, a handler that raises, and callers that nobody wants.
    talk = server.connect("/chat")
    talk.writeTextMessage("hi")
    assert talk.readTextMessage(1) == "hi"
    talk.writeTextMessage("raise")
    assert talk.readClose(1)[0] == 1011
    with pytest.raises(HandshakeRefused):
        server.connect("/nowhere")
    with pytest.raises(HandshakeRefused):
        server.connect("/private")
    # Credentials that are found out later, replaced, and expire.
    ann = server.connect("/private", headers={"Authorization": "Bearer x"}, timeout=1)
    renewed = Deferred.fromCoroutine(own.reauthenticate(ann.caller, "y"))
    server.advance(1)
    assert renewed.called
    assert ann.readClose(10)[0] == 4401
    # Channels: a client that is present and comes back, others that are too slow, and a stream.
    client = server.connect("/channels", user="bob", subProtocols=[SUBPROTOCOL])
    position = server.publish("news", "1", key="k", idempotencyKey="once").id
    server.publish("news", "2")
    for request in (
        {"type": "subscribe", "channel": "news", "after": position},
        {"type": "publish", "channel": "news", "data": "3"},
    ):
        client.writeTextMessage(msgspec.json.encode(request).decode())
    for name in "drops.a", "close":
        slow = server.connect(f"/channels?channel={name}")
        slow.pause()
        for _ in range(6):
            server.publish(name, MESSAGE)
        server.advance(2)
    with pytest.raises(ChannelError):
        server.publish("", "text")
    stream = EventClient(place.pages, server.clock).open("/channels?channel=news")
    assert stream.head.status == 200
    assert Client(place.pages, server.clock).get("/channels?channel=news").status == 200
    server.broadcast("all")
    assert Client(place.site, server.clock).post("/channels/news", b"4").status == 200
    gc.collect()


def test_everything(place: Place) -> None:
    """A server that has seen every event has a value, with help, for each metric that does not need a daemon, and no others."""
    everything(place)
    expected = [each for each in METRICS if each.name not in OF_A_DAEMON]
    assert wrong(place.scrape(), expected) == []
    text = place.scrape("Accept: application/openmetrics-text; version=1.0.0")
    assert wrong(text, expected, isOpen=True) == []
    assert "# TYPE twisted_ws_published counter\n" in text
    assert text.endswith("# EOF\n")


# What the engine in memory does not need, or what goes back to 0, and the test that sees it counted.
UNCOUNTED = {"refills": "test_repairs", "polls": "test_waiting", "running": "test_waiting"}


def test_fields(place: Place) -> None:
    """Each number of `Counts` is added to by something: one that nothing counts would be a metric that is always 0."""
    everything(place)
    counts = place.server.server.counts
    idle = {name for name in Counts.__slots__ if not _sum(getattr(counts, name))}
    assert idle == set(UNCOUNTED)


def _sum(value: int | Buckets | Table | BucketTable) -> int:
    match value:
        case Buckets():
            return value.total
        case Table():
            return sum(value.rows.values())
        case BucketTable():
            return sum(each.total for each in value.rows.values())
    return value


def test_waiting(place: Place) -> None:
    """A handler and a poll that wait are counted for as long as they do."""

    def seen() -> tuple[float, float]:
        text = place.scrape()
        polls = values(text, "twisted_ws_connections")[(("transport", "poll"),)]
        return values(text, "twisted_ws_handlers_running")[()], polls

    talk = place.server.connect("/chat")
    talk.writeTextMessage("hi")
    poll = Client(place.pages, place.server.clock)
    poll.ask("/channels?channel=news&wait=2")
    assert seen() == (1, 1)
    assert talk.readTextMessage(1) == "hi"
    place.server.advance(3)
    assert [each.status for each in poll.responses()] == [200]
    assert seen() == (0, 0)


def test_repairs() -> None:
    """A gap in what an engine passes on is asked for again, and counted."""
    engine = LateEngine()
    world = World(engine=engine)
    world.channels.subscribe(Ear(), "a")
    engine.asked[0].callback(Position("e", 1))
    engine.receive(engine.message(3))
    assert engine.questions[-1][0] == "since"
    assert world.channels.counts.refills == 1


def test_counted(place: Place) -> None:
    """What has happened is counted once, under the labels that it belongs to."""
    everything(place)
    text = place.scrape()

    def seen(name: str, *labels: str) -> float:
        (found,) = [
            value for key, value in values(text, f"twisted_ws_{name}").items() if {each for _, each in key} == set(labels)
        ]
        return found

    assert seen("connections_opened_total", "websocket", "/chat") == 1
    assert seen("connections_closed_total", "websocket", "1011", "server") == 1
    assert seen("connections_closed_total", "websocket", "4401", "server") == 1
    assert seen("connections_refused_total", "not_found") == 1
    assert seen("connections_refused_total", "unauthorized") == 1
    assert seen("authentications_total", "site", "ok") == 2
    assert seen("authentications_total", "site", "refused") == 1
    assert seen("authentication_seconds_count", "site") == 2
    assert seen("identities_expired_total", "websocket") == 1
    assert seen("hook_open", "site") == 1
    assert seen("published_total", "service", "*") == 8
    assert seen("published_total", "service", "drops.*") == 6
    assert seen("published_total", "client", "*") == 1
    assert seen("published_total", "api", "*") == 1
    assert seen("messages_dropped_total", "drop-oldest", "drops.*") > 0
    assert seen("slow_consumers_total", "websocket") == 1
    assert seen("resumes_total", "recovered", "websocket") == 1
    assert seen("resumed_messages_total") == 1
    assert seen("handler_errors_total", "Chat", "onTextMessage") == 1
    assert seen("handler_seconds_count", "Chat", "onTextMessage") == 2
    assert seen("handlers_running") == 0
    assert seen("http_requests_total", "pages", "poll", "2xx") == 1
    assert seen("http_requests_total", "broadcast", "post", "2xx") == 1
    assert seen("connections", "sse") == 1
    assert seen("presence_members") == 1


def test_sharedRegistry(place: Place) -> None:
    """A program can put the metrics of a server into a registry of its own."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(place.server.server))
    place.server.connect("/chat")
    text = generate_latest(registry).decode()
    assert values(text, "twisted_ws_connections")[(("transport", "websocket"),)] == 1


def test_metricsOfServices(place: Place) -> None:
    """What a service counts with prometheus_client is in the same scrape, and what that library says by itself is not."""
    made = Counter("orders_paid", "Orders that were paid.", ["currency"])
    collector = Collector(place.server.server)
    prometheus_client.REGISTRY.register(collector)  # as an embedding program may: nothing comes twice
    try:
        made.labels("EUR").inc(3)
        text = place.scrape()
    finally:
        prometheus_client.REGISTRY.unregister(made)
        prometheus_client.REGISTRY.unregister(collector)
    assert values(text, "orders_paid_total") == {(("currency", "EUR"),): 3}
    assert "python_info" not in text
    assert text.count("# TYPE twisted_ws_connections gauge") == 1


def test_compressed(place: Place) -> None:
    """A scraper that takes gzip gets gzip."""
    response = Client(place.site, place.server.clock).get("/metrics", "Accept-Encoding: gzip")
    assert response.header("content-encoding") == "gzip"
    assert gzip.decompress(response.body).startswith(b"# HELP")


def test_manySamples(place: Place) -> None:
    """However many samples there are, the reactor turns while they are written, and each line is written once."""
    own = place.server.server
    for number in range(300):
        own.counts.handling.of("Service", f"event{number}").add(0.1)
    clock = Turns()
    written = Deferred.fromCoroutine(write(Scrape(Collector(own)).families(), "", LoopTurns(clock)))
    turns = 0
    while not written.called:
        clock.turn()
        turns += 1
    text = written.result[1].decode()
    assert turns > 1
    assert len(values(text, "twisted_ws_handler_seconds_count")) == 201
    assert text.count("# TYPE twisted_ws_handler_seconds histogram") == 1


def test_turns() -> None:
    """With every table full, in the supervisor and all of its workers, no turn of a scrape has more to do than fits into one."""
    reactor = Turns()
    own = WebSocketServer(reactor=reactor)
    for name in Counts.__slots__:
        table = getattr(own.counts, name)
        for number in range(MOST_ROWS):
            if isinstance(table, Table):
                table.add(*[f"{number}"] * table.labels)
            elif isinstance(table, BucketTable):
                table.of(*[f"{number}"] * table.labels).add(0.1)
    answer = report(Source(own, look()))
    turns = own.runtime.turns
    scrape = Scrape(Collector(own), lambda: {(f"{number}", number): succeed(answer) for number in range(8)})
    written = Deferred.fromCoroutine(write(scrape.families(), "", turns))
    left = []
    while not written.called:
        left.append(turns.left)
        reactor.turn()
    assert len(left) > 100
    assert min(left) > -PART * STEPS  # the last part of a turn may not quite fit
