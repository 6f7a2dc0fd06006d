"""Secrets from a file: those that this server shares with whoever signs, and passwords that it gives to other servers."""

from __future__ import annotations

from twisted_ws.errors import ConfigurationError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.wire.tls.files import readFile

# RFC 7518 section 3.2: a key of HS256 has at least as many bits as its hash.
SHORTEST = 32


class SecretFile:
    """The secrets in a file, one a line: the first signs, and all are tried, so that a secret can be replaced without a gap.

    Args:
        path: the file.
        what: what it is called in errors.
        shortest: the fewest bytes of a secret.

    Attributes:
        secrets: the secrets; at least one.

    Raises:
        ConfigurationError: the file cannot be used; the text has no secret.
    """

    def __init__(self, path: str, what: str = "secret file", shortest: int = SHORTEST) -> None:
        self._path = path
        self._what = what
        self._shortest = shortest
        self.secrets: tuple[bytes, ...] = ()
        self.reload()

    def __repr__(self) -> str:
        return f"<SecretFile {self._path}>"

    def reload(self) -> None:
        """Read the file again; if that raises, the old secrets stay.

        Raises:
            ConfigurationError: as for the class.
        """
        file = readFile(self._path, self._what)
        warnIfExposed(self._path, file.mode)
        lines = [(number, line.strip()) for number, line in enumerate(file.data.split(b"\n"), 1)]
        for number, line in lines:
            if line and len(line) < self._shortest:
                raise ConfigurationError(
                    f"Line {number} of the {self._what} {file.path} has fewer than {self._shortest} bytes: make a secret with "
                    "openssl rand -hex 32."
                )
        secrets = tuple(line for _, line in lines if line)
        if not secrets:
            raise ConfigurationError(f"The {self._what} {file.path} is empty: make a secret with openssl rand -hex 32.")
        self.secrets = secrets


def readPassword(path: str, what: str) -> bytes:
    """Return the password in a file, which is the password alone; one newline at its end is dropped.

    Args:
        path: the file.
        what: what it is called in errors.

    Raises:
        ConfigurationError: the file cannot be used; the text has no password.
    """
    file = readFile(path, what)
    warnIfExposed(file.path, file.mode)
    password = file.data.removesuffix(b"\n").removesuffix(b"\r")
    if not password:
        raise ConfigurationError(f"The {what} {path} is empty.")
    if b"\n" in password or b"\r" in password:
        raise ConfigurationError(f"The {what} {path} has several lines: it must be the password alone.")
    return password
