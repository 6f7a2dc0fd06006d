"""Who is logged in at the admin page: sessions, each known by a cookie."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from msgspec import Struct

from twisted_ws.access.publishers.keys import KeyHolder
from twisted_ws.access.publishers.scopes import Scopes
from twisted_ws.limits import Limits

# Random bytes of a cookie: nobody guesses 256 bits.
BYTES = 32
# Over TLS. A browser takes a cookie of this prefix only from the host itself and over TLS, so that no other site can plant one.
SECURE_COOKIE = "__Host-tws-admin"
# Over plain HTTP on loopback, where a browser would not take that.
PLAIN_COOKIE = "tws-admin"


class Session(NamedTuple):
    """One login.

    Attributes:
        holder: who it is, and what they may do.
        expires: when it ends, in the seconds of the clock.
    """

    holder: KeyHolder
    expires: float


class Moving(Struct, array_like=True):
    """A session that goes on in another process.

    Attributes:
        digest: the SHA-256 of its cookie.
        name, scopes: of its holder, as in a file of keys.
        left: seconds until it ends.
    """

    digest: bytes
    name: str
    scopes: str
    left: float


class Sessions:
    """The sessions of one broadcast site, in memory: none outlives the process, unless another one takes over from it.

    Of a cookie, only the SHA-256 is kept, so that nothing that shows the memory of the server lets anybody in.

    Args:
        limits: `adminSession`, `adminSessions`.
        seconds: a monotonic clock.
    """

    def __init__(self, limits: Limits, seconds: Callable[[], float]) -> None:
        self._lasting = limits.adminSession
        self._most = limits.adminSessions
        self._seconds = seconds
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, holder: KeyHolder, most: float | None = None) -> tuple[str, Session]:
        """Begin a session; return its cookie and what is kept of it. The oldest ends if there are too many.

        Args:
            holder: who has logged in.
            most: seconds for which the credentials still count; None: without an end.
        """
        cookie = secrets.token_urlsafe(BYTES)
        lasting = self._lasting if most is None else min(self._lasting, most)
        session = self._sessions[_digest(cookie)] = Session(holder, self._seconds() + lasting)
        while len(self._sessions) > self._most:
            self._sessions.popitem(last=False)
        return cookie, session

    def find(self, cookie: str) -> Session | None:
        """Return the session of a cookie, None if there is none, or it has ended."""
        digest = _digest(cookie)
        session = self._sessions.get(digest)
        if session is not None and session.expires <= self._seconds():
            del self._sessions[digest]
            return None
        return session

    def end(self, cookie: str) -> None:
        """End the session of a cookie, if there is one."""
        self._sessions.pop(_digest(cookie), None)

    def moving(self) -> list[Moving]:
        """Return all, for another process."""
        now = self._seconds()
        return [
            Moving(digest, each.holder.name, str(each.holder.scopes), each.expires - now)
            for digest, each in self._sessions.items()
        ]

    def arrive(self, sessions: list[Moving]) -> None:
        """Go on with those of the process before this one."""
        now = self._seconds()
        for each in sessions[-self._most :]:
            holder = KeyHolder(each.name, Scopes(each.scopes.split()))
            self._sessions[each.digest] = Session(holder, now + min(each.left, self._lasting))

    def clear(self) -> None:
        """End all."""
        self._sessions.clear()


def _digest(cookie: str) -> bytes:
    # Looked up by digest, so the time that it takes says nothing of the cookies that there are.
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).digest()


def cookieName(isSecure: bool) -> str:
    """Return the name of the cookie over TLS, or over plain HTTP."""
    return SECURE_COOKIE if isSecure else PLAIN_COOKIE


def cookiesIn(header: str, isSecure: bool) -> list[str]:
    """Return what a Cookie header has of ours: one value, or more if somebody has planted another."""
    found = []
    for each in header.split(";"):
        name, equals, value = each.strip(" \t").partition("=")
        if equals and name == cookieName(isSecure):
            found.append(value)
    return found
