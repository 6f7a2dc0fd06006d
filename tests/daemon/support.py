"""A reactor without sockets, on which a daemon can be started and stopped."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock


class PortsReactor(MemoryReactorClock):
    """Knows which of its ports listen, and says "taken" for those in `taken`."""

    def __init__(self, *taken: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.taken = taken
        self.open: list[Any] = []

    def _opened(self, port: Any, name: Any) -> Any:
        self.open.append(name)
        port.stopListening = lambda: self.open.remove(name)
        return port

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        if port in self.taken:
            raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "in use"))
        made = self._opened(super().listenTCP(port, factory, backlog, interface), port)  # type: ignore[no-untyped-call]
        made.getHost = lambda: IPv4Address("TCP", interface or "0.0.0.0", port)  # whose own is the same for each
        return made

    def listenUNIX(self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: int = 0) -> Any:
        if 0 in self.taken:
            raise CannotListenError(None, address, OSError(errno.EROFS, "Read-only"))  # type: ignore[arg-type]
        return self._opened(super().listenUNIX(address, factory, backlog, mode, wantPID), address)  # type: ignore[no-untyped-call]
