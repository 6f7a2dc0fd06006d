from __future__ import annotations

import os
from typing import Any
from unittest import mock

import pytest
import trustme
from twisted.internet import error as neterror
from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import Factory, Protocol

from tests.client.live import LiveCase, Script, ScriptFactory
from tests.client.support import Setup, pending, result
from tests.ports import freePort
from twisted_ws.client import ConnectFailed, HandshakeTimeout, ProxyRefused, connect
from twisted_ws.client.http.address import parseURL
from twisted_ws.client.http.proxies import Proxy
from twisted_ws.client.http.tunnel import TunnelEndpoint

URL = "ws://app.example:8080/ws"


def through(proxy: Proxy, url: str = URL, **options: Any) -> Setup:
    """Begin to connect through a proxy in memory; `peer` is first the proxy, then the server behind it."""
    setup = Setup(url, **options)
    inner = setup.endpoint
    setup.endpoint = TunnelEndpoint(inner, proxy, parseURL(url))  # type: ignore[assignment]
    setup.start()
    setup.endpoint = inner
    return setup


def http(**options: Any) -> Setup:
    return through(Proxy(False, "proxy.example", 3128), **options)


def socks(user: str = "", password: str = "", url: str = URL) -> Setup:
    return through(Proxy(True, "proxy.example", 1080, user, password), url)


def ends(setup: Setup) -> str:
    """Return the message of the proxy's refusal, which must leave nothing behind."""
    error = setup.error()
    assert isinstance(error, ProxyRefused)
    assert setup.peer.transport.closed
    assert not setup.clock.getDelayedCalls()
    assert "secret" not in str(error)
    return str(error)


def test_connect():
    """An HTTP proxy is asked with CONNECT, and then the server is reached through it."""
    setup = http()
    assert setup.peer.received() == b"CONNECT app.example:8080 HTTP/1.1\r\nHost: app.example:8080\r\n\r\n"
    setup.peer.send(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", 5)
    setup.peer.accept()
    client = result(setup.connecting)
    setup.peer.text("hello")
    assert result(client.readTextMessage()) == "hello"


def test_earlyServer():
    """What the server sends right behind the proxy's answer is not lost."""
    setup = http()
    setup.peer.received()
    setup.peer.send(b"HTTP/1.0 200 OK\r\n\r\nHTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert setup.error().status == 403


def test_credentials():
    """A proxy gets its user and password, and the server does not."""
    setup = through(Proxy(False, "proxy.example", 3128, "alice", "secret"))
    assert b"\r\nProxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n" in setup.peer.received()
    setup.peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    assert "proxy-authorization" not in setup.peer.request()[1]
    setup.connecting.cancel()
    setup.error()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (b"HTTP/1.1 407 Who\r\n\r\n", "http://user:password@host:port"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "it answered 502"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "it answered 101"),
        (b"SSH-2.0-x\r\n\r\n", "does not speak HTTP"),
        (b"\x05\xff" * 10_000, "larger than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", "larger than 16384 bytes"),
    ],
)
def test_refusals(answer, hint):
    """A proxy that refuses, or is not a proxy, is named with what to do; its status is in the error."""
    setup = http()
    setup.peer.send(answer)
    assert hint in ends(setup)


def test_status():
    """The status of the refusal is in the error, for a `Retry` to decide by."""
    setup = http()
    setup.peer.send(b"HTTP/1.1 503 Busy\r\n\r\n")
    assert setup.error().status == 503


def test_proxyGone():
    """A proxy that is not there, hangs up, or says nothing, is an error of its own."""
    setup = http()
    setup.peer.hangUp()
    assert "it closed the connection" in ends(setup)
    setup = http(handshakeTimeout=2)
    setup.advance(2)
    assert isinstance(setup.error(), HandshakeTimeout)
    assert setup.peer.transport.aborted
    setup.peer.send(b"late")
    setup = Setup(URL)
    setup.endpoint.failure = neterror.ConnectionRefusedError()
    inner = setup.endpoint
    setup.endpoint = TunnelEndpoint(inner, Proxy(False, "proxy.example", 3128), parseURL(URL))  # type: ignore[assignment]
    error = setup.start().error()
    assert isinstance(error, ConnectFailed)
    assert "nothing listens at the proxy proxy.example:3128" in str(error)


@pytest.mark.parametrize("step", [None, 1])
def test_socks(step):
    """A SOCKS proxy gets the name, not an address, and resolves it itself."""
    setup = socks()
    assert setup.peer.received() == b"\x05\x01\x00"
    setup.peer.send(b"\x05\x00", step)
    assert setup.peer.received() == b"\x05\x01\x00\x03\x0bapp.example\x1f\x90"
    setup.peer.send(b"\x05\x00\x00\x03\x04host\x00\x50", step)
    setup.peer.accept()
    assert result(setup.connecting).isOpen()


