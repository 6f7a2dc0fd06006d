"""Attacks with compression, when the operator has turned it on."""

from __future__ import annotations

import zlib

from hostile.attack import Target, Variant, attack
from hostile.peer import Peer, ends, frame

COMPRESSION = Variant("compression", ("--compression", "on"))
_RSV1 = 4
_OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


def _deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """Return data compressed for permessage-deflate (RFC 7692 section 7.2.1)."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(data) + packer.flush(flush)).removesuffix(b"\0\0\xff\xff")


def _bomb(size: int) -> bytes:
    """Return data that inflates to this many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = bytes(1 << 20)
    packed = b"".join(packer.compress(piece) for _ in range(size >> 20))
    return (packed + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def _each(target: Target, *contents: bytes) -> str:
    """Send each of these on its own connection, over ws and wss."""
    peers: list[Peer] = []
    for connect in (target.ws, target.wss):
        for content in contents:
            peer = connect().upgrade("/ws", _OFFER)
            peer.send(content)
            peers.append(peer)
    return ends(peers)


@attack("bombs", "close 1009", variant=COMPRESSION)
def bombs(target: Target) -> str:
    """20 messages of 256 KB inflate to 256 MB each."""
    bomb = frame(2, _bomb(256 << 20), reserved=_RSV1)
    return _each(target, *[bomb] * target.times(10))


@attack("bombs in fragments", "close 1009", variant=COMPRESSION)
def bombsInFragments(target: Target) -> str:
    """20 such messages, in a thousand fragments each."""
    bomb = _bomb(256 << 20)
    step = len(bomb) // 1000
    pieces = [bomb[start : start + step] for start in range(0, len(bomb), step)]
    content = frame(2, pieces[0], final=False, reserved=_RSV1) + b"".join(frame(0, piece, final=False) for piece in pieces[1:])
    return _each(target, *[content] * target.times(10))


@attack("empty blocks", "open", variant=COMPRESSION)
def blocksOfNothing(target: Target) -> str:
    """40 one-megabyte messages of 200,000 empty blocks each inflate to nothing: cheap to send, expensive to inflate."""
    content = frame(1, b"\0\0\0\xff\xff" * 200_000 + b"\0", reserved=_RSV1)  # the last block's length is left out
    peers = [connect().upgrade("/ws", _OFFER) for connect in (target.ws, target.wss) for _ in range(target.times(20))]
    for peer in peers:
        peer.send(content + frame(1, b"alive"))
    for peer in peers:
        if not peer.read(b"Echo: alive").endswith(b"Echo: alive"):
            return peer.end(1)
    return "open"


@attack("data that does not inflate", "close 1007", variant=COMPRESSION)
def notDeflate(target: Target) -> str:
    """Messages are not DEFLATE, or end inside the stream."""
    half = _deflated(bytes(range(256)) * 40)[:-20]
    return _each(target, *(frame(1, content, reserved=_RSV1) for content in (b"\xff" * 100, b"\x06", half)))


@attack("compressed control frames", "close 1002", variant=COMPRESSION)
def compressedControl(target: Target) -> str:
    """Pings are marked as compressed, and so is a continuation frame."""
    packed = _deflated(b"hello")
    split = frame(1, packed[:3], final=False, reserved=_RSV1) + frame(0, packed[3:], reserved=_RSV1)
    return _each(target, frame(9, packed, reserved=_RSV1), split)


@attack("compressed invalid UTF-8", "close 1007", variant=COMPRESSION)
def notUtf8(target: Target) -> str:
    """Compressed texts are not UTF-8 at the very end of 100 KB."""
    return _each(target, *[frame(1, _deflated(b"x" * 100_000 + b"\xff"), reserved=_RSV1)] * target.times(10))
