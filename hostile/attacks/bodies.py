"""Attacks with the bodies of publishing requests, and by their senders."""

from __future__ import annotations

import threading
import time

from hostile.attack import HASTY, Succeeded, Target, attack
from hostile.attacks.readers import get, post
from hostile.peer import Peer, ends, tally

_CHUNKED = b"POST /channels/body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"


def _ask(target: Target, *requests: bytes) -> str:
    peers = []
    for request in requests:
        peer = target.http()
        peer.send(request)
        peers.append(peer)
    return ends(peers)


@attack("one-byte chunks", "HTTP (?:413|400)|HTTP 200")
def chunks(target: Target) -> str:
    """12 senders without credentials send a megabyte each in one-byte chunks."""
    content = _CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 170_000 + b"0\r\n\r\n"
    peers = [target.http() for _ in range(target.times(12))]
    threads = [threading.Thread(target=peer.send, args=(content,)) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally(f"HTTP {peer.status()}" for peer in peers)


@attack("malformed chunks", "HTTP 400")
def wrongChunks(target: Target) -> str:
    """Chunk sizes are negative, malformed, endless or too short; an extension has an open quote; a line is endless."""
    wrong = (
        b"-1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1" * 40 + b"\r\nx",
        b"1\r\nxy\r\n",
        b'1;a="b\r\nx\r\n',
        b"1\nx\n",
        b"1;" + b"x" * 10_000,
        b"0\r\nX: a\0b\r\n\r\n",
    )
    return _ask(target, *[_CHUNKED + b"\r\n" + each for each in wrong])


@attack("bodies too large", "HTTP 413")
def tooLarge(target: Target) -> str:
    """50 bodies claim to be, or are, larger than a megabyte."""
    says = b"POST /channels/body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n"
    shows = _CHUNKED + b"\r\n" + b"10000\r\n" + bytes(65536) + b"\r\n" + b"fffff\r\n"
    return _ask(target, *[says, shows] * target.times(25))


@attack("bodies that are not messages", "[0-9]+ x HTTP 4(?:00|15)(?:, [0-9]+ x HTTP 4(?:00|15))+")
def noMessages(target: Target) -> str:
    """Bodies are empty, not UTF-8, compressed, a multipart form, of two types, or not JSON."""

    def sent(body: bytes, *lines: str) -> bytes:
        return post("/channels/body", body, "Connection: close", *lines)

    return _ask(
        target,
        sent(b""),
        sent(b"\xff"),
        sent(b"x", "Content-Encoding: gzip"),
        sent(b"x", "Content-Type: multipart/form-data; boundary=x"),
        sent(b"{", "Content-Type: application/json"),
        sent(b"x", "Content-Type: text/plain", "Content-Type: application/octet-stream"),
        sent(b"x", "Content-Type: text/plain; charset=utf-16"),
    )


@attack("slow bodies", "HTTP 408", variant=HASTY)
def slow(target: Target) -> str:
    """100 publishers send one byte of their body every half second, for ever."""
    peers = [target.http() for _ in range(target.times(100))]
    for peer in peers:
        peer.send(b"POST /channels/body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(12):
        for peer in peers:
            peer.send(b"x")
        time.sleep(0.5)
    return ends(peers)


@attack("endless pipelining", r"[\d,]+ x HTTP 404|[\d,]+ responses with 404")
def pipelined(target: Target) -> str:
    """4 connections send 5,000 pipelined requests each, and read the responses after sending all of them."""
    content = get("/nothing") * target.times(5_000)
    counts = []

    def read(peer: Peer) -> None:
        found, tail = 0, b""
        while found < target.times(5_000):
            try:
                data = peer.socket.recv(1 << 18)
            except OSError:
                break
            if not data:
                break
            found += (tail + data).count(b"HTTP/1.1 404 ")
            tail = data[-12:]
        counts.append(found)

    peers = [target.http(), target.http(), target.ws(), target.wss()]
    readers = [threading.Thread(target=read, args=(peer,)) for peer in peers]
    for reader in readers:
        reader.start()
    writers = [threading.Thread(target=peer.send, args=(content,)) for peer in peers]
    for thread in writers:
        thread.start()
    for thread in [*writers, *readers]:
        thread.join()
    if set(counts) != {target.times(5_000)}:
        raise Succeeded(f"answers were lost: {counts}")
    return f"{sum(counts):,} responses with 404"


@attack("pages that publish", "HTTP 403")
def pages(target: Target) -> str:
    """Web pages from other origins post broadcasts and channel messages."""
    lines = ("Origin: https://elsewhere.example", "Content-Type: text/plain", "Connection: close")
    paths = ("/broadcaster/broadcast", "/channels/good", "/api/publish")
    return _ask(target, *(post(path, b"from a page", *lines) for path in paths))


@attack("pages that publish without an Origin", "HTTP 403")
def crossSite(target: Target) -> str:
    """The same, by browsers that omit the Origin and only say that the request comes from another site."""
    lines = ("Sec-Fetch-Site: cross-site", "Content-Type: text/plain", "Connection: close")
    paths = ("/broadcaster/broadcast", "/channels/good", "/api/publish")
    return _ask(target, *(post(path, b'{"channel":"good","data":"from a page"}', *lines) for path in paths))


@attack("DNS rebinding", "HTTP 421")
def rebound(target: Target) -> str:
    """A page whose name now resolves to this machine reads channels, histories and presence, publishes, opens WebSockets."""

    def of(request: bytes, port: int) -> bytes:
        return request.replace(b"Host: localhost", f"Host: rebound.example:{port}".encode())

    ws, http = target.daemon.ws, target.daemon.http
    origin = f"Origin: http://rebound.example:{ws}"
    handshake = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    asked = [
        (ws, get("/ws", *handshake, origin)),
        (ws, get("/channels/good?after=0", "Connection: close")),
        (http, get("/api/channels", "Connection: close")),
        (http, get("/api/channels/good/history", "Connection: close")),
        (http, get("/api/channels/good/presence", "Connection: close")),
        (http, post("/channels/rebound", b"x", "Connection: close")),
    ]
    peers = []
    for port, request in asked:
        peer = Peer(port)
        peer.send(of(request, port))
        peers.append(peer)
    return tally(f"HTTP {peer.status()}" for peer in peers)
