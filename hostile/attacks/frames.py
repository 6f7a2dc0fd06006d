"""Attacks with frames that RFC 6455 forbids, or that are expensive to handle."""

from __future__ import annotations

import time
from collections.abc import Callable

from hostile.attack import Succeeded, Target, attack
from hostile.peer import Peer, close, ends, frame, tally


def _each(target: Target, *contents: bytes, peer: Callable[[], Peer] | None = None) -> str:
    """Send each of these on its own open connection, over ws and wss, and return the results."""
    peers = []
    for connect in [peer] if peer else [target.ws, target.wss]:
        for content in contents:
            each = connect().upgrade()
            each.send(content)
            peers.append(each)
    return ends(peers)


@attack("unmasked frames", "close 1002")
def unmasked(target: Target) -> str:
    """Text, binary and control frames have no mask."""
    return _each(target, *(frame(opcode, b"hi", masked=False) for opcode in (1, 2, 8, 9, 10)))


@attack("reserved bits", "close 1002")
def reservedBits(target: Target) -> str:
    """Each reserved bit is set, without an extension."""
    return _each(target, *(frame(1, b"hi", reserved=1 << bit) for bit in range(3)))


@attack("unknown opcodes", "close 1002")
def unknownOpcodes(target: Target) -> str:
    """Frames have an unknown opcode."""
    return _each(target, *(frame(opcode, b"hi") for opcode in (3, 7, 11, 15)))


@attack("huge lengths", "close 1009|[0-9]+ x close 100[29], [0-9]+ x close 100[29]")
def endlessLengths(target: Target) -> str:
    """Frames claim to be 2^63 - 1, 2^63 and 2^40 bytes long."""
    lengths = ((1 << 63) - 1, 1 << 63, 1 << 40)
    return _each(target, *(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + b"x" * 1000 for size in lengths))


@attack("messages too big", "close 1009")
def tooBig(target: Target) -> str:
    """20 messages are one byte over the limit, whole and in fragments."""
    size = (1 << 20) + 1
    half = frame(2, bytes(size // 2), final=False) + frame(0, bytes(size - size // 2))
    return _each(target, *[frame(2, bytes(size)), half] * target.times(5))


@attack("empty fragments", "close 1009")
def fragmentsOfNothing(target: Target) -> str:
    """20 messages consist of a million empty fragments."""
    return _each(target, *[frame(1, b"", final=False) + frame(0, b"", final=False) * 1_000_000] * target.times(10))


@attack("one-byte fragments", "close 1009")
def fragmentsOfAByte(target: Target) -> str:
    """20 messages come in one-byte fragments."""
    return _each(target, *[frame(1, b"x", final=False) + frame(0, b"x", final=False) * 200_000] * target.times(10))


@attack("mixed fragments", "close 1002")
def mixedFragments(target: Target) -> str:
    """A message begins inside another; a continuation frame continues nothing."""
    return _each(target, frame(1, b"a", final=False) + frame(1, b"b"), frame(0, b"a"), frame(0, b"a", final=False))


@attack("invalid control frames", "close 1002")
def wrongControl(target: Target) -> str:
    """Control frames are fragmented, 126 bytes long, or claim to be gigabytes long."""
    endless = b"\x89\xff" + (1 << 40).to_bytes(8, "big") + bytes(4) + bytes(100_000)
    return _each(target, frame(9, b"a", final=False), frame(9, bytes(126)), frame(8, bytes(126)), endless)


@attack("floods of pings", "close 1008")
def pings(target: Target) -> str:
    """20 callers send 100,000 pings each."""
    return _each(target, *[frame(9, b"x") * target.times(100_000)] * target.times(10))


@attack("floods of pongs", "close 1008")
def pongs(target: Target) -> str:
    """20 callers send 100,000 unsolicited pongs each."""
    return _each(target, *[frame(10, b"x") * target.times(100_000)] * target.times(10))


@attack("invalid UTF-8", "close 1007")
def notUtf8(target: Target) -> str:
    """Texts are not UTF-8: truncated, overlong, surrogates, beyond Unicode, across fragments."""
    wrong = (b"\xce", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xf0\x80\x80\x80")
    split = frame(1, b"\xce", final=False) + frame(0, b"x")
    return _each(target, *(frame(1, each) for each in wrong), split)


@attack("invalid Closes", "[0-9]+ x close 1002, [0-9]+ x close 1007")
def wrongCloses(target: Target) -> str:
    """Close frames have a code that must not be sent, half a code, or a reason that is not UTF-8."""
    codes = (0, 999, 1004, 1005, 1006, 1016, 1100, 2999, 5000, 65535)
    return _each(target, *(close(code) for code in codes), frame(8, b"\x03"), close(1000, b"\xff"))


@attack("messages after the Close", "close 1000")
def afterClose(target: Target) -> str:
    """20 callers send a megabyte of messages after their Close."""
    return _each(target, *[close(1000) + frame(1, b"x" * 1000) * 1000] * target.times(10))


@attack("violators at line rate", r"close 1002, \d+ KB were accepted")
def violators(target: Target) -> str:
    """8 callers break the rules and then send as fast as the network allows, for 5 s."""
    taken, ends = 0, []
    for connect in (target.ws, target.wss):
        peer = connect().upgrade()
        peer.send(frame(3, b"x"))
        taken += peer.pour(frame(2, bytes(60_000)), 5 * target.scale)
        ends.append(peer.end())
    if taken > 32 << 20:
        raise Succeeded(f"{taken >> 20} MB were read after the Close")
    return f"{tally(ends)}, {taken >> 10} KB were accepted"


@attack("floods of one-byte texts", r"open, \d+ echoes")
def texts(target: Target) -> str:
    """15 callers send one-byte texts as fast as they can, and read the echoes."""
    return _flood(target, frame(1, b"x") * 2000, 15)


@attack("floods of 64 KB messages", r"open, \d+ echoes")
def largeMessages(target: Target) -> str:
    """15 callers send 64 KB messages as fast as they can, and read the echoes."""
    return _flood(target, frame(2, bytes(65_000)), 15)


def _flood(target: Target, content: bytes, count: int) -> str:
    peers = [(target.wss if number % 3 == 2 else target.ws)().upgrade() for number in range(target.times(count))]
    for peer in peers:
        peer.socket.setblocking(False)
    echoes, end = 0, time.monotonic() + 8 * target.scale
    places = dict.fromkeys(peers, 0)
    while time.monotonic() < end:
        for peer in peers:
            try:
                places[peer] += peer.socket.send(content[places[peer] % len(content) :])
            except OSError:
                pass
            try:
                echoes += len(peer.socket.recv(1 << 18))
            except OSError:
                pass
    ends = []
    for peer in peers:
        # The rest of the message that is under way, then a Close; and what is left of the echoes is read to its end.
        ends.append("open" if _alive(peer) else peer.end(1))
    return f"{tally(ends)}, {echoes // (len(content) if len(content) > 60_000 else 9)} echoes"


def _alive(peer: Peer) -> bool:
    """Return whether a connection is still open: it takes bytes, or has nothing to read, not even its end."""
    while True:
        try:
            data = peer.socket.recv(1 << 18)
        except BlockingIOError:
            return True
        except OSError as error:
            return "read operation did not complete" in str(error) or "want" in type(error).__name__.lower()
        if not data:
            return False
