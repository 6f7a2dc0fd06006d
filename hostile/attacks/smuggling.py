"""Requests that a proxy and the server may read differently, so that one hides another that the proxy would not forward."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hostile.attack import Succeeded, Target, attack
from hostile.attacks.readers import get, post
from hostile.peer import Peer, tally
from hostile.proxies import FORBIDDEN, HAProxy, Nginx, Proxy

_HIDDEN = post(FORBIDDEN, b"evil")
_CHUNKED = b"Transfer-Encoding: chunked"
# Framing that only one of the two may accept as chunks, or as the end of a line.
_CODINGS = (
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked",
    b"Transfer_Encoding: chunked",
    b'Transfer-Encoding: "chunked"',
    _CHUNKED,
)
_LENGTHS = (
    b"+%d",
    b"%d, 0",
    b"0, %d",
    b"0\r\nContent-Length: %d",
    b"%d\r\nContent-Length: 0",
    b"%d ",
    b"0x%x",
    b"%d;",
    b"\x0b%d",
)
# Chunks after which only one of the two may see the end of the body.
_CHUNKS = (
    b"0\r\n\r\n",
    b"0\n\n",
    b"0;\n\n\r\n\r\n",
    b"0;a\rb\r\n\r\n",
    b"00000000000000000\r\n\r\n",
    b"10000000000000000\r\n\r\n",
    b"-1\r\n\r\n",
    b"0x0\r\n\r\n",
    b"1\r\nx0\r\n\r\n",
    b"0\r\nContent-Length: 4\r\n\r\n",
    b"0\r\nX: y\n\r\n\r\n",
)


def _requests() -> Iterator[bytes]:
    head = b"POST /channels/outer HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n%b"
    for coding in _CODINGS:
        yield head % (b"Content-Length: %d\r\n%b" % (len(_HIDDEN) + 5, coding), b"0\r\n\r\n" + _HIDDEN)
        yield head % (b"%b\r\nContent-Length: 4" % coding, b"%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN))
    for length in _LENGTHS:
        yield head % (b"Content-Length: " + length % len(_HIDDEN), _HIDDEN)
    for chunks in _CHUNKS:
        yield head % (_CHUNKED, chunks + _HIDDEN)
    for start in b"GET /channels/outer HTTP/1.1", b"HEAD / HTTP/1.1", b"OPTIONS * HTTP/1.1", b"POST /channels/outer HTTP/1.0":
        yield start + b"\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(_HIDDEN) + _HIDDEN
        yield start + b"\r\nHost: localhost\r\n" + _CHUNKED + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN)
    # The proxy may believe that it is in front of a WebSocket from here on.
    for version in b"13", b"777":
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: %b" % version
        yield b"GET /channels/outer HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n%b" % (upgrade, _HIDDEN)
        yield head % (upgrade + b"\r\nContent-Length: %d" % len(_HIDDEN), _HIDDEN)
    yield head % (b"Expect: 100-continue\r\nContent-Length: %d" % len(_HIDDEN), _HIDDEN)
    yield head % (b"Connection: Content-Length\r\nContent-Length: %d" % len(_HIDDEN), _HIDDEN)
    yield head % (b"Connection: Transfer-Encoding\r\n" + _CHUNKED, b"%x\r\n%b\r\n0\r\n\r\n" % (len(_HIDDEN), _HIDDEN))


def _smuggle(target: Target, proxy: Proxy) -> str:
    found = []
    for number, request in enumerate(_requests()):
        for port in proxy.ws, proxy.http:
            attacker = Peer(port, patience=10)
            attacker.send(request)
            status = attacker.status()
            found.append(f"HTTP {status}" if status else "dropped")
            # Its connection to the server is the proxy's to use again, and whatever is left in it is there for the next one.
            for victim in range(2):
                channel = f"victim-{number}-{port}-{victim}"
                peer = Peer(proxy.http)
                peer.send(post(f"/channels/{channel}", b"x"))
                status, body = peer.answer()
                peer.cut()
                if status != 200 or json.loads(body)["channel"] != channel:
                    raise Succeeded(f"after {request[:120]!r} another client got {status}: {body[:80]!r}")
            attacker.cut()
    asker = target.http()
    asker.send(get("/api/channels?prefix=" + FORBIDDEN.rpartition("/")[2]))
    _, body = asker.answer()
    asker.cut()
    if json.loads(body)["channels"]:
        raise Succeeded("a request came through that the proxy does not forward")
    return tally(found)


@attack("smuggled behind nginx")
def nginx(target: Target) -> str:
    """63 requests that two parsers may read differently, each hiding another request that nginx does not forward."""
    with Nginx(target.daemon) as proxy:
        return _smuggle(target, proxy)


@attack("smuggled behind HAProxy")
def haproxy(target: Target) -> str:
    """The same behind HAProxy, which sends the next client's request on the same connection."""
    with HAProxy(target.daemon) as proxy:
        return _smuggle(target, proxy)
