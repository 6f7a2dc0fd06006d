"""A Unix socket that another process has made: systemd, or the supervisor of workers. Its file is not ours."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure


class AdoptedUnixPort(unix.Port):
    """Listens on a Unix socket whose file stays as it is, with its mode and its owner, also when we are gone."""

    def startListening(self) -> None:
        """Accept. Twisted would change the mode of the file, which only its owner may do."""
        tcp._reservedFD.reserve()
        self.factory.doStart()  # type: ignore[union-attr]
        assert self._preexistingSocket is not None
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        # Others listen on it as well: closing our descriptor does not end that, but shutting it down would.
        self._shouldShutdown = False
        self.fileno = self.socket.fileno  # type: ignore[method-assign]
        self.connected = True
        self.numberAccepts = 100
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:
        """Stop listening."""
        tcp.Port.connectionLost(self, reason)


class InheritedUnixPort(AdoptedUnixPort):
    """Listens on a Unix socket of a process that this one has taken the place of: its file, and Twisted's lock, are ours."""

    def connectionLost(self, reason: Failure) -> None:
        """Stop listening, and remove both."""
        path = os.fsdecode(self.getHost().name or b"")  # type: ignore[no-untyped-call]
        super().connectionLost(reason)
        for each in (path, f"{path}.lock"):
            with suppress(OSError):
                os.unlink(each)


def inheritUnixPort(reactor: Any, descriptor: int, factory: Any, kind: type[InheritedUnixPort] = InheritedUnixPort) -> Any:
    """Do as `adoptUnixPort`; when the port stops, the file is removed."""
    port: InheritedUnixPort = kind._fromListeningDescriptor(reactor, descriptor, factory)  # type: ignore[no-untyped-call]
    port.startListening()
    return port


def adoptUnixPort(reactor: Any, descriptor: int, factory: Any) -> AdoptedUnixPort:
    """Return a port that accepts from a listening Unix socket; it has a duplicate of the descriptor."""
    port: AdoptedUnixPort = AdoptedUnixPort._fromListeningDescriptor(  # type: ignore[no-untyped-call]
        reactor, descriptor, factory
    )
    port.startListening()
    return port


class Adopting:
    """Stands in for the reactor, for the endpoint of a Unix socket that systemd has made."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def adoptStreamPort(self, descriptor: int, family: int, factory: Any) -> Any:
        """Listen (see `twisted.internet.interfaces.IReactorSocket`)."""
        return adoptUnixPort(self._reactor, descriptor, factory)
