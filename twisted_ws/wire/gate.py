"""Who is let in at accept: the counts of connections, for all ports of a server together."""

from __future__ import annotations

import os
import resource
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from twisted.logger import Logger

from twisted_ws.limits import Limits

__all__ = ["Gate", "addressKey"]


def addressKey(address: str) -> IPv4Address | int | None:
    """Return what counts as one peer: an IPv4 address, the /64 of an IPv6 address, None for what is no IP address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        return parsed.ipv4_mapped or int(parsed) >> 64
    return parsed


class Gate:
    """Counts connections and keeps the process away from its descriptor limit.

    A process that runs out of descriptors cannot accept, and its listening ports spin; so accepting pauses `descriptorReserve`
    before that and resumes when connections leave. Peers then wait in the kernel's backlog.

    Attributes:
        open: connections let in and not yet released.
    """

    _log = Logger()

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._perAddress: dict[IPv4Address | int, int] = {}
        self._ports: list[Any] = []
        self._capacity: int | None = None
        self._paused = False
        self.open = 0

    def watch(self, port: Any) -> None:
        """Pause and resume `port` (an `IListeningPort` that is a read descriptor) as the descriptors run short."""
        if not hasattr(port, "stopReading") or port in self._ports:
            return
        self._ports.append(port)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY:
            inUse = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 32
            # What is open now beside our connections will stay open.
            self._capacity = max(soft - self._limits.descriptorReserve - (inUse - self.open), 1)
        if self._paused:
            port.stopReading()

    def unwatch(self, port: Any) -> None:
        """Forget `port`, which stops listening."""
        if port in self._ports:
            self._ports.remove(port)

    def full(self) -> bool:
        """Say whether the next connection would not be let in, whoever it is."""
        return bool(0 < self._limits.maxConnections <= self.open or (self._capacity is not None and self.open >= self._capacity))

    def admit(self, address: str) -> bool:
        """Count one connection from `address` (an IP address as text, "" without one), or say that it has to be closed."""
        if self.full():
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
            self._log.warn(
                "accepting pauses: {open} connections are open, {reserve} below the limit of descriptors (raise LimitNOFILE)",
                open=self.open,
                reserve=self._limits.descriptorReserve,
            )
            for port in self._ports:
                port.stopReading()
        return True

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
        if self._paused and self._capacity is not None and self.open < self._capacity:
            self._paused = False
            for port in self._ports:
                port.startReading()
