from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.memory import upgrade
from tests.web.conftest import Response
from tests.web.worlds import World
from twisted_ws import Reject
from twisted_ws.channels.service import ChannelService
from twisted_ws.services.demo import Demo

PAGE = "https://app.example"


class Recording(ChannelService):
    """Records what its hooks get."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[tuple[Any, ...]] = []

    def onUpgrade(self, request: Any) -> Any:
        self.calls.append(("onUpgrade", request))
        request.user = "ann"
        return self, {"Set-Cookie": "seen=1"}

    async def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
        self.calls.append(("onPublish", caller.user, channel, message))
        if message == "no":
            raise Reject(403, "not that")
        if message == "other":
            return {"instead": True}
        return None


# Subscribing.


class Guarding(ChannelService):
    """Has secrets, and channels that are full for now."""

    async def onSubscribe(self, caller: Any, channel: str) -> None:
        if channel.startswith("secret"):
            raise Reject(403, "not yours")
        if channel.startswith("full"):
            raise Reject(429, "later")


@pytest.mark.parametrize(
    ("accept", "wait"), [("text/event-stream", ""), ("application/json", ""), ("application/json", "&wait=1")]
)
@pytest.mark.parametrize(
    ("query", "status", "error", "channel"),
    [
        ("channel=a&channel=secret&channel=secret.b", 403, "forbidden", "secret"),
        ("channel=full&channel=a", 429, "too-many-requests", "full"),
        ("channel=a&channel=b%23", 400, "bad-channel", "b#"),
        ("channel=a&channel=b&after=a=e:0,b=x", 400, "bad-position", "b"),
        ("channel=a&channel=b.*", 403, "forbidden", "b.*"),
        ("channel=a&channel=b&presence=true&format=json", 403, "forbidden", "a"),
        ("channel=a&channel=b&after=e:0", 400, "bad-position", None),
        ("&".join([f"channel={number}" for number in range(5)]), 429, "too-many-channels", None),
    ],
)
def test_whichIsRefused(query: str, wait: str, accept: str, status: int, error: str, channel: str | None) -> None:
    """An error names the refused channel of the request, or none if it is about all of them."""
    client = World(Guarding(), channelsPerCaller=4).client()
    response = client.get(f"/channels?{query}{wait}", f"Accept: {accept}")
    assert (response.status, response.json["error"], response.json.get("channel")) == (status, error, channel)


# Publishing.


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"hello", "text/plain", "hello"),
        (b"a=b", "application/x-www-form-urlencoded", "a=b"),
        (b'{"x": 1}', "application/json; charset=utf-8", {"x": 1}),
        (b"\0\xff", "application/octet-stream", b"\0\xff"),
        (b"", "text/plain;charset=UTF-8", ""),
        (b"", "application/octet-stream", b""),
    ],
)
def test_post(body: bytes, kind: str, message: Any) -> None:
    """A client publishes by POST if the service allows it; the type of the body decides the kind of message."""
    service = Recording(publish=True)
    world = World(service)
    stream = world.events()
    response = world.client().post("/channels/a", body, f"Content-Type: {kind}")
    assert (response.status, response.json) == (200, {"channel": "a", "id": "e:1", "recipients": 1})
    assert response.header("set-cookie") == "seen=1"
    assert service.calls[-1] == ("onPublish", "ann", "a", message)
    assert stream.events()[-1][1] == "e:1"


def test_postOfJson() -> None:
    """JSON is passed on undecoded unless a hook wants it as objects; if that cannot be done, the message is refused."""
    body = b'{"n": 1e999}'
    assert World().client().post("/channels/a", body, "Content-Type: application/json").status == 200
    response = World(Recording(publish=True)).client().post("/channels/a", body, "Content-Type: application/json")
    assert (response.status, response.json["error"]) == (400, "bad-request")


def test_postKeys() -> None:
    """A POST takes a conflation key from its query, and an idempotency key from its head."""
    world = World()
    client = world.client()
    first = client.post("/channels/a?key=k", b"1", "Idempotency-Key: once")
    assert client.post("/channels/a?key=k", b"1", "Idempotency-Key: once").json == first.json
    (message,) = client.get("/channels/a?after=0").json["messages"]
    assert message == {"channel": "a", "id": "e:1", "key": "k", "data": "1"}
    world.clock.advance(301)
    assert world.client().post("/channels/a", b"1", "Idempotency-Key: once").json["id"] == "e:2"


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "error"),
    [
        ("/channels/a", b"", (), 400, "empty-body"),
        ("/channels/a", b"", ("Content-Type: application/json",), 400, "empty-body"),
        ("/channels/a", b"", ("Content-Type: application/x-www-form-urlencoded",), 400, "empty-body"),
        ("/channels/a", b"\xff", (), 400, "not-utf-8"),
        ("/channels/a", b"{", ("Content-Type: application/json",), 400, "bad-request"),
        ("/channels/a", b'"\xff"', ("Content-Type: application/json",), 400, "bad-request"),
        ("/channels/a", b"[" * 5000, ("Content-Type: application/json",), 400, "bad-request"),
        ("/channels/a", b"x", ("Idempotency-Key: a b",), 400, "bad-request"),
        ("/channels/a", b"x", ("Idempotency-Key: a", "Idempotency-Key: b"), 400, "bad-request"),
        ("/channels/a", b"x", ("Content-Type: multipart/form-data",), 415, "unsupported-media-type"),
        ("/channels/a?key=" + "k" * 129, b"x", (), 413, "too-large"),
        ("/channels/a.*", b"x", (), 400, "bad-channel"),
        ("/channels", b"x", (), 400, "bad-request"),
        ("/channels?channel=a&channel=b", b"x", (), 400, "bad-channel"),
        ("/channels/a/b", b"x", (), 404, "not-found"),
        ("/channels/a/a", b"x", (), 404, "not-found"),
    ],
)
def test_postRefused(path: str, body: bytes, headers: tuple[str, ...], status: int, error: str) -> None:
    """A message that cannot be published is refused with a status and an error code."""
    world = World()
    response = world.client().post(path, body, *headers)
    assert (response.status, response.json["error"]) == (status, error)
    assert "a" not in world.server.engine


def test_postWhileDraining() -> None:
    """A body that is complete only when the server is stopping is not published: it gets a 503 that says when to retry."""
    world = World()
    client = world.client()
    client.send(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nh")
    world.server.stop()
    client.send(b"i")
    (response,) = client.responses()
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert response.header("retry-after")
    assert "a" not in world.server.engine


def test_postDecidedWhileDraining() -> None:
    """A message that the service allows only when the server is stopping is not published either."""
    asked: Deferred[None] = Deferred()

    class Asking(ChannelService):
        def onPublish(self, caller: Any, channel: str, message: Any) -> Any:
            return asked

    world = World(Asking())
    client = world.client()
    client.ask("/channels/a", method="POST", body=b"x")
    world.server.stop()
    asked.callback(None)
    (response,) = client.responses()
    assert (response.status, response.json["error"]) == (503, "unavailable")
    assert "a" not in world.server.engine


def test_postByService() -> None:
    """The service may refuse a message, or publish another in its place."""
    world = World(Recording(publish=True))
    client = world.client()
    response = client.post("/channels/a", b"no")
    assert (response.status, response.json) == (403, {"error": "forbidden", "message": "not that", "channel": "a"})
    client.post("/channels/a", b"other")
    assert client.get("/channels/a?after=0").json["messages"][0]["data"] == {"instead": True}
    assert World(ChannelService()).client().post("/channels/a", b"x").json["error"] == "forbidden"


# Who gets in.


def test_onUpgrade() -> None:
    """A service is asked about an HTTP request as about a handshake, before the body is read."""
    service = Recording()
    world = World(service)
    client = world.client()
    lines = "POST /channels/a?token=t HTTP/1.1\r\nHost: h\r\nCookie: c=1\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    client.send(lines.encode())
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    _, request = service.calls[0]
    assert request.path == "/channels/a"
    assert request.pathParams == {"channel": "a"}
    assert request.query == {"token": ["t"]}
    assert request.cookies == {"c": "1"}
    assert (request.peerAddress, request.isSecure, request.clientCertificate) == ("127.0.0.1", False, None)


@pytest.mark.parametrize(
    ("reject", "status", "error"),
    [
        (Reject(401, "who are you?", {"WWW-Authenticate": "Bearer"}), 401, "unauthorized"),
        (Reject(418, "tea"), 418, "forbidden"),
        (Reject(403, "half a pair: \ud83d"), 403, "forbidden"),
        (Reject(599, "down"), 599, "unavailable"),
        (Reject(302, "", {"Location": "/login"}), 302, "forbidden"),
        (RuntimeError("secret"), 500, "internal-error"),
    ],
)
def test_rejected(reject: Exception, status: int, error: str) -> None:
    """A request that onUpgrade refuses gets the status and headers it gives, in JSON; a bug reveals nothing."""

    class Closed(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            raise reject

    response = World(Closed()).client().get("/channels/a")
    assert (response.status, response.json["error"]) == (status, error)
    assert b"secret" not in response.body
    for name, value in getattr(reject, "headers", ()):
        assert response.header(name.lower()) == value


def test_undecided() -> None:
    """A request that the service does not decide on in time is answered with 503."""

    class Slow(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            return Deferred()

    client = World(Slow()).client()
    client.ask("/channels/a")
    client.advance(10.25)
    (response,) = client.responses()
    assert (response.status, response.header("retry-after")) == (503, "5")


def test_otherService() -> None:
    """If onUpgrade chooses a service without channels, only WebSocket is offered."""

    class Front(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            return Demo()

    response = World(Front()).client().get("/channels/a")
    assert (response.status, response.header("upgrade")) == (426, "websocket")


def test_otherChannelService() -> None:
    """If onUpgrade chooses another service with channels, its rules apply."""
    other = ChannelService(publish=True)

    class Front(ChannelService):
        def onUpgrade(self, request: Any) -> Any:
            return other

    assert World(Front()).client().post("/channels/a", b"x").status == 200


def test_methods() -> None:
    """Other methods are a 405 that names the allowed ones."""
    client = World().client()
    for method in ("PUT", "DELETE", "PATCH"):
        response = (
            client.get("/channels/a", "Content-Length: 0", method=method)
            if method == "PATCH"
            else client.get("/channels/a", method=method)
        )
        assert (response.status, response.header("allow")) == (405, "GET, HEAD, POST, OPTIONS")
    response = client.get("/channels/a", method="OPTIONS")
    assert (response.status, response.header("allow")) == (204, "GET, HEAD, POST, OPTIONS")
    assert response.header("access-control-allow-methods") is None


# Pages of other origins.


def cors(response: Response) -> dict[str, str]:
    """The headers that are for the page's browser."""
    return {
        name.removeprefix("access-control-"): values[0] for name, values in response.headers.items() if "access-control" in name
    }


