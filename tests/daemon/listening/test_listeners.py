from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.server import WebSocketServer


class _Port:
    def __init__(self, address: Any) -> None:
        self.address = address

    def getHost(self) -> Any:
        return self.address


class _LateEndpoint:
    """An endpoint that says later whether it listens."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Any]] = []

    def listen(self, factory: Any) -> Deferred[Any]:
        self.asked.append(Deferred())
        return self.asked[-1]


class _LatePlace(ListenAddress):
    """A place with such an endpoint."""

    made = _LateEndpoint()

    def endpoint(self, reactor: Any, backlog: int) -> Any:
        return self.made


class ListenerTests(TestCase):
    def setUp(self) -> None:
        self.server = WebSocketServer()
        self.watched: list[Any] = []
        self.server.adopt = self.watched.append  # type: ignore[method-assign]
        self.server.gate.unwatch = self.watched.remove  # type: ignore[method-assign]

    def listener(self, place: ListenAddress, secure: bool = False) -> Listener:
        return Listener(place, Factory.forProtocol(Protocol), secure, self.server, reactor, 5)

    async def test_listens(self) -> None:
        """It listens once however often it is asked, the server has its port until it stops, and it can start again."""
        listener = self.listener(ListenAddress("port", "0", "127.0.0.1"))
        assert listener.listen()
        port = listener.port
        assert not listener.listen()
        assert listener.port is port
        assert self.watched == [port]
        await listener.stopService()
        assert self.watched == []
        assert listener.port is None
        assert listener.listen()
        await listener.stopService()
        await listener.stopService()

    async def test_taken(self) -> None:
        """A port that is taken is reported in one line, and may be tried again."""
        first = self.listener(ListenAddress("port", "0", "127.0.0.1"))
        first.listen()
        number = first.port.getHost().port
        second = self.listener(ListenAddress("tls-port", str(number), "127.0.0.1"))
        with pytest.raises(ConfigurationError) as caught:
            second.listen()
        assert f"port {number} of 127.0.0.1: stop it, or choose another with --tls-port" in str(caught.value)
        await second.stopService()
        await first.stopService()
        assert second.listen()
        await second.stopService()

    async def test_late(self) -> None:
        """An endpoint that listens later is watched from then on; if it fails after all, the log says so."""
        place = _LatePlace("listen", "tcp:0")
        asked = place.made.asked
        listener = self.listener(place)
        assert not listener.listen()
        assert not listener.listen()
        port = object()
        asked[0].callback(port)
        assert self.watched == [port]
        listener = self.listener(place)
        listener.listen()
        with capturedLogs() as events:
            asked[1].errback(CannotListenError("", 80, OSError(errno.EADDRINUSE, "in use")))
        assert "Another process is listening on port 80" in events[0]["reason"]

    async def test_url(self) -> None:
        """Its URL is what a client on this machine would use."""
        listener = self.listener(ListenAddress("port", "0"))
        for host, url in (
            ("127.0.0.1", "ws://localhost:80"),
            ("0.0.0.0", "ws://localhost:80"),
            ("10.0.0.1", "ws://10.0.0.1:80"),
        ):
            listener.port = _Port(IPv4Address("TCP", host, 80))
            assert listener.url("ws") == url
        for host, url in (("::", "https://localhost:80"), ("2001:db8::1", "https://[2001:db8::1]:80")):
            listener.port = _Port(IPv6Address("TCP", host, 80))
            assert listener.url("https") == url
        for name, url in ((b"/run/ws.sock", "unix:/run/ws.sock"), (None, "unix:")):
            listener.port = _Port(UNIXAddress(name))
            assert listener.url("ws") == url

    async def test_everywhere(self) -> None:
        """It knows whether it listens on every address."""
        listener = self.listener(ListenAddress("port", "0"))
        for address, expected in (
            (IPv4Address("TCP", "0.0.0.0", 80), True),
            (IPv6Address("TCP", "::", 80), True),
            (IPv4Address("TCP", "127.0.0.1", 80), False),
            (UNIXAddress(b"/run/ws.sock"), False),
        ):
            listener.port = _Port(address)
            assert listener.isOnAllAddresses() is expected

    async def test_unix(self) -> None:
        """A Unix socket exists while it listens, and is open to user and group."""
        path = Path(self.mktemp()).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        here = os.open(path.parent, os.O_RDONLY)
        try:
            # The path of a Unix socket is short, and that of a test's directory is not.
            short = f"/proc/self/fd/{here}/s"
            listener = self.listener(ListenAddress("listen", f"unix:{short}"))
            listener.listen()
            assert os.stat(short).st_mode & 0o777 == 0o660
            await listener.stopService()
            assert not os.path.exists(short)
        finally:
            os.close(here)

    def test_secure(self) -> None:
        """It is secure when its factory speaks TLS, or its endpoint does."""
        assert not self.listener(ListenAddress("port", "0")).secure
        assert self.listener(ListenAddress("tls-port", "0"), secure=True).secure
