from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

from tests.memory import MemoryTransport, upgrade
from tests.wire.support import WireHost
from twisted_ws.wire.door.proxyprotocol import BadProxyHeader, ProxiedEndpoint, ProxyHeader, readHeader

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 50000, 443)


def six(*texts: str) -> bytes:
    return b"".join(socket.inet_pton(socket.AF_INET6, text) for text in texts) + struct.pack("!HH", 50000, 443)


def binary(data: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(data)) + data


def addition(kind: int, data: bytes) -> bytes:
    return struct.pack("!BH", kind, len(data)) + data


def tls(client: int = 1) -> bytes:
    return addition(0x20, struct.pack("!BI", client, 0) + addition(0x21, b"TLSv1.3"))


def v4(host: str, port: int) -> IPv4Address:
    return IPv4Address("TCP", host, port)


def v6(host: str, port: int) -> IPv6Address:
    return IPv6Address("TCP", host, port)


HERE = v4("198.51.100.1", 443)
GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443\r\n", ProxyHeader(v4("192.0.2.7", 50000), HERE)),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n", ProxyHeader(v6("2001:db8::7", 50000), v6("2001:db8::1", 443))),
    (b"PROXY TCP6 2001:DB8:0:0::0007 ::FFFF:198.51.100.1 1 443\r\n", ProxyHeader(v6("2001:db8::7", 1), HERE)),
    (b"PROXY UNKNOWN\r\n", ProxyHeader()),
    (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n", ProxyHeader()),
    (binary(FOUR), ProxyHeader(v4("192.0.2.7", 50000), HERE)),
    (binary(FOUR, family=0x12), ProxyHeader(v4("192.0.2.7", 50000), HERE)),
    (binary(six("2001:db8::7", "2001:db8::1"), family=0x21), ProxyHeader(v6("2001:db8::7", 50000), v6("2001:db8::1", 443))),
    (binary(six("::ffff:192.0.2.7", "::1"), family=0x21), ProxyHeader(v4("192.0.2.7", 50000), v6("::1", 443))),
    (binary(b"/a".ljust(108, b"\0") + bytes(108), family=0x31), ProxyHeader(UNIXAddress(b"/a"), UNIXAddress(b""))),
    (binary(b"", 0x20, 0), ProxyHeader()),
    (binary(FOUR + tls(), 0x20), ProxyHeader()),
    (binary(b"", 0x21, 0), ProxyHeader()),
    (binary(tls(), 0x21, 0), ProxyHeader(isSecure=True)),
    (binary(FOUR + addition(1, b"h2") + tls() + addition(4, bytes(300))), ProxyHeader(v4("192.0.2.7", 50000), HERE, True)),
    (binary(FOUR + tls(0)), ProxyHeader(v4("192.0.2.7", 50000), HERE)),
    (binary(FOUR + tls(7)), ProxyHeader(v4("192.0.2.7", 50000), HERE, True)),
    (binary(FOUR + addition(0x20, b"")), ProxyHeader(v4("192.0.2.7", 50000), HERE)),
]


@pytest.mark.parametrize(("data", "header"), GOOD)
def test_good(data: bytes, header: ProxyHeader) -> None:
    """Both versions are read, whole or not whole yet, however they are cut, and an address has one spelling."""
    assert readHeader(data + b"GET / HTTP/1.1\r\n") == (header, len(data))
    for size in range(len(data)):
        assert readHeader(data[:size]) is None


