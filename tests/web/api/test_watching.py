"""The server's own channels as event streams: who may watch what, and what it costs."""

from __future__ import annotations

import json

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import LogLevel

from tests.web.admin.test_session import KEYS, OWN, keyOf
from tests.web.admin.test_session import World as Admin
from tests.web.worlds import Client, EventClient
from twisted_ws.inspection.board import LOG, STATS
from twisted_ws.inspection.inspector import Inspector
from twisted_ws.inspection.log import Warnings
from twisted_ws.inspection.tails import FORGOTTEN, RATE
from twisted_ws.telemetry.records import RecentRecords
from twisted_ws.web.admin.resource import AdminResource
from twisted_ws.web.api.broadcast import broadcastSite


class World(Admin):
    """A server whose channels can be watched, and that keeps its warnings."""

    def __init__(self, folder, **limits):
        super().__init__(folder, **limits)
        self.recent = RecentRecords()
        self.inspector = Inspector(self.server, warnings=Warnings(self.server, self.recent))
        admin = AdminResource(self.server, self.credentials, self.audit)
        self.site = broadcastSite(self.server, self.credentials, self.audit, admin, self.inspector)

    def watch(self, *channels, key="ops", headers=(), query=""):
        """Open an event stream."""
        path = "/api/events?" + "&".join(f"channel={each}" for each in channels) + query
        return EventClient(self.site, self.clock).open(path, *(headers or (f"Authorization: Bearer {keyOf(key)}",)))

    def warn(self, text):
        """Write a warning."""
        self.recent({"log_level": LogLevel.warn, "log_time": 1.5, "log_namespace": "x", "log_format": text, "event": "e"})

    def tail(self, key="ops", **body):
        """Begin a tail, and return the answer."""
        return self.ask("POST", "/api/tails", f"Authorization: Bearer {keyOf(key)}", body=body)

    def advance(self, client, seconds):
        """Let time pass, and return the messages that came on a stream."""
        client.advance(seconds)
        return [frame for frame in client.frames() if frame["type"] == "message"]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_stats(world):
    """While somebody watches, figures come once a second: the first at once; and in less than a kilobyte for one server."""
    client = world.watch(STATS)
    first = world.advance(client, 0.25)
    assert [each["channel"] for each in first] == [STATS]
    figures = first[0]["data"]
    assert figures["missing"] == figures["problems"] == []
    assert [each["id"] for each in figures["nodes"]] == [world.server.node.id]
    assert len(world.advance(client, 5)) == 5
    assert len(json.dumps(figures, separators=(",", ":"))) < 1000


def test_rates(world):
    """Figures are rates: what was published, delivered and received in a second."""
    client, ear = world.watch(STATS), world.events("/channels/a")
    world.advance(client, 1)
    world.publish("a", 1, 2, 3, 4)
    assert ear.take()
    total = world.advance(client, 1)[-1]["data"]["total"]
    assert (total["published"], total["delivered"], total["sse"]) == (4.0, 4.0, 1)
    assert world.advance(client, 1)[-1]["data"]["total"]["published"] == 0


def test_nobodyWatches(world):
    """While nobody watches, nothing is asked and no timer runs; who watches is no caller of the server."""
    asked = []
    original = world.engine.ask
    world.engine.ask = lambda kind, payload: [asked.append(kind), original(kind, payload)][1]
    client = world.watch(STATS)
    assert world.server.node.info().connections == 0
    assert len(world.server.channels.visitors) == 0
    world.advance(client, 1)
    assert asked
    client.transport.lose(ConnectionDone())
    world.advance(client, 2)
    asked.clear()
    before = len(world.clock.getDelayedCalls())
    world.advance(client, 60)
    assert asked == []
    assert len(world.clock.getDelayedCalls()) <= before


def test_log(world):
    """Warnings come as they are written, after the last ones that were kept, each once, whoever else has watched before."""
    world.warn("one")
    world.warn("two")
    first = world.watch(LOG, query="&last=200")
    assert [each["data"]["message"] for each in world.advance(first, 0.25)] == ["one", "two"]
    world.warn("three")
    assert [each["data"]["message"] for each in world.advance(first, 1.25)] == ["three"]
    second = world.watch(LOG, query="&last=200")
    assert [each["data"]["message"] for each in world.advance(second, 0.25)] == ["one", "two", "three"]
    for _ in range(300):
        world.warn("many")
    assert len(world.advance(second, 1.25)) == 200


@pytest.mark.parametrize(
    ("key", "statuses"), [("ops", (200, 200)), ("watcher", (200, 200)), ("shop", (403, 403)), ("reader", (403, 403))]
)
def test_scopes(world, key, statuses):
    """Whoever may read all channels may watch, and nobody else."""
    assert tuple(world.watch(each, key=key).head.status for each in (STATS, LOG)) == statuses


