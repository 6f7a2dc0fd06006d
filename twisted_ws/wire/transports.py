"""What the wire asks of a transport, for TCP, UNIX sockets and TLS alike."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = ["abort", "finishWriting", "hasTLS", "innermost", "peerOf", "setProtocol", "unsentInKernel"]


def hasTLS(transport: Any) -> bool:
    """Say whether the bytes of `transport` are encrypted here."""
    return isinstance(transport, TLSMemoryBIOProtocol) or bool(ISSLTransport.providedBy(transport))


def innermost(transport: Any) -> Any:
    """Return the transport that has the socket, below TLS and the PROXY protocol."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def setProtocol(transport: Any, protocol: Any) -> None:
    """Make `protocol` the receiver of what `transport` reads, in place of the present one."""
    if isinstance(transport, ProtocolWrapper):  # TLS, the PROXY protocol
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol


def finishWriting(transport: Any) -> None:
    """Say that nothing more will be written, and go on reading until the peer closes too.

    To close a socket that has unread bytes resets the connection, and the reset can overtake what was just written: the peer
    would never see its Close frame or its 4xx. With TLS the close alert does this; the caller sets a deadline.
    """
    if hasattr(transport, "loseWriteConnection") and not hasTLS(transport):
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


def abort(transport: Any) -> None:
    """Drop the connection now; what was written and not sent is lost."""
    try:
        transport.abortConnection()
    except AttributeError:
        # Twisted's TLS transport has no OpenSSL connection left once TLS has shut down, and trips over that (twisted#9535).
        inner = getattr(transport, "transport", None)
        if inner is None:
            transport.loseConnection()
        else:
            inner.abortConnection()


def peerOf(address: Any) -> tuple[str, int]:
    """Return IP address and port of a Twisted address; ("", 0) for one that has neither, as of a UNIX socket."""
    host: str = getattr(address, "host", None) or ""
    # A port for both families shows an IPv4 peer as an IPv6 address.
    return host.removeprefix("::ffff:") if "." in host else host, getattr(address, "port", None) or 0


def unsentInKernel(transport: Any) -> int:
    """Return how many bytes the kernel still holds for the peer, 0 where the system does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(innermost(transport).fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except (AttributeError, OSError, TypeError, ValueError):
        return 0
