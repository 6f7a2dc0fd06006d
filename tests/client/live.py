"""A real server in the test's own process: loopback, a free port."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from twisted_ws import WebSocketServer, WebSocketService
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings


class Echo(WebSocketService):
    """Echoes messages, and keeps the requests of the handshakes."""

    subProtocols = ["echo"]

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def onUpgrade(self, request: Any) -> Echo:
        self.requests.append(request)
        return self

    def onTextMessage(self, caller: Any, text: str) -> str:
        return f"Echo: {text}"

    def onBinaryMessage(self, caller: Any, data: bytes) -> bytes:
        return data


class LiveCase(TestCase):
    """A test with servers that are gone at its end."""

    timeout = 30

    def setUp(self) -> None:
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.directory = Path(holder.name)

    def save(self, name: str, *parts: bytes) -> str:
        """Write a file, and return its path."""
        path = self.directory / name
        path.write_bytes(b"".join(parts))
        path.chmod(0o600)
        return str(path)

    async def listen(self, factory: Any, port: int = 0) -> int:
        """Listen with a factory, and return the port."""
        listening = await TCP4ServerEndpoint(reactor, port, interface="127.0.0.1").listen(factory)
        self.addCleanup(listening.stopListening)
        return int(listening.getHost().port)

    async def serve(
        self, service: Any = None, certificate: str | None = None, clientCA: str | None = None, **options: Any
    ) -> int:
        """Serve `service` at /ws, with TLS where there is a certificate, and return the port."""
        server = WebSocketServer(**options)
        server.mount("/ws", service or Echo())
        self.addCleanup(server.stop, 0.5)
        factory: Any = server.factory()
        if certificate is not None:
            factory = ServerTLS(TLSSettings(certificate=certificate, clientCA=clientCA)).wrap(factory, reactor)
        return await self.listen(factory)


class Script(Protocol):
    """A server that does what a function says with each piece that comes."""

    def __init__(self, factory: ScriptFactory) -> None:
        self.owner = factory

    def connectionMade(self) -> None:
        self.owner.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.owner.received += data
        self.owner.act(self, data)

    def connectionLost(self, reason: Any = None) -> None:
        self.owner.connections.remove(self)
        if self.owner.waiting is not None and not self.owner.connections:
            waiting, self.owner.waiting = self.owner.waiting, None
            waiting.callback(None)


class ScriptFactory(Factory):
    """Makes a `Script`."""

    def __init__(self, act: Callable[[Script, bytes], Any] | None = None) -> None:
        self.act = act or (lambda script, data: None)
        self.received = bytearray()
        self.connections: list[Script] = []
        self.waiting: Deferred[None] | None = None

    def buildProtocol(self, addr: Any) -> Script:
        return Script(self)

    def empty(self) -> Deferred[None]:
        """Return a Deferred that fires when no connection is left."""
        done: Deferred[None] = Deferred()
        if self.connections:
            self.waiting = done
        else:
            done.callback(None)
        return done
