"""A listening port, from daemon start to stop."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.server import WebSocketServer

_ALL = ("::", "0.0.0.0")


class Listener(Service):
    """A listening port.

    Args:
        place: where to listen.
        factory: makes the protocols of its connections.
        secure: whether `factory` speaks TLS.
        server: the server that adopts the port.
        reactor: the reactor.
        backlog: how many connections the kernel keeps until they are accepted.

    Attributes:
        place: where to listen, as configured.
        secure: whether clients have to use TLS.
        port: the `IListeningPort`; None while it does not listen.
        factory: as given.

    Raises:
        ConfigurationError: the place is invalid.
    """

    _log = Logger()

    def __init__(
        self, place: ListenAddress, factory: IProtocolFactory, secure: bool, server: WebSocketServer, reactor: Any, backlog: int
    ) -> None:
        self.place = place
        self.secure = secure or place.isTLS
        self.port: Any = None
        self._endpoint = place.endpoint(reactor, backlog)
        self.factory = factory
        self._server = server
        self._asked = False

    def listen(self) -> bool:
        """Listen, unless it does already.

        Returns:
            Whether it listens now and did not before.

        Raises:
            ConfigurationError: it cannot listen; one line says why and what to do.
        """
        if self._asked:
            return False
        failures: list[Failure] = []
        returned = False

        def failed(failure: Failure) -> None:
            if returned:  # an asynchronous endpoint: too late to refuse the start
                self._log.critical("{reason}", reason=self.place.explain(failure.value), event="port.failed")
            failures.append(failure)

        self._asked = True
        self.place.clear()
        self._endpoint.listen(self.factory).addCallbacks(self._started, failed)
        returned = True
        if failures:
            self._asked = False
            raise ConfigurationError(self.place.explain(failures[0].value))
        return self.port is not None

    def sockets(self) -> list[int]:
        """Return the descriptors of its sockets, while it listens."""
        return [self.port.fileno()]

    def _started(self, port: Any) -> None:
        self.port = port
        self._server.adopt(port)

    def give(self, uid: int, gid: int) -> None:
        """Give a Unix socket to the user and group that the process is about to change to; -1 leaves it unchanged.

        Raises:
            ConfigurationError: this user may not do that.
        """
        path = self.place.path
        if self.port is None or not path or (uid, gid) == (-1, -1):
            return
        try:
            for each in (path, f"{path}.lock"):
                os.chown(each, uid, gid, follow_symlinks=False)
        except FileNotFoundError:
            pass  # with lockfile=0 there is no lock
        except OSError as error:
            raise ConfigurationError(f"--{self.place.option}: {path} cannot be given to the user: {error.strerror}.") from None

    def stopService(self) -> Deferred[Any]:
        """Stop listening; open connections stay."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self.port, self._asked = self.port, None, False
        if port is None:
            return succeed(None)
        self._server.gate.unwatch(port)
        return maybeDeferred(port.stopListening)

    def url(self, scheme: str) -> str:
        """Return its address for a client on this machine, such as ``ws://localhost:8080`` or ``unix:/run/ws.sock``."""
        address = self.port.getHost()
        number = getattr(address, "port", None)
        if number is None:
            return f"unix:{os.fsdecode(getattr(address, 'name', None) or b'')}"
        host = "localhost" if address.host in (*_ALL, "127.0.0.1", "::1") else address.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{number}"

    def isOnAllAddresses(self) -> bool:
        """Return whether it listens on all addresses of this machine, so that other machines may reach it."""
        return getattr(self.port.getHost(), "host", None) in _ALL
