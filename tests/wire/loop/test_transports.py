from __future__ import annotations

import contextlib
import select
import socket

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import directlyProvides

from tests.memory import MemoryTransport
from twisted_ws.wire.loop.transports import (
    abort,
    carried,
    finishWriting,
    hasTLS,
    hasUnread,
    hasVanished,
    innermost,
    noticeVanished,
    peerOf,
    sending,
    setProtocol,
    unsentInKernel,
)

IP_MINTTL = 21  # as Linux has it: with 255 the kernel drops what comes for a socket, unless it came from a link away (RFC 5082)


@pytest.fixture
def tcp():
    transport = MemoryTransport()
    transport.protocol = Protocol()
    return transport


def wrapped(tcp, kind=ProtocolWrapper):
    """Return a wrapper, as the PROXY protocol or TLS put around a transport."""
    if kind is ProtocolWrapper:
        wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    else:
        wrapper = TLSMemoryBIOFactory(CertificateOptions(), False, Factory.forProtocol(Protocol)).buildProtocol(None)
    wrapper.transport = tcp
    return wrapper


def test_hasTLS(tcp):
    """TLS is TLS, whether above the transport or part of it, and a wrapper of another kind is not."""
    assert not hasTLS(tcp)
    assert not hasTLS(wrapped(tcp))
    assert hasTLS(wrapped(tcp, TLSMemoryBIOProtocol))
    other = object.__new__(MemoryTransport)
    directlyProvides(other, ISSLTransport)
    assert hasTLS(other)


def test_innermost(tcp):
    """Below all wrappers is the transport with the socket."""
    assert innermost(tcp) is tcp
    assert innermost(wrapped(wrapped(tcp, TLSMemoryBIOProtocol))) is tcp


def test_setProtocol(tcp):
    """The new protocol receives what the transport, or the innermost wrapper, reads."""
    protocol = Protocol()
    setProtocol(tcp, protocol)
    assert tcp.protocol is protocol
    wrapper = wrapped(tcp)
    setProtocol(wrapper, protocol)
    assert wrapper.wrappedProtocol is protocol


def test_finishWriting(tcp):
    """A plain connection is closed in one direction only, so that its last bytes arrive."""
    tcp.write(b"last")
    finishWriting(tcp)
    tcp.settle()
    assert (bytes(tcp.sent), tcp.writeClosed, tcp.closed) == (b"last", True, False)


class OnlyClose:
    """A transport that can be closed and nothing else."""

    closed = False

    def loseConnection(self):
        self.closed = True


def test_finishWritingWithoutHalfClose():
    """What cannot be half closed is closed."""
    transport = OnlyClose()
    finishWriting(transport)
    assert transport.closed


def test_finishWritingTLS(tcp, monkeypatch):
    """TLS is closed by its own alert, not by an end of stream below it."""
    asked = []
    wrapper = wrapped(tcp, TLSMemoryBIOProtocol)
    monkeypatch.setattr(wrapper, "loseConnection", lambda: asked.append("close"))
    finishWriting(wrapper)
    assert asked == ["close"]
    assert not tcp.writeClosed


def test_abort(tcp):
    """Abort drops at once."""
    abort(tcp)
    assert tcp.aborted


class ShutDown:
    """A TLS transport as Twisted leaves it after its end: abortConnection trips over an attribute that is gone."""

    def __init__(self, transport):
        self.transport = transport

    def abortConnection(self):
        raise AttributeError("'NoneType' object has no attribute 'shutdown'")


def test_abortAfterTLS(tcp):
    """A TLS transport that cannot abort any more does not keep its socket."""
    abort(ShutDown(tcp))
    assert tcp.aborted


def test_abortWithoutAbort():
    """A transport without an abort is closed."""
    transport = OnlyClose()
    abort(transport)
    assert transport.closed


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (IPv4Address("TCP", "192.0.2.1", 7), ("192.0.2.1", 7)),
        (IPv6Address("TCP", "2001:db8::1", 7), ("2001:db8::1", 7)),
        (UNIXAddress("/run/ws.sock"), ("", 0)),
        (UNIXAddress(None), ("", 0)),
        (None, ("", 0)),
    ],
)
def test_peerOf(address, peer):
    """An IP peer has address and port, any other has neither."""
    assert peerOf(address) == peer


class Socket:
    """A transport with a descriptor."""

    def __init__(self, fileno):
        self._fileno = fileno

    def fileno(self):
        return self._fileno


