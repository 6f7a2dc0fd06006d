"""A host for the front door that records events, in place of services."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed

from tests.memory import MemoryClient, SteadyClock
from twisted_ws.errors import WebSocketError
from twisted_ws.limits import Limits
from twisted_ws.logs import peerName
from twisted_ws.upgrade import UpgradeRequest
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.frontdoor import FrontDoorFactory
from twisted_ws.wire.loop.transports import peerOf
from twisted_ws.wire.websocket.connection import WebSocketConnection, connectionClass
from twisted_ws.wire.websocket.runtime import Runtime
from twisted_ws.wire.websocket.welcome import Welcome


class Recorder:
    """Takes the events of one connection and writes them down."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.events: list[tuple[Any, ...]] = []
        self.answersPings = False
        self.isClosing = False
        self.onMessage: Any = None

    def facts(self) -> dict[str, Any]:
        return {"connection": "a.1"}

    def peer(self) -> str:
        return peerName(*peerOf(self.connection.transport.getPeer()))

    def opened(self) -> None:
        self.events.append(("opened",))

    def messageReceived(self, message: str | bytes) -> None:
        self.events.append(("message", message))
        if self.onMessage is not None:
            self.onMessage(self, message)

    def pingReceived(self, data: bytes) -> bool:
        self.events.append(("ping", data))
        return self.answersPings

    def pongReceived(self, data: bytes) -> None:
        self.events.append(("pong", data))

    def idle(self) -> None:
        self.events.append(("idle",))

    def failed(self, error: WebSocketError) -> None:
        self.events.append(("failed", type(error).__name__, error.code))

    def closing(self) -> None:
        self.isClosing = True

    def closed(self, statusCode: int, reason: str) -> None:
        assert self.isClosing
        self.events.append(("closed", int(statusCode), reason))

    def messages(self) -> list[str | bytes]:
        return [event[1] for event in self.events if event[0] == "message"]


class WireHost:
    """A front door with everything behind it but services; `answer` decides on handshakes."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        compression: bool = False,
        origins: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
        proxies: tuple[str, ...] = (),
        http: Any = None,
        idleTimeout: float = 0,
        subProtocol: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.clock = SteadyClock()
        self.clock.advance(1_000_000)
        self.runtime = Runtime(self.clock, limits or Limits(), compression)
        self.requests: list[UpgradeRequest] = []
        self.recorders: list[Recorder] = []
        self.welcome = Welcome(subProtocol, headers, idleTimeout, self.attend)
        self.answer: Any = lambda request: succeed(self.welcome)
        self.factory = FrontDoorFactory(
            self.runtime,
            connectionClass(self.runtime),
            self,
            AllowedOrigins(origins),
            AllowedHosts(hosts, origins),
            TrustedProxies(proxies),
            http,
        )

    def upgrade(self, request: UpgradeRequest) -> Deferred[Welcome]:
        self.requests.append(request)
        result: Deferred[Welcome] = self.answer(request)
        return result

    def attend(self, connection: WebSocketConnection) -> Recorder:
        self.recorders.append(Recorder(connection))
        return self.recorders[-1]

    def client(self, address: str = "127.0.0.1") -> MemoryClient:
        return MemoryClient(self.factory, self.clock, address)

    def open(self, *lines: str, **replaced: str | None) -> tuple[MemoryClient, Recorder]:
        """Return an open client and what records its events."""
        client = self.client()
        head = client.connect("/ws", *lines, **replaced)
        assert head.startswith("HTTP/1.1 101 "), head
        return client, self.recorders[-1]
