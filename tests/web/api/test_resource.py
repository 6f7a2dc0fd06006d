from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.memory import MemoryClient, clientFrame
from tests.web.conftest import turn
from tests.web.worlds import Client, LateEngine, World
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.channels.service import ChannelService
from twisted_ws.server.server import CLOSING
from twisted_ws.web.api import schemas
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.http.connection import REQUEST
from twisted_ws.wire.loop.turns import STEPS

KEY = "0123456789abcdef"


class Users(ChannelService):
    """Takes the user from the URL."""

    def onUpgrade(self, request: Any) -> Any:
        request.user = request.query.get("user", [None])[0]
        return super().onUpgrade(request)


class Back(World):
    """A server with channels, and a connection to its broadcast port."""

    def __init__(self, credentials: Credentials | None = None, **limits: Any) -> None:
        super().__init__(Users(publish=True, presence=True), **limits)
        self.credentials = credentials or Credentials(reactor=self.clock)
        self.site = broadcastSite(self.server, self.credentials)
        self.back = self.connect()

    def connect(self) -> Client:
        """Connect to the broadcast port."""
        return Client(self.site, self.clock)

    def call(self, path: str, **body: Any) -> Any:
        """POST JSON, and return the JSON of the answer, which has to be a 200."""
        response = self.back.post(path, json.dumps(body).encode(), "Content-Type: application/json")
        assert response.status == 200, response
        return response.json

    def read(self, path: str, method: str = "GET") -> Any:
        """Return the JSON of an answer, which has to be a 200."""
        response = self.back.get(path, method=method)
        assert response.status == 200, response
        assert response.header("content-type") == "application/json"
        return response.json

    def refused(self, path: str, body: bytes | None = None, *headers: str, method: str = "") -> tuple[int, str]:
        """Return status and error code of an answer."""
        method = method or ("GET" if body is None else "POST")
        response = self.connect().get(path, *headers, method=method, body=body or b"")
        assert set(response.json) == {"error", "message"}
        return response.status, response.json["error"]


# Publishing.


def test_post() -> None:
    """A POST to a channel reaches everyone on it, and the answer says how many and by which id."""
    world = Back()
    stream = world.events("/channels/orders.42")
    socket = MemoryClient(world.factory, world.clock)
    socket.connect("/channels/orders.42")
    response = world.back.post("/channels/orders.42", b"paid")
    assert response.body == b'{"channel":"orders.42","id":"e:1","recipients":2}\n'
    assert stream.events()[-1] == ("message", "e:1", "paid")
    assert socket.messages() == ["paid"]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"a=b", "application/x-www-form-urlencoded", {"data": "a=b"}),
        (b'"a"', "application/json", {"data": "a"}),
        (b"\xff", "application/octet-stream", {"base64": "/w=="}),
    ],
)
def test_postKinds(body: bytes, kind: str, message: Any) -> None:
    """The type of the body decides the kind of message; its keys are in the query and the head."""
    world = Back()
    for _ in range(2):
        world.back.post("/channels/a?key=k", body, f"Content-Type: {kind}", "Idempotency-Key: once")
    (found,) = world.read("/api/channels/a/history")["messages"]
    assert found == {"channel": "a", "id": "e:1", "key": "k", **message}


def test_publish() -> None:
    """One message is published as JSON."""
    world = Back()
    assert world.call("/api/publish", channel="a", data="text") == {"channel": "a", "id": "e:1", "recipients": 0}
    world.call("/api/publish", channel="a", data={"x": [1, None]}, key="k")
    world.call("/api/publish", channel="a", data=None)
    world.call("/api/publish", channel="a", base64="AP8=")
    messages = world.read("/api/channels/a/history")["messages"]
    assert messages == [
        {"channel": "a", "id": "e:1", "data": "text"},
        {"channel": "a", "id": "e:2", "key": "k", "data": {"x": [1, None]}},
        {"channel": "a", "id": "e:3", "data": None},
        {"channel": "a", "id": "e:4", "base64": "AP8="},
    ]


