"""The PROXY protocol, versions 1 and 2 of HAProxy's text: a balancer says who the client is before a connection's first byte.

Twisted's own parser needs the first 16 bytes at once, refuses the short form of UNKNOWN, keeps an IPv6 address as it is spelt,
and ignores what the balancer says about TLS.
"""

from __future__ import annotations

import re
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IProtocolFactory,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper, HAProxyWrappingFactory
from zope.interface import implementer

from twisted_ws.logs import Throttle, peerName
from twisted_ws.wire.loop.transports import peerOf

# A logger of the module, not of a class, which would put the instance into each event, so keeping events would keep connections.
_log = Logger()

_TEXT, _BINARY = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
# Bytes of the longest header of version 1, with its CRLF.
_MOST_TEXT = 107
_isPort = re.compile(rb"[0-9]{1,5}").fullmatch
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
# The sizes of the two addresses of a family, and of the two ports behind them.
_SIZES = {1: (4, 4), 2: (16, 4), 3: (108, 0)}
_TLV = struct.Struct("!BH")
_OF_TLS = 0x20  # PP2_TYPE_SSL
_HAS_TLS = 1  # PP2_CLIENT_SSL


class BadProxyHeader(Exception):
    """What came is not a header of the PROXY protocol, or a malformed one."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a balancer says.

    Attributes:
        source: the client; None: none is named (UNKNOWN, or a check by the balancer itself), so it is the peer.
        destination: the address that the client has connected to.
        isSecure: whether the client has spoken TLS to the balancer.
    """

    source: IAddress | None = None
    destination: IAddress | None = None
    isSecure: bool = False


def readHeader(data: bytes) -> tuple[ProxyHeader, int] | None:
    """Return the header at the beginning of a connection, and its size; None if it is not complete yet.

    Raises:
        BadProxyHeader: there is no valid one.
    """
    if data.startswith(_TEXT):
        end = data.find(b"\r\n", 0, _MOST_TEXT)
        if end >= 0:
            return _readText(data[:end].split(b" ")), end + 2
        if len(data) >= _MOST_TEXT:
            raise BadProxyHeader("the line is too long")
        return None
    if data.startswith(_BINARY):
        if len(data) < _FIXED.size:
            return None
        _, command, family, size = _FIXED.unpack_from(data)
        if command not in (_LOCAL, _PROXY):
            raise BadProxyHeader("another version, or another command")
        end = _FIXED.size + size
        if len(data) < end:
            return None
        return (ProxyHeader() if command == _LOCAL else _readBinary(family, data[_FIXED.size : end])), end
    if _TEXT.startswith(data) or _BINARY.startswith(data):
        return None
    raise BadProxyHeader("something else")


def _readText(words: list[bytes]) -> ProxyHeader:
    kind = words[1]
    if kind == b"UNKNOWN":  # whatever follows
        return ProxyHeader()
    if kind not in (b"TCP4", b"TCP6") or len(words) != 6 or not (_isPort(words[4]) and _isPort(words[5])):
        raise BadProxyHeader("not two addresses and two ports")
    made = IPv4 if kind == b"TCP4" else IPv6
    try:
        source, destination = (made(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise BadProxyHeader("not an IP address") from None
    return ProxyHeader(_address(source, int(words[4])), _address(destination, int(words[5])))


def _readBinary(kind: int, data: bytes) -> ProxyHeader:
    family, transport = kind >> 4, kind & 15
    if family > 3 or transport > 2:
        raise BadProxyHeader("another family, or another transport")
    source: IAddress | None = None
    destination: IAddress | None = None
    rest = 0
    if family and transport:
        each, ports = _SIZES[family]
        rest = 2 * each + ports
        if len(data) < rest:
            raise BadProxyHeader("an address is missing")
        one, other = data[:each], data[each : 2 * each]
        if family == 3:
            source, destination = (UNIXAddress(name.rstrip(b"\0")) for name in (one, other))
        else:
            made = IPv4 if family == 1 else IPv6
            from_, to = struct.unpack_from("!HH", data, 2 * each)
            source, destination = _address(made(one), from_), _address(made(other), to)
    return ProxyHeader(source, destination, _saysTLS(data, rest))


def _address(address: IPv4 | IPv6, port: int) -> IAddress:
    """Return an address in the spelling that is used everywhere."""
    plain = (address.ipv4_mapped or address) if isinstance(address, IPv6) else address
    return (IPv6Address if isinstance(plain, IPv6) else IPv4Address)("TCP", str(plain), port)


def _saysTLS(data: bytes, position: int) -> bool:
    found = False
    while position < len(data):
        if len(data) - position < _TLV.size:
            raise BadProxyHeader("half an addition")
        kind, size = _TLV.unpack_from(data, position)
        position += _TLV.size + size
        if position > len(data):
            raise BadProxyHeader("half an addition")
        if kind == _OF_TLS and size:
            found = bool(data[position - size] & _HAS_TLS)
    return found


class ProxiedConnection(HAProxyProtocolWrapper):
    """A connection from a balancer; for its protocol, one from the client.

    Attributes:
        isSecure: whether the client has spoken TLS to the balancer.
    """

    isSecure = False
    _begun = b""

    def dataReceived(self, data: bytes) -> None:
        """Take the header, then what the client sends."""
        if self._proxyInfo is not None:
            self.wrappedProtocol.dataReceived(data)
            return
        self._begun += data
        try:
            found = readHeader(self._begun)
        except BadProxyHeader as error:
            self._refuse(error)
            return
        if found is not None:
            header, size = found
            rest, self._begun = self._begun[size:], b""
            self._proxyInfo = header  # type: ignore[assignment]  # it has what Twisted's own is asked for
            self.isSecure = header.isSecure
            if rest:
                self.wrappedProtocol.dataReceived(rest)

    def _refuse(self, error: BadProxyHeader) -> None:
        transport: Any = self.transport
        factory: Any = self.factory
        factory.throttle.info(
            _log,
            "connection without a PROXY header",
            "{peer}: connection without a PROXY header ({reason}): this port is for a balancer that sends one",
            peer=peerName(peerOf(transport.getPeer())[0]),
            reason=str(error),
            event="proxy.refused",
        )
        self.loseConnection()  # type: ignore[no-untyped-call]


@implementer(IProtocolNegotiationFactory)
class ProxiedFactory(HAProxyWrappingFactory):
    """Makes connections for which a balancer names the client."""

    protocol = ProxiedConnection  # type: ignore[assignment]
    noisy = False

    def __init__(self, factory: IProtocolFactory) -> None:
        super().__init__(factory)  # type: ignore[no-untyped-call]
        self.throttle = Throttle(time.monotonic)

    def acceptableProtocols(self) -> list[bytes]:
        """Return what ALPN may choose: what the factory for the clients says."""
        wrapped = IProtocolNegotiationFactory(self.wrappedFactory, None)
        return [] if wrapped is None else list(wrapped.acceptableProtocols())


@implementer(IStreamServerEndpoint)
class ProxiedEndpoint:
    """Listens for a balancer.

    Args:
        endpoint: where.
    """

    def __init__(self, endpoint: IStreamServerEndpoint) -> None:
        self._endpoint = endpoint

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen with a factory for what the clients send."""
        factory: Any = ProxiedFactory(protocolFactory)
        return self._endpoint.listen(factory)