ALLOWED = {"allow-origin": PAGE, "allow-credentials": "true", "expose-headers": "ETag, Retry-After"}


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_cors(method: str) -> None:
    """A page that may connect may read the answers, with its visitor's cookies, even if they are errors."""
    world = World(origins=(PAGE,))
    for path, status in (("/channels/a", 200), ("/channels/a.b.", 400)):
        response = world.client().get(path, f"Origin: {PAGE}", method=method, body=b"x" if method == "POST" else b"")
        assert (response.status, cors(response)) == (status, ALLOWED)
        assert "Origin" in str(response.header("vary"))
    assert cors(world.events("/channels/a", f"Origin: {PAGE}").head) == ALLOWED


def test_corsOwn() -> None:
    """A page of this server needs no permission; a request from no page gets no such header."""
    client = World().client()
    assert client.get("/channels/a", "Origin: http://localhost:8080").status == 200
    assert cors(client.get("/channels/a")) == {}


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_corsRefused(method: str) -> None:
    """Any other page is refused, before the service is asked; so no page publishes with its visitor's cookies."""
    service = Recording(publish=True)
    world = World(service, origins=(PAGE,))
    response = world.client().get("/channels/a", "Origin: https://evil.example", method=method, body=b"x")
    assert (response.status, response.json["error"], cors(response)) == (403, "forbidden", {})
    assert service.calls == []


