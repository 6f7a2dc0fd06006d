"""Attacks before the 101 response."""

from __future__ import annotations

import os
import random
import time

from hostile.attack import HASTY, Succeeded, Target, attack
from hostile.peer import HANDSHAKE, Peer, ends, frame, upgrade

_HEAD = b"GET /ws HTTP/1.1\r\nHost: localhost\r\n"


def _ask(target: Target, *requests: bytes) -> str:
    """Send each request on its own connection, and return what they got."""
    peers = []
    for request in requests:
        peer = target.ws()
        peer.send(request)
        peers.append(peer)
    return ends(peers)


@attack("slow heads", "HTTP 408", variant=HASTY)
def slowHeads(target: Target) -> str:
    """200 connections send one byte of their head every quarter of a second, for ever."""
    peers = [target.ws() for _ in range(target.times(200))]
    end = time.monotonic() + 6
    for byte in HANDSHAKE:
        if time.monotonic() > end:
            break
        for peer in peers:
            peer.send(bytes([byte]))
        time.sleep(0.25)
    return ends(peers)


@attack("silent connections", "(?:dropped|reset|, )+", variant=HASTY)
def silent(target: Target) -> str:
    """1,000 connections send nothing, on each port."""
    ports = (target.daemon.ws, target.daemon.tls, target.daemon.http)
    peers = [Peer(port) for port in ports for _ in range(target.times(333))]
    return ", ".join(sorted({peer.end() for peer in peers}))


@attack("huge heads", "HTTP 431")
def hugeHeads(target: Target) -> str:
    """100 requests have a one-megabyte header."""
    return _ask(target, *[_HEAD + b"X: " + b"x" * (1 << 20)] * target.times(100))


@attack("long request lines", "HTTP 414")
def longLines(target: Target) -> str:
    """100 requests have a 100 KB target."""
    return _ask(target, *[b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n"] * target.times(100))


@attack("many headers", "HTTP 431")
def manyHeaders(target: Target) -> str:
    """100 requests have 5,000 three-byte headers."""
    return _ask(target, *[_HEAD + b"a:b\r\n" * 5000 + b"\r\n"] * target.times(100))


@attack("garbage", "(?:[0-9,]+ x )?(?:HTTP 400|dropped|reset)(?:, [0-9,]+ x (?:HTTP 400|HTTP 414|dropped|reset))*")
def garbage(target: Target) -> str:
    """300 connections send random bytes, on each port."""
    peers = [Peer(port) for port in (target.daemon.ws, target.daemon.tls, target.daemon.http) for _ in range(target.times(100))]
    for number, peer in enumerate(peers):
        peer.send(os.urandom(1000 + 10 * number) + b"\r\n\r\n")
    return ends(peers)


@attack("smuggled lines", "HTTP 400")
def smuggledLines(target: Target) -> str:
    """Heads hide a header behind a bare CR, a bare LF, a NUL, a folded line, or a space before the colon."""
    tricks = (
        b"X: a\rUpgrade: b\r\n",
        b"X: a\nUpgrade: b\r\n",
        b"X: a\0b\r\n",
        b"X: a\r\n b\r\n",
        b"X : a\r\n",
        b": a\r\n",
        b"X\r\n",
    )
    return _ask(target, *[_HEAD + trick + b"\r\n" for trick in tricks])


@attack("two lengths", "HTTP 400")
def twoLengths(target: Target) -> str:
    """Requests have two lengths, a length and chunked encoding, two hosts, or no host."""
    post = b"POST /channels/x HTTP/1.1\r\nHost: localhost\r\n"
    return _ask(
        target,
        post + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        post + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        post + b"Content-Length: +1\r\n\r\na",
        post + b"Host: elsewhere\r\nContent-Length: 1\r\n\r\na",
        b"GET / HTTP/1.1\r\n\r\n",
    )


@attack("early bytes", "HTTP 400")
def earlyBytes(target: Target) -> str:
    """50 clients send a megabyte of frames before the service has decided on their handshake."""
    flood = frame(1, b"x" * 1000) * 1000
    return _ask(target, *[upgrade("/hesitant") + flood] * target.times(50))


@attack("leaving while deciding")
def leftWhileDeciding(target: Target) -> str:
    """1,000 clients leave while the service decides on their handshake."""
    for _ in range(target.times(1000)):
        peer = target.ws()
        peer.send(upgrade("/hesitant"))
        peer.cut(bool(random.getrandbits(1)))
    time.sleep(1.5)
    return "nothing"


@attack("malformed handshakes", "[0-9]+ x HTTP 4(?:00|26)(?:, [0-9]+ x HTTP 4(?:00|26|05))+")
def lies(target: Target) -> str:
    """Handshakes have a wrong version, no key, two keys, a 15-byte key, a body, or a wrong method."""
    plain = HANDSHAKE
    wrong = (
        plain.replace(b"Version: 13", b"Version: 12"),
        plain.replace(b"Version: 13", b"Version: 013"),
        plain.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        plain.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
        plain.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"dGhlIHNhbXBsZSBub25j"),
        plain.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\nhello"),
        plain.replace(b"GET ", b"POST "),
    )
    return _ask(target, *wrong)


@attack("pages from other origins", "HTTP 403")
def fromElsewhere(target: Target) -> str:
    """Pages from another origin, from a null origin, and from a host whose name begins with ours, open WebSockets."""
    origins = ("https://elsewhere.example", "null", "http://localhost.elsewhere.example", "http://localhost@elsewhere.example")
    return _ask(target, *[upgrade("/ws", f"Origin: {origin}") for origin in origins])


@attack("opens and aborts")
def aborts(target: Target) -> str:
    """10,000 connections are reset, at every point of their life."""
    hello = frame(1, b"hi")
    sent = (b"", b"GET /", HANDSHAKE[:40], HANDSHAKE, HANDSHAKE + hello, HANDSHAKE + hello[:3], HANDSHAKE + b"\xff" * 20)
    for number in range(target.times(10_000)):
        peer = target.ws()
        peer.send(sent[number % len(sent)])
        peer.cut(number % 3 > 0)
    return "nothing"


@attack("heads byte by byte", "101")
def pieces(target: Target) -> str:
    """50 valid handshakes arrive byte by byte, each byte in its own segment; they must be accepted."""
    for _ in range(target.times(50)):
        peer = target.ws()
        for byte in HANDSHAKE:
            peer.send(bytes([byte]))
        if not peer.read(b"\r\n\r\n").startswith(b"HTTP/1.1 101 "):
            raise Succeeded("a good handshake was refused")
        peer.cut()
    return "101"
