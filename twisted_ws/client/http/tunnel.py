"""Connections through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS 5 (RFC 1928, RFC 1929)."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.client.errors import BadHandshake, ProxyRefused, unreachable
from twisted_ws.client.http.address import Address
from twisted_ws.client.http.proxies import Proxy
from twisted_ws.client.http.response import parseResponse
from twisted_ws.limits import Limits
from twisted_ws.wire.loop.transports import abort, setProtocol

_END = b"\r\n\r\n"

_VERSION = 5
_NO_PASSWORD, _PASSWORD, _NOTHING = 0, 2, 255
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
# RFC 1928 section 6.
_REPLIES = {
    1: "it failed",
    2: "its rules forbid it",
    3: "the network is unreachable",
    4: "the host is unreachable",
    5: "nothing listens there",
    6: "the packet's time to live expired",
    7: "it does not support CONNECT",
    8: "it does not support this type of address",
}


class _Tunnel(Protocol):
    """Talks to the proxy, then hands the transport to the protocol of a factory."""

    transport: Any

    def __init__(self, proxy: Proxy, address: Address, factory: IProtocolFactory) -> None:
        self.made: Deferred[IProtocol] = Deferred(lambda _: self._end())
        self._proxy = proxy
        self._address = address
        self._factory = factory
        self._data = b""
        self._done = False

    def dataReceived(self, data: bytes) -> None:
        """Collect what the proxy sends."""
        if self._done:
            return
        self._data += data
        try:
            self.step()
        except ProxyRefused as error:
            self._fail(error)

    def step(self) -> None:
        """Go as far as `_data` allows, and call `through` at the end."""
        raise NotImplementedError

    def through(self) -> None:
        """Hand over the transport: what comes from here on is from the server."""
        self._done = True
        rest, self._data = self._data, b""
        protocol = self._factory.buildProtocol(self.transport.getPeer())
        assert protocol is not None  # ours never refuses
        setProtocol(self.transport, protocol)
        protocol.makeConnection(self.transport)
        self.made.callback(protocol)
        if rest:
            protocol.dataReceived(rest)

    def refused(self, why: str, status: int = 0) -> ProxyRefused:
        """Return the error for a proxy that refused."""
        return ProxyRefused(f"the proxy {self._proxy.hostAndPort} did not connect to {self._address.hostAndPort}: {why}", status)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - as Twisted declares it
        """Fail, if the tunnel was not established."""
        self._fail(self.refused("it closed the connection"))

    def _fail(self, error: ProxyRefused) -> None:
        if not self._done:
            self._end()
            self.made.errback(Failure(error))

    def _end(self) -> None:
        self._done = True
        self._data = b""
        abort(self.transport)


class _HTTPTunnel(_Tunnel):
    """A tunnel by HTTP CONNECT."""

    _limits = Limits()

    def connectionMade(self) -> None:
        """Send the request."""
        proxy, target = self._proxy, self._address.hostAndPort
        request = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"
        if proxy.user:
            token = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
            request += f"Proxy-Authorization: Basic {token}\r\n"
        self.transport.write(f"{request}\r\n".encode())

    def step(self) -> None:
        """Read the response."""
        end = self._data.find(_END)
        size = len(self._data) if end < 0 else end + len(_END)
        if size > self._limits.head:
            raise self.refused(f"its response head is larger than {self._limits.head} bytes")
        if end < 0:
            return
        head, self._data = self._data[:size], self._data[size:]
        try:
            status = parseResponse(head, self._limits.headers).status
        except BadHandshake:
            raise self.refused("it does not speak HTTP/1.1: check its URL") from None
        if 200 <= status < 300:
            self.through()
        elif status == 407:
            raise self.refused("it requires a password (407): put it into its URL, http://user:password@host:port", 407)
        else:
            raise self.refused(f"it answered {status}", status)


class _SocksTunnel(_Tunnel):
    """A tunnel by SOCKS 5: the proxy resolves the name, so that no one here learns it."""

    def connectionMade(self) -> None:
        """Offer the authentication methods."""
        methods = (_NO_PASSWORD, _PASSWORD) if self._proxy.user else (_NO_PASSWORD,)
        self.transport.write(bytes((_VERSION, len(methods), *methods)))
        self._next = self._method

    def step(self) -> None:
        """Take one reply after another."""
        while not self._done and self._next():
            pass

    def _take(self, size: int) -> bytes | None:
        if len(self._data) < size:
            return None
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _method(self) -> bool:
        answer = self._take(2)
        if answer is None:
            return False
        version, method = answer
        if version != _VERSION:
            raise self.refused("it does not speak SOCKS 5: check its URL")
        if method == _PASSWORD and self._proxy.user:
            user, password = self._proxy.user.encode(), self._proxy.password.encode()
            self.transport.write(b"".join((b"\x01", bytes((len(user),)), user, bytes((len(password),)), password)))
            self._next = self._admitted
        elif method == _NO_PASSWORD:
            self._ask()
        elif self._proxy.user:
            raise self.refused("it does not accept a password")
        else:
            raise self.refused("it requires a password: put it into its URL, socks5://user:password@host:port")
        return True

    def _admitted(self) -> bool:
        answer = self._take(2)
        if answer is None:
            return False
        if answer[1] != 0:
            raise self.refused("it rejected the user and the password")
        self._ask()
        return True

    def _ask(self) -> None:
        host = self._address.host
        try:
            packed = ipaddress.ip_address(host).packed
            where = bytes((_IPV4 if len(packed) == 4 else _IPV6,)) + packed
        except ValueError:
            where = bytes((_NAME, len(host))) + host.encode("ascii")
        self.transport.write(bytes((_VERSION, _CONNECT, 0)) + where + self._address.port.to_bytes(2, "big"))
        self._next = self._answer

    def _answer(self) -> bool:
        # Version, reply, reserved, address type; then the address (which is not needed) and its port.
        if len(self._data) < 5:
            return False
        version, reply, _, kind, first = self._data[:5]
        if version != _VERSION:
            raise self.refused("it does not speak SOCKS 5: check its URL")
        if reply:
            raise self.refused(_REPLIES.get(reply, f"it replied {reply}"))
        size = {_IPV4: 4, _IPV6: 16, _NAME: 1 + first}.get(kind)
        if size is None:
            raise self.refused("its reply is malformed")
        if self._take(4 + size + 2) is not None:
            self.through()
        return False


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """Connects to an address through a proxy.

    Args:
        endpoint: connects to the proxy.
        proxy: the proxy.
        address: the destination.
    """

    def __init__(self, endpoint: IStreamClientEndpoint, proxy: Proxy, address: Address) -> None:
        self._endpoint = endpoint
        self._proxy = proxy
        self._address = address

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect; the Deferred fails with a `ConnectError`, and can be cancelled."""
        kind = _SocksTunnel if self._proxy.isSocks else _HTTPTunnel
        tunnel = kind(self._proxy, self._address, protocolFactory)

        async def attempt() -> IProtocol:
            try:
                await connectProtocol(self._endpoint, tunnel)
            except Exception as error:
                raise unreachable(f"the proxy {self._proxy.hostAndPort}", error) from None
            return await tunnel.made

        return Deferred.fromCoroutine(attempt())
