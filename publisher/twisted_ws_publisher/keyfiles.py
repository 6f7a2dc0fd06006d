"""Keys and secrets, which stand in files only: not in code, arguments or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Union

from twisted_ws_publisher.errors import ConfigurationError

PathLike = Union[str, "os.PathLike[str]"]
# Bytes: what is longer is another file by mistake.
_MOST = 16 * 1024


def read_key(path: PathLike, what: str) -> str:
    """Return the first line of a file that is neither empty nor a comment.

    Raises:
        ConfigurationError: the file cannot be read, or has no such line.
    """
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MOST).decode("ascii")
    except OSError as error:
        raise ConfigurationError(f"{what}: {os.fspath(path)}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what}: {os.fspath(path)}: not ASCII") from None
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            return line.strip()
    raise ConfigurationError(f"{what}: {os.fspath(path)}: no key in it")


def read_api_key(path: PathLike, what: str) -> str:
    """Return the first API key of a file: alone in its line, or as the server's own file has it (``name: key scopes``).

    Raises:
        ConfigurationError: the file cannot be read, or has no key that can be sent.
    """
    line = read_key(path, what)
    name, colon, rest = line.partition(":")
    words = (rest if colon and name.strip() != "sha256" else line).split()
    if not words:
        raise ConfigurationError(f"{what}: {os.fspath(path)}: no key in it")
    if words[0].startswith("sha256:"):
        raise ConfigurationError(f"{what}: {os.fspath(path)}: it has the SHA-256 of a key, not the key itself")
    return words[0]
