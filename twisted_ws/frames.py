"""Frames: a message in, the bytes on the wire out (RFC 6455 section 5.2). Pure."""

from __future__ import annotations

import os
import sys
from struct import Struct
from typing import Any

FIN = 0x80
RSV1 = 0x40  # "this message is compressed" (RFC 7692 section 6)

_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack


def frame(opcode: int, payload: bytes, bits: int = FIN, maskBit: int = 0, mask: bytes = b"") -> bytes:
    """Return one unfragmented frame of a server, which never masks it (for a client's, see `maskedFrame`).

    Args:
        opcode: 1 text, 2 binary, 8 Close, 9 ping, 10 pong.
        payload: at most 125 bytes for a control frame (8 and up); the caller has checked that.
        bits: `FIN`, with `RSV1` for a compressed message.
        maskBit: 0x80 if `payload` is masked.
        mask: what it is masked with, 4 bytes.
    """
    size = len(payload)
    if size < 126:
        return _SHORT(bits | opcode, maskBit | size) + mask + payload
    if size < 65536:
        return _MEDIUM(bits | opcode, maskBit | 126, size) + mask + payload
    return _LONG(bits | opcode, maskBit | 127, size) + mask + payload


def maskedFrame(opcode: int, payload: bytes, bits: int = FIN, mask: bytes | None = None) -> bytes:
    """Return one unfragmented frame of a client, which always masks it (RFC 6455 section 5.3).

    Args:
        opcode: as in `frame`.
        payload: as in `frame`.
        bits: as in `frame`.
        mask: 4 bytes; None: from the system's randomness, as the RFC demands.
    """
    if mask is None:
        mask = os.urandom(4)
    return frame(opcode, _xor(payload, mask), bits, 0x80, mask)


def _xor(payload: bytes, mask: bytes) -> bytes:
    # As two large numbers: the one way to do this in Python that does not touch each byte in a loop.
    size, order = len(payload), sys.byteorder
    stretched = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, order) ^ int.from_bytes(stretched, order)).to_bytes(size, order)


class OutgoingMessage:
    """One message for many callers: framed once, and compressed once for each set of compression parameters.

    Attributes:
        opcode: 1 text, 2 binary.
        payload: the message.
        plain: the frame for callers without compression; made when it is first read: an event stream never reads it.
        deflated: the frames of the others, by window bits.
    """

    __slots__ = ("deflated", "opcode", "payload", "plain")

    plain: bytes
    deflated: dict[int, bytes]

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = payload

    def __getattr__(self, name: str) -> Any:
        # Called for a slot that is empty, and so once: a property would be called for each delivery.
        if name == "plain":
            self.plain = frame(self.opcode, self.payload)
            return self.plain
        if name == "deflated":
            self.deflated = {}
            return self.deflated
        raise AttributeError(name)
