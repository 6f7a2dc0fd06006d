"""How long an open connection may go on: as long as the identity behind it; and its subscriptions, as long as their tokens."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple, Protocol

from twisted_ws.identity import Identity

# What is waited for at once: the wall clock, by which credentials expire, may be set meanwhile.
LONGEST_WAIT = 60.0
# Seconds before its end at which a client is told; one that has a function for tokens has asked for a new one long before.
NOTICE = 30.0
# With more seconds than this, a connection has no need of a `Lifetime` yet: most are over by then.
SOON = LONGEST_WAIT + NOTICE


class Alarm(Protocol):
    """A connection that can be reminded of something at a moment."""

    def remind(self, at: float | None, call: Callable[[], None] | None = None) -> None:
        """See `twisted_ws.connection.Connection`."""


class Term(NamedTuple):
    """What a subscription token still allows when the subscription has begun.

    Attributes:
        until: Unix time.
        mayPublish: whether it allows to publish to the channel, too.
        tokenId: the id of the token, by which it can be revoked; None without one.
    """

    until: float
    mayPublish: bool
    tokenId: str | None = None


class Lifetime:
    """Ends one connection when its identity ends, and each subscription that needs a token when that ends.

    Args:
        connection: what is reminded, of whatever is next; it forgets this when it ends.
        seconds: the clock of the connection's deadlines.
        unixTime: the wall clock.
        expire: called at the end.
        warn: called once with the seconds that are left, `NOTICE` seconds before the end, if more were left at first.
        lapse: called with a channel whose token has ended.
    """

    __slots__ = ("_connection", "_expire", "_expiresAt", "_isWarned", "_lapse", "_seconds", "_terms", "_unixTime", "_warn")

    def __init__(
        self,
        connection: Alarm,
        seconds: Callable[[], float],
        unixTime: Callable[[], float],
        expire: Callable[[], None],
        warn: Callable[[float], None],
        lapse: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._seconds = seconds
        self._unixTime = unixTime
        self._expire = expire
        self._warn = warn
        self._lapse = lapse
        self._expiresAt = inf
        self._isWarned = False
        self._terms: dict[str, Term] | None = None

    def set(self, identity: Identity) -> None:
        """Go on with the identity that counts from now on."""
        self._expiresAt = inf if identity.expiresAt is None else identity.expiresAt
        self._isWarned = self._expiresAt - self._unixTime() <= NOTICE
        self._look()

    def grant(self, channel: str, term: Term) -> None:
        """Note what a token allows on a channel that is subscribed to; it replaces an earlier one."""
        if self._terms is None:
            self._terms = {}
        self._terms[channel] = term
        self._look()

    def granted(self, channel: str) -> Term | None:
        """Return what a token allows on a channel, None without one."""
        return None if self._terms is None else self._terms.get(channel)

    def terms(self) -> list[tuple[str, Term]]:
        """Return what tokens allow, by channel."""
        return [*(self._terms or {}).items()]

    def withToken(self, token: str) -> list[str]:
        """Return the channels that the token with an id allows."""
        return [channel for channel, term in (self._terms or {}).items() if term.tokenId == token]

    def release(self, channel: str) -> None:
        """Forget the token of a channel that is no longer subscribed to."""
        if self._terms is not None:
            self._terms.pop(channel, None)

    def _look(self) -> None:
        now = self._unixTime()
        left = self._expiresAt - now
        if left <= 0:
            self._expire()
            return
        if left <= NOTICE and not self._isWarned:
            self._isWarned = True
            self._warn(left)
        due = left if self._isWarned else left - NOTICE
        if self._terms:
            for channel in [channel for channel, term in self._terms.items() if term.until <= now]:
                self.release(channel)
                self._lapse(channel)
            due = min([due, *[term.until - now for term in self._terms.values()]])
        if due == inf:
            self._connection.remind(None)
        else:
            self._connection.remind(self._seconds() + min(due, LONGEST_WAIT), self._look)
