"""Whether the peer is still there: pings, and what to make of a missing pong. Pure."""

from __future__ import annotations

from enum import Enum

__all__ = ["KeepAlive", "Verdict"]


class Verdict(Enum):
    """What to do when `KeepAlive.dueAt` has come."""

    PING = 1  # send `KeepAlive.payload` as a ping
    WAIT = 2  # the pong may be late
    DEAD = 3  # the peer does not answer


class KeepAlive:
    """The server's own pings to one peer.

    A pong is the only proof that the peer reads what it is sent; a data frame proves only that it sends.

    Attributes:
        dueAt: when the next ping goes out, or the pong to the last one is due (seconds).
        payload: of the ping that is not yet answered; None when none is.
    """

    __slots__ = ("_count", "_handed", "_unsent", "dueAt", "payload")

    def __init__(self, now: float, interval: float) -> None:
        self.dueAt = now + interval
        self.payload: bytes | None = None
        self._count = 0
        self._unsent = 0
        self._handed = True

    def due(self, now: float, timeout: float, unsent: int, excused: bool) -> Verdict:
        """Decide at `dueAt`.

        Args:
            now: seconds.
            timeout: seconds the peer has for its pong.
            unsent: bytes that the kernel holds for the peer; the ping waits behind those that were there before it.
            excused: whether the peer, though alive, may have been unable to answer.
        """
        progress = unsent < self._unsent
        self._unsent = unsent
        if self.payload is None:
            self._count += 1
            self.payload = b"keep-alive %d" % self._count
            self._handed = False
            verdict = Verdict.PING
        elif excused or progress or not self._handed:
            verdict = Verdict.WAIT
        else:
            return Verdict.DEAD
        self.dueAt = now + timeout
        return verdict

    def handed(self, now: float, timeout: float) -> None:
        """Note that the kernel has the ping: from now on the peer has `timeout` seconds."""
        self._handed = True
        if self.payload is not None:
            self.dueAt = now + timeout

    def answers(self, payload: bytes, now: float, interval: float) -> bool:
        """Say whether a pong with `payload` answers the pending ping; if so, the next goes out after `interval` seconds."""
        if payload != self.payload:
            return False
        self.payload = None
        self.dueAt = now + interval
        return True
