"""A server with channels, asked by HTTP in memory."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.dispatch.support import Turns
from tests.memory import MemoryTransport
from tests.web.conftest import Response, readResponses
from twisted_ws import Limits, WebSocketServer
from twisted_ws.channels.service import ChannelService
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.wheel import Wheel


class Client:
    """One HTTP connection to a WebSocket port, or to any site."""

    def __init__(self, factory: Any, clock: Clock) -> None:
        self.clock = clock
        self.transport = MemoryTransport()
        self.transport.protocol = factory.buildProtocol(self.transport.peer)
        self.transport.protocol.makeConnection(self.transport)
        self._read = 0

    def send(self, data: bytes) -> None:
        """Send bytes; then the reactor turns."""
        self.transport.protocol.dataReceived(data)
        self.clock.advance(0)
        self.transport.settle()

    def take(self) -> bytes:
        """Return the bytes that came since the last time."""
        self.clock.advance(0)
        self.transport.settle()
        data = bytes(self.transport.sent[self._read :])
        self._read += len(data)
        return data

    def responses(self, heads: tuple[int, ...] = ()) -> list[Response]:
        """Return the whole responses that came since the last time."""
        return readResponses(self.take(), heads)

    def ask(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> None:
        """Send a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost:8080", *headers]
        if method in ("POST", "PUT"):
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    def get(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Response:
        """Send a request and return its answer."""
        self.ask(path, *headers, method=method, body=body)
        (response,) = self.responses((0,) if method == "HEAD" else ())
        return response

    def post(self, path: str, body: bytes = b"", *headers: str) -> Response:
        """Post."""
        return self.get(path, *headers, method="POST", body=body)

    def advance(self, seconds: float) -> None:
        """Let time pass, the reactor turning."""
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)
            self.transport.settle()


class EventClient(Client):
    """A client that reads an event stream by the rules of the standard, as far as they matter here."""

    head: Response
    lastId = ""
    retry = 0
    ended = False  # whether the last chunk has come
    _chunks = b""

    def open(self, path: str, *headers: str) -> EventClient:
        """Ask for an event stream and read the head of the answer."""
        self.ask(path, "Accept: text/event-stream", *headers)
        head, end, rest = self.take().partition(b"\r\n\r\n")
        assert end, head
        self._read -= len(rest)
        if b"content-length" in head.lower():
            (self.head,) = readResponses(head + end + rest)
        else:
            (self.head,) = readResponses(head + end)
        return self

    def content(self) -> bytes:
        """Return the content of the whole chunks received since the last time."""
        content, self._chunks = b"", self._chunks + self.take()
        while self._chunks:
            assert not self.ended
            size, line, rest = self._chunks.partition(b"\r\n")
            length = int(size, 16) if line else 0
            if len(rest) < length + 2:
                break
            assert rest[length : length + 2] == b"\r\n"
            content, self._chunks = content + rest[:length], rest[length + 2 :]
            self.ended = not length
        return content

    def events(self) -> list[tuple[str, str, str]]:
        """Return type, id and data of the events that came: those with data."""
        found = []
        data = self.content().decode()
        assert data == "" or data.endswith("\n\n"), data
        for block in data.split("\n\n")[:-1]:
            kind, lines, number = "message", [], None
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "data":
                    lines.append(value)
                elif name == "id":
                    self.lastId = number = value
                elif name == "retry":
                    self.retry = int(value)
                else:
                    assert name == "", line
            if lines:
                found.append((kind, number or "", "\n".join(lines)))
        return found

    def frames(self) -> list[dict[str, Any]]:
        """Return the JSON frames that came."""
        return [json.loads(data) for _, _, data in self.events()]


class LateEngine(MemoryEngine):
    """An engine that answers when it is told to, except about channel `a`.

    Attributes:
        asked: a Deferred for each answer that is due: fire it with None.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[Deferred[Any]] = []

    def publish(self, channel: str, *arguments: Any) -> Any:
        return self._later(channel, super().publish(channel, *arguments))

    def watch(self, channel: str, *arguments: Any) -> Any:
        return self._later(channel, super().watch(channel, *arguments))

    def _later(self, channel: str, answer: Any) -> Any:
        if channel == "a":
            return answer
        self.asked.append(Deferred())
        return self.asked[-1].addCallback(lambda result: answer)


class World:
    """A server in memory, with channels at /channels, by HTTP."""

    def __init__(self, service: Any = None, origins: tuple[str, ...] = (), engine: Any = MemoryEngine, **limits: Any) -> None:
        self.clock = Turns()
        self.clock.advance(1000)
        chosen = Limits(**limits)
        wheel = Wheel(self.clock)
        self.engine = engine(chosen, wheel, wheel.seconds, "e")
        self.server = WebSocketServer(limits=chosen, allowedOrigins=origins, engine=self.engine, reactor=self.clock)
        self.service = service or ChannelService(publish=True, wildcards=True, presence=True)
        for path in ("/channels/{channel}", "/channels"):
            self.server.mount(path, self.service)
        self.factory = self.server.factory(pagesSite(self.server))

    def client(self) -> Client:
        """Connect."""
        return Client(self.factory, self.clock)

    def events(self, path: str = "/channels/a", *headers: str) -> EventClient:
        """Open an event stream."""
        return EventClient(self.factory, self.clock).open(path, *headers)

    def publish(self, channel: str, *messages: Any, **options: Any) -> list[Any]:
        """Publish, and return the answers."""
        return [self.server.publish(channel, message, **options).result for message in messages]
