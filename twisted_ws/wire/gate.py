"""Who is let in at accept: the counts of connections, for all ports of a server together."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, NoReturn

from twisted.logger import Logger

from twisted_ws.limits import Limits
from twisted_ws.wire import speedups

__all__ = ["Gate", "addressKey"]

# Why accept(2) fails on a port that is well: descriptors or memory are short, here or on the whole machine.
_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# Seconds that a port rests then.
REST = 1


def addressKey(address: str) -> str | int | None:
    """Return what counts as one peer: an IPv4 address, the /64 of an IPv6 address, None for what is no IP address."""
    if ":" not in address:
        return address if address[:1].isdigit() else None
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return None
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else int(parsed) >> 64


class Gate:
    """Counts connections and keeps the process away from its descriptor limit.

    A process that runs out of descriptors cannot accept, and its listening ports spin; so accepting pauses `descriptorReserve`
    before that and resumes when connections leave. Peers then wait in the kernel's backlog. Where the system cannot accept all
    the same, because services or other processes have used up what there is, a port rests for a second.

    A full server must still be told from a dead one, and be reached by those who publish. So a port whose factory says that it is
    `essential` is not paused, and its connections may take some of the reserve.

    Attributes:
        open: connections let in and not yet released.
    """

    _log = Logger()

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._perAddress: dict[str | int, int] = {}
        self._ports: dict[Any, bool] = {}  # each with whether it is essential
        self._capacity: int | None = None
        self._paused = False
        self._told = False
        self.open = 0

    def watch(self, port: Any) -> None:
        """Pause and resume `port` (an `IListeningPort` that is a read descriptor) as the descriptors run short."""
        if not hasattr(port, "stopReading") or port in self._ports:
            return
        factory = getattr(port, "factory", None)
        self._ports[port] = bool(getattr(getattr(factory, "wrappedFactory", factory), "essential", False))
        if hasattr(port, "socket"):
            port.socket = _ListeningSocket(port.socket, port, self)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            inUse = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32
            # What is open now beside our connections will stay open.
            self._capacity = max(soft - self._limits.descriptorReserve - (inUse - self.open), 1)
        if self.isPaused(port):
            port.stopReading()

    def unwatch(self, port: Any) -> None:
        """Forget `port`, which stops listening."""
        self._ports.pop(port, None)

    def isPaused(self, port: Any) -> bool:
        """Say whether nobody is accepted on `port` at present."""
        return self._paused and not self._ports.get(port, False)

    def resume(self, port: Any) -> None:
        """Let `port` accept again, if it still listens and is not paused."""
        if not getattr(port, "connected", True) or getattr(port, "disconnecting", False):
            self.unwatch(port)
        elif port in self._ports and not self.isPaused(port):
            port.startReading()

    def full(self, essential: bool = False) -> bool:
        """Say whether the next connection would not be let in, whoever it is."""
        taken = self.open - (self._limits.descriptorReserve // 2 if essential else 0)
        return bool(0 < self._limits.maxConnections <= taken or (self._capacity is not None and taken >= self._capacity))

    def admit(self, address: str, essential: bool = False) -> bool:
        """Count one connection, or say that it has to be closed.

        Args:
            address: where it comes from: an IP address as text, "" without one.
            essential: whether it may have a place of the reserve.
        """
        if self.full(essential):
            return False
        key = addressKey(address)
        if key is not None:
            count = self._perAddress.get(key, 0)
            if 0 < self._limits.maxConnectionsPerIp <= count:
                return False
            self._perAddress[key] = count + 1
        self.open += 1
        if self._capacity is not None and self.open >= self._capacity and not self._paused:
            self._paused = True
            self._tell()
            for port in self._ports:
                if self.isPaused(port):
                    port.stopReading()
        return True

    def _tell(self) -> None:
        # Once, and not for each that leaves a full server and makes a place for the next.
        if not self._told:
            self._told = True
            self._log.warn(
                "accepting pauses: {open} connections are open, {reserve} below the limit of descriptors (raise LimitNOFILE)",
                open=self.open,
                reserve=self._limits.descriptorReserve,
            )

    def release(self, address: str) -> None:
        """Uncount one connection that `admit` let in."""
        key = addressKey(address)
        if key is not None:
            count = self._perAddress[key] - 1
            if count:
                self._perAddress[key] = count
            else:
                del self._perAddress[key]
        self.open -= 1
        if self._told and self._capacity is not None and self.open < self._capacity // 2:
            self._told = False
        if self._paused and self._capacity is not None and self.open < self._capacity:
            self._paused = False
            for port in tuple(self._ports):
                self.resume(port)


class _ListeningSocket:
    """The socket of a port that a gate watches: what Twisted asks when it accepts.

    When accept fails for want of descriptors or memory, Twisted closes peers that it could not serve, or returns at once, to be
    called again at once, with a line in the log each time. Here the port rests, and the peers wait in the backlog.
    """

    _log = Logger()

    def __init__(self, socket: Any, port: Any, gate: Gate) -> None:
        self._socket = socket
        self._port = port
        self._gate = gate
        self._short = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def accept(self) -> Any:
        """Accept one connection, or say that there is none."""
        return self._try(self._socket.accept)

    def acceptOne(self) -> tuple[int, Any]:
        """Do the same for who wants the descriptor alone (see `twisted_ws.wire.pure.acceptOne`)."""
        accepted: tuple[int, Any] = self._try(speedups.acceptOne, self._socket)
        return accepted

    def _try(self, accept: Callable[..., Any], *arguments: Any) -> Any:
        if self._gate.isPaused(self._port):
            self._none()  # the pause began in this very turn
        try:
            accepted = accept(*arguments)
        except OSError as error:
            if error.errno not in _SHORT:
                raise
            self._rest(error)
            self._none()
        if self._short:
            self._short = False
            self._log.info("accepting goes on")
        return accepted

    def _rest(self, error: OSError) -> None:
        if not self._short:
            self._short = True
            self._log.warn("accepting fails and is tried each second: {error}", error=error.strerror)
        self._port.stopReading()
        self._port.reactor.callLater(REST, self._gate.resume, self._port)

    @staticmethod
    def _none() -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