@pytest.mark.parametrize("data", [data for data, _ in GOOD if b"UNKNOWN\r\n" not in data])
def test_asTwisted(data: bytes) -> None:
    """Where Twisted reads a header too, it finds the same addresses, but for how they are spelt."""
    found = V1Parser.parse(data[:-2]) if data.startswith(b"PROXY") else V2Parser.parse(data)
    read = readHeader(data)
    assert read is not None

    def packed(address: Any) -> Any:
        host = getattr(address, "host", None)
        if host is None:
            return address
        mapped = host if ":" in host else f"::ffff:{host}"
        return socket.inet_pton(socket.AF_INET6, mapped), address.port

    assert packed(read[0].source) == packed(found.source)
    assert packed(read[0].destination) == packed(found.destination)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PROXX",
        b"\x16\x03\x01",
        b"\r\n\r\n\0\r\nQUIX",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 443 1\r\n",
        b"PROXY TCP4 192.0.2.7  198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 50000 443\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 localhost 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 192.0.2.\xff 198.51.100.1 50000 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +5 443\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 500000 443\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 50000 443\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN " + b"x" * 100,
        binary(FOUR, 0x11),
        binary(FOUR, 0x22),
        binary(FOUR, family=0x41),
        binary(FOUR, family=0x13),
        binary(FOUR[:-1]),
        binary(FOUR + b"\x20"),
        binary(FOUR + b"\x20\0\x05\x01"),
    ],
)
def test_bad(data: bytes) -> None:
    """Anything else is refused, as soon as it can be recognised."""
    with pytest.raises(BadProxyHeader):
        readHeader(data)


@given(st.binary(max_size=60), st.booleans())
def test_anyBytes(data: bytes, begun: bool) -> None:
    """Any bytes are a header, the beginning of one, or none."""
    try:
        found = readHeader((SIGNATURE + b"\x21" if begun else b"PROXY ") + data)
    except BadProxyHeader:
        return
    assert found is None or found[1] <= 13 + len(data)


class Endpoint:
    """Keeps the factory that listens."""

    def listen(self, factory: Any) -> None:
        self.factory = factory


def connect(wrapped: Any) -> Any:
    """Return a connection of a balancer on this machine to a factory, as its transport."""
    endpoint: Any = Endpoint()
    ProxiedEndpoint(endpoint).listen(wrapped)
    transport = MemoryTransport("127.0.0.1")
    transport.protocol = endpoint.factory.buildProtocol(transport.peer)
    transport.protocol.makeConnection(transport)
    return transport


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize(
    ("data", "address", "port", "secure"),
    [
        (GOOD[0][0], "192.0.2.7", 50000, False),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1", 40000, False),
        (binary(six("::ffff:192.0.2.7", "::1") + tls(), family=0x21), "192.0.2.7", 50000, True),
        (binary(FOUR + tls(), 0x20), "127.0.0.1", 40000, False),
        (binary(b"/a".ljust(108, b"\0") + bytes(108), family=0x31), "", 0, False),
    ],
)
def test_handshake(data: bytes, address: str, port: int, secure: bool, step: int) -> None:
    """The service and the Origin rule know the client's address and whether it has TLS; any host name is answered."""
    host = WireHost()
    data += upgrade("/ws", f"Origin: {'https' if secure else 'http'}://chat.example", host="chat.example")
    transport = connect(host.factory)
    for start in range(0, len(data), step):
        transport.protocol.dataReceived(data[start : start + step])
    transport.settle()
    assert transport.sent.startswith(b"HTTP/1.1 101 ")
    (request,) = host.requests
    assert (request.peerAddress, request.peerPort, request.isSecure) == (address, port, secure)
    assert host.recorders[0].connection.isSecure() is secure
    transport.lose(ConnectionError())
    assert host.runtime.gate.open == 0


def test_noHeader() -> None:
    """A connection that does not say who the client is is closed, and its bytes go nowhere; the log says what the port is for."""
    got: list[bytes] = []

    class Server(Protocol):
        def dataReceived(self, data: bytes) -> None:
            got.append(data)

    transport = connect(Factory.forProtocol(Server))
    with capturedLogs() as events:
        transport.protocol.dataReceived(upgrade())
    transport.protocol.dataReceived(GOOD[0][0] + upgrade())
    assert [formatEvent(event) for event in events] == [
        "127.0.0.1: connection without a PROXY header (something else): this port is for a balancer that sends one"
    ]
    assert transport.disconnecting
    assert got == []
