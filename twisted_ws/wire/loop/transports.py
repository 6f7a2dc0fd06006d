"""What the wire asks of a transport, for TCP, UNIX sockets and TLS alike."""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from ipaddress import ip_address
from math import ceil
from typing import Any

from twisted.internet.interfaces import ISSLTransport
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper
from twisted.protocols.policies import ProtocolWrapper
from twisted.protocols.tls import TLSMemoryBIOProtocol

__all__ = [
    "abort",
    "finishWriting",
    "hasTLS",
    "hasUnread",
    "hasVanished",
    "innermost",
    "isOnLoopback",
    "isSecure",
    "noticeVanished",
    "peerOf",
    "sending",
    "setProtocol",
    "unsentInKernel",
]

# Of Linux: TCP_INFO, and where in its answer the milliseconds since the last acknowledgement stand (tcpi_last_ack_recv), and the
# bytes acknowledged (tcpi_bytes_acked).
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_INFO = struct.Struct("@56xI60xQ")


def hasTLS(transport: Any) -> bool:
    """Say whether the bytes of `transport` are encrypted here."""
    return isinstance(transport, TLSMemoryBIOProtocol) or bool(ISSLTransport.providedBy(transport))


def isSecure(transport: Any) -> bool:
    """Say whether the client's connection has TLS: here, or at a balancer that says so by the PROXY protocol."""
    if hasTLS(transport):
        return True
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, HAProxyProtocolWrapper):
            return bool(getattr(transport, "isSecure", False))
        transport = transport.transport
    return False


def innermost(transport: Any) -> Any:
    """Return the transport that has the socket, below TLS and the PROXY protocol."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def isOnLoopback(transport: Any) -> bool:
    """Say whether the peer has connected to a loopback address: not by a UNIX socket, nor (so far as is known) by a balancer."""
    while isinstance(transport, ProtocolWrapper):
        if isinstance(transport, HAProxyProtocolWrapper):
            return False
        transport = transport.transport
    if hasattr(transport, "isOnLoopback"):
        return bool(transport.isOnLoopback())
    try:
        return ip_address(peerOf(transport.getHost())[0]).is_loopback
    except ValueError:
        return False


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


def sending(transport: Any) -> tuple[int, int]:
    """Return how many bytes the kernel still holds for the peer, and a number that grows as the peer's machine takes them."""
    unsent = unsentInKernel(transport)
    info = _tcpInfo(transport) if unsent else None
    # Elsewhere than on Linux it grows only while nothing is added.
    return unsent, -unsent if info is None else info[1]


def hasVanished(transport: Any, seconds: float) -> bool:
    """Say whether the peer's machine owes an acknowledgement, and has sent none for `seconds`.

    Cut off without a word, a peer is like one that has nothing to say, and the kernel tries for a quarter of an hour. A peer that
    is there but does not read has a machine that answers. False where the system does not say (Linux does).
    """
    info = _tcpInfo(transport) if unsentInKernel(transport) else None
    return info is not None and info[0] >= 1000 * seconds


def _tcpInfo(transport: Any) -> tuple[int, int] | None:
    """Return the milliseconds since the last acknowledgement came, and the bytes that have been acknowledged."""
    if _TCP_INFO is None:
        return None
    # Not Python's own class: where memory is short in the middle of making one, it is collected, and closes the descriptor.
    connection = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, innermost(transport).fileno())
    try:
        silence, taken = _INFO.unpack(connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO.size))
    except (OSError, struct.error):
        return None  # a UNIX socket
    finally:
        connection.detach()  # it is the transport's
    return silence, taken


def hasUnread(transport: Any) -> bool:
    """Say whether the kernel has something of the peer, bytes or its end, that nobody has read yet."""
    try:
        poll = select.poll()
        poll.register(innermost(transport).fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (AttributeError, OSError, TypeError, ValueError):
        return False  # no socket, or a system without poll


def noticeVanished(listening: Any, interval: float, timeout: float) -> None:
    """Have the kernel ask the machines of the peers that a listening socket accepts whether they are there.

    It asks who is silent and has nothing to acknowledge, as somebody who waits for an answer, and ends the connection `interval`
    and `timeout` seconds (each rounded up) after the last sign of life. A socket has these options from the one that accepted it.

    Args:
        listening: the socket; nothing is done to one that is not TCP's, or where the system has no such options.
        interval: seconds of silence that are normal.
        timeout: seconds that the answer may take.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    pause = max(1, int(timeout / 5))  # one packet may get lost, and another
    count = max(1, ceil(timeout / pause) - 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(32767, max(1, ceil(interval + timeout) - pause * count)))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(32767, pause))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, min(127, count))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
