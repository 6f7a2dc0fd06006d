"""Client frames: a message in, the bytes on the wire out (RFC 6455 section 5.3, always masked). Pure."""

from __future__ import annotations

import os
import sys
from struct import Struct

from twisted_ws.frames import FIN

__all__ = ["maskedFrame"]

_MASKED = 0x80

_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack


def maskedFrame(opcode: int, payload: bytes, rsv: int = 0, mask: bytes | None = None) -> bytes:
    """Return one unfragmented frame.

    Args:
        opcode: 1 text, 2 binary, 8 Close, 9 ping, 10 pong.
        payload: at most 125 bytes for a control frame (8 and up); the caller has checked that.
        rsv: `twisted_ws.frames.RSV1` for a compressed message, else 0.
        mask: 4 bytes; None: from the system's randomness, as RFC 6455 section 5.3 demands.
    """
    if mask is None:
        mask = os.urandom(4)
    size = len(payload)
    first = FIN | rsv | opcode
    if size < 126:
        head = _SHORT(first, _MASKED | size)
    elif size < 65536:
        head = _MEDIUM(first, _MASKED | 126, size)
    else:
        head = _LONG(first, _MASKED | 127, size)
    return head + mask + _xor(payload, mask)


def _xor(payload: bytes, mask: bytes) -> bytes:
    # As two large numbers: the one way to do this in Python that does not touch each byte in a loop.
    size = len(payload)
    stretched = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, sys.byteorder) ^ int.from_bytes(stretched, sys.byteorder)).to_bytes(size, sys.byteorder)
