from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, IHalfCloseableProtocol
from twisted.internet.testing import StringTransport
from twisted.logger import LegacyLogObserverWrapper, capturedLogs, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.memory import Behind
from tests.moments import MOMENTS, collectAt
from tests.web.conftest import Connection, Echo, World, readResponses, turn
from twisted_ws.limits import Limits
from twisted_ws.web.http import connection as connectionModule
from twisted_ws.web.http.connection import HEAD_BYTES, REQUEST
from twisted_ws.web.http.errors import HttpError
from twisted_ws.wire.loop.turns import QUANTUM, STEPS, TURN
from twisted_ws.wire.websocket.outbox import SLICE

GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
GONE = Failure(ConnectionDone())


def post(body: bytes, *headers: bytes, path: bytes = b"/echo") -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: a", b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


# Good requests


def test_get(world: World) -> None:
    """A response has its length and type, does not name the software, and is neither sniffed nor stored."""
    response = world.connect().ask(GET)
    assert (response.status, response.body) == (200, b"hello")
    assert response.header("content-length") == "5"
    assert response.header("content-type") == "text/plain; charset=utf-8"
    assert response.header("x-content-type-options") == "nosniff"
    assert response.header("cache-control") == "no-store"
    assert response.header("date")
    assert response.header("server") is None
    assert response.header("connection") is None


@pytest.mark.parametrize("request_", [GET, post(b"x"), GET.replace(b"GET", b"HEAD", 1), GET.replace(b"/echo", b"/none", 1)])
def test_oneWrite(world: World, monkeypatch: pytest.MonkeyPatch, request_: bytes) -> None:
    """Head and body of an answer are written together, so that small ones leave in one packet."""
    connection = world.connect()
    writes: list[bytes] = []
    monkeypatch.setattr(connection.transport, "write", writes.append)
    connection.send(request_)
    assert len(writes) == 1


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_plainAnswer(world: World, monkeypatch: pytest.MonkeyPatch, version: bytes) -> None:
    """An answer without headers of its own is built in one step, with the same headers as any other."""
    request = GET.replace(b"1.1", version)
    plain = world.connect().ask(request)
    render = Echo.render_GET

    def touches(self: Echo, request: Any) -> bytes:
        request.responseHeaders.removeHeader("X-Nothing")
        return render(self, request)

    monkeypatch.setattr(Echo, "render_GET", touches)
    made = world.connect().ask(request)
    assert plain.headers.pop("date")
    assert made.headers.pop("date")
    assert plain == made


def test_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header that is set again appears once, however it was spelt before, and no value can begin another line."""

    def answered(*said: tuple[str, str], before: bool = False, after: bool = False) -> bytes:
        def render(self: Echo, request: Any) -> bytes:
            if before:
                request.responseHeaders.addRawHeader("x-name", "theirs")
            for name, value in said:
                request.say(name, value)
            if after:
                request.responseHeaders.addRawHeader("x-name", "theirs")
            return b"x"

        monkeypatch.setattr(Echo, "render_GET", render)
        connection = world.connect()
        connection.send(GET)
        return connection.take().partition(b"\r\n\r\n")[0]

    twice = ("X-Name", "a"), ("X-Name", "b")
    for before in (False, True):
        assert [line for line in answered(*twice, before=before).split(b"\r\n") if b"ame:" in line] == [b"X-Name: b"]
    lines = answered(*twice, after=True).split(b"\r\n")
    assert [line for line in lines if b"ame:" in line] == [b"X-Name: b", b"X-Name: theirs"]
    for value in ("a\r\nSet-Cookie: b", "a\nSet-Cookie: b", "a\rSet-Cookie: b", "\u0142\r\nSet-Cookie: b"):
        head = answered(("X-Name", value))
        assert b"X-Name: " in head
        assert b"\nSet-Cookie" not in head
        assert b"\rSet-Cookie" not in head
    assert answered(("X-Name", "\u0142")).count("X-Name: \u0142\r\n".encode()) == 1


def test_cookie(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cookie that a resource adds is sent."""

    def render(self: Echo, request: Any) -> bytes:
        request.addCookie("a", "b")
        return b"x"

    monkeypatch.setattr(Echo, "render_GET", render)
    assert world.connect().ask(GET).header("set-cookie") == "a=b"


@pytest.mark.parametrize("body", [b"", b"x"])
@pytest.mark.parametrize(
    ("says", "status", "header"),
    [
        (lambda request: request.setResponseCode(200, b"Fine"), "200 Fine", ()),
        (lambda request: request.setResponseCode(201), "201 Created", ()),
        (lambda request: request.setLastModified(0), "200 OK", ("last-modified", "Thu, 01 Jan 1970 00:00:00 GMT")),
        (lambda request: request.setETag(b'"a"'), "200 OK", ("etag", '"a"')),
        (lambda request: None, "200 OK", ()),
    ],
)
def test_answerSaysMore(
    world: World, monkeypatch: pytest.MonkeyPatch, says: Any, status: str, header: tuple[str, str], body: bytes
) -> None:
    """The headers that a resource sets are sent; an empty answer has no type."""

    def render(self: Echo, request: Any) -> bytes:
        says(request)
        return body

    monkeypatch.setattr(Echo, "render_GET", render)
    connection = world.connect()
    connection.send(GET)
    data = connection.take()
    assert data.startswith(b"HTTP/1.1 %b\r\n" % status.encode())
    (response,) = readResponses(data)
    assert (response.body, response.header("content-length")) == (body, str(len(body)))
    assert (response.header("content-type") is None) == (not body)
    if header:
        assert response.header(header[0]) == header[1]


