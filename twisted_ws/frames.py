"""Server frames: a message in, the bytes on the wire out (RFC 6455 section 5.2, never masked). Pure."""

from __future__ import annotations

from struct import Struct

__all__ = ["FIN", "RSV1", "OutgoingMessage", "frame"]

FIN = 0x80
RSV1 = 0x40  # "this message is compressed" (RFC 7692 section 6)

_SHORT = Struct("!BB").pack
_MEDIUM = Struct("!BBH").pack
_LONG = Struct("!BBQ").pack


def frame(opcode: int, payload: bytes, rsv: int = 0) -> bytes:
    """Return one unfragmented frame.

    Args:
        opcode: 1 text, 2 binary, 8 Close, 9 ping, 10 pong.
        payload: at most 125 bytes for a control frame (8 and up); the caller has checked that.
        rsv: `RSV1` for a compressed message, else 0.
    """
    size = len(payload)
    first = FIN | rsv | opcode
    if size < 126:
        return _SHORT(first, size) + payload
    if size < 65536:
        return _MEDIUM(first, 126, size) + payload
    return _LONG(first, 127, size) + payload


class OutgoingMessage:
    """One message for many callers: framed once, and compressed once for each set of compression parameters.

    Attributes:
        opcode: 1 text, 2 binary.
        payload: the message.
        plain: the frame for callers without compression.
        deflated: the frames of the others, by window bits.
    """

    __slots__ = ("deflated", "opcode", "payload", "plain")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = payload
        self.plain = frame(opcode, payload)
        self.deflated: dict[int, bytes] = {}