def test_curl() -> None:
    """A body is read as JSON even if curl declares it a form."""
    body = b'{"channel": "a", "data": 1}'
    assert Back().back.post("/api/publish", body, "Content-Type: application/x-www-form-urlencoded").status == 200


def test_idempotency() -> None:
    """A message that is sent again with its key, within 5 minutes, is published once, with the same answer."""
    world = Back(keepAlive=1000)
    first = world.call("/api/publish", channel="a", data=1, idempotencyKey="x")
    world.clock.advance(299)
    assert world.call("/api/publish", channel="a", data=1, idempotencyKey="x") == first
    assert world.call("/api/publish", channel="b", data=1, idempotencyKey="x")["channel"] == "b"
    world.clock.advance(2)
    assert world.call("/api/publish", channel="a", data=1, idempotencyKey="x")["id"] == "e:2"


def test_idempotencyKeyOfAnother() -> None:
    """A key that comes with another message, of another kind or key too, is a 409, and nothing is published."""
    world = Back()
    world.call("/api/publish", channel="a", data="1", idempotencyKey="x")
    others: list[dict[str, Any]] = [{"data": "2"}, {"data": 1}, {"base64": "MQ=="}, {"data": "1", "key": "k"}]
    for other in others:
        response = world.back.post("/api/publish", json.dumps({"channel": "a", "idempotencyKey": "x", **other}).encode())
        assert (response.status, response.json["error"]) == (409, "key-reused")
    assert world.back.post("/channels/a", b"2", "Idempotency-Key: x").status == 409
    (result,) = world.call("/api/batch", messages=[{"channel": "a", "data": "2", "idempotencyKey": "x"}])["results"]
    assert result["error"] == "key-reused"
    assert len(world.read("/api/channels/a/history")["messages"]) == 1


def test_batch() -> None:
    """Several messages are published in order; one that is refused does not stop the others."""
    world = Back()
    stream = world.events("/channels/a")
    stream.events()
    messages = [{"channel": "a", "data": "1"}, {"channel": "a*", "data": "2"}, {"channel": "a", "base64": "MQ=="}]
    results = world.call("/api/batch", messages=messages)["results"]
    assert [result.get("id") or result["error"] for result in results] == ["e:1", "bad-channel", "e:2"]
    assert set(results[1]) == {"error", "message"}
    assert [kind for kind, _, _ in stream.events()] == ["message", "binary"]


def test_batchInTurns() -> None:
    """However many long batches come at once, they are published over many turns, with a bounded number in each."""
    world = Back()
    stream = world.events("/channels/a")
    stream.events()
    messages = json.dumps({"messages": [{"channel": "a", "data": number} for number in range(1000)]}).encode()
    clients = [world.connect() for _ in range(3)]
    for client in clients:
        client.transport.protocol.dataReceived(
            b"POST /api/batch HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(messages) + messages
        )
    last, turns = 0, 0
    while True:
        described = world.server.channels.describe("a").result
        assert described.position.offset - last <= STEPS // REQUEST
        last = described.position.offset
        if not turn(world.clock):
            break
        turns += 1
    assert last == 3000
    assert turns >= 3000 // (STEPS // REQUEST)
    for client in clients:
        (response,) = client.responses()
        ids = [int(result["id"].partition(":")[2]) for result in response.json["results"]]
        assert ids == sorted(ids)
    count = 0
    while events := stream.events():
        count += len(events)
    assert count == 3000


def test_engineThatTakesTime() -> None:
    """An answer waits for the engine until its deadline."""
    world = Back(keepAlive=1000, engine=LateEngine)
    world.back.ask("/api/publish", method="POST", body=b'{"channel": "b", "data": 1}')
    assert world.back.take() == b""
    world.back.advance(30.25)
    assert world.back.responses()[0].status == 503


# Looking.


