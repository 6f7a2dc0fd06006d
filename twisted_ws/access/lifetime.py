"""How long an open connection may go on: as long as the identity behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted_ws.identity import Identity

# What is waited for at once: the wall clock, by which credentials expire, may be set meanwhile.
LONGEST_WAIT = 60.0
# Seconds before its end at which a client is told; one that has a function for tokens has asked for a new one long before.
NOTICE = 30.0


class Alarm(Protocol):
    """A connection that can be reminded of something at a moment."""

    def remind(self, at: float | None, call: Callable[[], None] | None = None) -> None:
        """See `twisted_ws.connection.Connection`."""


class Lifetime:
    """Ends one connection when its identity ends.

    Args:
        connection: what is reminded; it forgets this when it ends.
        seconds: the clock of the connection's deadlines.
        unixTime: the wall clock.
        expire: called at the end.
        warn: called once with the seconds that are left, `NOTICE` seconds before the end, if more were left at first.
    """

    __slots__ = ("_connection", "_expire", "_expiresAt", "_isWarned", "_seconds", "_unixTime", "_warn")

    def __init__(
        self,
        connection: Alarm,
        seconds: Callable[[], float],
        unixTime: Callable[[], float],
        expire: Callable[[], None],
        warn: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._unixTime = unixTime
        self._expire = expire
        self._warn = warn
        self._expiresAt = 0.0
        self._isWarned = False

    def set(self, identity: Identity) -> None:
        """Begin anew, with the identity that counts from now on."""
        if identity.expiresAt is None:
            self._connection.remind(None)
            return
        self._expiresAt = identity.expiresAt
        self._isWarned = identity.expiresAt - self._unixTime() <= NOTICE
        self._look()

    def _look(self) -> None:
        left = self._expiresAt - self._unixTime()
        if left <= 0:
            self._expire()
            return
        if left <= NOTICE and not self._isWarned:
            self._isWarned = True
            self._warn(left)
        wait = min(left, LONGEST_WAIT) if self._isWarned else min(left - NOTICE, LONGEST_WAIT)
        self._connection.remind(self._seconds() + wait, self._look)