@pytest.mark.parametrize("channel", ["orders.1", "~server.other", "~server.tail.1", "~server.*", "*", "~", "a b", ""])
def test_nothingElse(world, channel):
    """Nothing else can be watched here: no channel of callers, no pattern, no tail that is not there."""
    assert world.watch(channel).head.status in (400, 403, 404)
    assert world.ask("GET", "/api/events?channel=~server.stats").status == 401


def test_hidden(world):
    """What is watched is nowhere else: no ordinary client can subscribe to it, and no list has it."""
    client = world.watch(STATS, LOG)
    ear = world.events("/channels/%7Eserver.stats")
    star = world.events("/channels?channel=*")
    world.advance(client, 3)
    assert [frame for frame in star.frames() if frame["type"] == "message"] == []
    assert b"websocket" not in ear.take()
    answer = world.ask("GET", "/api/channels", f"Authorization: Bearer {keyOf('ops')}")
    assert sum(each["messages"] for each in answer.json["channels"]) == 0


def test_session(world):
    """A stream that a session has opened ends with it; so does one of a key when the keys change."""
    cookie = world.cookie()
    page, program = world.watch(STATS, headers=(cookie,)), world.watch(STATS)
    assert page.head.status == 200
    world.ask("POST", "/admin/logout", cookie, *OWN)
    page.advance(1.25)
    program.advance(0)
    assert page.frames()[-1]["type"] == "expired"
    assert program.frames()[-1]["type"] == "message"
    world.write({**KEYS, "shop": "admin"})
    world.credentials.reload()
    program.advance(1.25)
    assert program.frames()[-1]["type"] == "expired"


def test_forged(world):
    """A page of another site opens no stream with the cookie."""
    cookie = world.cookie()
    assert world.watch(STATS, headers=(cookie, "Sec-Fetch-Site: cross-site")).head.status == 403
    assert world.watch(STATS, headers=(cookie, "Sec-Fetch-Site: same-site")).head.status == 403


def test_slowWatcher(tmp_path):
    """Somebody who watches and does not read costs a send buffer at most, and nobody else anything: the oldest is dropped."""
    world = World(tmp_path, maxSendBuffer=8192, writeDeadline=1000, pingInterval=0)
    slow, other = world.watch(STATS), world.watch(STATS)
    slow.transport.room = 0
    assert len(world.advance(other, 40)) >= 40
    assert 4096 < world.server.runtime.backlog.total <= 2 * 8192
    slow.transport.room = None
    assert world.advance(slow, 1)[-1]["id"] == world.advance(other, 0)[-1]["id"]


def test_channelTail(world):
    """A tail of a channel has each message, with its position, size and beginning; nobody counts it as a subscriber."""
    answer = world.tail(channel="orders.*").json
    assert answer["seconds"] == 10
    client = world.watch(answer["channel"])
    world.advance(client, 0.5)
    world.publish("orders.1", "hi\x1b", b"\xff\x00", {"a": 1})
    world.publish("other", "x")
    (message,) = world.advance(client, 0.5)
    lines = message["data"]["lines"]
    assert [each["data"] for each in lines] == ["hi\\x1b", "/wA=", '{"a":1}']
    assert [(each["what"], each["channel"], each["id"]) for each in lines] == [
        ("published", "orders.1", f"e:{n}") for n in (1, 2, 3)
    ]
    assert [(each["kind"], each["bytes"]) for each in lines] == [("text", 3), ("binary", 2), ("json", 7)]
    world.publish("orders.*"[:-1] + "1", "x")
    (found,) = world.publish("orders.1", "y")
    assert found.recipients == 0
    assert world.server.channels.count("orders.1") == 0
    assert world.server.channels.subscriptions == 0


def test_tooMuch(world):
    """A tail shows at most two hundred lines a second and counts the rest; long messages are cut."""
    client = world.watch(world.tail(channel="a").json["channel"])
    world.advance(client, 0.5)
    seen = skipped = 0
    for _ in range(8):
        for _ in range(500):
            world.publish("a", "x" * 5000)
        for message in world.advance(client, 0.25):
            seen += len(message["data"]["lines"])
            skipped += message["data"]["skipped"]
            assert all(len(line["data"]) <= 1001 for line in message["data"]["lines"])
            assert all(line["cut"] for line in message["data"]["lines"])
    assert seen <= 2 * RATE + RATE / 4
    assert seen + skipped == 4000


