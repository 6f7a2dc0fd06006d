"""Autobahn's own server as it comes, on the same transport and clock: what a trap is shown against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import txaio
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.task import Clock

from tests.memory import MemoryClient


class Log:
    """Takes what Autobahn logs at info and above."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, *args: object, **fields: object) -> None:
        """Drop a line."""

    def _line(self, template: str = "", **fields: object) -> None:
        self.lines.append(template.format(**fields))

    trace = debug
    info = warn = error = critical = failure = _line


class Stock:
    """A stock server; `options` are Autobahn's, `methods` those of the protocol class.

    Attributes:
        calls: the callbacks that came, by name, of the methods that are not given.
        last: the protocol of the last connection.
    """

    def __init__(self, options: dict[str, Any] | None = None, **methods: Callable[..., Any]) -> None:
        # Autobahn's timers know no other reactor than this global one.
        self.clock = Clock()
        self.clock.advance(1_000_000)
        txaio.config.loop = self.clock
        self.calls: list[str] = []
        self.log = Log()
        self.last: Any = None
        names = ("onConnect", "onOpen", "onClose")
        noted = {name: self._note(name) for name in names}
        self.factory = WebSocketServerFactory(reactor=self.clock)
        self.factory.protocol = type("Stock", (WebSocketServerProtocol,), {**noted, **methods, "log": self.log})
        if options:
            self.factory.setProtocolOptions(**options)

    def _note(self, name: str) -> Callable[..., None]:
        def method(*args: object) -> None:
            self.calls.append(name)

        return method

    def client(self) -> MemoryClient:
        """Return a client that has connected and not yet sent anything."""
        client = MemoryClient(self.factory, self.clock)
        self.last = client.transport.protocol
        return client

    def open(self, *lines: str) -> MemoryClient:
        """Return a client that has shaken hands."""
        client = self.client()
        assert client.connect("/ws", *lines).startswith("HTTP/1.1 101 ")
        return client
