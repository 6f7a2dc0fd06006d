from __future__ import annotations

from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionLost
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from tests.memory import SteadyClock
from tests.web.conftest import Connection, Response
from twisted_ws.access.publishers.credentials import CheckFailed, Credentials, TooManyFailures, Unauthenticated
from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.errors import ChannelError
from twisted_ws.limits import Limits
from twisted_ws.message import Message
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.wire.door.origins import AllowedHosts
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.websocket.runtime import Runtime

KEY = "0123456789abcdef"


class Server:
    """The part of a server that the broadcast site needs."""

    def __init__(self, clock: SteadyClock, limits: Limits | None) -> None:
        self.runtime = Runtime(clock, limits)
        self.limits = self.runtime.limits
        self.counts = self.runtime.counts
        self.hosts, self.proxies = AllowedHosts(), TrustedProxies()
        self.reason: str | None = None
        self.engine = SimpleNamespace(isSlow=False)
        self.sent: list[str | bytes] = []
        self.answer: Any = 2

    def broadcast(self, message: str | bytes) -> Deferred[int]:
        if isinstance(self.answer, Exception):
            raise self.answer
        self.sent.append(Message.of(message).value())
        return self.answer if isinstance(self.answer, Deferred) else succeed(self.answer)

    def readiness(self) -> str | None:
        return self.reason

    @property
    def isStopping(self) -> bool:
        return self.reason == "draining"


class Guard:
    """Credentials that answer as the test says."""

    requiresCredentials = True
    challenges = ('Bearer realm="broadcast"', 'Basic realm="broadcast"')

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str | None, str]] = []

    def check(self, authorization: str | None, address: str) -> Deferred[KeyHolder]:
        self.asked.append((authorization, address))
        if isinstance(self.answer, Deferred):
            return self.answer
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(KeyHolder(self.answer))


class World:
    """A broadcast site on a clock."""

    def __init__(self, credentials: Any = None, limits: Limits | None = None) -> None:
        self.clock = SteadyClock()
        self.server = Server(self.clock, limits)
        self.credentials = credentials or Credentials(reactor=self.clock)
        self.site = broadcastSite(self.server, self.credentials)  # type: ignore[arg-type]

    def connect(self) -> Connection:
        return Connection(self.site)

    def post(self, body: bytes, *headers: bytes, path: bytes = b"/broadcaster/broadcast", method: bytes = b"POST") -> Response:
        length = b"Content-Length: %d" % len(body)
        lines = [b"%s %s HTTP/1.1" % (method, path), b"Host: localhost:8081", length, *headers, b"", b""]
        return self.connect().ask(b"\r\n".join(lines) + body)

    def get(self, path: bytes, method: bytes = b"GET") -> Response:
        return self.connect().ask(b"%s %s HTTP/1.1\r\nHost: localhost:8081\r\n\r\n" % (method, path))


@pytest.fixture
def open_() -> World:
    """A site that needs no credentials."""
    return World()


def test_curl(open_: World) -> None:
    """The body of curl -d is broadcast as text, and the answer is exactly OK."""
    response = open_.post(b"Hello!", b"User-Agent: curl/8", b"Accept: */*", b"Content-Type: application/x-www-form-urlencoded")
    assert (response.status, response.body) == (200, b"OK")
    assert response.header("content-type") == "text/plain; charset=utf-8"
    assert open_.server.sent == ["Hello!"]


@pytest.mark.parametrize(
    ("type_", "body", "message"),
    [
        (b"", b"plain", "plain"),
        (b"Content-Type: text/plain", "Grüße 👋".encode(), "Grüße 👋"),
        (b"Content-Type: text/plain; charset=UTF-8", b"x", "x"),
        (b'Content-Type: text/plain;charset="utf-8"', b"x", "x"),
        (b"Content-Type: text/plain; charset=us-ascii", b"x", "x"),
        (b"Content-Type: application/json", b'{"a": 1}', '{"a": 1}'),
        (b"Content-Type: application/x-www-form-urlencoded", b"a=%20b&c=d+e", "a=%20b&c=d+e"),
        (b"Content-Type: whatever", b" \n", " \n"),
        (b"Content-Type: application/octet-stream", b"\xff\x00", b"\xff\x00"),
        (b"Content-Type: Application/Octet-Stream; x=y", b"text", b"text"),
        (b"Content-Encoding: identity", b"x", "x"),
        (b"Content-Encoding: Identity", b"x", "x"),
        (b"Expect: 100-continue", b"x", "x"),
    ],
)
def test_messages(open_: World, type_: bytes, body: bytes, message: str | bytes) -> None:
    """A body is broadcast as text, whatever its type, or as binary if it is application/octet-stream."""
    assert open_.post(body, *([type_] if type_ else [])).status == 200
    assert open_.server.sent == [message]


