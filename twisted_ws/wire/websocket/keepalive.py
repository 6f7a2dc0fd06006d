"""Keep-alive: when to ping a peer, and what a missing pong means. Pure."""

from __future__ import annotations

from enum import Enum, IntEnum


class Verdict(Enum):
    """What to do at `KeepAlive.dueAt`."""

    PING = 1  # send `KeepAlive.payload` as a ping
    WAIT = 2  # the pong may be late
    DEAD = 3  # the peer does not answer


class _Ping(IntEnum):
    WAITS = 0  # in our own queue
    HANDED = 1  # to the kernel
    SPARED = 2  # its pong was due, but not everything from the peer had been read


class KeepAlive:
    """Our own pings to one peer.

    Only a pong proves that the peer reads what it is sent; a data frame proves only that it sends.

    Attributes:
        dueAt: when the next ping goes out, or the pong to the last one is due (seconds).
        payload: that of the unanswered ping; None if there is none.
    """

    __slots__ = ("_ahead", "_count", "_ping", "dueAt", "payload")

    def __init__(self, now: float, interval: float) -> None:
        self.dueAt = now + interval
        self.payload: bytes | None = None
        self._count = 0
        self._ping = _Ping.WAITS
        # What the peer's machine had taken at the last look, and has to take before the ping; None: nothing is ahead of the ping.
        self._ahead: tuple[int, int] | None = None

    def departing(self, now: float) -> tuple[float, bytes | None, int, int, tuple[int, int] | None]:
        """Return the state, for another process: how long until `dueAt`, and what else `arrived` takes."""
        return self.dueAt - now, self.payload, self._count, int(self._ping), self._ahead

    @classmethod
    def arrived(
        cls, now: float, due: float, payload: bytes | None, count: int, ping: int, ahead: tuple[int, int] | None
    ) -> KeepAlive:
        """Return one that goes on where another has ended."""
        made = cls(now, due)
        made.payload, made._count, made._ping = payload, count, _Ping(ping)
        made._ahead = None if ahead is None else (ahead[0], ahead[1])
        return made

    def due(self, now: float, timeout: float, sending: tuple[int, int], excused: bool, unread: bool) -> Verdict:
        """Decide at `dueAt`.

        Args:
            now: seconds.
            timeout: seconds the peer has for its pong.
            sending: see `wire.loop.transports.sending`: the ping waits behind what the kernel already had, and its pong cannot be
                late while that is still going out.
            excused: whether the peer, though alive, may have been unable to answer.
            unread: whether something from the peer is unread: the pong may be in it. This counts once: it will have been read
                before the pong is due again.
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
        elif self._progresses(sending):
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

    def _progresses(self, sending: tuple[int, int]) -> bool:
        """Return whether the peer's machine has taken more of what is ahead of the ping."""
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
        """Note that the kernel has the ping: the peer has `timeout` seconds from now on.

        Args:
            now: seconds.
            timeout: as in `due`.
            sending: as in `due`, now; None: unchanged since `due`.
        """
        self._ping = _Ping.HANDED
        if sending is not None:
            self._note(sending)
        if self.payload is not None:
            self.dueAt = now + timeout

    def answers(self, payload: bytes, now: float, interval: float) -> bool:
        """Return whether a pong with `payload` answers the pending ping; if so, the next goes out after `interval` seconds."""
        if payload != self.payload:
            return False
        self.payload = None
        self._ahead = None
        self.dueAt = now + interval
        return True