def test_list() -> None:
    """Channels are listed by name, a page at a time."""
    world = Back()
    names = [f"c{number:02}" for number in range(25)]
    for name in reversed(names):
        world.publish(name, "x")
    world.events("/channels/c03")
    world.publish("other", "x")
    found: list[Any] = []
    path = "/api/channels?prefix=c&limit=10"
    page = world.read(path)
    found += page["channels"]
    while page["next"] is not None:
        page = world.read(f"{path}&cursor={page['next']}")
        found += page["channels"]
    assert [each["channel"] for each in found] == names
    assert found[3] == {"channel": "c03", "id": "e:1", "subscribers": 1, "messages": 1, "bytes": 257}
    assert world.read("/api/channels?prefix=none") == {"channels": [], "next": None}
    assert len(world.read("/api/channels")["channels"]) == 26


def test_describe() -> None:
    """A channel is described in full."""
    world = Back()
    world.publish("a", "1", "22")
    world.events("/channels/a?user=ann")
    world.events("/channels/a")
    present = {"count": 2, "members": [{"user": "ann", "info": None, "connections": 1}]}
    assert world.read("/api/channels/a") == {
        "channel": "a",
        "id": "e:2",
        "subscribers": 2,
        "presence": present,
        "history": {"messages": 2, "bytes": 515, "oldest": "e:1"},
    }
    assert world.read("/api/channels/a/presence") == {"channel": "a", **present}
    assert world.read("/api/channels/none/presence") == {"channel": "none", "count": 0, "members": []}
    world.read("/api/channels/a/history", "DELETE")
    assert world.read("/api/channels/a")["history"] == {"messages": 0, "bytes": 0, "oldest": None}


def test_presencePages() -> None:
    """Of very many members, an answer has some, by name, and a cursor for more; so does the answer to a client of the channel."""
    world = Back(answerMessages=3)
    for user in "edcba":
        world.events(f"/channels/a?user={user}")
    world.events("/channels/b?user=ann")

    def page(answer: Any) -> tuple[str, str | None]:
        assert answer["count"] == 5
        return "".join(each["user"] for each in answer["members"]), answer.get("next")

    assert page(world.read("/api/channels/a/presence")) == ("abc", "c")
    assert page(world.read("/api/channels/a/presence?cursor=c")) == ("de", None)
    assert page(world.read("/api/channels/a/presence?limit=2&cursor=a")) == ("bc", "c")
    assert page(world.read("/api/channels/a")["presence"]) == ("abc", "c")
    assert world.refused("/api/channels/a/presence?limit=4") == (400, "bad-request")
    found = world.client().get("/channels?channel=a&channel=b&presence=true").json["presence"]
    assert page(found["a"]) == ("abc", "c")
    assert found["b"] == {"count": 1, "members": [], "next": ""}
    stream = world.events("/channels?channel=b&channel=a&presence=true").frames()
    assert stream[0]["presence"]["count"] == 2
    assert page({**stream[1]["presence"], "count": 5}) == ("ab", "b")
    socket = MemoryClient(world.factory, world.clock)
    socket.connect("/channels", "Sec-WebSocket-Protocol: twisted-ws.v1")
    socket.messages()
    for cursor, there in ("", ("abc", "c")), ("c", ("de", None)):
        socket.send(clientFrame(1, json.dumps({"type": "presence", "channel": "a", "cursor": cursor}).encode()))
        assert page({**json.loads(socket.messages()[0]), "count": 5}) == there


def test_history() -> None:
    """A history can be read from any position, as by polling."""
    world = Back()
    world.publish("a", *"1234")
    assert world.read("/api/channels/a/history?after=e:1&limit=2") == {
        "channel": "a",
        "id": "e:3",
        "recovered": True,
        "messages": [{"channel": "a", "id": "e:2", "data": "2"}, {"channel": "a", "id": "e:3", "data": "3"}],
    }
    assert len(world.read("/api/channels/a/history")["messages"]) == 4
    assert world.read("/api/channels/a/history?after=old:1")["recovered"] is False
    assert world.read("/api/channels/none/history")["messages"] == []