@pytest.mark.parametrize("path", [b"/channels/a", b"/api/publish"])
def test_twoTypes(open_: World, path: bytes) -> None:
    """Two Content-Types are refused on every path that takes a body, because parsers disagree on them."""
    response = open_.post(b"{}", b"Content-Type: application/json", b"Content-Type: text/plain", path=path)
    assert (response.status, response.json["error"]) == (400, "bad-request")


@pytest.mark.parametrize(
    ("headers", "body", "status", "error"),
    [
        ([], b"", 400, "empty-body"),
        ([b"Content-Type: application/octet-stream"], b"", 400, "empty-body"),
        ([], b"\xff", 400, "not-utf-8"),
        ([], b"\xed\xa0\x80", 400, "not-utf-8"),
        ([], b"\xc0\x80", 400, "not-utf-8"),
        ([b"Content-Encoding: gzip"], b"x", 415, "unsupported-media-type"),
        ([b"Content-Encoding: gzip, identity"], b"x", 415, "unsupported-media-type"),
        ([b"Content-Encoding: identity", b"Content-Encoding: br"], b"x", 415, "unsupported-media-type"),
        ([b"Content-Type: multipart/form-data; boundary=x"], b"x", 415, "unsupported-media-type"),
        ([b"Content-Type: text/plain", b"Content-Type: application/octet-stream"], b"x", 400, "bad-request"),
        ([b"Content-Type: text/plain", b"Content-Type: text/plain"], b"x", 400, "bad-request"),
        ([b"Content-Type: text/plain; charset=iso-8859-1"], b"x", 415, "unsupported-media-type"),
        ([b"Origin: https://evil.example"], b"x", 403, "forbidden"),
        ([b"Origin: http://localhost:8081"], b"x", 403, "forbidden"),
        ([b"Origin: null"], b"x", 403, "forbidden"),
        ([b"Origin: https://evil.example", b"Authorization: Bearer x"], b"x", 403, "forbidden"),
        ([b"Authorization: Bearer a", b"Authorization: Bearer b"], b"x", 400, "bad-request"),
    ],
)
def test_refused(open_: World, headers: list[bytes], body: bytes, status: int, error: str) -> None:
    """A request that cannot be broadcast, or is from a web page, is refused in JSON, and nothing is sent."""
    response = open_.post(body, *headers)
    assert (response.status, response.json["error"]) == (status, error)
    assert open_.server.sent == []


@pytest.mark.parametrize("method", [b"PUT", b"PATCH", b"BREW"])
def test_method(open_: World, method: bytes) -> None:
    """Only POST broadcasts."""
    response = open_.post(b"" if method == b"BREW" else b"x", method=method)
    assert (response.status, response.header("allow")) == (405, "POST, OPTIONS")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE", b"PUT", b"PATCH"])
def test_methodWithoutBody(open_: World, method: bytes) -> None:
    """Another method gets its 405 even without the body that it should have."""
    response = open_.get(b"/broadcaster/broadcast", method)
    assert (response.status, response.header("allow")) == (405, "POST, OPTIONS")


def test_noLength(open_: World) -> None:
    """A POST without a length gets 411 if the path takes POST and the credentials are right."""
    assert open_.get(b"/broadcaster/broadcast", b"POST").status == 411
    assert open_.get(b"/broadcaster", b"POST").status == 404
    assert World(Guard(Unauthenticated("No."))).get(b"/broadcaster/broadcast", b"POST").status == 401


def test_tooLarge() -> None:
    """A body over the limit is refused by its declared length, before it is sent."""
    world = World(limits=Limits(body=10))
    connection = world.connect()
    head = b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\nExpect: 100-continue\r\n\r\n"
    assert connection.ask(head).status == 413
    assert world.post(b"x" * 10).status == 200


@pytest.mark.parametrize(
    "path",
    [b"/", b"/broadcaster", b"/broadcaster/", b"/broadcaster/broadcast/", b"/channels", b"/api", b"/api/channels/a/b", b"/x"],
)
def test_notFound(open_: World, path: bytes) -> None:
    """Every other path is a 404 in JSON, whatever the method."""
    assert open_.post(b"x", path=path).status == 404
    response = open_.get(path)
    assert (response.status, response.json["error"]) == (404, "not-found")


@pytest.mark.parametrize("path", [b"/", b"/ws", b"/channels"])
def test_elsewhere(open_: World, path: bytes) -> None:
    """A browser or a WebSocket client learns of the other port; a publisher with a wrong path is not sent there."""
    there = "pages and WebSockets are on the WebSocket port (by default 8080)"
    assert open_.get(path).json["message"] == f"There is nothing here: {there}."
    assert open_.post(b"x", path=path).json["message"] == "There is nothing here."


