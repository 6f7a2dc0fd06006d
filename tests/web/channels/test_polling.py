from __future__ import annotations

import gzip
import json
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost

from tests.web.worlds import LateEngine, World
from twisted_ws.channels.service import ChannelService
from twisted_ws.limits import Limits
from twisted_ws.web.channels.polling import Gathered


class Named(ChannelService):
    """Takes the user from the URL, and counts the subscriptions that end."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ended: list[str] = []

    def onUpgrade(self, request: Any) -> Any:
        request.user = request.query.get("user", [None])[0]
        return super().onUpgrade(request)

    def onUnsubscribe(self, caller: Any, channel: str) -> None:
        self.ended.append(channel)


def test_fromNowOn() -> None:
    """Without a position, a poll returns the current one, from which the next poll continues."""
    world = World()
    world.publish("a", "1")
    client = world.client()
    response = client.get("/channels/a")
    assert response.json == {"id": "e:1", "recovered": False, "messages": []}
    assert response.header("etag") == '"e:1"'
    assert response.header("cache-control") == "no-cache"
    assert response.header("vary") == "Accept, Accept-Encoding, Origin"
    assert response.header("connection") is None
    world.publish("a", "2", {"x": 1}, b"\xff")
    response = client.get(f"/channels/a?after={response.json['id']}")
    assert response.json == {
        "id": "e:4",
        "recovered": True,
        "messages": [
            {"channel": "a", "id": "e:2", "data": "2"},
            {"channel": "a", "id": "e:3", "data": {"x": 1}},
            {"channel": "a", "id": "e:4", "base64": "/w=="},
        ],
    }


def test_lost() -> None:
    """A client whose position is too old is told that messages were lost."""
    world = World(historyMessages=2)
    world.publish("a", *"1234")
    client = world.client()
    for after in ("e:1", "old:7"):
        response = client.get(f"/channels/a?after={after}")
        assert [message["data"] for message in response.json["messages"]] == ["3", "4"]
        assert response.json["recovered"] is False
    assert client.get("/channels/a?after=0").json["recovered"] is True
    assert client.get("/channels/a?after=e:2").json["recovered"] is True


def test_limit() -> None:
    """Messages that do not fit into one answer come with the next, without a gap."""
    world = World()
    world.publish("a", *"12345")
    client = world.client()
    after, found = "0", []
    while len(found) < 5:
        response = client.get(f"/channels/a?after={after}&limit=2&wait=10")
        assert 1 <= len(response.json["messages"]) <= 2
        found += [message["data"] for message in response.json["messages"]]
        after = response.json["id"]
    assert found == list("12345")


def test_limitBytes() -> None:
    """An answer has roughly as many bytes as are allowed, or a single message of any size."""
    world = World(answerBytes=1000)
    world.publish("a", "x" * 5000, "y" * 600, "z" * 600)
    client = world.client()
    after, sizes = "0", []
    for _ in range(3):
        response = client.get(f"/channels/a?after={after}")
        sizes.append([len(message["data"]) for message in response.json["messages"]])
        after = response.json["id"]
    assert sizes == [[5000], [600], [600]]


def test_cursor() -> None:
    """Messages of several channels come in order of time, and one cursor continues in all of them."""
    world = World()
    for channel, text in ("a1", "b2", "a3", "b4"):
        world.publish(channel, text)
        world.clock.advance(1)
    client = world.client()
    response = client.get("/channels?channel=a&channel=b&after=0&limit=3")
    assert [message["data"] for message in response.json["messages"]] == ["1", "2", "3"]
    assert response.json["id"] == "a=e:2,b=e:1"
    assert response.json["recovered"] is True
    response = client.get(f"/channels?channel=a&channel=b&after={response.json['id']}")
    assert [message["data"] for message in response.json["messages"]] == ["4"]
    assert response.json["id"] == "a=e:2,b=e:2"
    tag = response.header("etag")
    assert len(tag) < 20
    assert client.get("/channels?channel=a&channel=b", f"If-None-Match: {tag}").status == 304
    assert client.get(f"/channels?channel=b&channel=a&after={tag[1:-1]}").json["messages"] == []
    world.publish("b", "5")
    response = client.get("/channels?channel=a&channel=b", f"If-None-Match: {tag}")
    assert ([message["data"] for message in response.json["messages"]], response.json["recovered"]) == (["5"], True)
    response = client.get("/channels?channel=a&channel=b&after=a=e:1")
    assert [message["data"] for message in response.json["messages"]] == ["3"]


def test_etag() -> None:
    """A client or cache that has the last answer gets a 304 until there is a message."""
    world = World()
    world.publish("a", "1")
    client = world.client()
    response = client.get("/channels/a", 'If-None-Match: "e:1"')
    assert (response.status, response.body, response.header("etag")) == (304, b"", '"e:1"')
    assert response.header("content-length") is None
    assert client.get("/channels/a?after=e:1", 'If-None-Match: W/"e:1"').status == 304
    assert client.get("/channels/a?after=e:0", 'If-None-Match: "e:1"').status == 200
    assert client.get("/channels/a?presence=true", 'If-None-Match: "e:1"').status == 200
    world.publish("a", "2")
    response = client.get("/channels/a", 'If-None-Match: "e:1"')
    assert [message["data"] for message in response.json["messages"]] == ["2"]
    assert client.get("/channels/a", 'If-None-Match: "other", W/"e:2"').status == 304
    assert [each["data"] for each in client.get("/channels/a", 'If-None-Match: "other", "e:1"').json["messages"]] == ["2"]


@pytest.mark.parametrize("path", ["/channels/a", "/channels?channel=a&channel=b"])
@pytest.mark.parametrize("suffix", ["-gzip", "--gzip", "-br", ";gzip", "-zstd"])
@pytest.mark.parametrize("weak", ["", "W/"])
def test_tagOfProxy(path: str, suffix: str, weak: str) -> None:
    """A tag that proxies have changed for compression is still understood."""
    world = World()
    world.publish("a", "1")
    client = world.client()
    tag = f'{weak}{client.get(path).header("etag")[:-1]}{suffix}"'
    assert client.get(path, f"If-None-Match: {tag}").status == 304
    world.publish("a", "2")
    response = client.get(path, f"If-None-Match: {tag}")
    assert ([each["data"] for each in response.json["messages"]], response.json["recovered"]) == (["2"], True)


@pytest.mark.parametrize("path", ["/channels/a", "/channels?channel=a&channel=b"])
@pytest.mark.parametrize("seen", ['"other"', "*", "e:2", '""', '"~abcde.1.1"', '"e:2', ",".join(['"x"'] * 20) + ', "e:2"'])
def test_tagOfSomebody(path: str, seen: str) -> None:
    """A client with a malformed tag is taken to have polled before: it gets the whole history, and loses nothing."""
    world = World()
    world.publish("a", "1", "2")
    response = world.client().get(path, f"If-None-Match: {seen}")
    assert ([each["data"] for each in response.json["messages"]], response.json["recovered"]) == (["1", "2"], False)
    assert (
        len(world.client().get(path + ("&" if "?" in path else "?") + "wait=30", f"If-None-Match: {seen}").json["messages"]) == 2
    )


def test_wait() -> None:
    """A long poll is answered as soon as there is a message, with all that came in that turn."""
    world = World()
    client = world.client()
    client.ask("/channels/a?wait=30")
    assert client.take() == b""
    client.advance(20)
    assert world.publish("a", "1", "2")[0].recipients == 1
    (response,) = client.responses()
    assert response.json["messages"] == [
        {"channel": "a", "id": "e:1", "data": "1"},
        {"channel": "a", "id": "e:2", "data": "2"},
    ]
    assert world.server.channels.count("a") == 0
    assert not world.server.visits


def test_waitInVain() -> None:
    """A long poll for which nothing comes is answered at the end of its time, with its position."""
    world = World()
    client = world.client()
    client.ask("/channels/a?wait=2.5&after=e:0")
    client.advance(2.25)
    assert client.take() == b""
    client.advance(0.5)
    (response,) = client.responses()
    assert response.json == {"id": "e:0", "recovered": True, "messages": []}
    client.ask("/channels/a?wait=1", 'If-None-Match: "e:0"')
    client.advance(1.25)
    assert client.responses()[0].status == 304


def test_waitNotNeeded() -> None:
    """A long poll that has missed something does not wait."""
    world = World()
    world.publish("a", *"123")
    assert len(world.client().get("/channels/a?wait=30&after=e:1").json["messages"]) == 2


def test_waitForSeveral() -> None:
    """A long poll waits for several channels and patterns at once."""
    world = World()
    client = world.client()
    client.ask("/channels?channel=a&channel=b.*&wait=30")
    world.publish("b.1", "x")
    (response,) = client.responses()
    assert response.json["messages"] == [{"channel": "b.1", "id": "e:1", "data": "x"}]
    assert response.json["id"] == "a=e:0"


def test_patternAlone() -> None:
    """A poll of a pattern alone returns no position and no ETag."""
    world = World()
    response = world.client().get("/channels/b.*")
    assert response.json == {"id": None, "recovered": False, "messages": []}
    assert response.header("etag") is None


def test_waitBounded() -> None:
    """The limit also bounds the messages of one turn, and the rest is in the next answer."""
    world = World()
    client = world.client()
    client.ask("/channels/a?wait=30&limit=2")
    published = world.publish("a", *"12345")
    assert [each.recipients for each in published] == [1, 1, 0, 0, 0]
    (response,) = client.responses()
    assert response.json["id"] == "e:2"
    assert len(client.get("/channels/a?after=e:2").json["messages"]) == 3


def test_keepAlive() -> None:
    """One connection polls again and again."""
    world = World()
    client = world.client()
    for number in range(5):
        client.ask("/channels/a?wait=30")
        world.publish("a", str(number))
        assert len(client.responses()) == 1
    assert not client.transport.writeClosed


def test_gzip() -> None:
    """A large answer is compressed for clients that accept it; a small one is not."""
    world = World()
    world.publish("a", "x" * 10_000)
    client = world.client()
    response = client.get("/channels/a?after=0", "Accept-Encoding: br, gzip;q=0.5")
    assert response.header("content-encoding") == "gzip"
    assert len(response.body) < 500
    assert len(json.loads(gzip.decompress(response.body))["messages"][0]["data"]) == 10_000
    for accepted in ("Accept-Encoding: br", "Accept-Encoding: gzip;q=0", "Accept-Encoding: gzip; q=0.000, *"):
        assert client.get("/channels/a?after=0", accepted).header("content-encoding") is None
    assert client.get("/channels/a?after=0", "Accept-Encoding: *").header("content-encoding") == "gzip"
    assert client.get("/channels/a", "Accept-Encoding: gzip").header("content-encoding") is None


def test_presence() -> None:
    """A poll can ask who is present, and a long poll counts as present while it waits."""
    world = World(Named(presence=True))
    waiting, client = world.client(), world.client()
    waiting.ask("/channels/a?wait=30&user=ann")
    who = {"count": 1, "members": [{"user": "ann", "info": None, "connections": 1}]}
    assert client.get("/channels/a?presence=true").json["presence"] == who
    several = client.get("/channels?channel=a&channel=b&presence=true").json["presence"]
    assert several == {"a": who, "b": {"count": 0, "members": []}}
    world.publish("a", "x")
    waiting.take()
    assert client.get("/channels/a?presence=true").json["presence"]["members"][0]["user"] == "ann"
    client.advance(6)
    assert client.get("/channels/a?presence=true").json["presence"]["members"] == []
    assert World(ChannelService()).client().get("/channels/a?presence=true").status == 403


@pytest.mark.parametrize(
    "query",
    ["wait=61", "wait=-1", "wait=nan", "wait=1e1", "wait=", "limit=0", "limit=1001", "limit=x", "after=x", "after=", "after=a=1"],
)
def test_badQuery(query: str) -> None:
    """A query that cannot be read is refused, and nothing waits."""
    world = World()
    assert world.client().get(f"/channels/a?{query}").status == 400
    assert world.server.channels.count("a") == 0


@pytest.mark.parametrize("query", ["wait=0", "wait=60", "wait=59.9", "limit=1", "limit=1000"])
def test_bounds(query: str) -> None:
    """The least and the most that may be asked for may be asked for."""
    world = World()
    world.publish("a", "1")
    response = world.client().get(f"/channels/a?after=0&{query}")
    assert [message["data"] for message in response.json["messages"]] == ["1"]


def test_noChannel() -> None:
    """A poll has to name a channel, even if the service admits it without one."""

    class Open(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            return self

    assert World().client().get("/channels").json["error"] == "bad-request"
    for headers in ((), ("Accept: text/event-stream",)):
        assert World(Open()).client().get("/channels", *headers).json["error"] == "bad-request"


def test_head() -> None:
    """HEAD has the head of GET, without waiting."""
    world = World()
    response = world.client().get("/channels/a?wait=30", method="HEAD")
    assert (response.status, response.header("etag"), response.body) == (200, '"e:0"', b"")


def test_manyWait() -> None:
    """Answering a poll, and taking the next one, costs no more with 400 polls waiting than with 50."""
    world = World()
    perPoll = []
    for count in 50, 400:
        clients = [world.client() for _ in range(count)]
        calls = 0

        def called(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        for measured in False, True:  # the first time may find what the second time knows
            if measured:
                sys.setprofile(called)
            try:
                for client in clients:
                    client.ask("/channels/a?wait=20")
                world.publish("a", "x")
                world.clock.advance(1)
            finally:
                sys.setprofile(None)
            assert all(client.responses()[0].json["messages"] for client in clients)
        perPoll.append(calls / count)
    assert perPoll[1] < perPoll[0] * 1.1


def test_peerLeaves() -> None:
    """When the client of a long poll leaves, nothing of the poll remains."""
    service = Named()
    world = World(service)
    client = world.client()
    client.ask("/channels/a?wait=30")
    world.publish("a", "comes in the same turn")
    client.transport.lose(ConnectionLost())
    world.clock.advance(0)
    assert (service.ended, world.server.channels.count("a"), world.server.visits) == (["a"], 0, set())
    assert world.publish("a", "x")[0].recipients == 0


def test_drain() -> None:
    """A server that stops answers each long poll at once, so that its client has a position to continue from."""
    world = World()
    world.publish("a", "1")
    client = world.client()
    client.ask("/channels/a?wait=30")
    stopped = world.server.stop()
    (response,) = client.responses()
    assert response.json == {"id": "e:1", "recovered": False, "messages": []}
    assert response.header("connection") == "close"
    assert 1 <= int(response.header("retry-after") or 0) <= 6
    client.transport.lose(ConnectionLost())
    assert stopped.called
    late = world.client().get("/channels/a?wait=30")
    assert (late.status, late.header("retry-after")) == (503, "5")


def test_drainOfMany() -> None:
    """Polls whose clients leave during a stop do not hold it up."""
    world = World()
    clients = [world.client() for _ in range(300)]
    for client in clients:
        client.ask("/channels/a?wait=30")
    stopped = world.server.stop()
    for client in clients:
        client.transport.lose(ConnectionLost())
    for _ in range(20):
        world.clock.turn()
    assert stopped.called


def test_drainWhileAsked() -> None:
    """A poll that the service allows only after the server began to stop does not wait."""

    class Slow(ChannelService):
        asked: Deferred[None]

        def onSubscribe(self, caller: Any, channel: str) -> Any:
            self.asked = Deferred()
            return self.asked

    service = Slow()
    world = World(service)
    client = world.client()
    client.ask("/channels/a?wait=30")
    world.server.stop()
    service.asked.callback(None)
    assert client.responses()[0].status == 503


def test_disconnected() -> None:
    """A long poll whose caller is disconnected is answered with 403."""
    world = World()
    client = world.client()
    client.ask("/channels?channel=a&channel=b&wait=30")
    (visitor,) = world.server.channels.visitors
    visitor.membership.disconnect(4403, "bye")
    (response,) = client.responses()
    assert (response.status, response.json) == (403, {"error": "forbidden", "message": "bye"})
    assert not world.server.visits


def test_unsubscribed() -> None:
    """A long poll goes on with the channels that it has left."""
    world = World()
    client = world.client()
    client.ask("/channels?channel=a&channel=b&wait=30")
    (visitor,) = world.server.channels.visitors
    world.server.channels.unsubscribe(visitor.membership, "a", "gone")
    assert client.take() == b""
    world.publish("b", "x")
    assert client.responses()[0].json["messages"][0]["channel"] == "b"


def test_refusedWhileSubscribing() -> None:
    """A long poll that cannot have all of its channels is refused, and subscribed to none."""
    world = World(channels=1)
    response = world.client().get("/channels?channel=a&channel=b&wait=30")
    assert (response.status, world.server.channels.count("a")) == (503, 0)


def test_engineThatTakesTime() -> None:
    """Messages published while a long poll subscribes are in its answer once, and in order."""
    world = World(engine=LateEngine)
    world.publish("a", "1")
    client, stream = world.client(), world.client()
    client.ask("/channels?channel=a&channel=b&wait=30&after=0")
    stream.ask("/channels?channel=a&channel=b&after=0", "Accept: text/event-stream")
    world.publish("a", "2")
    published = world.server.publish("b", "3")
    assert client.take() == stream.take() == b""
    for answer in world.engine.asked:
        answer.callback(None)
    (response,) = client.responses()
    assert published.result.id == "e:1"
    assert [message["data"] for message in response.json["messages"]] == ["1", "2", "3"]
    assert [line[-3:-1] for line in stream.take().split(b"\n") if b'"message"' in line] == [b'1"', b'2"', b'3"']


def test_drainWhileTheEngineIsAsked() -> None:
    """A long poll whose engine answers after the server began to stop does not wait."""
    world = World(engine=LateEngine)
    client = world.client()
    client.ask("/channels?channel=a&channel=b&wait=30")
    stopped = world.server.stop()
    world.engine.asked[0].callback(None)
    assert client.responses()[0].status == 503
    assert world.server.channels.count("a") == 0
    assert stopped.called


def test_gatheredIsFull() -> None:
    """After a message that does not fit, no other is taken, so there are no gaps."""
    world = World()
    world.publish("a", "x" * 900, "y" * 900, "z")
    gathered = Gathered(10, Limits(answerBytes=1000))
    history: Any = world.server.channels.history("a", "0")
    gathered.begin("a", history.result.position, True, True)
    gathered.addAll([history.result.publications])
    assert len(gathered.messages) == 1
    assert not gathered.add(history.result.publications[-1], b"z")
    assert gathered.place(True) == "e:1"
