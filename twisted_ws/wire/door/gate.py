"""Which connections are let in at accept: their counts, for all ports of a server together."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv6Address
from itertools import islice
from sys import maxsize
from typing import Any, NoReturn, Protocol

from twisted.logger import Logger

from twisted_ws.limits import Limits
from twisted_ws.logs import Throttle
from twisted_ws.wire import speedups

# Why accept(2) fails on a healthy port: descriptors or memory are short, here or on the whole machine.
_SHORT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# Seconds for which a port then stops accepting.
REST = 1
# Descriptors that are kept open to be given up for connections to an essential port when no other is left.
SPARES = 4
# Essential connections that are dropped at once when others want to come in, and how many are examined to find them.
DROPPED = 8
LOOKED_AT = 64
# Seconds between two log lines of one kind: peers can make a full server write one as often as they like.
QUIET = 60


def addressKey(address: str) -> str | int | None:
    """Return what counts as one peer: an IPv4 address, or the /64 of an IPv6 address; None for anything else."""
    if ":" not in address:
        return address if address[:1].isdigit() else None
    try:
        parsed = IPv6Address(address.partition("%")[0])
    except ValueError:
        return None
    return str(parsed.ipv4_mapped) if parsed.ipv4_mapped else int(parsed) >> 64


class Essential(Protocol):
    """A connection of an essential port."""

    @property
    def waitsForPeer(self) -> bool:
        """Whether the peer has to act: send its request, take the answer, or leave."""

    def drop(self) -> None:
        """End it now."""


class Census(Protocol):
    """Counts the connections of each address at several processes that share their ports."""

    def isFull(self, address: str | int) -> bool:
        """Return whether an address (as `addressKey` has it) has as many connections as it may."""

    def came(self, address: str | int, here: int, turnAway: Callable[[], object]) -> None:
        """Take note of a connection that was let in, and call `turnAway` if it turns out to be one too many.

        Args:
            address: where it comes from.
            here: how many connections of this address there are here, with this one.
            turnAway: drops it.
        """

    def left(self, address: str | int) -> None:
        """Take note that one has ended."""


class Gate:
    """Counts connections and keeps the process away from its descriptor limit.

    A process that runs out of descriptors cannot accept, and its listening ports spin. So accepting pauses `descriptorReserve`
    before that, while peers wait in the kernel's backlog, and resumes when connections leave. If the system still cannot accept,
    because services or other processes have used up the descriptors, a port stops accepting for a second.

    A full server must still be distinguishable from a dead one, and within reach of publishers. So a port whose factory is
    `essential` is not paused, and its connections may take half of the reserve. When they have taken that, those that wait for
    their peers make room for the next, which has a request; and for when no descriptor is left at all, there are a few spare
    ones.

    Args:
        limits: all limits.
        seconds: the clock.

    Attributes:
        open: connections let in and not yet released.
        pauses: whether accepting is paused, except on essential ports.
        brink: see `reached`.
        census: counts for all processes that listen on the same ports; None: this is the only one.
    """

    _log = Logger()

    def __init__(self, limits: Limits, seconds: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._perAddress: dict[str | int, int] = {}
        self._ports: dict[Any, bool] = {}  # and whether each is essential
        self.brink = maxsize  # the first descriptor of the reserve
        self._capacity: int | None = None
        self._most = 0  # its value before descriptors ran short
        self.pauses = False
        self._essentials: dict[Essential, None] = {}  # oldest first
        self._keepsSpare = False
        self._spare: list[int] = []
        self.throttle = Throttle(seconds, 1, QUIET)
        self.open = 0
        self.census: Census | None = None

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
            self.brink = soft - self._limits.descriptorReserve
            # Descriptors that are open now and not our connections will stay open.
            self._capacity = self._most = max(self.brink - (inUse - self.open), 1)
        if self._ports[port]:
            self._keepsSpare = True
            self._fillSpare()
        if self.isPaused(port):
            port.stopReading()

    def unwatch(self, port: Any) -> None:
        """Forget `port`, which stops listening."""
        self._ports.pop(port, None)
        self._keepsSpare = any(self._ports.values())
        while self._spare and not self._keepsSpare:
            os.close(self._spare.pop())

    def _fillSpare(self) -> None:
        with suppress(OSError):
            while len(self._spare) < SPARES:
                self._spare.append(os.open(os.devnull, os.O_RDONLY))

    def giveSpare(self) -> bool:
        """Give up a spare descriptor for the next one that is opened; return whether there was one."""
        if self._spare:
            os.close(self._spare.pop())
            return True
        return False

    def isEssential(self, port: Any) -> bool:
        """Return whether a port is never paused."""
        return self._ports.get(port, False)

    def isPaused(self, port: Any) -> bool:
        """Return whether accepting on `port` is paused."""
        return self.pauses and not self.isEssential(port)

    def resume(self, port: Any) -> None:
        """Let `port` accept again, if it still listens and is not paused."""
        if not getattr(port, "connected", True) or getattr(port, "disconnecting", False):
            self.unwatch(port)
        elif port in self._ports and not self.isPaused(port):
            try:
                port.startReading()
            except (OSError, MemoryError):
                port.reactor.callLater(REST, self.resume, port)

    def reached(self) -> None:
        """Note that a descriptor at or above the `brink` was opened: all below it are taken, by whatever."""
        if self._capacity is not None and not self.pauses:
            self._capacity = min(self._capacity, self.open + 1)

    def enroll(self, connection: Essential) -> None:
        """Note a connection of an essential port that was let in; `release` forgets it."""
        self._essentials[connection] = None

    @property
    def essentials(self) -> tuple[Essential, ...]:
        """The connections that were enrolled, oldest first."""
        return tuple(self._essentials)

    def makePlace(self) -> bool:
        """Drop some of the essential connections that wait for their peers, oldest first; return whether there were any."""
        waiting = [each for each in islice(self._essentials, LOOKED_AT) if each.waitsForPeer][:DROPPED]
        if not waiting:
            # The others are looked at the next time.
            for each in tuple(islice(self._essentials, LOOKED_AT)):
                self._essentials[each] = self._essentials.pop(each)
        for each in waiting:
            del self._essentials[each]
            each.drop()
        return bool(waiting)

    def full(self, essential: bool = False) -> bool:
        """Return whether the next connection would be refused, wherever it comes from."""
        taken = self.open - (self._limits.descriptorReserve // 2 if essential else 0)
        return bool(0 < self._limits.maxConnections <= taken or (self._capacity is not None and taken >= self._capacity))

    @property
    def limit(self) -> int:
        """How many connections may be open, as the settings and the descriptors allow; 0: nobody has said."""
        limits = [each for each in (self._limits.maxConnections, self._capacity) if each]
        return min(limits, default=0)

    def admit(self, address: str, essential: bool = False) -> bool:
        """Count one connection and return True, or return False if it must be closed.

        Args:
            address: where it comes from: an IP address as text, "" without one.
            essential: whether it may take a place of the reserve.
        """
        if self.full(essential):
            return False
        key = addressKey(address)
        if key is not None:
            count = self._perAddress.get(key, 0)
            if 0 < self._limits.maxConnectionsPerIp <= count or (self.census is not None and self.census.isFull(key)):
                return False
            self._perAddress[key] = count + 1
        self.open += 1
        if self._capacity is not None and self.open >= self._capacity and not self.pauses:
            self._pause()
        return True

    def _pause(self) -> None:
        self.pauses = True
        self._tell()
        for port in self._ports:
            if self.isPaused(port):
                port.stopReading()

    def readmit(self, address: str) -> None:
        """Count a connection that another process of the server has let in: it is not refused."""
        key = addressKey(address)
        if key is not None:
            self._perAddress[key] = count = self._perAddress.get(key, 0) + 1
            if self.census is not None:
                self.census.came(key, count, _nothing)
        self.open += 1
        if self._capacity is not None and self.open >= self._capacity and not self.pauses:
            self._pause()

    def report(self, address: str, turnAway: Callable[[], object]) -> None:
        """Have the `census` count a connection that `admit` has let in; `turnAway` drops it, and may be called later."""
        key = addressKey(address)
        if key is not None and self.census is not None:
            self.census.came(key, self._perAddress[key], turnAway)

    def count(self, address: str | int) -> int:
        """Return how many connections of an address (as `addressKey` has it) are open."""
        return self._perAddress.get(address, 0)

    def _tell(self) -> None:
        if turn := self.throttle.allows("accepting pauses"):
            self._log.warn(
                "accepting pauses: {count} connections are open, {reserve} below the limit of descriptors (raise LimitNOFILE)",
                count=self.open,
                reserve=self._limits.descriptorReserve,
                event="accept.paused",
                suppressed=turn - 1,
            )

    def release(self, address: str, connection: Essential | None = None) -> None:
        """Stop counting one connection that `admit` let in.

        Args:
            address: as given to `admit`.
            connection: the one that was enrolled, if any.
        """
        key = addressKey(address)
        if key is not None:
            count = self._perAddress[key] - 1
            if count:
                self._perAddress[key] = count
            else:
                del self._perAddress[key]
            if self.census is not None:
                self.census.left(key)
        self.open -= 1
        if connection is not None:
            self._essentials.pop(connection, None)
        if self._keepsSpare and len(self._spare) < SPARES:
            self._fillSpare()
        if self._capacity is None or self.open >= self._capacity:
            return
        if self.open < self._capacity // 2:
            self._capacity = self._most
        if self.pauses:
            self.pauses = False
            for port in tuple(self._ports):
                self.resume(port)


def _nothing() -> None:
    """Drop nothing: a connection that was let in elsewhere stays."""


class _ListeningSocket:
    """The socket of a port that a gate watches, as Twisted sees it.

    When accept fails for want of descriptors or memory, Twisted closes peers that it could not serve, or returns and is called
    again at once, with a log line each time. Here the port stops accepting, and the peers wait in the backlog.
    """

    _log = Logger()

    def __init__(self, socket: Any, port: Any, gate: Gate) -> None:
        self._socket = socket
        self._port = port
        self._gate = gate
        self._isEssential = gate.isEssential(port)
        self._short = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def accept(self) -> Any:
        """Accept one connection; raise BlockingIOError if there is none."""
        return self._try(self._socket.accept)

    def acceptOne(self) -> tuple[int, Any]:
        """Accept one connection, as a descriptor only (see `twisted_ws.wire.speedups.pure.acceptOne`)."""
        accepted: tuple[int, Any] = self._try(speedups.acceptOne, self._socket)
        return accepted

    def _try(self, accept: Callable[..., Any], *arguments: Any) -> Any:
        gate, isEssential = self._gate, self._isEssential
        if isEssential:
            if gate.full(essential=True):
                self._crowded("all places are taken by requests that are being answered")
        elif gate.pauses:
            self._none()  # the pause began in this same turn
        try:
            try:
                accepted = accept(*arguments)
            except OSError as error:
                if not isEssential or error.errno not in _SHORT or not gate.giveSpare():
                    raise
                accepted = accept(*arguments)
        except Exception as error:
            if not isinstance(error, OSError):
                self._rest(repr(error))
            elif error.errno not in _SHORT:
                raise
            elif isEssential:
                self._crowded(error.strerror or repr(error))
            else:
                self._rest(error.strerror or repr(error))
            self._none()
        if self._short:
            self._short = False
            if turn := gate.throttle.allows("accepting goes on"):
                self._log.info("accepting goes on", event="accept.resumed", suppressed=turn - 1)
        new = accepted[0]
        if (new if new.__class__ is int else new.fileno()) >= gate.brink:
            gate.reached()
        return accepted

    def _crowded(self, why: str) -> NoReturn:
        """Drop others, and let this connection wait for the next turn of the reactor; or for longer, if all are busy."""
        if not self._gate.makePlace():
            self._rest(why)
        self._none()

    def _rest(self, why: str) -> None:
        self._port.reactor.callLater(REST, self._gate.resume, self._port)
        self._port.stopReading()
        self._short = True
        if turn := self._gate.throttle.allows("accepting fails"):
            self._log.warn(
                "accepting connections fails, and is tried again each second: {reason}",
                reason=why,
                event="accept.failed",
                suppressed=turn - 1,
            )

    @staticmethod
    def _none() -> NoReturn:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
