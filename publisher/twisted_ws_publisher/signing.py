"""JSON Web Tokens, signed by a secret that the server has, too (RFC 7515, HS256)."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from typing import Any

from twisted_ws_publisher.errors import ConfigurationError
from twisted_ws_publisher.keyfiles import PathLike, read_key

# Bytes: a shorter secret can be guessed from a token (RFC 7518 section 3.2).
_SHORTEST_SECRET = 32


class Signer:
    """Signs claims.

    Args:
        secret_file: the first line counts.
        kind: the type of the tokens (``typ``).

    Raises:
        ConfigurationError: the file cannot be used.
    """

    def __init__(self, secret_file: PathLike, kind: str = "JWT") -> None:
        self._secret = read_key(secret_file, "secret_file").encode()
        if len(self._secret) < _SHORTEST_SECRET:
            raise ConfigurationError(f"secret_file: the secret is shorter than {_SHORTEST_SECRET} bytes")
        self._head = _encoded({"alg": "HS256", "typ": kind})

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Return a token."""
        signed = self._head + b"." + _encoded(claims)
        return (signed + b"." + _base64(hmac.digest(self._secret, signed, "sha256"))).decode("ascii")


def _encoded(fields: Mapping[str, Any]) -> bytes:
    return _base64(json.dumps(fields, separators=(",", ":")).encode())


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
