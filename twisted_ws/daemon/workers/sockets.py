"""Listening sockets of several processes: the supervisor binds and holds them, and the workers accept from them.

Both give a stand-in for the reactor to the same endpoint, which asks it to listen. So every endpoint works that listens through
the reactor, whatever it does with connections.

A TCP port has one socket for each slot (SO_REUSEPORT): the kernel spreads new connections over them. The supervisor never accepts
and never closes them, so what waits in the backlog of a worker that has died is there for the next one. A socket that systemd has
made, and a Unix socket, is one for all workers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.internet import unix
from twisted.internet.abstract import isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from twisted_ws.daemon.listening.adopted import InheritedUnixPort, adoptUnixPort, inheritUnixPort


@implementer(IListeningPort)
class HeldPort:
    """Sockets that listen, and that this process does not accept from.

    Args:
        sockets: one for each slot, or one for all.
    """

    def __init__(self, sockets: Sequence[socket.socket]) -> None:
        self._sockets = tuple(sockets)

    def descriptor(self, slot: int) -> int:
        """Return the descriptor that the worker of a slot accepts from."""
        return self._sockets[slot % len(self._sockets)].fileno()

    def descriptors(self) -> list[int]:
        """Return the descriptors of all."""
        return [each.fileno() for each in self._sockets]

    def startListening(self) -> None:
        """Do nothing: they listen already."""

    def stopListening(self) -> Deferred[None]:
        """Close them; where workers still have them, they go on."""
        for each in self._sockets:
            each.close()
        return succeed(None)

    def getHost(self) -> Any:
        """Return their address."""
        return _address(self._sockets[0])


class HeldUnixPort(unix.Port):
    """A Unix socket with the lock and the file that Twisted makes, which this process does not accept from."""

    def descriptor(self, slot: int) -> int:
        """Return the descriptor that the worker of a slot accepts from: the same for all."""
        number: int = self.socket.fileno()
        return number

    def descriptors(self) -> list[int]:
        """Return the same."""
        return [self.socket.fileno()]

    def startReading(self) -> None:
        """Do nothing: the workers accept."""


class InheritedHeldUnixPort(InheritedUnixPort):
    """The same, of another process."""

    def descriptor(self, slot: int) -> int:
        """Return the descriptor that the worker of a slot accepts from: the same for all."""
        number: int = self.socket.fileno()
        return number

    def descriptors(self) -> list[int]:
        """Return the same."""
        return [self.socket.fileno()]

    def startReading(self) -> None:
        """Do nothing: the workers accept."""


class HoldingReactor:
    """Stands in for the reactor in the supervisor: ports are bound, listen, and wait for workers.

    Args:
        reactor: the reactor.
        slots: how many workers there are to be.
    """

    def __init__(self, reactor: Any, slots: int) -> None:
        self._reactor = reactor
        self._slots = slots

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> HeldPort:
        """Bind a socket for each slot (see `twisted.internet.interfaces.IReactorTCP`)."""
        family = socket.AF_INET6 if isIPv6Address(interface) else socket.AF_INET
        made: list[socket.socket] = []
        try:
            address = socket.getaddrinfo(
                interface or "0.0.0.0", port, family, socket.SOCK_STREAM, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )[0][4]
            # With SO_REUSEPORT, another server of this user would take its share of the connections, and nobody would know.
            with _bound(family, address, False) as probe:
                address = (address[0], probe.getsockname()[1], *address[2:])
            for _ in range(self._slots):
                made.append(_bound(family, address, True))
            for each in made:
                each.listen(backlog)
        except OSError as error:
            for each in made:
                each.close()
            raise CannotListenError(interface, port, error) from None
        return HeldPort(made)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> HeldPort:
        """Do the same (see `twisted.internet.interfaces.IReactorSSL`): the workers speak TLS."""
        return self.listenTCP(port, factory, backlog, interface)

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> HeldUnixPort:
        """Make a Unix socket for all workers (see `twisted.internet.interfaces.IReactorUNIX`)."""
        port = HeldUnixPort(address, factory, backlog, mode, self._reactor, wantPID)
        port.startListening()  # type: ignore[no-untyped-call]
        return port

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> HeldPort:
        """Hold a socket that another process has made, for all workers."""
        return HeldPort([socket.fromfd(descriptor, family, socket.SOCK_STREAM)])


class InheritedHoldingReactor(HoldingReactor):
    """The same for sockets that the supervisor before this one has held.

    Args:
        reactor: the reactor.
        descriptors: those of the sockets of one place; ours from now on.
    """

    def __init__(self, reactor: Any, descriptors: Sequence[int]) -> None:
        super().__init__(reactor, len(descriptors))
        self._descriptors = descriptors

    def adopt(self, factory: Any) -> Any:
        """Hold them."""
        return HeldPort([socket.socket(fileno=each) for each in self._descriptors])

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> HeldPort:
        """Hold them (see `twisted.internet.interfaces.IReactorTCP`)."""
        held: HeldPort = self.adopt(factory)
        return held

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        """Hold it (see `twisted.internet.interfaces.IReactorUNIX`)."""
        (descriptor,) = self._descriptors
        return inheritUnixPort(self._reactor, descriptor, factory, InheritedHeldUnixPort)

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> NoReturn:
        """Refuse: what systemd has passed is among them."""
        raise LookupError("no such socket in this process")


class InheritingReactor:
    """Stands in for the reactor in a worker: what is asked to listen accepts from the socket that was inherited for it.

    Args:
        reactor: the reactor.
        descriptor: that of the socket, which stays open.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Accept (see `twisted.internet.interfaces.IReactorTCP`)."""
        return self.adopt(factory)

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Accept, and speak TLS (see `twisted.internet.interfaces.IReactorSSL`)."""
        return self.adopt(TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        """Accept (see `twisted.internet.interfaces.IReactorUNIX`)."""
        return self.adopt(factory)

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> NoReturn:
        """Refuse: descriptors from elsewhere stay with the supervisor."""
        raise LookupError("no such socket in this process")

    def adopt(self, factory: Any) -> Any:
        """Accept with a factory from the inherited socket, and return the port."""
        # Twisted accepts until nothing is left, and would wait there for ever.
        os.set_blocking(self._descriptor, False)
        with socket.socket(fileno=os.dup(self._descriptor)) as found:
            family = found.family
        if family == socket.AF_UNIX:
            return adoptUnixPort(self._reactor, self._descriptor, factory)
        return self._reactor.adoptStreamPort(self._descriptor, family, factory)


class SucceedingReactor(InheritingReactor):
    """The same for a port of the supervisor before this one: nobody else will remove the file of a Unix socket."""

    def listenUNIX(self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        """Accept (see `twisted.internet.interfaces.IReactorUNIX`)."""
        return inheritUnixPort(self._reactor, self._descriptor, factory)


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """Listens on an inherited socket whatever it is, where an endpoint string names one that only the supervisor can find."""

    def __init__(self, reactor: InheritingReactor | InheritedHoldingReactor) -> None:
        self._reactor = reactor

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Accept with a factory."""
        return execute(self._reactor.adopt, protocolFactory)


def _bound(family: int, address: Any, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _address(sock: socket.socket) -> IPv4Address | IPv6Address | UNIXAddress:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UNIXAddress(os.fsencode(name))
    return (IPv6Address if sock.family == socket.AF_INET6 else IPv4Address)("TCP", *name)
