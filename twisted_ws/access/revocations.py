"""What is no longer accepted, though it has not expired."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from twisted_ws.engines.contract import Revocation
from twisted_ws.identity import Identity


class Revocations:
    """The revocations that this server knows of; true while there are any.

    The engine passes each to all servers, refuses more than `Limits.revocations`, and keeps those that have not ended.

    Args:
        unixTime: the wall clock.
    """

    __slots__ = ("_due", "_tokens", "_unixTime", "_users")

    def __init__(self, unixTime: Callable[[], float]) -> None:
        self._unixTime = unixTime
        self._tokens: dict[str, float] = {}  # until when
        self._users: dict[str, tuple[float, float]] = {}  # issued before, until when
        self._due: list[tuple[float, bool, str]] = []  # until when, whether a user, and which

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def add(self, revocation: Revocation) -> None:
        """Learn of a revocation; some that have ended are forgotten."""
        until = revocation.until
        if until <= self._unixTime():
            return
        if revocation.token is not None:
            self._tokens[revocation.token] = max(until, self._tokens.get(revocation.token, 0))
            heappush(self._due, (until, False, revocation.token))
        if revocation.user is not None:
            before, last = self._users.get(revocation.user, (0.0, 0.0))
            self._users[revocation.user] = max(before, revocation.issuedBefore), max(last, until)
            heappush(self._due, (until, True, revocation.user))
        self._forget()

    def _forget(self) -> None:
        now = self._unixTime()
        for _ in range(4):  # more than one comes at a time, so that they do not pile up
            if not self._due or self._due[0][0] > now:
                return
            _, isUser, name = heappop(self._due)
            if isUser:
                if name in self._users and self._users[name][1] <= now:
                    del self._users[name]
            elif self._tokens.get(name, now + 1) <= now:
                del self._tokens[name]

    def covers(self, identity: Identity) -> bool:
        """Return whether an identity is revoked."""
        return self.coversToken(identity.tokenId, identity.user, identity.issuedAt)

    def coversToken(self, tokenId: str | None, user: str, issuedAt: float | None) -> bool:
        """Return whether a token is revoked; one that does not say when it was issued counts as issued long ago."""
        now = self._unixTime()
        if tokenId is not None and self._tokens.get(tokenId, 0) > now:
            return True
        before, until = self._users.get(user, (0.0, 0.0))
        return until > now and (issuedAt or 0) < before
