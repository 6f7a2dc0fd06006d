"""Whether the peer is still there: pings, and what to make of a missing pong. Pure."""

from __future__ import annotations

from enum import Enum, IntEnum

__all__ = ["KeepAlive", "Verdict"]


class Verdict(Enum):
    """What to do when `KeepAlive.dueAt` has come."""

    PING = 1  # send `KeepAlive.payload` as a ping
    WAIT = 2  # the pong may be late
    DEAD = 3  # the peer does not answer


class _Ping(IntEnum):
    WAITS = 0  # in our own queue
    HANDED = 1  # to the kernel
    SPARED = 2  # its pong was due, and what the peer had sent was not read yet


class KeepAlive:
    """The server's own pings to one peer.

    A pong is the only proof that the peer reads what it is sent; a data frame proves only that it sends.

    Attributes:
        dueAt: when the next ping goes out, or the pong to the last one is due (seconds).
        payload: of the ping that is not yet answered; None when none is.
    """

    __slots__ = ("_ahead", "_count", "_ping", "dueAt", "payload")

    def __init__(self, now: float, interval: float) -> None:
        self.dueAt = now + interval
        self.payload: bytes | None = None
        self._count = 0
        self._ping = _Ping.WAITS
        # What the peer's machine had taken at the last look, and what it has to take before the ping; None: nothing is before it.
        self._ahead: tuple[int, int] | None = None

    def due(self, now: float, timeout: float, sending: tuple[int, int], excused: bool, unread: bool) -> Verdict:
        """Decide at `dueAt`.

        Args:
            now: seconds.
            timeout: seconds the peer has for its pong.
            sending: see `wire.loop.transports.sending`: the ping waits behind what the kernel had before it, and a pong
                cannot be late while that goes on.
            excused: whether the peer, though alive, may have been unable to answer.
            unread: whether the peer has sent what nobody has read: the pong may be in it. That counts once, for until the pong is
                due again it will have been read.
        """
        if self.payload is None:
            self._count += 1
            self.payload = b"keep-alive %d" % self._count
            self._ping = _Ping.WAITS
            self._note(sending)
            verdict = Verdict.PING
        elif excused or self._ping is _Ping.WAITS:
            self._note(sending)
            verdict = Verdict.WAIT
        elif self._goesOn(sending):
            verdict = Verdict.WAIT
        elif unread and self._ping is not _Ping.SPARED:
            self._ping = _Ping.SPARED
            verdict = Verdict.WAIT
        else:
            return Verdict.DEAD
        self.dueAt = now + timeout
        return verdict

    def _note(self, sending: tuple[int, int]) -> None:
        unsent, taken = sending
        self._ahead = (taken, taken + unsent) if unsent else None

    def _goesOn(self, sending: tuple[int, int]) -> bool:
        """Say whether the peer's machine has taken more of what was before the ping."""
        if self._ahead is None:
            return False
        unsent, taken = sending
        before, all_ = self._ahead
        if not unsent or taken >= all_:
            self._ahead = None
            return True
        self._ahead = (taken, all_)
        return taken > before

    def handed(self, now: float, timeout: float, sending: tuple[int, int] | None = None) -> None:
        """Note that the kernel has the ping: from now on the peer has `timeout` seconds.

        Args:
            now: seconds.
            timeout: as in `due`.
            sending: as in `due`, at this moment; None: it has not changed since `due`.
        """
        self._ping = _Ping.HANDED
        if sending is not None:
            self._note(sending)
        if self.payload is not None:
            self.dueAt = now + timeout

    def answers(self, payload: bytes, now: float, interval: float) -> bool:
        """Say whether a pong with `payload` answers the pending ping; if so, the next goes out after `interval` seconds."""
        if payload != self.payload:
            return False
        self.payload = None
        self._ahead = None
        self.dueAt = now + interval
        return True
