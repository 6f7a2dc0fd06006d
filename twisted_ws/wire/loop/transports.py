"""What the wire asks of a transport, whether TCP, UNIX socket or TLS."""

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

# On Linux: TCP_INFO, and where its answer has the milliseconds since the last acknowledgement (tcpi_last_ack_recv) and the bytes
# acknowledged (tcpi_bytes_acked).
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_INFO = struct.Struct("@56xI60xQ")
# The same for the bytes acknowledged and those received (tcpi_bytes_received).
_CARRIED = struct.Struct("@120xQQ")


def hasTLS(transport: Any) -> bool:
    """Return whether the bytes of `transport` are encrypted here."""
    return isinstance(transport, TLSMemoryBIOProtocol) or bool(ISSLTransport.providedBy(transport))


def isSecure(transport: Any) -> bool:
    """Return whether the client's connection has TLS: here, or at a balancer that says so by the PROXY protocol."""
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
    """Return whether the peer has connected to a loopback address, not over a UNIX socket or (as far as is known) a balancer."""
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
    """Make `protocol` receive what `transport` reads, in place of the current one."""
    if isinstance(transport, ProtocolWrapper):  # TLS, the PROXY protocol
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol


def finishWriting(transport: Any) -> None:
    """End our side, and go on reading until the peer closes too. The caller sets a deadline.

    Closing a socket with unread bytes resets the connection, and the reset can overtake what was just written: the peer would
    never see its Close frame or its 4xx. With TLS, the close alert ends our side.
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
        # Once TLS has shut down, Twisted's TLS transport fails for want of its OpenSSL connection (twisted#9535).
        inner = getattr(transport, "transport", None)
        if inner is None:
            transport.loseConnection()
        else:
            inner.abortConnection()


def peerOf(address: Any) -> tuple[str, int]:
    """Return IP address and port of a Twisted address; ("", 0) for one that has neither, such as a UNIX socket's."""
    host: str = getattr(address, "host", None) or ""
    # On a port for both families, an IPv4 peer has an IPv6 address.
    return host.removeprefix("::ffff:") if "." in host else host, getattr(address, "port", None) or 0


def unsentInKernel(transport: Any) -> int:
    """Return how many bytes the kernel still holds for the peer; 0 if the system does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(innermost(transport).fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except (AttributeError, OSError, TypeError, ValueError):
        return 0


def sending(transport: Any) -> tuple[int, int]:
    """Return how many bytes the kernel still holds for the peer, and a number that grows as its machine acknowledges them."""
    unsent = unsentInKernel(transport)
    info = _tcpInfo(transport, _INFO) if unsent else None
    # Except on Linux, it grows only while nothing is added.
    return unsent, -unsent if info is None else info[1]


def hasVanished(transport: Any, seconds: float) -> bool:
    """Return whether the peer's machine owes an acknowledgement, and has sent none for `seconds`.

    A peer that was cut off looks like one that is silent, and the kernel retries for a quarter of an hour. If a peer is there but
    does not read, its machine still acknowledges. False if the system does not say (Linux does).
    """
    info = _tcpInfo(transport, _INFO) if unsentInKernel(transport) else None
    return info is not None and info[0] >= 1000 * seconds


def carried(transport: Any) -> tuple[int, int] | None:
    """Return the bytes that have come over a connection, and those that its peer has acknowledged, with those of TLS and HTTP.

    The kernel has counted them: nobody else has to. None if it does not say (Linux does, of TCP).
    """
    info = _tcpInfo(transport, _CARRIED)
    return None if info is None else (info[1], info[0])


def _tcpInfo(transport: Any, form: struct.Struct) -> tuple[int, int] | None:
    """Return two numbers of the kernel's."""
    if _TCP_INFO is None:
        return None
    # Not `socket.socket`: if memory runs out while one is made, its finaliser closes the descriptor.
    connection = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, innermost(transport).fileno())
    try:
        one, other = form.unpack(connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, form.size))
    except (OSError, struct.error):
        return None  # a UNIX socket
    finally:
        connection.detach()  # it is the transport's
    return one, other


def hasUnread(transport: Any) -> bool:
    """Return whether the kernel has unread bytes from the peer, or its end of stream."""
    try:
        poll = select.poll()
        poll.register(innermost(transport).fileno(), select.POLLIN)
        return bool(poll.poll(0))
    except (AttributeError, OSError, TypeError, ValueError):
        return False  # not a socket, or a system without poll


def noticeVanished(listening: Any, interval: float, timeout: float) -> None:
    """Make the kernel probe the peers of a listening socket (TCP keepalive).

    It probes peers that are silent and have nothing to acknowledge, such as one that waits for an answer, and ends the connection
    `interval` plus `timeout` seconds (each rounded up) after the last sign of life. Accepted sockets inherit these options.

    Args:
        listening: the socket; left alone if it is not TCP, or if the system lacks the options.
        interval: seconds of silence that are normal.
        timeout: seconds that the answer may take.
    """
    if listening.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    pause = max(1, int(timeout / 5))  # one probe may get lost, and another
    count = max(1, ceil(timeout / pause) - 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, min(32767, max(1, ceil(interval + timeout) - pause * count)))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, min(32767, pause))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, min(127, count))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
