"""Users with their passwords and scopes, from a file."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Collection
from typing import NamedTuple

from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.identity import LONGEST_USER
from twisted_ws.wire.tls.files import readFile

# The parameters of scrypt (RFC 7914) that OWASP recommends, of those that take 16 MiB: some 50 ms.
_COST, _BLOCK, _PARALLEL = 2**14, 8, 5
_SCRYPT = re.compile(r"\$scrypt\$([0-9a-f]{16,128})\$([0-9a-f]{64})")
# So much work is done for a user that does not exist: whether one does cannot be seen by the time.
_NOBODY = f"$scrypt${'0' * 32}${'0' * 64}"


class Entry(NamedTuple):
    """One user.

    Attributes:
        password: as it is in the file.
        scopes: what else the user may do.
    """

    password: str
    scopes: frozenset[str]

    def __repr__(self) -> str:
        return f"<Entry {' '.join(sorted(self.scopes))}>"


class PasswordFile:
    """The users in a file: ``user:password`` or ``user:password:scope scope``, one a line; ``#`` begins a comment.

    A password is plain text without a colon, or ``$scrypt$SALT$HASH``, both in hexadecimal, as `hashed` makes it.

    Args:
        path: the file.

    Attributes:
        isSlow: whether a check takes so long that it must not be done in the reactor's thread.

    Raises:
        ConfigurationError: the file cannot be used; the text names the line, and has no password.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._users: dict[str, Entry] = {}
        self.isSlow = False
        self.reload()

    def __repr__(self) -> str:
        return f"<PasswordFile {self._path}>"

    def reload(self) -> None:
        """Read the file again; if that raises, the old users stay.

        Raises:
            ConfigurationError: as for the class.
        """
        file = readFile(self._path, "password file")
        warnIfExposed(self._path, file.mode)
        users: dict[str, Entry] = {}
        for number, raw in enumerate(file.data.split(b"\n"), 1):
            where = f"Line {number} of the password file {file.path}"
            try:
                line = raw.decode().strip()
            except UnicodeDecodeError:
                raise ConfigurationError(f"{where} is not UTF-8.") from None
            if not line or line.startswith("#"):
                continue
            user, *fields = line.split(":")
            if not 0 < len(user) <= LONGEST_USER or not 0 < len(fields) <= 2 or not fields[0]:
                raise ConfigurationError(f"{where} must be user:password or user:password:scopes.")
            if user in users:
                raise ConfigurationError(f"{where} names a user for the second time.")
            if fields[0].startswith("$scrypt$") and not _SCRYPT.fullmatch(fields[0]):
                raise ConfigurationError(f"{where} must have $scrypt$SALT$HASH, with 8 to 64 and 32 bytes in hexadecimal.")
            users[user] = Entry(fields[0], frozenset(fields[1].split() if len(fields) > 1 else ()))
        if not users:
            raise ConfigurationError(f"The password file {file.path} has no user.")
        self._users = users
        self.isSlow = any(each.password.startswith("$scrypt$") for each in users.values())

    def check(self, user: str, password: bytes) -> frozenset[str] | None:
        """Return the scopes of a user whose password this is, None if it is another or there is no such user."""
        entry = self._users.get(user)
        expected = entry.password if entry is not None else _NOBODY if self.isSlow else ""
        match = _SCRYPT.fullmatch(expected)
        if match is not None:
            isRight = hmac.compare_digest(_scrypt(password, bytes.fromhex(match[1])).hex(), match[2])
        else:
            isRight = hmac.compare_digest(password, expected.encode())
        return entry.scopes if entry is not None and isRight else None


def _scrypt(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=64 * 1024 * 1024, dklen=32)


def hashed(password: bytes, salt: bytes) -> str:
    """Return a password as a `PasswordFile` may have it; `salt` is 8 to 64 random bytes."""
    return f"$scrypt${salt.hex()}${_scrypt(password, salt).hex()}"


def lineOf(user: str, password: str, scopes: Collection[str] = ()) -> str:
    """Return the line of a user for a `PasswordFile`; `password` is written as it is given.

    Raises:
        ConfigurationError: the file cannot have such a user or scope.
    """
    if not 0 < len(user) <= LONGEST_USER:
        raise ConfigurationError(f"A user has 1 to {LONGEST_USER} characters.")
    if ":" in user or user != user.strip() or user.startswith("#") or not user.isprintable():
        raise ConfigurationError("A user has no colon, no spaces around it and no control characters, and does not begin with #.")
    listed = " ".join(scopes)
    for scope in scopes:
        if not scope or ":" in scope or not scope.isprintable() or " " in scope:
            raise ConfigurationError("A scope has no colon, spaces or control characters, and at least one character.")
    return f"{user}:{password}{f':{listed}' if listed else ''}"