def test_addresses(world: World) -> None:
    """A resource knows both addresses, even after the peer has left, and may set what a proxy says."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"later"))
    (request,) = world.later.requests
    host = connection.transport.getHost()
    connection.transport.getHost = connection.transport.getPeer = lambda: 1 / 0
    connection.protocol.connectionLost(GONE)
    assert (request.client.host, request.host) == ("192.0.2.7", host)
    request.setHost(b"a.example", 443, True)
    assert (request.host.port, request.isSecure()) == (443, True)


def test_head(world: World) -> None:
    """HEAD gives the head of GET, and no body."""
    response = world.connect().ask(GET.replace(b"GET", b"HEAD", 1))
    assert (response.status, response.header("content-length"), response.body) == (200, "5", b"")


def test_options(world: World) -> None:
    """OPTIONS names the methods, and grants other origins nothing."""
    response = world.connect().ask(GET.replace(b"GET", b"OPTIONS", 1))
    assert (response.status, response.header("allow"), response.body) == (204, "GET, HEAD, POST, OPTIONS", b"")
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_optionsStar(world: World) -> None:
    """OPTIONS of the server as a whole is answered; no other method takes "*"."""
    connection = world.connect()
    assert connection.ask(b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status == 204
    assert connection.ask(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n").status == 405


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_cuts(world: World, size: int) -> None:
    """However the bytes are cut, the same requests are read: with length, in chunks, without body, with an empty line before."""
    data = (
        post(b"first")
        + b"\r\n\r\n"
        + b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3;x=y\r\nond\r\n0\r\nT: u\r\n\r\n"
        + GET
    )
    connection = world.connect()
    connection.send(*[data[i : i + size] for i in range(0, len(data), size)])
    assert [r.body for r in connection.responses()] == [b"first", b"second", b"hello"]
    assert not connection.closing


def test_manyPipelined(world: World) -> None:
    """Thousands of requests in one read are answered in order, without deep recursion."""
    connection = world.connect()
    connection.send(b"".join(post(b"%d" % i) for i in range(3000)))
    assert [int(r.body) for r in connection.responses()] == list(range(3000))


def test_queryAndCookies(world: World) -> None:
    """A resource sees arguments, cookies and header values as Twisted's own request gives them."""
    world.connect().send(b"GET /later?a=1&a=%41&b HTTP/1.1\r\nHost: a\r\nCookie: c=d\r\nX-L: \xe4\r\n\r\n")
    (request,) = world.later.requests
    assert request.args == {b"a": [b"1", b"A"]}
    assert request.getCookie(b"c") == b"d"
    assert request.getHeader(b"x-l") == b"\xe4"
    assert request.fields["x-l"] == "ä"
    assert (request.path, request.uri) == (b"/later", b"/later?a=1&a=%41&b")