@pytest.mark.parametrize(
    ("path", "there"),
    [
        (b"/broadcaster", "messages are posted to /broadcaster/broadcast"),
        (b"/broadcaster/brodcast", "messages are posted to /broadcaster/broadcast"),
        (b"/api/channels/a/b", "the API is described at /api/openapi.json"),
    ],
)
def test_nearby(open_: World, path: bytes, there: str) -> None:
    """A request for a wrong path under a known one is told what there is, for publishers and for readers."""
    for response in open_.get(path), open_.post(b"x", path=path):
        assert response.json["message"] == f"There is nothing here: {there}."


@pytest.mark.parametrize(
    ("error", "status", "header", "value"),
    [
        (Unauthenticated("No."), 401, "www-authenticate", 'Bearer realm="broadcast", Basic realm="broadcast"'),
        (TooManyFailures(5.2), 429, "retry-after", "6"),
        (CheckFailed(), 503, "retry-after", "5"),
    ],
)
def test_credentials(error: Exception, status: int, header: str, value: str) -> None:
    """A publisher that is refused learns why and what to do, before its body is read, and nothing is sent."""
    world = World(Guard(error))
    connection = world.connect()
    head = b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n"
    head += b"Expect: 100-continue\r\nAuthorization: Basic eA==\r\n\r\n"
    response = connection.ask(head)
    assert (response.status, response.header(header)) == (status, value)
    connection.send(b"Hello!")
    assert connection.take() == b""
    assert world.server.sent == []
    assert world.credentials.asked == [("Basic eA==", "192.0.2.7")]


def test_credentialsBug() -> None:
    """If the check itself fails, nobody is let in."""
    world = World(Guard(RuntimeError("bug")))
    assert world.post(b"Hello!").status == 500
    assert world.server.sent == []


