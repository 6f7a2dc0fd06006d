"""How long a connection may take to close. Pure."""

from __future__ import annotations

from math import inf


def getsOn(before: tuple[int, int], present: tuple[int, int], least: int = 1) -> bool:
    """Return whether a peer is reading: it has taken some, or all that there was, of what the kernel had for it.

    Bytes that are written are not yet read: the kernel may hold a megabyte for a peer that takes minutes for it, and a reset
    would drop that.

    Args:
        before: what `twisted_ws.wire.loop.transports.sending` returned at the last look.
        present: what it returns now.
        least: how many bytes count as some.
    """
    return min(before[0], present[0]) > 0 and present[1] - before[1] >= min(before[0], least)


class CloseDeadline:
    """When to drop a connection that is closing; times are the wheel's seconds.

    A peer that still reads what the kernel has for it (see `getsOn`) gets more time.

    Attributes:
        at: when to check whether it is time; 0: at once, because nothing is known yet.
        isHanded: whether the kernel has our Close.
        sending: what the kernel had for the peer at the last look.
    """

    __slots__ = ("_by", "at", "isHanded", "sending")

    def __init__(self) -> None:
        self.at = 0.0
        self._by = inf  # when to drop it in any case
        self.isHanded = False
        self.sending = 0, 0

    def start(self, now: float, timeout: float) -> None:
        """Give the closing handshake `timeout` seconds."""
        self.at = self._by = now + timeout

    def shorten(self, now: float, timeout: float) -> bool:
        """Allow at most `timeout` seconds more; return whether `at` is earlier for it."""
        self._by = min(self._by, now + timeout)
        if self._by >= self.at:
            return False
        self.at = self._by
        return True

    def closeHanded(self, now: float, timeout: float, sending: tuple[int, int]) -> None:
        """Note that the kernel has our Close: from now on the peer has at most `timeout` seconds."""
        self.isHanded = True
        self.at = min(self.at, now + timeout)
        self.sending = sending

    def inputEnded(self, now: float, timeout: float) -> None:
        """Note that nothing the peer sends counts any more: it has at most `timeout` seconds to end its stream."""
        self.at = min(self.at, now + timeout) if self.at else now + timeout

    def isOver(self, now: float, patience: float, sending: tuple[int, int]) -> bool:
        """Return whether it is time to drop the connection; if not, look again within `patience` seconds."""
        before, self.sending = self.sending, sending
        if now >= self._by or not getsOn(before, sending):
            return True
        self.at = min(now + patience, self._by)
        return False