def test_nothingIsParsedForNobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments and cookies, of which there may be thousands, are parsed only when a resource asks for them."""
    monkeypatch.setattr("twisted_ws.web.http.request.parse_qs", None)
    monkeypatch.setattr("twisted_ws.web.http.request.HttpRequest.parseCookies", None)
    head = b"GET /echo?" + b"&".join([b"a"] * 500) + b" HTTP/1.1\r\nHost: a\r\nCookie: " + b"a=b;" * 1000 + b"\r\n\r\n"
    assert world.connect().ask(head).status == 200


def test_formIsNotParsed(world: World) -> None:
    """A form is a body like any other: it is not parsed, and a large one is not put into a file."""
    body = b"a=" + b"b" * 200_000
    connection = world.connect()
    assert connection.ask(post(body, b"Content-Type: application/x-www-form-urlencoded")).body == body


# How long a connection lives


@pytest.mark.parametrize(
    ("request_", "closes"),
    [
        (GET, False),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", True),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: Foo, CLOSE\r\n\r\n", True),
        (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", False),
        (b"GET /echo HTTP/1.0\r\nHost: a\r\n\r\n", True),
        (b"GET /echo HTTP/1.0\r\n\r\n", True),
        (b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (b"BREW /echo HTTP/1.1\r\nHost: a\r\n\r\n", False),
        (post(b"x"), False),
        (post(b"x", b"Connection: close"), True),
        (post(b"x", path=b"/nothing"), True),  # its body is not read
    ],
)
def test_persistence(world: World, request_: bytes, closes: bool) -> None:
    """A connection stays open unless either side objects or the end of the request is unknown, and the response says so."""
    connection = world.connect()
    response = connection.ask(request_)
    assert connection.closing is closes
    assert response.header("connection") == ("close" if closes else None)


def test_noKeepAlive(makeWorld: type[World]) -> None:
    """A site without keep-alive answers once and drops what follows, which may be a handshake it does not understand."""
    connection = makeWorld(options={"keepAlive": False}).connect()
    response = connection.ask(GET + GET)
    assert response.header("connection") == "close"
    assert connection.closing


def test_idle(world: World) -> None:
    """Between two requests, a connection may be idle for the keep-alive time, and is then closed silently."""
    connection = world.connect()
    connection.ask(GET)
    world.clock.advance(59)
    connection.ask(GET)
    world.clock.advance(59)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.closing
    assert connection.take() == b""


def test_arrives(world: World) -> None:
    """A connection that another process had between two requests is idle, and goes on with what had come of the next one."""
    connection = world.connect()
    connection.protocol.arrive(b"")
    world.clock.advance(59)
    assert not connection.closing
    assert connection.ask(GET).body == b"hello"
    other = world.connect()
    other.protocol.arrive(GET[:20])
    assert other.ask(GET[20:]).body == b"hello"
    last = world.connect()
    last.protocol.arrive(post(b"x"))
    turn(world.clock)
    assert [each.body for each in last.responses()] == [b"x"]


# Heads


BAD_HEADS = [
    (b"GET /echo HTTP/1.1\r\n\r\n", 400),  # no Host
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nA: b\x7fc\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n", 400),
    (b"GET /echo HTTP/1.1\nHost: a\n\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\n\r\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: 1\n\n", 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nX: 1\r\r", 400),
    (b"GET /echo\r\n\r\n", 400),
    (b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET //evil/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET http://a//evil/echo HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /echo HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"PRI * HTTP/2.0\r\n\r\n", 505),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS on a plain port
    (b"\x00" * 10, 400),
    (b"\r\r", 400),
    (b" GET /echo HTTP/1.1\r\n", 400),
    (b"GET /" + b"a" * 8192, 414),
    (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /echo?" + b"&" * 500 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 17_000, 431),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 17_000 + b"\r\n\r\n", 431),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"1" * 5000 + b"\r\n\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\n\r\n", 411),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n", 413),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnope\r\n", 400),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n", 413),
    (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 200-maybe\r\n\r\n", 417),
]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("data", "status"), BAD_HEADS)
def test_badRequests(world: World, data: bytes, status: int, whole: bool, logged: list[Any]) -> None:
    """A bad request gets its status at once, as JSON, and one log line without a traceback; then the connection ends."""
    connection = world.connect()
    if whole:
        connection.send(data + GET)
    else:
        for i in range(len(data)):
            connection.send(data[i : i + 1])
    (response,) = connection.responses()
    assert response.status == status
    assert response.header("content-type") == "application/json"
    assert response.header("connection") == "close"
    assert set(response.json) == {"error", "message"}
    assert connection.closing
    lines = [event for event in logged if "status" in event]
    assert [line["status"] for line in lines] == [status]
    assert not [event for event in logged if "log_failure" in event]


def test_headBound(world: World) -> None:
    """A head that never ends is not kept beyond its limit."""
    connection = world.connect()
    connection.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nA: ")
    for _ in range(100):
        connection.send(b"b" * 65536)
    assert [r.status for r in connection.responses()] == [431]
    assert world.site.intake.total == 0


def test_headDeadline(world: World) -> None:
    """A head that trickles in is cut off ten seconds after the connection, however many bytes come."""
    connection = world.connect()
    for byte in b"GET /echo":
        connection.send(bytes([byte]))
        world.clock.advance(1)
    world.clock.advance(1)
    (response,) = connection.responses()
    assert (response.status, response.json["error"]) == (408, "timeout")
    assert connection.closing


def test_secondHeadDeadline(world: World) -> None:
    """The next head on a connection has ten seconds from its first byte, not the rest of the keep-alive time."""
    connection = world.connect()
    connection.ask(GET)
    world.clock.advance(30)
    connection.send(b"GET /")
    world.clock.advance(9)
    connection.send(b"e")
    world.clock.advance(1)
    assert [r.status for r in connection.responses()] == [408]


def test_silence(world: World) -> None:
    """A client that sends nothing, or only empty lines, is closed silently after ten seconds."""
    silent, empty = world.connect(), world.connect()
    for _ in range(10):
        empty.send(b"\r\n\r\n")
        world.clock.advance(1)
    assert silent.closing
    assert empty.closing
    assert silent.take() == empty.take() == b""


def test_lineFeedAcrossReads(world: World) -> None:
    """A CRLF that is split between two reads is not a lone line feed."""
    connection = world.connect()
    connection.send(b"GET /echo HTTP/1.1\r", b"\nHost: a\r", b"\n\r", b"\n")
    assert [r.status for r in connection.responses()] == [200]


def test_headAfterHead(world: World) -> None:
    """A short head that comes in one read with the end of a long one is found."""
    connection = world.connect()
    connection.send(GET.replace(b"\r\n\r\n", b"\r\nA: %s\r\n\r" % (b"b" * 200)), b"\n" + GET)
    assert [r.status for r in connection.responses()] == [200, 200]


def test_requestAfterRefusal(world: World) -> None:
    """A refused request whose end is known does not prevent an answer to the next one."""
    connection = world.connect()
    connection.send(GET.replace(b"\r\n\r\n", b"\r\nExpect: tea\r\n\r\n") + GET.replace(b"echo", b"x") + GET)
    assert [r.status for r in connection.responses()] == [417, 404, 200]


# Methods and paths


@pytest.mark.parametrize("method", [b"BREW", b"DELETE", b"TRACE", b"CONNECT", b"get", b"PROPFIND"])
def test_methods(world: World, method: bytes) -> None:
    """A method that a resource does not take is a 405 that names those it takes; TRACE is refused."""
    response = world.connect().ask(GET.replace(b"GET", method, 1))
    assert (response.status, response.header("allow")) == (405, "GET, HEAD, POST, OPTIONS")


@pytest.mark.parametrize("path", [b"/", b"/nothing", b"/echo/more", b"/echo/", b"/..", b"/%2e%2e", b"/%ff", b"/" + b"/a" * 3000])
def test_paths(world: World, path: bytes) -> None:
    """An unknown path is a 404."""
    if path.startswith(b"//"):
        path = path[1:]
    response = world.connect().ask(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
    assert (response.status, response.json["error"]) == (404, "not-found")


def test_directory(world: World) -> None:
    """An inner node of the tree is a 404."""
    world.site.resource.putChild(b"inner", type(world.site.resource)())
    assert world.connect().ask(b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n").status == 404


# Bodies


def test_bodyDeadline(world: World) -> None:
    """A body that trickles in is cut off thirty seconds after its head, however many bytes come."""
    connection = world.connect()
    connection.send(post(b"x" * 100)[:-100])
    for _ in range(29):
        world.clock.advance(1)
        connection.send(b"x")
    assert connection.take() == b""
    world.clock.advance(1)
    assert [r.status for r in connection.responses()] == [408]
    assert connection.closing


@pytest.mark.parametrize("how", ["standing still", "unread"])
def test_ourDelay(world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """No deadline counts time in which the server stalls or has not read its input: head, body, next head, answer."""
    unread: set[Any] = set()
    monkeypatch.setattr(connectionModule, "hasUnread", unread.__contains__)
    head, body, idle = world.connect(), world.connect(), world.connect()
    head.send(b"GET /")
    body.send(post(b"xx")[:-1])
    idle.ask(GET)
    if how == "standing still":
        world.clock.advance(5)
        world.clock.jump(3600)
        world.clock.advance(1)
    else:
        unread |= {each.transport for each in (head, body, idle)}
        world.clock.advance(100)
    assert not head.take() + body.take() + idle.take()
    assert not head.closing | body.closing | idle.closing
    unread.clear()
    world.clock.advance(100)
    assert [r.status for r in head.responses()] == [408]
    assert [r.status for r in body.responses()] == [408]
    assert idle.closing


def test_bodyWhileStreaming(makeWorld: type[World]) -> None:
    """A body without a length is refused at the chunk that goes over the limit, and is not kept."""
    connection = makeWorld(limits=Limits(body=1000)).connect()
    connection.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.send(b"1f4\r\n" + b"a" * 500 + b"\r\n")
    assert connection.take() == b""
    connection.send(b"1f5\r\n")
    assert [r.status for r in connection.responses()] == [413]


def test_continue(world: World) -> None:
    """A client that waits for a 100 gets it once, after the resource has agreed."""
    connection = world.connect()
    head = post(b"hello", b"Expect: 100-Continue", path=b"/asks")[:-5]
    connection.send(head)
    assert connection.take() == b""
    world.asks.admissions[0].callback(None)
    assert connection.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert connection.ask(b"hello").body == b"hello"


def test_noContinue(world: World) -> None:
    """No 100 is sent to an HTTP/1.0 client, for a body that is here already, or without a body."""
    connection = world.connect()
    assert connection.ask(post(b"hello", b"Expect: 100-continue")).body == b"hello"
    assert connection.ask(b"GET /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").body == b"hello"
    connection.send(b"POST /echo HTTP/1.0\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
    assert connection.take() == b""
    assert connection.ask(b"x").body == b"x"


def test_refusedBeforeContinue(world: World) -> None:
    """A refusal replaces the 100, and what the peer sends anyway is dropped, not read as a request."""
    connection = world.connect()
    connection.send(post(b"hello", b"Expect: 100-continue", path=b"/asks")[:-5])
    world.asks.admissions[0].errback(HttpError(401, "Who are you?", headers={"WWW-Authenticate": ("A", "B")}))
    (response,) = connection.responses()
    assert (response.status, response.headers["www-authenticate"]) == (401, ["A", "B"])
    assert connection.closing
    connection.send(GET)
    assert connection.take() == b""


def test_readingPausesWhileAsked(world: World) -> None:
    """While a resource decides, what the peer sends is kept up to a bound, and reading pauses; then all of it is used."""
    connection = world.connect()
    body = b"x" * 100_000
    data = post(body, path=b"/asks")
    connection.send(data[:60_000])
    assert connection.transport.producerState == "paused"
    world.asks.admissions[0].callback(None)
    assert connection.transport.producerState == "producing"
    assert connection.ask(data[60_000:]).body == body


def test_pauseThatIsOver(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a finaliser ends the wait in the middle of the pause, reading continues."""
    connection = world.connect()
    body = b"x" * 100_000
    data = post(body, path=b"/asks")
    pause = connection.transport.pauseProducing

    def admitted() -> None:
        world.asks.admissions[0].callback(None)
        pause()

    monkeypatch.setattr(connection.transport, "pauseProducing", admitted)
    connection.send(data[:60_000])
    assert connection.transport.producerState == "producing"
    assert connection.ask(data[60_000:]).body == body


