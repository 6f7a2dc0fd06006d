"""What was found out a moment ago."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Entries of one cache: about 4 MB of most identities; and the bytes of those that say much.
MOST = 10_000
MOST_BYTES = 16 * 1024 * 1024


class Recent(Generic[T]):
    """Answers by what was asked, for some seconds; what was asked may be a secret, and is not kept.

    Args:
        seconds: how long an answer counts; 0: nothing is kept.
        clock: returns the seconds of a monotonic clock.
        most: entries; the oldest are forgotten.
    """

    def __init__(self, seconds: float, clock: Callable[[], float], most: int = MOST) -> None:
        self._seconds = seconds
        self._clock = clock
        self._most = most
        # A hash of a password alone could be guessed from a copy of the memory as easily as from a file.
        self._key = secrets.token_bytes(32)
        self._found: OrderedDict[bytes, tuple[float, T, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<Recent {len(self)}>"

    def _named(self, *asked: bytes) -> bytes:
        # With their lengths: ("a", "bc") is not ("ab", "c").
        return hmac.digest(self._key, b"".join(len(each).to_bytes(8) + each for each in asked), hashlib.sha256)

    def get(self, *asked: bytes) -> T | None:
        """Return what was put for the same, None if that is too long ago."""
        if not self._found:
            return None
        name = self._named(*asked)
        entry = self._found.get(name)
        if entry is None:
            return None
        until, answer, _ = entry
        if until <= self._clock():
            self._forget(name)
            return None
        return answer

    def put(self, answer: T, *asked: bytes, size: int = 0) -> None:
        """Keep an answer, which takes `size` bytes of memory besides some hundred."""
        if self._seconds <= 0:
            return
        now = self._clock()
        while self._found and (len(self._found) >= self._most or next(iter(self._found.values()))[0] <= now):
            self._forget(next(iter(self._found)))
        name = self._named(*asked)
        if name in self._found:
            self._forget(name)
        self._found[name] = (now + self._seconds, answer, size)
        self._bytes += size
        while self._bytes > MOST_BYTES:
            self._forget(next(iter(self._found)))

    def _forget(self, name: bytes) -> None:
        self._bytes -= self._found.pop(name)[2]

    def clear(self) -> None:
        """Forget everything."""
        self._found.clear()
        self._bytes = 0