def test_corsAnybody() -> None:
    """If all origins are allowed, those that are not named may not send cookies."""
    client = World(origins=("*", PAGE)).client()
    answer = cors(client.get("/channels/a", "Origin: https://other.example"))
    assert answer == {"allow-origin": "https://other.example", "expose-headers": "ETag, Retry-After"}
    assert cors(client.get("/channels/a", f"Origin: {PAGE}")) == ALLOWED


def test_preflight() -> None:
    """A preflight is told what a page may send."""
    client = World(origins=(PAGE,)).client()
    response = client.get("/channels/a", f"Origin: {PAGE}", "Access-Control-Request-Method: POST", method="OPTIONS")
    assert (response.status, response.body) == (204, b"")
    assert cors(response) == {
        **ALLOWED,
        "allow-methods": "GET, HEAD, POST",
        "allow-headers": "Authorization, Channel-Token, Content-Type, If-None-Match, Last-Event-ID, Idempotency-Key",
        "max-age": "600",
    }


def test_twoOrigins() -> None:
    """A request with two origins is refused."""
    assert World(origins=("*",)).client().get("/channels/a", "Origin: a", "Origin: b").status == 400


def test_handshakesGoOn() -> None:
    """A handshake at the same URL still opens a WebSocket."""
    world = World()
    client = world.client()
    client.send(upgrade("/channels/a", Upgrade="websocket"))
    assert client.take().startswith(b"HTTP/1.1 101 ")