def test_peerLeavesWhileAsked(world: World, logged: list[Any]) -> None:
    """When the peer leaves while a resource decides, the decision is cancelled, and nothing is written or logged."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"asks"))
    connection.protocol.connectionLost(GONE)
    assert world.asks.cancelled == 1
    assert connection.take() == b""
    assert world.clock.getDelayedCalls() == []
    assert not [event for event in logged if "log_failure" in event]


def test_admissionFails(world: World, logged: list[Any]) -> None:
    """If a resource fails while deciding, the answer is a 500 that reveals nothing."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"asks"))
    world.asks.admissions[0].errback(RuntimeError("secret"))
    (response,) = connection.responses()
    assert response.status == 500
    assert b"secret" not in response.body
    assert [event["log_failure"].value.args for event in logged if "log_failure" in event] == [("secret",)]
    assert not connection.closing


def test_lateAdmission(world: World) -> None:
    """A decision that comes after the connection was dropped changes nothing."""
    for outcome in (None, HttpError(401, "Who are you?")):
        connection = world.connect()
        connection.send(post(b"x", path=b"/asks"))
        connection.protocol.drop()
        admission = world.asks.admissions[-1]
        admission.callback(None) if outcome is None else admission.errback(outcome)
        assert connection.take() == b""


# Resources


def foreign(world: World, query: bytes = b"", method: bytes = b"GET") -> tuple[Connection, Any]:
    connection = world.connect()
    connection.send(b"%s /foreign%s HTTP/1.1\r\nHost: a\r\n\r\n" % (method, query))
    return connection, connection.responses((0,) if method == b"HEAD" else ())


def test_foreignResource(world: World) -> None:
    """Any Twisted resource can be served; a header that names software is left out."""
    _, (response,) = foreign(world)
    assert (response.status, response.body, response.header("server")) == (200, b"foreign", None)
    _, (response,) = foreign(world, method=b"HEAD")
    assert (response.status, response.body, response.header("content-length")) == (200, b"", "7")


def test_foreignMethod(world: World) -> None:
    """A method that a Twisted resource does not take is a 405 in JSON."""
    _, (response,) = foreign(world, method=b"PURGE")
    assert (response.status, response.json["error"]) == (405, "method-not-allowed")
    assert sorted(str(response.header("allow")).split(", ")) == ["GET", "HEAD"]