def test_pages_limited() -> None:
    """The operator's limit also applies if none is requested."""
    world = Back(answerMessages=2)
    world.publish("a", *"123")
    assert world.read("/api/channels/a/history")["id"] == "e:2"
    for name in "bcd":
        world.publish(name, "x")
    assert world.read("/api/channels")["next"] == "b"
    assert world.refused("/api/channels?limit=3") == (400, "bad-request")


def test_forget() -> None:
    """A deleted history cannot be resumed, and the numbering goes on."""
    world = Back()
    world.publish("a", *"123")
    assert world.read("/api/channels/a/history", "DELETE") == {"channel": "a", "id": "e:3", "deleted": 3}
    assert world.client().get("/channels/a?after=e:1").json == {"id": "e:3", "recovered": False, "messages": []}
    assert world.publish("a", "4")[0].id == "e:4"


def test_strangeMessages() -> None:
    """A message that was accepted can be read, however deeply it is nested."""
    world = Back()
    depth = next(
        n
        for n in range(1000, 0, -1)
        if world.back.post("/channels/a", b"[" * n + b"]" * n, "Content-Type: application/json").status == 200
    )
    assert depth > 300
    assert world.back.get("/api/channels/a/history").body.count(b"[") >= depth


def test_gzip() -> None:
    """A large answer is compressed for clients that accept it."""
    world = Back()
    world.publish("a", "x" * 5000)
    response = world.back.get("/api/channels/a/history", "Accept-Encoding: gzip")
    assert response.header("content-encoding") == "gzip"
    assert b"xxxx" in gzip.decompress(response.body)


# Ending.


def test_disconnect() -> None:
    """A connection is ended by its id, or all connections of a user, whatever the transport."""
    world = Back()
    socket = MemoryClient(world.factory, world.clock)
    socket.connect("/channels/a?user=ann")
    stream = world.events("/channels/a?user=ann")
    poll = world.client()
    poll.ask("/channels/a?user=ann&wait=30")
    other = world.events("/channels/a?user=bob")
    stream.events(), other.events()
    assert world.call("/api/disconnect", user="ann", reason="bye") == {"disconnected": 3}
    assert socket.closeFrame() == (4403, "bye")
    assert stream.events() == [("unsubscribed", "", '{"channel":"a","reason":"bye"}')]
    assert poll.responses()[0].status == 403
    (visitor,) = world.server.channels.visitors.find(user="bob")
    assert world.call("/api/disconnect", connection=visitor.connectionId) == {"disconnected": 1}
    assert other.events() == [("unsubscribed", "", '{"channel":"a","reason":"disconnected"}')]
    assert world.call("/api/disconnect", user="nobody") == {"disconnected": 0}


@pytest.mark.parametrize("channel", ["a", "*"])
def test_explainRefuses(channel: str) -> None:
    """Grants that are no channels are refused, whatever they are asked about."""
    world = Back()
    path = f"/api/explain?action=publish&channel={channel}&grants="
    assert world.refused(f"{path}b%7F") == (400, "bad-channel")
    assert "steps" in world.read(f"{path}b")


def test_historyBackwards() -> None:
    """A back end reads the newest messages, and page by page what is before them."""
    world = Back()
    ids = [world.call("/api/publish", channel="a", data=number)["id"] for number in range(1, 6)]

    def history(query: str) -> Any:
        return world.read(f"/api/channels/a/history?{query}")

    found = history("last=2")
    assert ([each["data"] for each in found["messages"]], found["id"], found["recovered"]) == ([4, 5], ids[4], False)
    assert [each["data"] for each in history(f"last=2&after={ids[0]}")["messages"]] == [2, 3, 4, 5]
    page = history(f"limit=2&before={found['messages'][0]['id']}")
    assert ([each["data"] for each in page["messages"]], page["next"]) == ([2, 3], ids[1])
    assert {*page} == {"channel", "messages", "next"}
    page = history(f"limit=2&before={page['next']}")
    assert ([each["data"] for each in page["messages"]], page["next"]) == ([1], None)


