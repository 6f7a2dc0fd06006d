"""Where the server is."""

from __future__ import annotations

import os
from typing import NamedTuple
from urllib.parse import urlsplit

from twisted_ws_publisher.errors import ConfigurationError


class Address(NamedTuple):
    """Where to connect.

    Attributes:
        host: a name or an IP address; "" with `path`.
        port: the port.
        is_secure: whether TLS is spoken.
        path: of a Unix socket; None for TCP.
        prefix: what all paths of the server begin with, behind a proxy; usually "".
        authority: for the header Host.
    """

    host: str
    port: int
    is_secure: bool
    path: str | None
    prefix: str
    authority: str


def parse_address(url: str) -> Address:
    """Return the address in ``http://host:port``, ``https://host:port/prefix`` or ``unix:/run/push.sock``.

    Raises:
        ConfigurationError: the URL is invalid, or holds a user name or password.
    """
    if url.startswith("unix:"):
        path = url[5:]
        if not os.path.isabs(path):
            raise ConfigurationError(f"url: {url!r}: unix: is followed by an absolute path")
        return Address("", 0, False, path, "", "localhost")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError("url: must be printable ASCII without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigurationError(f"url: {url!r}: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("url: it must not hold a user name or password: the API key stands in key_file")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigurationError(f"url: {url!r}: must be http://HOST:PORT, https://HOST:PORT or unix:/PATH")
    is_secure = parts.scheme == "https"
    return Address(parts.hostname, port or (443 if is_secure else 80), is_secure, None, parts.path.rstrip("/"), parts.netloc)