def test_socksPassword():
    """A SOCKS proxy that wants a password gets it; one that wants none does not."""
    setup = socks("alice", "secret")
    assert setup.peer.received() == b"\x05\x02\x00\x02"
    setup.peer.send(b"\x05\x02")
    assert setup.peer.received() == b"\x01\x05alice\x06secret"
    setup.peer.send(b"\x01\x00\x05")
    setup.peer.received()
    setup.peer.send(b"\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
    setup.peer.accept()
    assert result(setup.connecting).isOpen()
    setup = socks("alice", "secret")
    setup.peer.received()
    setup.peer.send(b"\x05\x00")
    assert b"secret" not in setup.peer.received()
    setup.connecting.cancel()
    setup.error()


@pytest.mark.parametrize(
    ("url", "address"),
    [("ws://10.1.2.3/", b"\x01\x0a\x01\x02\x03\x00\x50"), ("ws://[::1]:81/", b"\x04" + b"\0" * 15 + b"\x01\x00\x51")],
)
def test_socksAddress(url, address):
    """A SOCKS proxy gets an IP address as an address."""
    setup = socks(url=url)
    setup.peer.received()
    setup.peer.send(b"\x05\x00")
    assert setup.peer.received() == b"\x05\x01\x00" + address
    setup.peer.send(b"\x05\x00\x00\x04" + b"\0" * 18)
    setup.peer.accept()
    assert result(setup.connecting).isOpen()


@pytest.mark.parametrize(
    ("user", "answers", "hint"),
    [
        ("", [b"HTTP/1.1 400"], "does not speak SOCKS 5"),
        ("", [b"\x05\xff"], "socks5://user:password@host:port"),
        ("", [b"\x05\x02"], "socks5://user:password@host:port"),
        ("alice", [b"\x05\xff"], "does not accept a password"),
        ("alice", [b"\x05\x02", b"\x01\x01"], "rejected the user"),
        ("", [b"\x05\x00", b"\x04\x00\x00\x01\x00"], "does not speak SOCKS 5"),
        ("", [b"\x05\x00", b"\x05\x02\x00\x01\x00"], "its rules forbid it"),
        ("", [b"\x05\x00", b"\x05\x05\x00\x01\x00"], "nothing listens there"),
        ("", [b"\x05\x00", b"\x05\x63\x00\x01\x00"], "it replied 99"),
        ("", [b"\x05\x00", b"\x05\x00\x00\x09\x00"], "malformed"),
    ],
)
def test_socksRefusals(user, answers, hint):
    """A SOCKS proxy that refuses, or is not one, is named with what to do."""
    setup = socks(user, "secret" if user else "")
    for answer in answers:
        assert pending(setup.connecting)
        setup.peer.send(answer)
    assert hint in ends(setup)


class Far(Protocol):
    """The server's side of a relay."""

    def __init__(self, near: Script) -> None:
        self.near = near

    def dataReceived(self, data: bytes) -> None:
        self.near.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.near.transport.loseConnection()


class Relay(ScriptFactory):
    """A proxy of either kind that connects to one port, whatever it is asked for."""

    def __init__(self, port: int, isSocks: bool) -> None:
        super().__init__(self.answer)
        self.port = port
        self.isSocks = isSocks
        self.asked: list[bytes] = []

    def answer(self, script: Script, data: bytes) -> None:
        far = getattr(script, "far", None)
        if far is not None:
            far.transport.write(data)
            return
        self.asked.append(data)
        if self.isSocks and len(self.asked) == 1:
            script.transport.write(b"\x05\x00")
            return

        def connected(far: Any) -> None:
            script.far = far  # type: ignore[attr-defined]
            script.transport.write(b"\x05\x00\x00\x01" + b"\0" * 6 if self.isSocks else b"HTTP/1.1 200 OK\r\n\r\n")

        HostnameEndpoint(reactor, "127.0.0.1", self.port).connect(Factory.forProtocol(lambda: Far(script))).addCallback(connected)


class TunnelTest(LiveCase):
    async def test_live(self) -> None:
        """Plain and TLS connections go through real proxies of both kinds, as the environment says; the name goes with them."""
        authority = trustme.CA()
        leaf = authority.issue_cert("app.example")
        trust = self.save("ca.pem", authority.cert_pem.bytes())
        plain = await self.serve(allowedHosts=["app.example"])
        pem = self.save("server.pem", leaf.private_key_and_cert_chain_pem.bytes())
        secure = await self.serve(certificate=pem, allowedHosts=["app.example"])
        for isSocks in (False, True):
            for port, scheme, options in ((plain, "ws", {}), (secure, "wss", {"trustStore": trust})):
                relay = Relay(port, isSocks)
                where = f"{'socks5' if isSocks else 'http'}://127.0.0.1:{await self.listen(relay)}"
                environment = {"HTTPS_PROXY" if scheme == "wss" else "HTTP_PROXY": where, "NO_PROXY": "localhost"}
                with mock.patch.dict(os.environ, environment, clear=True):
                    connecting = connect(f"{scheme}://app.example/ws", **options)  # type: ignore[arg-type]
                async with connecting as client:
                    await client.writeBinaryMessage(b"x" * 300_000)
                    assert await client.readBinaryMessage() == b"x" * 300_000
                assert b"app.example" in relay.asked[-1]
                await relay.empty()

    async def test_unreachable(self) -> None:
        """The error tells a proxy that does not listen from a server that does not."""
        port = freePort()
        error = await self.assertFailure(connect(URL, proxy=f"http://127.0.0.1:{port}"), ConnectFailed)
        assert f"nothing listens at the proxy 127.0.0.1:{port}" in str(error)
        error = await self.assertFailure(connect(f"ws://127.0.0.1:{port}", proxy=False), ConnectFailed)
        assert f"nothing listens at 127.0.0.1:{port}" in str(error)
