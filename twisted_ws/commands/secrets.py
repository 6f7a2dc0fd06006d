"""Secrets, and headers that may be secret: from files or the environment, never from the command line."""

from __future__ import annotations

import os
from collections.abc import Iterator

from twisted_ws.access.publishers.keys import keyIn
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable

# A longer file was given by mistake.
_MOST = 64 * 1024


def _read(path: str, what: str) -> str:
    name = printable(path)
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigurationError(f"The {what} {name} is not UTF-8: give a text file.") from None
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigurationError(f"The {what} {name} cannot be read ({why}): check the path and its permissions.") from None
    if len(data) > _MOST:
        raise ConfigurationError(f"The {what} {name} is larger than {_MOST // 1024} KiB: is it the right file?")
    return text


def line(path: str, what: str) -> str:
    """Return the only line of a file, without its end.

    Args:
        path: the file.
        what: its name in errors.

    Raises:
        ConfigurationError: the file cannot be read, is empty, or has more than one line.
    """
    text = _read(path, what).removesuffix("\n").removesuffix("\r")
    if not text or "\n" in text:
        raise ConfigurationError(f"The {what} {printable(path)} must have exactly one line.")
    return text


def secret(path: str | None, variable: str, what: str) -> str | None:
    """Return a secret, from a file if one is given, else from an environment variable; None without either."""
    return line(path, what) if path is not None else os.environ.get(variable) or None


def readKey(path: str | None, variable: str) -> str | None:
    """Return the API key in a file or a variable: the first one, if it is a server's key file (``name: key``).

    Raises:
        ConfigurationError: the file has none.
    """
    if path is None:
        lines: list[str] = [os.environ.get(variable, "")]
    else:
        lines = _read(path, "key file").splitlines()
    keys = [keyIn(text) for text in lines if text.strip() and not text.startswith("#")]
    if path is not None and not keys:
        raise ConfigurationError(f"The key file {printable(path)} has no key: put one into it, as KEY or as name: KEY.")
    if keys and keys[0].startswith("sha256:"):
        raise ConfigurationError(
            f"The key file {printable(path or variable)} has the SHA-256 of its first key, which opens nothing: give a file with "
            "the key itself."
        )
    return keys[0] if keys else None


def header(text: str) -> tuple[str, str]:
    """Return the name and the value in ``Name: value``.

    Raises:
        ConfigurationError: there is no colon.
    """
    name, colon, value = text.partition(":")
    if not colon:
        # The text may be a secret without its name: do not repeat it.
        raise ConfigurationError("A header has no colon: write 'Name: value'.")
    return name.strip(), value.strip()


def headersIn(path: str) -> Iterator[tuple[str, str]]:
    """Yield the headers in a file, one on each line; empty lines and lines that begin with ``#`` are skipped.

    Raises:
        ConfigurationError: the file cannot be read, or a line is not a header.
    """
    for text in _read(path, "header file").splitlines():
        if text.strip() and not text.startswith("#"):
            yield header(text)