def test_disconnectIdle() -> None:
    """A caller without any subscription is disconnected as well."""
    world = Back()
    idle = MemoryClient(world.factory, world.clock)
    idle.connect("/channels?user=ann", "Sec-WebSocket-Protocol: twisted-ws.v1")
    left = MemoryClient(world.factory, world.clock)
    left.connect("/channels/a?user=ann")
    other = MemoryClient(world.factory, world.clock)
    other.connect("/channels?user=bob", "Sec-WebSocket-Protocol: twisted-ws.v1")
    for caller in world.server.callers:
        if caller.channels:
            caller.unsubscribe("a")
            caller.membership = None  # as the callers of services without channels have none
    assert world.call("/api/disconnect", user="ann", reason="é" * 123) == {"disconnected": 2}
    assert idle.closeFrame()[0] == left.closeFrame()[0] == 4403
    assert world.call("/api/disconnect", connection="none") == {"disconnected": 0}
    (caller,) = [each for each in world.server.callers if each.user == "bob"]
    assert world.call("/api/disconnect", connection=caller.connectionId) == {"disconnected": 1}


def test_disconnectCode() -> None:
    """The close code can be chosen."""
    world = Back()
    socket = MemoryClient(world.factory, world.clock)
    socket.connect("/channels/a?user=ann")
    world.call("/api/disconnect", user="ann", code=3999)
    assert socket.closeFrame() == (3999, "disconnected")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("path", "more"), [("/api/disconnect", {}), ("/api/unsubscribe", {"channel": "a"})])
