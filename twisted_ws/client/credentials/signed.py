"""Tokens that a client signs itself, for `twisted_ws.client.Bearer`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from types import MappingProxyType
from typing import Any

from twisted_ws.access.secretfile import SecretFile
from twisted_ws.client.errors import ConnectFailed
from twisted_ws.wire.tls.files import readFile

# Seconds between the making of a token and its end: the time of a handshake on a slow network, and clocks that differ a little.
LIFE = 60.0


class SignedToken:
    """A function for tokens: ``Bearer(SignedToken("sensor-7", keyFile=..., issuer=..., audience=...))``.

    Each call makes a new JSON Web Token (RFC 7519) with an id of its own. The file is read each time, so that a key can be
    replaced.

    Args:
        user: the claim ``sub``.
        keyFile: a file with the private key, in PEM.
        secretFile: in its place, a file with a secret that the server has, too; the first line counts.
        issuer: the claim ``iss``; without one, there is none.
        audience: the claim ``aud``: one or several; without any, there is none.
        algorithm: of the signature; RS256 with a key, HS256 with a secret.
        keyId: the id of the key (``kid``), if the server knows several.
        claims: more claims, such as ``{"scope": "sensors"}``.
        life: the seconds until the token, and with it the connection, ends.
        unixTime: the wall clock.

    Raises:
        ValueError: not one of `keyFile` and `secretFile` is given, or `life` is not more than 0.
    """

    def __init__(
        self,
        user: str,
        *,
        keyFile: str | PathLike[str] | None = None,
        secretFile: str | PathLike[str] | None = None,
        issuer: str = "",
        audience: str | Sequence[str] = "",
        algorithm: str = "",
        keyId: str = "",
        claims: Mapping[str, Any] = MappingProxyType({}),
        life: float = LIFE,
        unixTime: Callable[[], float] = time.time,
    ) -> None:
        if (keyFile is None) == (secretFile is None):
            raise ValueError("give either keyFile or secretFile")
        if not life > 0:
            raise ValueError("life must be more than 0 seconds")
        self._keyFile = keyFile
        self._secretFile = secretFile
        self._algorithm = algorithm or ("HS256" if keyFile is None else "RS256")
        self._header = {"kid": keyId} if keyId else {}
        said = {"iss": issuer, "sub": user, "aud": audience if isinstance(audience, str) else [*audience]}
        self._user = user
        self._claims = {**claims, **{name: value for name, value in said.items() if value}}
        self._life = life
        self._unixTime = unixTime

    def __repr__(self) -> str:
        return f"<SignedToken of {self._user!r}>"

    def __call__(self) -> str:
        """Return a token.

        Raises:
            ConnectFailed: the key cannot sign with this algorithm.
            ConfigurationError: the file cannot be read, or its secret is too short.
        """
        import jwt  # only who signs one waits for it to load

        now = int(self._unixTime())
        claims = {**self._claims, "iat": now, "exp": now + self._life, "jti": str(uuid.uuid4())}
        key = self._key()
        try:
            return jwt.encode(claims, key, self._algorithm, self._header)
        except Exception as error:  # a key of another kind, an unknown algorithm
            why = type(error).__name__
            raise ConnectFailed(f"the key of {self._user} cannot sign with {self._algorithm}: {why}") from None

    def _key(self) -> bytes:
        if self._keyFile is not None:
            return readFile(self._keyFile, "private key").data
        assert self._secretFile is not None
        return SecretFile(os.fspath(self._secretFile)).secrets[0]
