"""The parts of a signed token as bytes: base64url without padding (RFC 7515 section 2)."""

from __future__ import annotations

import base64
import binascii


def encoded(data: bytes) -> str:
    """Return bytes as one part."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    """Return the bytes of one part.

    Raises:
        ValueError: it is not base64url, or not in the one form that its bytes have. A token in a second form would be another one
            for a cache, and could be used a second time where one may be used once.
    """
    found = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), b"-_", validate=True)
    if encoded(found) != part:
        raise binascii.Error
    return found