def test_manyOfOneUser(path: str, more: dict[str, str]) -> None:
    """Many connections of one user are ended a bounded number in each turn of the reactor; then the answer comes."""
    world, ended = Back(), []
    world.service.onUnsubscribe = lambda caller, channel: ended.append(caller)
    for _ in range(400):
        MemoryClient(world.factory, world.clock).connect("/channels/a?user=ann")
    MemoryClient(world.factory, world.clock).connect("/channels/a?user=bob")
    body = json.dumps({"user": "ann", **more})
    world.clock.turn()
    world.back.transport.protocol.dataReceived(
        f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    counts = [len(ended)]
    while len(ended) < 400:
        assert not world.back.transport.sent
        world.clock.turn()
        counts.append(len(ended))
        assert 0 < counts[-1] - counts[-2] <= STEPS // CLOSING + 1
    assert list(world.back.responses()[0].json.values()) == [400]
    assert world.server.channels.count("a") == len({each.user for each in world.server.callers}) == 1


def test_unsubscribe() -> None:
    """One subscription is ended, and the others go on."""
    world = Back()
    stream = world.events("/channels?channel=a&channel=b&user=ann")
    stream.events()
    assert world.call("/api/unsubscribe", user="ann", channel="a", reason="moved") == {"unsubscribed": 1}
    assert stream.frames() == [{"type": "unsubscribed", "channel": "a", "reason": "moved"}]
    assert world.call("/api/unsubscribe", user="ann", channel="a") == {"unsubscribed": 0}
    assert world.publish("b", "x")[0].recipients == 1


# Errors.


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/api/publish", b"", "bad-request"),
        ("/api/publish", b"{", "bad-request"),
        ("/api/publish", b"[]", "bad-request"),
        ("/api/publish", b"\xff", "bad-request"),
        ("/api/publish", b'{"channel": "a", "data": "\xff"}', "bad-request"),
        ("/api/publish", b"[" * 5000, "bad-request"),
        ("/api/publish", b'{"channel": "a"}', "bad-request"),
        ("/api/publish", b'{"data": 1}', "bad-request"),
        ("/api/publish", b'{"channel": "a", "data": 1, "base64": ""}', "bad-request"),
        ("/api/publish", b'{"channel": "a", "data": 1, "more": 1}', "bad-request"),
        ("/api/publish", b'{"channel": "a", "base64": "AP"}', "bad-request"),
        ("/api/publish", b'{"channel": "a b", "data": 1}', "bad-channel"),
        ("/api/publish?x=1", b'{"channel": "a", "data": 1}', "bad-request"),
        ("/api/batch", b'{"messages": []}', "bad-request"),
        ("/api/batch", b'{"messages": [{"channel": "a"}]}', "bad-request"),
        ("/api/batch", b'{"messages": [' + b",".join([b'{"channel": "a", "data": 1}'] * 1001) + b"]}", "bad-request"),
        ("/api/batch", b'{"messages": [' + b",".join([b"{}"] * 1001) + b"]}", "bad-request"),
        ("/api/batch", b'{"messages": {"a": ' + b",".join([b"{}"] * 1001) + b"}}", "bad-request"),
        ("/api/disconnect", b"{}", "bad-request"),
        ("/api/disconnect", b'{"user": "a", "code": [[]]}', "bad-request"),
        ("/api/disconnect", b'{"user": "a", "connection": "1"}', "bad-request"),
        ("/api/disconnect", b'{"user": "a", "code": 1001}', "bad-request"),
        ("/api/unsubscribe", b'{"user": "a"}', "bad-request"),
        ("/api/unsubscribe", b'{"user": "a", "channel": ""}', "bad-channel"),
        ("/channels/a.*", b"x", "bad-channel"),
        ("/channels/a?other=1", b"x", "bad-request"),
        ("/channels/a?key=1&key=2", b"x", "bad-request"),
        ("/channels/a?key=%ff", b"x", "bad-request"),
        ("/channels/a", b"", "empty-body"),
        ("/api/channels?limit=0", None, "bad-request"),
        ("/api/channels?limit=1001", None, "bad-request"),
        ("/api/channels/a/history?limit=1001", None, "bad-request"),
        ("/api/channels/a/history?after=x", None, "bad-position"),
        ("/api/channels/a/history?before=0", None, "bad-position"),
        ("/api/channels/a/history?before=x", None, "bad-position"),
        ("/api/channels/a/history?last=0", None, "bad-request"),
        ("/api/channels/%ff", None, "bad-channel"),
        ("/api/channels/a%2Fb", None, "bad-channel"),
        ("/api/channels/a.*/presence", None, "bad-channel"),
    ],
)
def test_bad(path: str, body: bytes | None, error: str) -> None:
    """A malformed request is a 400 that says why, and nothing is done."""
    world = Back()
    assert world.refused(path, body) == (400, error)
    assert len(world.engine) == 0


