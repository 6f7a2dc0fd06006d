"""Tickets made without asking the server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any, Callable

from twisted_ws_publisher.keyfiles import PathLike
from twisted_ws_publisher.signing import Signer

# Seconds; the server takes none that lives longer.
LONGEST_LIFE = 60


class TicketMaker:
    """Makes tickets, by which a page may connect once, as a user, within a minute of their making.

    Args:
        secret_file: the ``secret-file`` of the server's authenticator of the type ``ticket``; the first line counts.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, secret_file: PathLike, clock: Callable[[], float] = time.time) -> None:
        self._signer = Signer(secret_file)
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
        return self._signer.sign(claims)
