"""What is no longer accepted, though it has not expired."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

from twisted_ws.engines.contract import Revocation
from twisted_ws.identity import Identity


class Revocations:
    """The revocations that this server knows of.

    The engine passes each to all servers, refuses more than `Limits.revocations`, and keeps those that have not ended.

    Args:
        unixTime: the wall clock.
        seconds: a monotonic clock, by which as much time has to have passed before one is forgotten: the wall clock may be set
            ahead, and back again. None: the wall clock.

    Attributes:
        due: empty while there are none; each with the moment at which it can be forgotten.
    """

    __slots__ = ("_seconds", "_tokens", "_unixTime", "_users", "due")

    def __init__(self, unixTime: Callable[[], float], seconds: Callable[[], float] | None = None) -> None:
        self._unixTime = unixTime
        self._seconds = seconds or unixTime
        self._tokens: dict[str, float] = {}  # until when
        self._users: dict[str, tuple[float, float]] = {}  # issued before, until when
        self.due: list[tuple[float, bool, str]] = []  # when it is due, whether a user, and which

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def add(self, revocation: Revocation) -> None:
        """Learn of a revocation; some that have ended are forgotten."""
        until = revocation.until
        if until <= self._unixTime():
            return
        if revocation.token is not None:
            self._tokens[revocation.token] = max(until, self._tokens.get(revocation.token, 0))
            self._await(until, False, revocation.token)
        if revocation.user is not None:
            before, last = self._users.get(revocation.user, (0.0, 0.0))
            self._users[revocation.user] = max(before, revocation.issuedBefore), max(last, until)
            self._await(until, True, revocation.user)
        self._forget()

    def _await(self, until: float, isUser: bool, name: str) -> None:
        heappush(self.due, (self._seconds() + until - self._unixTime(), isUser, name))

    def _forget(self) -> None:
        now, seconds = self._unixTime(), self._seconds()
        for _ in range(4):  # more than one comes at a time, so that they do not pile up
            if not self.due or self.due[0][0] > seconds:
                return
            _, isUser, name = heappop(self.due)
            until = self._users.get(name, (0.0, None))[1] if isUser else self._tokens.get(name)
            if until is None:
                continue
            if until > now:  # it was prolonged, or the wall clock was set back
                self._await(until, isUser, name)
            elif isUser:
                del self._users[name]
            else:
                del self._tokens[name]

    def covers(self, identity: Identity) -> bool:
        """Return whether an identity is revoked."""
        return self.coversToken(identity.tokenId, identity.user, identity.issuedAt)

    def coversToken(self, tokenId: str | None, user: str, issuedAt: float | None) -> bool:
        """Return whether a token is revoked; one that does not say when it was issued counts as issued long ago."""
        if tokenId is not None and self.coversTokenId(tokenId):
            return True
        now = self._unixTime()
        before, until = self._users.get(user, (0.0, 0.0))
        return until > now and (issuedAt or 0) < before

    def coversTokenId(self, tokenId: str) -> bool:
        """Return whether the token with an id is revoked, whoever has it."""
        return self._tokens.get(tokenId, 0) > self._unixTime()
