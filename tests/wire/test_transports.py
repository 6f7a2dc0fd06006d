from __future__ import annotations

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
from twisted_ws.wire.transports import abort, finishWriting, hasTLS, innermost, peerOf, setProtocol, unsentInKernel


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


def test_unsentInKernel(tcp):
    """The kernel says how much it holds for the peer; where nobody says, it is nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unsentInKernel(Socket(ours.fileno())) == 0
        ours.send(b"x" * 1000)
        assert unsentInKernel(Socket(ours.fileno())) >= 1000
        theirs.recv(2000)
        assert unsentInKernel(Socket(ours.fileno())) == 0
    assert unsentInKernel(Socket(-1)) == 0
    assert unsentInKernel(tcp) == 0