def test_batchIsNoObjects(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a batch has too many messages, none is made into an object; a message may have any number of values."""
    made: list[int] = []

    def look(found: list[bool]) -> int:  # each one, when it is made
        made.append(sum(found))
        return made[-1]

    monkeypatch.setattr(schemas, "sum", look, raising=False)
    world = Back(batchMessages=2)
    assert world.refused("/api/batch", b'{"messages": [' + b",".join([b'{"channel": "a", "data": 1}'] * 3) + b"]}")[0] == 400
    assert not made
    messages = [{"channel": "a", "data": [{}, {}, {}]}] * 2
    assert len(world.call("/api/batch", messages=messages)["results"]) == len(made) == 2


def test_tooLarge() -> None:
    """A message or key that is too long is a 413."""
    world = Back(maxMessageSize=100)
    assert world.refused("/api/publish", b'{"channel": "a", "data": "%s"}' % (b"x" * 101)) == (413, "too-large")
    assert world.refused("/api/publish", b'{"channel": "a", "data": 1, "key": "%s"}' % (b"k" * 129)) == (413, "too-large")
    assert world.refused("/channels/a", b"x" * 101) == (413, "too-large")
    world = Back(jsonValues=7)
    assert world.refused("/api/disconnect", b'{"user": "a", "code": [1, 2]}') == (400, "bad-request")
    assert world.refused("/api/disconnect", b'{"user": "a", "code": [1, 2, 3]}') == (413, "too-large")


def test_messages() -> None:
    """An unknown query parameter is named, and for a wrong choice the valid ones are listed."""
    response = Back().back.get("/api/channels?prefx=x")
    assert (response.status, response.json["message"]) == (400, "There is no query parameter prefx.")
    response = Back().back.post("/api/publish", b'{"channel": "a"}')
    assert (response.status, response.json["message"]) == (400, "Give either data or base64, not both.")


def test_notThere() -> None:
    """An unknown channel is a 404, as is any other path."""
    world = Back()
    for path in ("/api/channels/none", "/api/none", "/api/channels/a/none", "/api/channels/a/history/x", "/channels"):
        assert world.refused(path) == (404, "not-found")
    assert world.refused("/api/channels/none/history", method="DELETE") == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/api/publish", "GET", "POST, OPTIONS"),
        ("/api/channels", "DELETE", "GET, HEAD, OPTIONS"),
        ("/api/channels/a/history", "POST", "GET, DELETE, HEAD, OPTIONS"),
        ("/api/openapi.json", "DELETE", "GET, HEAD, OPTIONS"),
        ("/channels/a", "GET", "POST, OPTIONS"),
    ],
)
def test_methods(path: str, method: str, allowed: str) -> None:
    """Another method is a 405 that names the allowed ones, as does OPTIONS."""
    world = Back()
    response = world.back.get(path, method=method)
    assert (response.status, response.header("allow")) == (405, allowed)
    isRead = path.startswith("/channels/") and method == "GET"
    assert ("channels are read on the WebSocket port (by default 8080)" in response.json["message"]) is isRead
    response = world.connect().get(path, method="OPTIONS")
    assert (response.status, response.header("allow"), response.body) == (204, allowed, b"")


def test_head() -> None:
    """HEAD has the head of GET."""
    world = Back()
    world.publish("a", "x")
    response = world.back.get("/api/channels/a", method="HEAD")
    assert (response.status, response.header("content-type"), response.body) == (200, "application/json", b"")
    assert int(str(response.header("content-length"))) > 50


def test_types() -> None:
    """A body declared as anything but JSON is refused."""
    body = b'{"channel": "a", "data": 1}'
    for kind in ("application/xml", "multipart/form-data", "application/json; charset=utf-16"):
        assert Back().refused("/api/publish", body, f"Content-Type: {kind}") == (415, "unsupported-media-type")
    assert Back().refused("/api/publish", body, "Content-Encoding: gzip") == (415, "unsupported-media-type")


# Who gets in.


def test_credentials(tmp_path: Any) -> None:
    """Everything but the document needs the credentials of the raw POST, and nothing is read before they are checked."""
    keys = tmp_path / "keys"
    keys.write_text(f"shop: {KEY}\n")
    keys.chmod(0o600)
    world = Back(Credentials(keyFile=str(keys)))
    for path, body in (("/api/channels", None), ("/api/publish", b"{"), ("/channels/a", b"x"), ("/api/disconnect", b"{}")):
        assert world.refused(path, body) == (401, "unauthorized")
        assert world.refused(path, body, "Authorization: Bearer wrong-wrong-wrong") == (401, "unauthorized")
    assert world.back.get("/api/channels", f"Authorization: Bearer {KEY}").status == 200
    document = world.back.get("/api/openapi.json").json
    assert document["security"] == [{"bearer": []}]
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


def test_pages() -> None:
    """A web page is refused: its browser would add the visitor's passwords."""
    world = Back()
    assert world.refused("/api/channels", None, "Origin: http://localhost:8081") == (403, "forbidden")
    assert world.refused("/channels/a", b"x", "Origin: http://localhost:8081") == (403, "forbidden")


def test_drain() -> None:
    """While the server is stopping, nothing is published, because it would reach nobody."""
    world = Back()
    world.back.send(b"POST /channels/a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n")
    world.server.stop()
    world.back.send(b"x")
    assert world.back.responses()[0].status == 503
    assert world.refused("/api/publish", b"{}") == (503, "unavailable")
