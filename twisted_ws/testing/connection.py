"""A connection in memory."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ISSLTransport
from zope.interface import alsoProvides

from twisted_ws.testing.transport import MemoryTransport


class MemoryConnection:
    """A connection: the client's end and the server's end.

    Args:
        address: the client's IP address.
        port: the client's port.
        isSecure: whether it looks like TLS to the server.
    """

    def __init__(self, address: str, port: int, isSecure: bool) -> None:
        kind = IPv6Address if ":" in address else IPv4Address
        # Not a loopback address, on which the server answers only some names.
        mine, theirs = kind("TCP", address, port), IPv4Address("TCP", "192.0.2.1", 443 if isSecure else 80)
        self.client, self.server = MemoryTransport(mine, theirs), MemoryTransport(theirs, mine)
        self.client.other, self.server.other = self.server, self.client
        if isSecure:
            alsoProvides(self.server, ISSLTransport)

    def turn(self) -> bool:
        """Do what is due at both ends; return whether anything was."""
        moved = self.client.turn()
        return self.server.turn() or moved

    def refuse(self) -> None:
        """Close the server's end, which has no protocol; the client's is told in the next turn."""
        self.server.closed = self.client._ended = True

    @property
    def closed(self) -> bool:
        """Whether both ends know that it is closed."""
        return self.client.closed and self.server.closed
