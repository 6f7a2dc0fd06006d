"""A site on memory transports and a fake clock, with a reader of responses that shares no code with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.memory import SteadyClock
from twisted_ws.limits import Limits
from twisted_ws.web.http.errors import HttpError
from twisted_ws.web.http.resource import Directory, HttpResource
from twisted_ws.web.http.site import HttpSite
from twisted_ws.wire.websocket.runtime import Runtime


@dataclass
class Response:
    """One response."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """All values of one header."""
        return ", ".join(self.headers[name]) if name in self.headers else None


def readResponses(data: bytes, heads: tuple[int, ...] = ()) -> list[Response]:
    """Split what a server sent into responses; `heads` are the numbers of those that answer HEAD. Anything left over fails."""
    responses: list[Response] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        lines = head.decode("latin-1").split("\r\n")
        version, status, phrase = lines[0].split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0")
        assert phrase
        headers: dict[str, list[str]] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        length = int(headers.get("content-length", ["0"])[0])
        if len(responses) in heads:
            length = 0
        assert len(data) >= length
        responses.append(Response(int(status), headers, data[:length]))
        data = data[length:]
    return responses


def turn(clock: Any) -> bool:
    """Let the reactor turn once, as a real one does: calls that are due are made, and those they make wait for the next turn."""
    due = [call for call in clock.calls if call.getTime() <= clock.seconds()]
    for call in due:
        if call.active():
            clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
    return bool(due)


class Connection:
    """One connection to a site, as its peer sees it."""

    def __init__(self, site: HttpSite, address: str = "192.0.2.7") -> None:
        self.clock: Any = site.reactor
        peer = IPv4Address("TCP", address, 50000)
        self.transport = StringTransport(peerAddress=peer)
        self.protocol = site.buildProtocol(peer)
        self.protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> None:
        """Send bytes, each piece as one read; then the reactor turns until nothing waits for its turn."""
        for piece in pieces:
            self.protocol.dataReceived(piece)
        self.settle()

    def settle(self) -> int:
        """Let the reactor turn until nothing waits for its turn, and return how many turns that took."""
        turns = 0
        while turn(self.clock):
            turns += 1
        return turns

    def take(self) -> bytes:
        """Return what has come back since the last time."""
        data = self.transport.value()
        self.transport.clear()
        return data

    def responses(self, heads: tuple[int, ...] = ()) -> list[Response]:
        """Return the responses since the last time."""
        return readResponses(self.take(), heads)

    def ask(self, *pieces: bytes) -> Response:
        """Send a request and return its one response."""
        self.send(*pieces)
        (response,) = self.responses((0,) if pieces[0].startswith(b"HEAD") else ())
        return response

    @property
    def closing(self) -> bool:
        """Whether the server has closed its side, or dropped the connection."""
        return self.transport.disconnecting or self.dropped

    @property
    def dropped(self) -> bool:
        """Whether the server has dropped the connection."""
        return bool(self.transport.disconnected)


class Echo(HttpResource):
    """Answers with the body of the request."""

    allowedMethods = (b"GET", b"HEAD", b"POST", b"OPTIONS")

    def render_GET(self, request: Any) -> bytes:
        return b"hello"

    def render_POST(self, request: Any) -> bytes:
        return request.content.read()


class Later(HttpResource):
    """Answers when the test says so."""

    allowedMethods = (b"GET", b"HEAD", b"POST")

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET

    render_POST = render_GET


class Asks(Echo):
    """Admits a request when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.admissions: list[Deferred[None]] = []
        self.cancelled = 0

    def admit(self, request: Any) -> Deferred[None]:
        super().admit(request)
        self.admissions.append(Deferred(self._cancel))
        return self.admissions[-1]

    def _cancel(self, deferred: Deferred[None]) -> None:
        self.cancelled += 1


class Foreign(Resource):
    """A resource that knows nothing of this package."""

    isLeaf = True

    def render_GET(self, request: Any) -> Any:
        if b"boom" in request.args:
            raise RuntimeError("the password is hunter2")
        if b"text" in request.args:
            return "text"
        if b"half" in request.args:
            request.write(b"half")
            raise RuntimeError("the other half")
        if b"error" in request.args:
            raise HttpError(403, "Not for you.")
        request.setHeader(b"Server", b"Leaky/1.0")
        return b"foreign"


@dataclass
class World:
    """A site with one of each resource, on a clock."""

    limits: Limits = field(default_factory=Limits)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = SteadyClock()
        self.later = Later()
        self.asks = Asks()
        root = Directory()
        for name, resource in (("echo", Echo()), ("later", self.later), ("asks", self.asks), ("foreign", Foreign())):
            root.putChild(name.encode(), resource)
        self.runtime = Runtime(self.clock, self.limits)
        self.site = HttpSite(root, self.runtime, **self.options)

    def connect(self, address: str = "192.0.2.7") -> Connection:
        """Open a connection."""
        return Connection(self.site, address)


@pytest.fixture
def world() -> World:
    """A site with the default limits."""
    return World()


@pytest.fixture
def makeWorld() -> type[World]:
    """A way to make a site with other limits."""
    return World


@pytest.fixture
def connectTo() -> type[Connection]:
    """A way to connect to any site."""
    return Connection


@pytest.fixture
def logged() -> Any:
    """Collect what is logged, as events."""
    events: list[dict[str, Any]] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)