def test_letIn() -> None:
    """A publisher with credentials may broadcast; they are checked for each request, and the check may take time."""
    answer: Deferred[KeyHolder] = Deferred()
    world = World(Guard(answer))
    connection = world.connect()
    connection.send(b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nHello!")
    assert connection.take() == b""
    assert world.server.sent == []
    answer.callback(KeyHolder("shop"))
    assert [r.status for r in connection.responses()] == [200]
    assert world.server.sent == ["Hello!"]
    assert world.credentials.asked == [(None, "192.0.2.7")]


def test_realCredentials(tmp_path: Any) -> None:
    """With its API key, a broadcast reaches the callers; without it, or with another one, it is refused."""
    path = tmp_path / "keys"
    path.write_text(KEY)
    path.chmod(0o600)
    world = World(Credentials(keyFile=str(path), reactor=SteadyClock()))
    assert world.post(b"x").status == 401
    response = world.post(b"x", b"Authorization: Bearer wrong")
    assert (response.status, response.header("www-authenticate")) == (401, 'Bearer realm="broadcast"')
    assert world.post(b"x", b"Authorization: Basic " + b64encode(b"a:b")).status == 401
    assert world.server.sent == []
    assert world.post(b"x", b"Authorization: Bearer " + KEY.encode()).status == 200
    assert world.server.sent == ["x"]


def test_expiredKey(tmp_path: Any) -> None:
    """Whoever has a key that has expired is told so, and the log names it; it is no guess, however often it comes."""
    path = tmp_path / "keys"
    path.write_text(f"shop: {KEY} until=2020-01-31 broadcast\n")
    path.chmod(0o600)
    world = World(Credentials(keyFile=str(path), limits=Limits(authFailures=3), reactor=SteadyClock()))
    with capturedLogs() as events:
        responses = [world.post(b"x", b"Authorization: Bearer " + KEY.encode()) for _ in range(5)]
    assert [each.status for each in responses] == [401] * 5
    assert responses[4].json == {"error": "unauthorized", "message": "The API key has expired."}
    assert formatEvent(events[0]).endswith("(POST /broadcaster/broadcast; it is shop, line 1)")
    assert world.server.sent == []


def test_pages(tmp_path: Any) -> None:
    """A web page may broadcast with an API key, which no browser adds by itself, but not with a remembered password."""
    world = World(Guard("shop"))
    origin = b"Origin: https://app.example"
    assert world.post(b"x", origin, b"Authorization: Bearer abc").status == 200
    assert world.post(b"x", origin, b"Authorization: Basic abc").status == 403
    assert world.post(b"x", origin).status == 403
    assert len(world.credentials.asked) == 1


def test_options() -> None:
    """OPTIONS needs no credentials, and permits no page of another origin to send any."""
    world = World(Guard(Unauthenticated("No.")))
    response = world.get(b"/broadcaster/broadcast", b"OPTIONS")
    assert (response.status, response.header("allow")) == (204, "POST, OPTIONS")
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_draining(open_: World) -> None:
    """A server that is stopping sends nothing and says when to retry; one that is full still sends to its callers."""
    open_.server.reason = "draining"
    response = open_.post(b"x")
    assert (response.status, response.json["error"], response.header("retry-after")) == (503, "unavailable", "5")
    assert open_.server.sent == []
    open_.server.reason = "full"
    assert open_.post(b"x").status == 200


def test_drainBeginsMeanwhile(open_: World) -> None:
    """No OK is sent if the server began to stop while the body was arriving."""
    connection = open_.connect()
    connection.send(b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nHello")
    open_.server.reason = "draining"
    assert connection.ask(b"!").status == 503
    assert open_.server.sent == []


@pytest.mark.parametrize("credentials", [None, Guard(Unauthenticated("No."))])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_health(credentials: Any, method: bytes) -> None:
    """Health needs no credentials: it is always alive, and ready while the server takes traffic."""
    world = World(credentials)
    alive, ready = world.get(b"/healthz", method), world.get(b"/readyz", method)
    assert (alive.status, ready.status) == (200, 200)
    assert alive.header("content-type") == ready.header("content-type") == "application/json"
    if method == b"GET":
        assert (alive.json, ready.json) == ({"status": "ok"}, {"status": "ready"})
    for reason in ("draining", "full"):
        world.server.reason = reason
        alive, ready = world.get(b"/healthz", method), world.get(b"/readyz", method)
        assert (alive.status, ready.status, ready.header("retry-after")) == (200, 503, "5")
        if method == b"GET":
            assert ready.json == {"error": "unavailable", "message": f"The server takes no new traffic: {reason}."}


def test_readinessIsLoggedWhenItChanges(open_: World) -> None:
    """However often /readyz is asked, the log has one line for each change of the answer."""
    with capturedLogs() as events:
        for reason in (None, "the engine is away", "the engine is away", None, None):
            open_.server.reason = reason
            open_.get(b"/readyz")
    said = [formatEvent(event) for event in events]
    assert said == ["/readyz answers 503: the engine is away", "/readyz answers 200 again"]


def test_slowEngine(open_: World) -> None:
    """A server whose engine is slow takes traffic, and says so."""
    open_.server.engine.isSlow = True
    ready = open_.get(b"/readyz")
    assert (ready.status, ready.json) == (200, {"status": "ready", "engine": "slow"})


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz"])
def test_healthMethods(open_: World, path: bytes) -> None:
    """Health can only be read."""
    response = open_.post(b"x", path=path)
    assert (response.status, response.header("allow")) == (405, "GET, HEAD, OPTIONS")
    assert open_.get(path, b"OPTIONS").status == 204
    assert open_.get(path + b"/").status == 404


def test_manyCallers(open_: World) -> None:
    """If sending to all takes several turns, the answer comes after the last; a peer that has left is not waited for."""
    open_.server.answer = Deferred()
    here, gone = open_.connect(), open_.connect()
    for each in here, gone:
        each.send(b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: localhost:8081\r\nContent-Length: 1\r\n\r\nx")
        assert each.take() == b""
    gone.protocol.connectionLost(Failure(ConnectionLost()))
    open_.server.answer.callback(20_000)
    (response,) = here.responses()
    assert (response.status, response.body) == (200, b"OK")
    assert gone.take() == b""
    assert open_.server.sent == ["x", "x"]


def test_tooManyOnTheirWay(open_: World) -> None:
    """A publisher that is faster than messages can be sent is told when to retry, and nothing is sent."""
    open_.server.answer = ChannelError("unavailable", "try later")
    response = open_.post(b"x")
    assert (response.status, response.json) == (503, {"error": "unavailable", "message": "try later"})
    assert response.header("retry-after") == "5"
    assert open_.server.sent == []


@pytest.mark.parametrize("when", ["at once", "later"])
def test_engineAway(open_: World, when: str) -> None:
    """A broadcast that the engine cannot pass on is a 503 with the time of the next attempt, at once or when that is known."""
    away = ChannelError("unavailable", "The server of the channels does not answer.")
    open_.server.answer = fail(away) if when == "at once" else Deferred()
    here = open_.connect()
    here.send(b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: localhost:8081\r\nContent-Length: 1\r\n\r\nx")
    if when == "later":
        assert here.take() == b""
        open_.server.answer.errback(away)
    (response,) = here.responses()
    assert (response.status, response.json["error"], response.header("retry-after")) == (503, "unavailable", "5")
