"""A user's name inside a channel's name."""

from __future__ import annotations

import base64
import hashlib

_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_LONGEST = 64


def channel_token(user: str) -> str:
    """Return a user's name as a token of a channel's name, such as the second one of ``users.ann~40example~2Eorg.orders``.

    It is what stands for ``{user}`` in the rules of the server. Letters, digits, ``_`` and ``-`` stay; every other byte of its
    UTF-8 becomes ``~`` and two hexadecimal digits; what would be longer than 64 characters is ``~h`` and a part of its SHA-256.

    Raises:
        ValueError: the name is empty, or has a lone surrogate.
    """
    if not user:
        raise ValueError("an empty user name has no token")
    data = user.encode()
    token = "".join([chr(byte) if byte in _PLAIN else f"~{byte:02X}" for byte in data])
    if len(token) <= _LONGEST:
        return token
    return "~h" + base64.b32encode(hashlib.sha256(data).digest()).decode("ascii").lower()[:26]
