"""API keys from a file."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from twisted.logger import Logger

from twisted_ws.access.publishers.scopes import EVERYTHING, Scopes
from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import isOpenToOthers, warnIfExposed

# What may follow "Bearer" (RFC 6750 section 2.1); it has no colon, so a colon can separate it from a name.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
# Each request's key is compared with every key: this many bytes hold about 3,800 keys, and take less than a millisecond.
_MOST_BYTES = 64 * 1024
# Days before a key's end in which the log names it at each start and reload: as many as for a certificate.
WARN_DAYS = 14
_DAY = 24 * 60 * 60

_log = Logger()


class KeyHolder(NamedTuple):
    """Who has a key.

    Attributes:
        name: that of the key, or of a user with a password; "" where nobody needs credentials.
        scopes: what they may do.
    """

    name: str = ""
    scopes: Scopes = EVERYTHING


class _Key(NamedTuple):
    digest: bytes
    holder: KeyHolder
    until: float | None
    line: int

    @property
    def said(self) -> tuple[bytes, str, str, float | None]:
        """What makes it the same key."""
        return self.digest, self.holder.name, str(self.holder.scopes), self.until


class KeyFile:
    """The API keys in a file, one in each line; empty lines and lines that begin with ``#`` are skipped.

    ::

        shop: sha256:9f86d081...  publish:orders.* publish:users.*
        ops:  q7Jx...             until=2027-01-31 admin

    A line has a key, or a name, a colon and a key; then, if it has a name, the last day on which it counts (in UTC), and scopes
    (see `Scopes`). A key without scopes may do everything. It has at least 16 of the characters that a bearer
    token may have (RFC 6750): letters, digits, ``-._~+/``, and ``=`` at the end; or the file has its SHA-256 instead, which is
    also all that is kept. Two keys may have the same name, so that a key can be replaced without a gap.

    Args:
        path: the file.
        unixTime: the wall clock.

    Raises:
        ConfigurationError: the file cannot be used; the text names the file, the line and the remedy, but no key.
    """

    def __init__(self, path: str, unixTime: Callable[[], float] = time.time) -> None:
        self._path = path
        self._unixTime = unixTime
        self._keys: tuple[_Key, ...] = ()
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> bool:
        """Read the file again, and return whether its keys are others now; if that raises, the old ones stay.

        Raises:
            ConfigurationError: as for the class.
        """
        before, self._keys = self.said, self._parse(self._read())
        for each in self._keys:
            if each.until is not None and each.until - self._unixTime() < WARN_DAYS * _DAY:
                _log.warn(
                    "The API key {key} (line {line} of {file}) {ends} {day}",
                    key=each.holder.name,
                    line=each.line,
                    file=self._path,
                    ends="expires after" if self._counts(each) else "expired after",
                    day=datetime.fromtimestamp(each.until - _DAY, UTC).date(),
                    event="key.expires",
                )
        return before != self.said

    @property
    def said(self) -> tuple[tuple[bytes, str, str, float | None], ...]:
        """What makes the keys the same ones, in the order of the file."""
        return tuple(each.said for each in self._keys)

    def find(self, key: str) -> KeyHolder | None:
        """Return who has `key` (named "line 3" if it has no name), None if the key is unknown or has ended.

        The time that this takes does not depend on the key: it compares digests, and all of them.
        """
        found = self._lines(key)
        return next((each.holder for each in reversed(found) if self._counts(each)), None)

    def lasts(self, key: str) -> float | None:
        """Return the seconds for which a key still counts; None: it has no end."""
        ends = [each.until for each in self._lines(key) if self._counts(each)]
        return max(ends[-1] - self._unixTime(), 0) if ends and ends[-1] is not None else None

    def expired(self, key: str) -> str | None:
        """Return which key this is whose last day has passed, such as "shop, line 3"; None for any other."""
        found = self._lines(key)
        return next((f"{each.holder.name}, line {each.line}" for each in reversed(found) if not self._counts(each)), None)

    def _lines(self, key: str) -> list[_Key]:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        return [each for each in self._keys if hmac.compare_digest(each.digest, digest)]

    def _counts(self, key: _Key) -> bool:
        return key.until is None or self._unixTime() < key.until

    def __iter__(self) -> Iterator[tuple[int, KeyHolder, bool]]:
        """Yield the line of each key, who has it, and whether it still counts."""
        for each in self._keys:
            yield each.line, each.holder, self._counts(each)

    def named(self, name: str) -> Iterator[tuple[int, KeyHolder, bool]]:
        """Yield the line of each key of this name, who has it, and whether it still counts."""
        return (each for each in self if each[1].name == name)

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb", opener=_openWithoutWaiting) as file:
                # The mode of the file that was opened, not of the one that has the name now.
                mode = os.fstat(file.fileno()).st_mode
                if not stat.S_ISREG(mode):
                    raise ConfigurationError(f"the API key file {self._path} is not a regular file")
                if isOpenToOthers(mode):
                    raise ConfigurationError(f"the API key file {self._path} is open to others: run chmod 600 {self._path}")
                warnIfExposed(self._path, mode)
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"cannot read the API key file {self._path}: {error.strerror}") from None
        if len(data) > _MOST_BYTES:
            raise ConfigurationError(f"the API key file {self._path} is larger than {_MOST_BYTES // 1024} KiB")
        return data

    def _parse(self, data: bytes) -> tuple[_Key, ...]:
        keys = []
        for number, raw in enumerate(data.splitlines(), 1):
            line = raw.decode("latin-1").strip()
            if not line or line.startswith("#"):
                continue
            where = f"line {number} of the API key file {self._path}"
            keys.append(_key(line, number, where))
        if not keys:
            raise ConfigurationError(f"the API key file {self._path} has no key")
        return tuple(keys)


_LINE = re.compile(r"(?:(?P<name>[^:\s]+)\s*:\s*)?(?P<key>sha256:\S*|[^:\s]*)(?P<rest>(?:\s.*)?)", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9A-Fa-f]{64}", re.ASCII)


def keyIn(line: str) -> str:
    """Return the key in a line of a file of keys, without its name and scopes; "" if there is none."""
    found = _LINE.fullmatch(line.strip())
    return "" if found is None else found["key"]


def _key(line: str, number: int, where: str) -> _Key:
    """Return the key in a line; no error repeats any of it but its scopes."""
    found = _LINE.fullmatch(line)
    words = [] if found is None else found["rest"].split()
    if found is None or not _NAME.fullmatch(found["name"] or "none") or (words and found["name"] is None):
        raise ConfigurationError(f"{where} must be a key, or a name, a colon and a key, which scopes may follow")
    key = found["key"]
    if key.startswith("sha256:"):
        if not _DIGEST.fullmatch(key):
            raise ConfigurationError(f"{where} must have 64 hexadecimal digits after sha256:, as sha256sum prints them")
        digest = bytes.fromhex(key.removeprefix("sha256:"))
    elif len(key) < 16:
        raise ConfigurationError(f"{where} has a key shorter than 16 characters: make one with openssl rand -hex 32")
    elif not _KEY.fullmatch(key):
        raise ConfigurationError(f"{where} has a key with characters other than letters, digits and -._~+/")
    else:
        digest = hashlib.sha256(key.encode("ascii")).digest()
    if any(map(_KEY.fullmatch, words)):  # which no error may repeat
        raise ConfigurationError(f"{where} has what looks like another key after its key: give it a line of its own")
    until = None
    if words and words[0].startswith("until="):
        until = _endOf(words.pop(0).removeprefix("until="), where)
    try:
        scopes = Scopes(words) if words else EVERYTHING
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return _Key(digest, KeyHolder(found["name"] or f"line {number}", scopes), until, number)


def _endOf(day: str, where: str) -> float:
    """Return when a day has passed, in Unix time."""
    try:
        return (datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) + timedelta(days=1)).timestamp()
    except (ValueError, OverflowError):
        raise ConfigurationError(f"{where} must have a day such as until=2027-01-31") from None


def _openWithoutWaiting(path: str, flags: int) -> int:
    # A pipe instead of a file must not block the start.
    return os.open(path, flags | os.O_NONBLOCK)
