"""API keys from a file."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat

from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import isOpenToOthers, warnIfExposed

# What may follow "Bearer" (RFC 6750 section 2.1); it has no colon, so a colon can separate it from a name.
_KEY = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
# Each request's key is compared with every key: this many bytes hold about 3,800 keys, and take less than a millisecond.
_MOST_BYTES = 64 * 1024


class KeyFile:
    """The API keys in a file: one key per line, or ``name: key``; empty lines and lines that begin with ``#`` are skipped.

    A key has at least 16 of the characters that a bearer token may have (RFC 6750): letters, digits, ``-._~+/``, and ``=`` at the
    end. Only its SHA-256 is kept. Two keys may have the same name, so that a key can be replaced without a gap.

    Raises:
        ConfigurationError: the file cannot be used; the text names the file, the line and the remedy, but no key.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._keys: tuple[tuple[str, bytes], ...] = ()
        self.reload()

    def __len__(self) -> int:
        return len(self._keys)

    def reload(self) -> None:
        """Read the file again; if that raises, the old keys stay.

        Raises:
            ConfigurationError: as for the class.
        """
        self._keys = self._parse(self._read())

    def find(self, key: str) -> str | None:
        """Return the name of `key` ("line 3" if it has none), None if the key is unknown.

        The time that this takes does not depend on the key: it compares digests, and all of them.
        """
        found = None
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        for name, each in self._keys:
            if hmac.compare_digest(each, digest):
                found = name
        return found

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

    def _parse(self, data: bytes) -> tuple[tuple[str, bytes], ...]:
        keys = []
        for number, raw in enumerate(data.splitlines(), 1):
            line = raw.decode("latin-1").strip()
            if not line or line.startswith("#"):
                continue
            where = f"line {number} of the API key file {self._path}"
            name, colon, key = line.rpartition(":")
            name, key = name.strip(), key.strip()
            if colon and not _NAME.fullmatch(name):
                raise ConfigurationError(f"{where} must be a key, or a name, a colon and a key")
            if len(key) < 16:
                raise ConfigurationError(f"{where} has a key shorter than 16 characters: make one with openssl rand -hex 32")
            if not _KEY.fullmatch(key):
                raise ConfigurationError(f"{where} has a key with characters other than letters, digits and -._~+/")
            keys.append((name or f"line {number}", hashlib.sha256(key.encode("ascii")).digest()))
        if not keys:
            raise ConfigurationError(f"the API key file {self._path} has no key")
        return tuple(keys)


def _openWithoutWaiting(path: str, flags: int) -> int:
    # A pipe instead of a file must not block the start.
    return os.open(path, flags | os.O_NONBLOCK)
