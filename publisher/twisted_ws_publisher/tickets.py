"""Tickets made without asking the server."""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from typing import Any, Callable

from twisted_ws_publisher.errors import ConfigurationError
from twisted_ws_publisher.keyfiles import PathLike, read_key

# Seconds; the server takes none that lives longer.
LONGEST_LIFE = 60
# Bytes: a shorter secret can be guessed from a ticket (RFC 7518 section 3.2).
_SHORTEST_SECRET = 32


class TicketMaker:
    """Makes tickets, by which a page may connect once, as a user, within a minute of their making.

    Args:
        secret_file: the ``secret-file`` of the server's authenticator of the type ``ticket``; the first line counts.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, secret_file: PathLike, clock: Callable[[], float] = time.time) -> None:
        self._secret = read_key(secret_file, "secret_file").encode()
        if len(self._secret) < _SHORTEST_SECRET:
            raise ConfigurationError(f"secret_file: the secret is shorter than {_SHORTEST_SECRET} bytes")
        self._clock = clock

    def __repr__(self) -> str:
        return "<TicketMaker>"

    def make(
        self,
        user: str,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        info: Any = None,
        scopes: Iterable[str] = (),
        expires: float | None = None,
        seconds: int = LONGEST_LIFE,
    ) -> str:
        """Return a ticket.

        Args:
            user: who connects with it: 1 to 128 characters.
            subscribe: names and patterns of channels that it may be used to subscribe to.
            publish: the same for publishing.
            info: what presence tells others; JSON.
            scopes: what else the user may do.
            expires: seconds after which the connection ends; by default it does not end by itself.
            seconds: for how long it opens a connection, 1 to 60.

        Raises:
            ValueError: `user` or `seconds` is out of range.
        """
        if not 1 <= len(user) <= 128:
            raise ValueError("user must have 1 to 128 characters")
        if not 1 <= seconds <= LONGEST_LIFE:
            raise ValueError(f"seconds must be 1 to {LONGEST_LIFE}")
        now = int(self._clock())
        granted: dict[str, Any] = {"subscribe": list(subscribe), "publish": list(publish)}
        if info is not None:
            granted["info"] = info
        claims: dict[str, Any] = {
            "aud": "twisted-ws-ticket",
            "sub": user,
            "iat": now,
            "exp": now + seconds,
            "jti": secrets.token_urlsafe(16),
            "twisted_ws": granted,
        }
        scope = " ".join(scopes)
        if scope:
            claims["scope"] = scope
        if expires is not None:
            claims["expire_at"] = now + expires
        signed = _encoded(b'{"alg":"HS256","typ":"JWT"}') + b"." + _encoded(json.dumps(claims, separators=(",", ":")).encode())
        return (signed + b"." + _encoded(hmac.digest(self._secret, signed, "sha256"))).decode("ascii")


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