def test_carried(pair):
    """The kernel knows how many bytes have come and gone; of a UNIX socket it does not say."""
    ours, peer = pair
    before = carried(Socket(ours.fileno()))
    peer.sendall(b"x" * 1000)
    ours.sendall(b"y" * 500)
    assert len(ours.recv(1000, socket.MSG_WAITALL)) == 1000
    assert len(peer.recv(500, socket.MSG_WAITALL)) == 500
    peer.sendall(b"z")  # which acknowledges
    ours.recv(1)
    after = carried(Socket(ours.fileno()))
    assert [new - old for new, old in zip(after, before, strict=True)] == [1001, 500]
    one, other = socket.socketpair()
    with one, other:
        assert carried(Socket(one.fileno())) is None


def test_unsentInKernel(tcp):
    """The kernel says how much it holds for the peer; if it does not say, that is nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unsentInKernel(Socket(ours.fileno())) == 0
        ours.send(b"x" * 1000)
        assert unsentInKernel(Socket(ours.fileno())) >= 1000
        theirs.recv(2000)
        assert unsentInKernel(Socket(ours.fileno())) == 0
    assert unsentInKernel(Socket(-1)) == 0
    assert unsentInKernel(tcp) == 0


@pytest.fixture
def pair():
    """Yield the accepted and the connecting end of a connection, and the listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        noticeVanished(listening, 25, 10)
        with socket.create_connection(listening.getsockname()) as theirs:
            ours, _ = listening.accept()
            with ours:
                yield ours, theirs


def test_hasVanished(pair, tcp):
    """A peer whose machine owes an acknowledgement has vanished, not one that does not read, or to which nothing was sent."""
    ours, theirs = pair
    transport = Socket(ours.fileno())
    ours.setblocking(False)
    assert not hasVanished(transport, 0)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 20))
    assert unsentInKernel(transport)
    assert not hasVanished(transport, 30)
    while unsentInKernel(transport):
        theirs.recv(1 << 20)
    theirs.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    ours.send(b"are you there?")
    assert not hasVanished(transport, 30)
    while not hasVanished(transport, 0.05):
        assert unsentInKernel(transport)
    theirs.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0)
    while unsentInKernel(transport):
        pass  # until it is sent again
    assert not hasVanished(transport, 0.05)
    assert ours.send(b"x")  # the socket is as it was
    assert not hasVanished(tcp, 0)
    assert not hasVanished(Socket(-1), 0)


def test_hasUnread(pair, tcp):
    """What the kernel has of a peer, and the end of its stream, waits to be read until somebody has."""
    ours, theirs = pair
    transport = Socket(ours.fileno())
    assert not hasUnread(transport)
    theirs.send(b"x")
    select.select([ours], [], [])
    assert hasUnread(transport)
    ours.recv(10)
    assert not hasUnread(transport)
    theirs.close()
    select.select([ours], [], [])
    assert hasUnread(transport)
    assert not hasUnread(tcp)
    assert not hasUnread(Socket(-1))


def test_sending(pair, tcp):
    """What a machine has taken is counted, however much is added behind it."""
    ours, theirs = pair
    transport = Socket(ours.fileno())
    assert sending(transport) == (0, 0)
    theirs.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    ours.send(b"x" * 1000)
    assert sending(transport) == (1000, 0)
    theirs.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 0)
    while unsentInKernel(transport):
        pass  # until it is sent again
    theirs.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)
    ours.send(b"x" * 3000)
    assert sending(transport) == (3000, 1000)
    assert sending(tcp) == (0, 0)
    local, other = socket.socketpair()
    with local, other:
        local.send(b"x")
        unsent, taken = sending(Socket(local.fileno()))
        local.send(b"x")
        assert sending(Socket(local.fileno()))[1] < taken == -unsent
        other.recv(1)
        assert sending(Socket(local.fileno()))[1] >= taken


def test_hasVanishedLocally():
    """On a UNIX socket, no peer vanishes unnoticed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.send(b"x")
        assert not hasVanished(Socket(ours.fileno()), 0)


@pytest.mark.parametrize(
    ("interval", "timeout", "idle", "pause", "count"),
    [
        (25, 10, 27, 2, 4),
        (1, 1, 1, 1, 1),
        (0.1, 0.1, 1, 1, 1),
        (1, 4, 2, 1, 3),
        (20.5, 2.2, 21, 1, 2),
        (60, 30, 66, 6, 4),
        (100_000, 1_000_000, 32767, 32767, 4),
    ],
)
def test_noticeVanished(interval, timeout, idle, pause, count):
    """The kernel probes silent peers, more than once if there is time, within the bound; accepted sockets inherit this."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        noticeVanished(listening, interval, timeout)
        with socket.create_connection(listening.getsockname()):
            accepted, _ = listening.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                names = socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT
                assert [accepted.getsockopt(socket.IPPROTO_TCP, name) for name in names] == [idle, pause, count]
    if timeout < 1000:
        assert idle + pause * count < interval + timeout + 2
    ours, theirs = socket.socketpair()
    with ours, theirs:
        noticeVanished(ours, interval, timeout)
