"""The ports: where each listens, and what is wrong when one cannot."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.errors import ConfigurationError
from twisted_ws.wire.gate import Gate

__all__ = ["Listener", "endpointFor", "isLoopback"]

# Connections that the kernel keeps until they are accepted; Twisted's 50 is less than what comes in one turn after a restart.
BACKLOG = 1024


def endpointFor(reactor: Any, where: str, interface: str, option: str) -> IStreamServerEndpoint:
    """Return the endpoint for a port number or an endpoint string.

    Args:
        reactor: the reactor.
        where: digits, or an endpoint string.
        interface: an IP address for a port number; "" for all of both families.
        option: the flag, for error messages.

    Raises:
        ConfigurationError: it is neither, or the interface is no address.
    """
    if not where.isdigit():
        try:
            endpoint: IStreamServerEndpoint = serverFromString(reactor, where)
            return endpoint
        except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
            raise ConfigurationError(f"--{option} {where} is no endpoint: {error}.") from None
    port = int(where)
    if not interface:
        if _hasIPv6():
            return TCP6ServerEndpoint(reactor, port, BACKLOG, "::")  # takes IPv4 too
        return TCP4ServerEndpoint(reactor, port, BACKLOG, "")
    if interface == "localhost":
        interface = "127.0.0.1"
    try:
        version = ip_address(interface.partition("%")[0]).version
    except ValueError:
        raise ConfigurationError(f"The interface of --{option} must be an IP address, not {interface!r}.") from None
    return (TCP4ServerEndpoint if version == 4 else TCP6ServerEndpoint)(reactor, port, BACKLOG, interface)


def _hasIPv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
    except OSError:
        return False
    return True


def isLoopback(where: str, interface: str) -> bool:
    """Say whether only this machine can reach a port number or an endpoint string; what is not known counts as reachable."""
    if where.isdigit():
        return _isLoopbackAddress(interface)
    kind, _, rest = where.partition(":")
    if kind == "unix":
        return True
    if kind not in ("tcp", "tcp4", "tcp6", "ssl"):
        return False
    addresses = [part.partition("=")[2].replace("\\", "") for part in _split(rest) if part.startswith("interface=")]
    return bool(addresses) and all(map(_isLoopbackAddress, addresses))


def _split(text: str) -> list[str]:
    """Return the parts of an endpoint string; a colon after a backslash is part of a value."""
    return [part.replace("\0", ":") for part in text.replace("\\:", "\0").split(":")]


def _isLoopbackAddress(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


class Listener(Service):
    """One listening port, from the start of the daemon until its stop.

    Args:
        endpoint: where.
        factory: who answers.
        gate: pauses the port near the limit of descriptors.
        option: the flag that it came from, for error messages.
        listening: called with the port once it listens.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        gate: Gate,
        option: str,
        listening: Callable[[IListeningPort], None],
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._gate = gate
        self._option = option
        self._listening = listening
        self.port: Any = None
        self._waiting: Deferred[IListeningPort] | None = None

    def privilegedStartService(self) -> None:
        """Listen, while the process may still be root.

        Raises:
            ConfigurationError: it cannot; one line that says why and what to do.
        """
        if self.port is not None or self._waiting is not None:
            return
        failures: list[Failure] = []
        self._waiting = self._endpoint.listen(self._factory)
        self._waiting.addCallbacks(self._started, failures.append)
        if failures:
            self._waiting = None
            raise ConfigurationError(self._explain(failures[0].value))

    def startService(self) -> None:
        """Listen, where the runner knows no privileged start."""
        self.privilegedStartService()
        super().startService()  # type: ignore[no-untyped-call]

    def _started(self, port: Any) -> None:
        self.port = port
        self._gate.watch(port)
        self._listening(port)

    def stopService(self) -> Deferred[Any]:
        """Stop listening; open connections stay."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self.port, self._waiting = self.port, None, None
        if port is None:
            return maybeDeferred(lambda: None)
        self._gate.unwatch(port)
        return maybeDeferred(port.stopListening)

    def _explain(self, error: BaseException | None) -> str:
        if not isinstance(error, CannotListenError):
            return f"--{self._option} cannot listen: {error}."
        cause = error.socketError
        number = getattr(cause, "errno", None)
        where = f"{error.interface or 'any address'}, port {error.port}" if isinstance(error.port, int) else f"{error.interface}"
        if number == errno.EADDRINUSE:
            return f"Another process listens on {where}: stop it, or choose another with --{self._option}."
        if number in (errno.EACCES, errno.EPERM):
            return (
                f"This user may not listen on {where}: start as root (and give --uid), or choose another with --{self._option}."
            )
        if number == errno.EADDRNOTAVAIL:
            return f"This machine has no address {error.interface}: choose another for --{self._option}."
        return f"Cannot listen on {where} (--{self._option}): {getattr(cause, 'strerror', None) or cause}."
