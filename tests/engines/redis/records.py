"""Records as a server writes them."""

from __future__ import annotations

import struct

from twisted_ws.engines.redis.server.scripts import VERSION
from twisted_ws.message import Position


def epochOf(name):
    """Return an epoch that begins with `name`."""
    return name.ljust(14, "0")


def place(epoch, offset):
    """Return a position in an epoch that begins with `epoch`."""
    return Position(epochOf(epoch), offset)


def record(epoch, offset, body=b"\xc0\x00\xc0\xc4\x01x", version=VERSION, number=1):
    """Return a record; the body is the text `x` unless it is given."""
    numbers = (0xCF, offset, 0xA8, b"instance", 0xCF, number, 0xCF, 1700000000000, 0xCF, 512)
    return struct.pack(">BBB14sBQB8sBQBQBQ", 0x9B, version, 0xAE, epochOf(epoch).encode(), *numbers) + body
