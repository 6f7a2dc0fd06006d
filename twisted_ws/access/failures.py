"""Wrong credentials, by the address that they come from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from twisted_ws.access.buckets import TokenBuckets
from twisted_ws.access.refusals import tooManyFailures
from twisted_ws.limits import Limits
from twisted_ws.wire.door.gate import addressKey

# Wrong credentials of one address that count, of those that another process tells at once: more than lock it out for long.
MOST_AT_ONCE = 1000


class Census(Protocol):
    """Tells other processes with the same clients what is counted here (`twisted_ws.engines.hub.rates`)."""

    def failed(self, address: Hashable) -> None:
        """Take note of wrong credentials from an address."""


class Failures:
    """How many wrong credentials an address may still send (`Limits.authFailures`), counted by all authenticators of a server.

    It is for credentials that can be guessed, or that somebody else has to look at: passwords, sessions, opaque tokens. Signed
    tokens are checked here and cannot be guessed: an old page behind an office's address must not lock the office out.

    Args:
        limits: the server's.
        clock: returns the seconds of a monotonic clock.

    Attributes:
        census: tells other processes with the same clients; None: there are none.
    """

    __slots__ = ("_buckets", "census")

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self.census: Census | None = None
        self._buckets = TokenBuckets(limits.authFailures / 60, limits.authFailures, clock)

    def check(self, address: str) -> None:
        """Refuse to look at credentials from an address that has sent too many wrong ones; call it before each look.

        Raises:
            AccessRefused: with the status 429.
        """
        wait = self._buckets.wait(addressKey(address))
        if wait:
            raise tooManyFailures(wait)

    def charge(self, address: str) -> None:
        """Count wrong credentials. Several may be looked at in the same moment: each counts."""
        key = addressKey(address)
        self._buckets.charge(key)
        if self.census is not None:
            self.census.failed(key)

    def add(self, address: Hashable, count: int) -> None:
        """Count wrong credentials that another process has seen."""
        for _ in range(min(count, MOST_AT_ONCE)):
            self._buckets.charge(address)
