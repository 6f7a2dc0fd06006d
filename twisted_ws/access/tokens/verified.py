"""Tokens that were verified a while ago."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Generic, TypeVar

from twisted_ws.access.sources import Found

T = TypeVar("T")

# Tokens, some 600 bytes each, and the bytes of what is in them: a crowd of so many that reconnects costs one verification each.
MOST = 10_000
MOST_BYTES = 16 * 1024 * 1024


class VerifiedTokens(Generic[T]):
    """What tokens say, by their SHA-256; the least recently used are forgotten.

    Args:
        unixTime: the wall clock.
        most: tokens.
        mostBytes: bytes of what they say, in all.
    """

    def __init__(self, unixTime: Callable[[], float], most: int = MOST, mostBytes: int = MOST_BYTES) -> None:
        self._unixTime = unixTime
        self._most = most
        self._mostBytes = mostBytes
        self._bytes = 0
        self._found: OrderedDict[bytes, tuple[T, float, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<VerifiedTokens {len(self)}>"

    @staticmethod
    def nameOf(found: Found) -> bytes:
        """Return the name of a token here: what holds for one from a header need not hold for the same from a URL."""
        token, isAmbient, inURL = found
        digest = sha256(token.encode("utf-8", "surrogatepass")).digest()
        if inURL or isAmbient:
            return digest + (b"uc" if inURL else b"c")
        return digest

    def get(self, name: bytes) -> T | None:
        """Return what a token says that is still valid."""
        entry = self._found.get(name)
        if entry is None:
            return None
        if entry[1] <= self._unixTime():
            self._forget(name)
            return None
        self._found.move_to_end(name)
        return entry[0]

    def put(self, name: bytes, found: T, until: float, size: int) -> None:
        """Keep what a token says, which takes `size` bytes of memory, until Unix time `until`."""
        if name in self._found:
            self._forget(name)
        self._found[name] = (found, until, size)
        self._bytes += size
        while len(self._found) > self._most or self._bytes > self._mostBytes:
            self._forget(next(iter(self._found)))

    def _forget(self, name: bytes) -> None:
        self._bytes -= self._found.pop(name)[2]

    def clear(self) -> None:
        """Forget all: the keys are others now."""
        self._found.clear()
        self._bytes = 0
