"""The reverse proxies in front of this server, whose word on the client's address counts. Pure.

Any client can send X-Forwarded-For. It is believed only from the listed networks, and read from the right: each proxy appends the
address that it saw, so the last one that is not a proxy of ours is the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted_ws.wire.door.head import RequestHead


class TrustedProxies:
    """The networks of the proxies in front of this server.

    Args:
        networks: addresses or networks (``10.0.0.0/8``, ``::1``); ``unix`` for connections over a UNIX socket.

    Raises:
        ValueError: one is not a network; the text names it.
    """

    __slots__ = ("_networks", "_unix", "areAny")

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        self._unix = False
        for network in networks:
            if network == "unix":
                self._unix = True
                continue
            try:
                self._networks.append(ip_network(network))
            except ValueError:
                raise ValueError(
                    f"{network!r} is not a network: write an address, or a prefix whose other bits are 0, such as 10.0.0.0/8"
                ) from None
        self.areAny = self._unix or bool(self._networks)

    def trusts(self, address: str) -> bool:
        """Return whether `address` ("" for a UNIX socket) is a proxy's."""
        if not address:
            return self._unix
        parsed = _parse(address) if self._networks else None
        return parsed is not None and any(parsed in network for network in self._networks)

    def client(self, address: str, isSecure: bool, head: RequestHead) -> tuple[str, bool]:
        """Return the client's address, and whether its connection has TLS.

        Args:
            address: the peer's address; "" for a UNIX socket.
            isSecure: whether that connection has TLS.
            head: the request; X-Forwarded-For and X-Forwarded-Proto count from a trusted proxy.
        """
        if not self.areAny or not self.trusts(address):
            return address, isSecure
        protocols = head.tokens("x-forwarded-proto")
        if protocols:
            isSecure = protocols[-1].lower() in ("https", "wss")
        for forwarded in reversed(head.tokens("x-forwarded-for")):
            parsed = _parse(forwarded)
            if parsed is None:
                break  # it says nothing, so the proxy that sent it counts as the client
            address = str(parsed)
            if not self.trusts(address):
                break
        return address, isSecure


# An address with a port, or in brackets, as some proxies write it.
_isWithPort = re.compile(r"\[([^]]*)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5}").fullmatch


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    match = _isWithPort(address)
    if match is not None:
        address = match[1] or match[2] or ""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