@pytest.mark.parametrize("query", [b"?boom=1", b"?text=1"])
def test_resourceRaises(world: World, query: bytes, logged: list[Any]) -> None:
    """A resource that raises, or renders anything but bytes, is a 500 that reveals nothing; the log has the traceback."""
    connection, (response,) = foreign(world, query)
    assert response.status == 500
    assert response.json == {"error": "internal-error", "message": "The server failed to answer; its log says why."}
    assert len([event for event in logged if "log_failure" in event]) == 1
    assert connection.ask(GET).status == 200


def test_resourceRefuses(world: World) -> None:
    """Any resource may raise an HttpError."""
    _, (response,) = foreign(world, b"?error=1")
    assert (response.status, response.json) == (403, {"error": "forbidden", "message": "Not for you."})


def test_halfAnswer(world: World, logged: list[Any]) -> None:
    """A resource that raises in the middle of its response ends the connection at once, so it is not taken for complete."""
    connection = world.connect()
    connection.send(b"GET /foreign?half=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert connection.dropped
    assert connection.take().endswith(b"4\r\nhalf\r\n")
    assert len([event for event in logged if "log_failure" in event]) == 1


def test_async(world: World) -> None:
    """While a resource takes its time, later requests wait in a bounded buffer, reading pauses, and no deadline runs."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"later") + GET * 600)
    assert connection.transport.producerState == "paused"
    world.clock.advance(1000)
    assert connection.take() == b""
    (request,) = world.later.requests
    request.answer(b"late")
    connection.settle()
    assert [r.body for r in connection.responses()] == [b"late"] + [b"hello"] * 600
    assert connection.transport.producerState == "producing"


@pytest.mark.parametrize("last", ["", "part", "leaves"])
def test_pipelineInTurns(world: World, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """Many requests in one read are answered in order over many turns of the reactor, with reading paused in between."""

    def slow(self: Any, request: Any) -> bytes:
        world.clock.rightNow += TURN * 0.26
        return request.uri

    monkeypatch.setattr(Echo, "render_GET", slow)
    connection = world.connect()
    requests = [b"GET /echo?%d&%s HTTP/1.1\r\nHost: a\r\n\r\n" % (number, b"x" * 1000) for number in range(100)]
    connection.protocol.dataReceived(b"".join(requests) + (b"GET" if last == "part" else b""))
    assert connection.transport.producerState == "paused"
    responses = connection.responses()
    assert len(responses) == 4
    if last == "leaves":
        connection.protocol.connectionLost(GONE)
        world.clock.advance(0)
        assert connection.responses() == []
    else:
        assert connection.settle() in (24, 24 + 1)  # the wheel may have one for itself
        assert connection.transport.producerState == "producing"
        responses += connection.responses()
        assert [response.body.partition(b"&")[0] for response in responses] == [b"/echo?%d" % number for number in range(100)]


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
# Whatever makes the most work of the fewest bytes, and how many of it one peer sends.
WORST = [
    (CHUNKED + b"1\r\nx\r\n" * 17_000, 1),
    (CHUNKED + b"1;a=b\r\nx\r\n" * 17_000, 1),
    (CHUNKED + b"0\r\n" + b"a:b\r\n" * 17_000 + b"\r\n", 1),
    ((CHUNKED + b"0\r\n\r\n"), 400),
    (GET, 400),
    (post(b""), 400),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\n" + b"a:\xe4\r\n" * 98 + b"\r\n", 200),
    (b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: " + b"," * 16_000 + b"\r\n\r\n", 20),
    (b"BREW /no HTTP/1.1\r\nHost: a\r\n\r\n", 400),
]


@pytest.mark.parametrize(("unit", "count"), WORST)
def test_stepsOfOneTurn(world: World, unit: bytes, count: int) -> None:
    """Whatever a dozen peers send at once, one turn of the reactor has a bounded number of steps, for all of them together."""
    turns, connections = world.site.turns, [world.connect() for _ in range(12)]
    most = 0
    for connection in connections:  # which is all in one turn: none of it has a bound of its own
        connection.protocol.dataReceived(unit * count)
    while True:
        most = max(most, STEPS - turns.left)
        if not turn(world.clock):
            break
    largest = QUANTUM + 2 * REQUEST + len(unit) // HEAD_BYTES  # who is last may go over
    assert STEPS <= most <= STEPS + largest
    for connection in connections:
        connection.settle()
        answers = connection.responses()
        assert answers
        assert len(answers) == count or connection.closing


def test_finaliserWhileItWaits(world: World) -> None:
    """Where a finaliser has the reactor turn while a connection is put behind others, its requests are answered all the same."""
    came = 0
    for number in MOMENTS:
        connection = world.connect()
        world.site.turns.left = 0
        with collectAt(number, lambda connection=connection: turn(connection.clock)) as moment:
            kept: list[list[None]] = [[], [], [], []]  # so that objects that go at once count, too
            connection.protocol.dataReceived(GET)
        del kept
        came += moment.came
        connection.settle()
        assert [response.body for response in connection.responses()] == [b"hello"], f"at moment {number}"
        if not moment.came:
            break
    assert came


def test_turnsAreShared(world: World) -> None:
    """A small request does not wait for all that others have sent: each has its share of a turn, one after the other."""
    for _ in range(12):
        world.connect().protocol.dataReceived(CHUNKED + b"1\r\nx\r\n" * 10_000)
    good = world.connect()
    good.protocol.dataReceived(GET)
    turn(world.clock)
    assert [response.status for response in good.responses()] == [200]


def test_smallChunks(world: World) -> None:
    """Small chunks are charged like small fragments, so that a body of them is refused long before it has many."""
    connection = world.connect()
    assert connection.ask(CHUNKED + b"1\r\nx\r\n" * 14_000 + b"0\r\n\r\n").body == b"x" * 14_000
    connection.send(CHUNKED + b"1\r\nx\r\n" * 17_000)
    assert [response.status for response in connection.responses()] == [413]
    whole = b"".join(b"2000\r\n%b\r\n" % (b"x" * 8192) for _ in range(128))
    assert len(world.connect().ask(CHUNKED + whole + b"0\r\n\r\n").body) == 2**20


def test_deadlineWhileItWaits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose request was complete in time is not cut off because others are served first."""
    good, others = world.connect(), [world.connect() for _ in range(3)]
    quick = Echo.render_GET

    def slow(self: Any, request: Any) -> bytes:
        world.clock.rightNow += 5
        return quick(self, request)

    monkeypatch.setattr(Echo, "render_GET", slow)
    for other in others:
        other.protocol.dataReceived(GET * 4)
    good.protocol.dataReceived(GET)
    while not (answers := good.responses()):
        turn(world.clock)
    assert world.clock.seconds() > world.site.limits.headDeadline
    assert [answer.status for answer in answers] == [200]


def test_peerLeavesWhileAnswered(world: World, logged: list[Any]) -> None:
    """An answer for a peer that has left is dropped quietly, and so is an error; a bug is still logged."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"later"))
    (request,) = world.later.requests
    finished = request.notifyFinish()
    connection.protocol.connectionLost(GONE)
    assert finished.addErrback(lambda failure: failure.check(ConnectionDone)).result is ConnectionDone
    request.answer(b"late")
    request.processingFailed(Failure(HttpError(400, "No.")))
    assert not [event for event in logged if "log_failure" in event]
    request.processingFailed(Failure(RuntimeError("bug")))
    assert len([event for event in logged if "log_failure" in event]) == 1
    assert connection.take() == b""


def test_dropWhileAnswered(world: World) -> None:
    """A request that finishes after its connection was dropped has no effect."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"later") + GET)
    connection.protocol.drop()
    world.later.requests[0].answer(b"late")
    assert b"hello" not in connection.take()
    connection.protocol.connectionLost(GONE)
    connection.protocol.drop()
    connection.protocol.loseConnection()
    assert world.clock.getDelayedCalls() == []


def test_bugInside(world: World, monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    """A bug of ours ends one connection, with a traceback in the log, and does not reach the reactor."""
    monkeypatch.setattr("twisted_ws.web.http.connection.bodyOf", lambda head, limits: 1 / 0)
    connection = world.connect()
    connection.send(GET)
    assert connection.dropped
    assert len([event for event in logged if "log_failure" in event]) == 1


# Peers that do not read, and peers that do not stop sending


def test_slowReader(world: World) -> None:
    """While the peer does not take its responses no further request is answered; after thirty seconds it is dropped."""
    connection = world.connect()
    connection.protocol.pauseProducing()
    connection.send(GET)
    assert connection.take() == b""
    world.clock.advance(29)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.dropped


def test_slowReaderFloods(world: World) -> None:
    """A peer that takes no answers is not read from while one of them waits, and is dropped after thirty seconds."""
    connection = world.connect()
    write = connection.transport.write

    def full(data: bytes) -> None:
        write(data)
        connection.protocol.pauseProducing()

    connection.transport.write = full
    connection.send(GET)
    assert connection.transport.producerState == "paused"
    world.clock.advance(29)
    assert not connection.dropped
    connection.transport.write = write
    connection.protocol.resumeProducing()
    assert connection.transport.producerState == "producing"
    connection.transport.write = full
    connection.send(GET + GET)
    assert connection.transport.producerState == "paused"
    assert len(connection.responses()) == 2
    world.clock.advance(30)
    assert connection.dropped


def test_slowReaderWhileBodyComes(world: World) -> None:
    """Reading that stopped in the middle of a request resumes once the peer has taken the earlier answers."""
    connection = world.connect()
    whole = post(b"x", path=b"/later")
    connection.send(whole[:-1])
    connection.protocol.pauseProducing()
    assert connection.transport.producerState == "paused"
    connection.send(whole[-1:])
    (request,) = world.later.requests
    connection.protocol.resumeProducing()
    request.answer(b"late")
    assert connection.transport.producerState == "producing"
    assert [r.body for r in connection.responses()] == [b"late"]


def test_slowReaderGoesOn(world: World) -> None:
    """When the peer takes its responses after all, waiting requests are answered, and the next head gets its full time."""
    connection = world.connect()
    connection.ask(GET)
    connection.protocol.pauseProducing()
    connection.send(GET)
    world.clock.advance(29)
    connection.protocol.resumeProducing()
    assert [r.body for r in connection.responses()] == [b"hello"]
    world.clock.advance(59)
    assert not connection.closing
    world.clock.advance(1)
    assert connection.closing


def test_slowReaderSendsBody(world: World) -> None:
    """A body that comes while earlier responses wait still has its deadline."""
    connection = world.connect()
    connection.send(post(b"xx")[:-1])
    connection.protocol.pauseProducing()
    connection.protocol.resumeProducing()
    world.clock.advance(30)
    assert [r.status for r in connection.responses()] == [408]


def test_slowReaderIsAdmitted(world: World) -> None:
    """A decision that comes while the peer does not read does not make the server resume reading."""
    connection = world.connect()
    connection.send(post(b"x" * 20_000, path=b"/asks")[:-1])
    assert connection.transport.producerState == "paused"
    connection.protocol.pauseProducing()
    world.asks.admissions[0].callback(None)
    assert connection.transport.producerState == "paused"
    connection.protocol.resumeProducing()
    assert connection.transport.producerState == "producing"
    assert connection.ask(b"x").body == b"x" * 20_000


def test_slowReaderIsAnswering(world: World) -> None:
    """A response that waits for its peer in the middle goes on when the peer takes it."""
    connection = world.connect()
    connection.send(GET.replace(b"echo", b"later"))
    connection.protocol.pauseProducing()
    connection.protocol.resumeProducing()
    world.clock.advance(1000)
    world.later.requests[0].answer(b"late")
    assert [r.body for r in connection.responses()] == [b"late"]


def test_closeWaitsForReader(world: World) -> None:
    """A connection closes when its peer has taken the last response, and is dropped if it does not."""
    for taken in (True, False):
        connection = world.connect()
        connection.send(b"GET /later HTTP/1.0\r\n\r\n")
        connection.protocol.pauseProducing()
        world.later.requests[-1].answer(b"late")
        assert not connection.closing
        if taken:
            connection.protocol.resumeProducing()
            assert connection.transport.disconnecting
            assert not connection.dropped
        else:
            world.clock.advance(30)
            assert connection.dropped


def test_lingerBound(world: World) -> None:
    """A client that goes on sending after the last response is read from up to a bound, and then dropped."""
    connection = world.connect()
    connection.send(post(b"").replace(b"Content-Length: 0", b"Content-Length: 9999999"))
    for _ in range(world.site.limits.lingerBytes // 2**18):
        assert not connection.dropped
        connection.send(b"x" * 2**18)
    connection.send(b"x")
    assert connection.dropped
    assert [r.status for r in connection.responses()] == [413]


def test_linger(world: World) -> None:
    """Input after the last response is dropped, and five seconds later so is the connection."""
    connection = world.connect()
    connection.send(post(b"", b"X: y").replace(b"Content-Length: 0", b"Content-Length: 9999999"))
    assert [r.status for r in connection.responses()] == [413]
    for _ in range(5):
        assert not connection.dropped
        connection.send(b"x" * 100_000)
        world.clock.advance(1)
    assert connection.dropped
    assert connection.take() == b""
    assert world.site.intake.total == 0


@implementer(IHalfCloseableDescriptor)
class HalfCloseable(StringTransport):
    """A transport that can end its writing side alone, as TCP can."""

    ended = False

    def loseWriteConnection(self) -> None:
        self.ended = True

    def connectionLost(self, reason: Failure) -> None:
        self.connected = False
        self.protocol.connectionLost(reason)


def halfClosed(world: World, data: bytes) -> HalfCloseable:
    """Return the transport of a peer that has sent this, and ended its side."""
    protocol, transport = world.site.buildProtocol(None), HalfCloseable()
    transport.protocol = protocol
    protocol.makeConnection(transport)
    protocol.dataReceived(data)
    IHalfCloseableProtocol(protocol).readConnectionLost()
    return transport


def test_halfClosed(world: World) -> None:
    """A client that ends its side is answered, then closed; half a request ends at once, and so does a long poll."""
    later = halfClosed(
        world, b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx" + b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
    )
    assert (later.connected, later.disconnecting) == (True, False)
    world.later.requests[0].answer(b"late")
    assert later.value().count(b"HTTP/1.1 200") == 2
    assert (later.connected, later.disconnecting) == (True, True)  # when all is sent
    idle = halfClosed(world, b"")
    assert (idle.disconnecting, idle.value()) == (True, b"")
    for half in (
        b"GET /echo HTTP/1.1",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx",
        b"GET /later HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        transport = halfClosed(world, half)
        assert not (transport.connected and not transport.disconnecting)
        assert transport.value() == b""
    assert [request.gone for request in world.later.requests] == [False, True]


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (connectionModule.HEAD_TAKEN, connectionModule.ANSWERING),
        (connectionModule.BODY_WANTED, connectionModule.BODY),
        (connectionModule.ANSWER_BEGUN, connectionModule.ANSWERING),
        (connectionModule.ANSWERED, connectionModule.HEAD),
        (connectionModule.UPGRADED, connectionModule.ANSWERING),
        (connectionModule.ENDED, connectionModule.LOST),
    ],
)
def test_impossible(event: Any, state: Any) -> None:
    """A request during an answer, a second answer, or an end after the connection was lost is reported as a bug."""
    with pytest.raises(KeyError):
        event[state]


def test_halfClose(world: World) -> None:
    """The last response ends the writing side only, and reading goes on: else a reset could overtake the response."""
    protocol, transport = world.site.buildProtocol(None), HalfCloseable()
    protocol.makeConnection(transport)
    protocol.dataReceived(b"GET /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + b"x" * 20_000)
    assert transport.producerState == "paused"
    world.later.requests[0].answer(b"late")
    assert (transport.ended, transport.disconnecting, transport.producerState) == (True, False, "producing")


# The log


def test_log(world: World, logged: list[Any]) -> None:
    """A refusal is logged in one line with who, what and where, without control characters and without the query."""
    world.connect().send(b"GET /a%1B[31m?token=secret HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n")
    (event,) = [event for event in logged if "status" in event]
    text = event["log_format"].format(**event)
    assert text == "192.0.2.7: 404 not-found: There is nothing here. (GET /a%1B[31m)"
    assert event["log_level"].name == "info"


def test_logBesideAnOlderObserver(world: World, logged: list[Any]) -> None:
    """An observer of Twisted's older log, which rewrites the event for itself, leaves the line whole for the others."""
    older = LegacyLogObserverWrapper(lambda event: None)
    globalLogPublisher.addObserver(older)
    try:
        world.connect().send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
    finally:
        globalLogPublisher.removeObserver(older)
    (event,) = [event for event in logged if "status" in event]
    older(event)  # in whatever order they come
    assert event["log_format"].format(**event) == "192.0.2.7: 404 not-found: There is nothing here. (GET /a)"


def test_logIsBounded(world: World, logged: list[Any]) -> None:
    """A thousand bad requests are not a thousand lines."""
    for _ in range(1000):
        world.connect().send(b"\x00")
    assert len([event for event in logged if "status" in event]) == 10


def test_noAccessLog(world: World, logged: list[Any]) -> None:
    """Good requests are not logged, and no timer runs for that."""
    world.site.doStart()
    world.connect().ask(GET)
    assert logged == []
    assert len(world.clock.getDelayedCalls()) == 1
    world.site.doStop()


# Anything


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from([GET, post(b"body"), b"\r\n", b"\r\n\r\n", b"Host: a\r\n", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n"]),
            st.sampled_from([b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"]),
        ),
        max_size=30,
    ),
    st.integers(1, 100),
)
@settings(max_examples=300)
def test_anyBytes(parts: list[bytes], size: int) -> None:
    """Whatever comes, however it is cut, nothing raises, memory is bounded, and only whole responses go out."""
    world = World(limits=Limits(head=500, requestLine=200, body=1000))
    connection = world.connect()
    data = b"".join(parts)
    for i in range(0, len(data), size):
        connection.send(data[i : i + size])
        assert world.site.intake.total <= 500 + size + 1000
    assert {r.status for r in readResponses(connection.take())} <= {200, 400, 404, 405, 411, 413, 414, 431, 505}
    connection.protocol.connectionLost(GONE)
    assert world.clock.getDelayedCalls() == []


@pytest.mark.exhaustive
def test_sameForAllCuts(world: World) -> None:
    """The answers to a stream of bytes do not depend on how it was cut."""
    chance = random.Random(7)
    parts = [GET, post(b"b" * 50), b"\r\n", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", b"\n"]
    for _ in range(200):
        data = b"".join(chance.choice(parts) for _ in range(6))
        seen = set()
        for size in (1, 3, 20, len(data)):
            connection = world.connect()
            connection.send(*[data[i : i + size] for i in range(0, len(data), size)])
            seen.add(tuple((r.status, r.body) for r in connection.responses()))
        assert len(seen) == 1


def test_syncFailureOfAsk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HttpResource may also fail at once, by a Deferred that has failed."""
    monkeypatch.setattr(world.asks, "admit", lambda request: fail(HttpError(403, "No.")))
    assert world.connect().ask(GET.replace(b"echo", b"asks")).status == 403


def test_intake(world: World) -> None:
    """A body counts towards the unhandled input of all peers from its first byte to the answer; so do incomplete heads."""
    connection, other = world.connect(), world.connect()
    connection.send(post(b"b" * 50_000, path=b"/later")[:30_000])
    assert 29_000 < world.site.intake.total <= 30_000
    connection.send(post(b"b" * 50_000, path=b"/later")[30_000:])
    assert world.site.intake.total == 50_000
    world.later.requests[0].answer(b"done")
    connection.settle()
    assert world.site.intake.total == 0
    other.send(GET[:10])
    assert world.site.intake.total == 10
    other.send(GET[10:])
    assert world.site.intake.total == 0
    other.send(post(b"b" * 50_000)[:30_000])
    other.protocol.connectionLost(Failure(ConnectionDone()))
    assert world.site.intake.total == 0


def test_tooMuchTogether(makeWorld: type[World]) -> None:
    """When all peers together send too much, the one that has sent the most is answered with 503 at once."""
    world = makeWorld(Limits(maxReceiveBufferTotal=100_000))
    some = [world.connect() for _ in range(3)]
    for connection, size in zip(some, (20_000, 40_000, 30_000), strict=True):
        connection.send(post(b"b" * 50_000)[:size])
    some[0].send(b"b" * 15_000)
    (response,) = some[1].responses()
    assert (response.status, response.header("retry-after")) == (503, "5")
    assert some[1].closing
    assert [connection.take() for connection in (some[0], some[2])] == [b"", b""]
    assert 60_000 < world.site.intake.total < 65_000


def test_unreadAnswers(makeWorld: type[World]) -> None:
    """Unread answers count towards what waits for all peers; over that limit, the largest is dropped."""
    world = makeWorld(Limits(maxSendBufferTotal=450_000))
    some = [world.connect() for _ in range(3)]
    with capturedLogs() as events:
        for connection, size in zip(some, (100_000, 300_000, 1), strict=True):
            # As a transport does when its buffer is full.
            connection.transport.write = lambda data, connection=connection: connection.protocol.pauseProducing()  # type: ignore[method-assign]
            connection.send(post(b"b" * size))
    assert [connection.dropped for connection in some] == [False, True, False]
    assert [(event["event"], event["path"]) for event in events] == [("request.unread", "/echo")]
    assert 160_000 < world.site.backlog.total < 170_000
    for connection in (some[0], some[2]):
        connection.protocol.resumeProducing()
    assert world.site.backlog.total == 0
    some[0].send(post(b"b" * 100_000))
    assert world.site.backlog.total > 100_000
    some[0].protocol.connectionLost(Failure(ConnectionDone()))
    assert world.site.backlog.total == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("waits", [False, True], ids=["kernel", "transport"])
@pytest.mark.parametrize("took", ["nothing", "little", "all"])
def test_readsSlowly(world: World, behind: Behind, waits: bool, took: str) -> None:
    """A client that reads an answer slowly gets all of it; one that stalls for long, or has all, is dropped."""
    limits, connection = world.limits, world.connect()
    connection.transport.fileno = behind.writing.fileno  # type: ignore[attr-defined]
    if waits:
        connection.transport.write = lambda data: connection.protocol.pauseProducing()  # type: ignore[method-assign]
    connection.send(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    for wait in (limits.writeDeadline if waits else limits.lingerDeadline, limits.writeDeadline):
        behind.read(2 * SLICE)
        world.clock.advance(wait + 1)
        assert not connection.dropped
    behind.read(2 * SLICE)
    behind.settle()  # what the kernel sends on later would be progress, too
    world.clock.advance(limits.writeDeadline + 1)
    assert not connection.dropped
    behind.read({"nothing": 0, "little": SLICE // 2 if waits else 0, "all": 10_000_000}[took])
    world.clock.advance(limits.writeDeadline + 1)
    assert connection.dropped
