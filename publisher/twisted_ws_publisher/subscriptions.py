"""Subscription tokens: what a page may subscribe and publish to, decided when it asks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any, Callable

from twisted_ws_publisher.keyfiles import PathLike
from twisted_ws_publisher.signing import Signer


class SubscriptionTokenMaker:
    """Makes tokens by which a user's connections may subscribe to channels, and publish to some of them.

    Args:
        secret_file: the ``secret-file`` of the server's authenticator of the type ``jwt``; the first line counts.
        issuer: its ``issuer``, if it has one.
        audience: one of its ``audience``, if it has any.

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(
        self,
        secret_file: PathLike,
        issuer: str | None = None,
        audience: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = Signer(secret_file, "twisted-ws-sub+jwt")
        self._names = {name: value for name, value in (("iss", issuer), ("aud", audience)) if value is not None}
        self._clock = clock

    def __repr__(self) -> str:
        return "<SubscriptionTokenMaker>"

    def make(
        self,
        user: str,
        channels: Iterable[str],
        publish: Iterable[str] = (),
        seconds: float = 3600,
        token_id: str | None = None,
    ) -> str:
        """Return a token.

        Args:
            user: whose connections it is for; "" for guests.
            channels: names and patterns of channels that may be subscribed to.
            publish: those that may be published to, too.
            seconds: for how long it counts. A subscription that needs it ends with it, unless there is a new one by then.
            token_id: an id by which it can be revoked; by default one of its own.

        Raises:
            ValueError: there are no channels, or `seconds` is not positive.
        """
        names, granted = _list("channels", channels), _list("publish", publish)
        if not names:
            raise ValueError("channels must name at least one channel")
        if not seconds > 0:
            raise ValueError("seconds must be more than 0")
        now = int(self._clock())
        claims: dict[str, Any] = {
            **self._names,
            "sub": user,
            "iat": now,
            "exp": now + seconds,
            "jti": secrets.token_urlsafe(16) if token_id is None else token_id,
            "channels": names,
        }
        if granted:
            claims["publish"] = granted
        return self._signer.sign(claims)


def _list(name: str, channels: Iterable[str]) -> list[str]:
    if isinstance(channels, str):  # which would be a list of letters
        raise TypeError(f"{name} must be a list of channels, not a string")
    return list(channels)