def test_sameTail(world):
    """Two people who follow the same have one tail; each has only so many of their own, and there are only so many in all."""
    limits = world.server.limits
    assert world.tail(channel="a").json == world.tail("watcher", channel="a").json
    for number in range(limits.adminTailsPerKey - 1):
        assert world.tail(channel=f"b{number}").status == 200
    refused = world.tail(channel="c")
    assert (refused.status, refused.json["message"]) == (429, "You follow 8 already: end one.")
    assert world.tail(channel="a").status == 200
    for number in range(limits.adminTails - limits.adminTailsPerKey):
        assert world.tail("watcher", channel=f"c{number}").status == 200
    assert world.tail("watcher", channel="d").json["message"] == "There are 16 tails already: end one."


def test_manyAtOnce(world, monkeypatch):
    """Many who begin tails at the same moment, while servers have not answered yet, get no more than there may be."""
    engine, waiting = world.server.engine, []

    def later(kind, payload):
        answer = Deferred()
        waiting.append((answer, kind, payload))
        return answer

    clients = [Client(world.site, world.clock) for _ in range(40)]
    with monkeypatch.context() as changed:
        changed.setattr(engine, "ask", later)
        for number, client in enumerate(clients):
            body = json.dumps({"channel": f"a{number // 2}"}).encode()
            by = "ops" if number < world.server.limits.adminTails else "watcher"
            headers = "Content-Type: application/json", f"Authorization: Bearer {keyOf(by)}"
            client.ask("/api/tails", *headers, method="POST", body=body)
    assert len(waiting) == 40
    for answer, kind, payload in waiting:
        answer.callback(engine.ask(kind, payload))
    answers = [response for client in clients for response in client.responses()]
    most = world.server.limits.adminTails
    assert [each.status for each in answers] == [200] * 2 * most + [429] * (40 - 2 * most)
    assert len({each.json["channel"] for each in answers[: 2 * most]}) == len(world.inspector.board.tails) == most


def test_beginsBesideAnother(world):
    """To begin a tail takes nothing from those that are there."""
    client = world.watch(world.tail(channel="a").json["channel"])
    world.advance(client, 0.5)
    world.publish("a", "x")
    assert world.tail(channel="b").status == 200
    (message,) = world.advance(client, 0.5)
    assert [each["data"] for each in message["data"]["lines"]] == ["x"]


def test_unwatched(world):
    """A tail that nobody watches ends after ten seconds, at all servers, and leaves nothing behind; one that is ended at once."""
    tails = world.server.node.answers["tails"].__self__
    client = world.watch(STATS)
    world.tail(channel="a")
    world.advance(client, 9)
    assert len(tails) == 1
    world.advance(client, 3)
    assert world.inspector.board.tails == {}
    world.advance(client, FORGOTTEN + 1)
    assert len(tails) == 0
    assert world.server.channels._audiences["a" and next(iter(world.server.channels._audiences))].count("a") == 0
    channel = world.tail(channel="a").json["channel"]
    watcher = world.watch(channel)
    key = f"Authorization: Bearer {keyOf('ops')}"
    assert world.ask("DELETE", f"/api/tails/{channel.rpartition('.')[2]}", key).json == {"ended": True}
    assert watcher.frames()[-1]["data"]["ended"]
    assert world.ask("DELETE", "/api/tails/77", key).status == 404
    assert world.ask("DELETE", "/api/tails/x", key).status == 404


@pytest.mark.parametrize(
    ("key", "body", "status"),
    [
        ("watcher", {"channel": "a"}, 200),
        ("reader", {"channel": "orders.1"}, 200),
        ("reader", {"channel": "news"}, 403),
        ("reader", {"channel": "*"}, 403),
        ("shop", {"channel": "orders.1"}, 403),
        ("watcher", {"connection": "x.1"}, 403),
        ("watcher", {"user": "ann"}, 403),
        ("ops", {"user": "ann"}, 200),
        ("ops", {"channel": "a b"}, 400),
        ("ops", {"channel": "a", "user": "b"}, 400),
        ("ops", {}, 400),
    ],
)
def test_whoMayTail(world, key, body, status):
    """Channels can be followed by who may read them, callers and users by admins only; and watched by nobody else."""
    answer = world.tail(key, **body)
    assert answer.status == status
    if status == 200:
        channel = answer.json["channel"]
        assert world.watch(channel, key=key).head.status == 200
        assert world.watch(channel, key="shop").head.status == 403
        assert (world.watch(channel, key="watcher").head.status == 200) == ("channel" in body)


def test_audit(world):
    """The audit log has who has begun and ended a tail."""
    channel = world.tail(channel="a").json["channel"]
    world.ask("DELETE", f"/api/tails/{channel.rpartition('.')[2]}", f"Authorization: Bearer {keyOf('ops')}")
    assert world.audited() == [("startTail", "ops", 200), ("endTail", "ops", 200)]
