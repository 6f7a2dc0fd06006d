"""Attacks by peers that read little or nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from hostile.attack import HASTY, Succeeded, Target, attack
from hostile.peer import Peer, ends, frame, tally, upgrade

V1 = "Sec-WebSocket-Protocol: twisted-ws.v1"
_EVENTS = "Accept: text/event-stream"
# The kernel buffers little for them.
_SMALL = 4096
_GONE = r"(?:[0-9,]+ x )?(?:reset|dropped|close 1013|HTTP 200)(?:, [0-9,]+ x (?:reset|dropped|close 1013|HTTP 200))*"


def get(path: str, *lines: str) -> bytes:
    """Return a GET."""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    """Return a POST."""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def publish(target: Target, channel: str, body: bytes, count: int) -> None:
    """Publish this many messages, one after another, over one connection."""
    publisher = target.http()
    for _ in range(count):
        publisher.send(post(f"/channels/{channel}", body))
        if publisher.answer()[0] != 200:
            raise Succeeded("a message was not accepted")
    publisher.cut()


def batch(target: Target, messages: list[dict[str, str]]) -> None:
    """Publish up to 1,000 messages in one request."""
    publisher = target.http(patience=60)
    publisher.send(post("/api/batch", json.dumps({"messages": messages}).encode()))
    status, answer = publisher.answer()
    publisher.cut()
    if status != 200:
        raise Succeeded(f"the batch was answered with {status}: {answer[:80]!r}")


def subscribers(target: Target, channel: str) -> int:
    """Return the number of subscribers that the server counts for a channel."""
    asker = target.http(patience=60)
    asker.send(get(f"/api/channels/{channel}"))
    status, body = asker.answer()
    asker.cut()
    return int(json.loads(body)["subscribers"]) if status == 200 else 0


def _stall(target: Target, mount: str, count: int) -> list[Peer]:
    """Return peers on each transport that have subscribed to a channel and read nothing."""
    peers = []
    for connect in (target.ws, target.wss):
        for request in (upgrade(f"{mount}/stalled"), upgrade(f"{mount}/stalled", V1), get(f"{mount}/stalled", _EVENTS)):
            for _ in range(count):
                peer = connect(_SMALL)
                peer.send(request)
                peers.append(peer)
    end = time.monotonic() + 10
    while subscribers(target, "stalled") < len(peers) and time.monotonic() < end:
        time.sleep(0.05)
    return peers


@attack("stalled readers", _GONE, memory=160 << 20)
def stalled(target: Target) -> str:
    """60 clients (ws, wss, event streams) read nothing of a channel's 40 MB; its policy closes them."""
    peers = _stall(target, "/channels", target.times(10))
    publish(target, "stalled", b"x" * 200_000, 200)
    time.sleep(6)
    return ends(peers)


@attack("stalled: drop-oldest", "open", memory=160 << 20)
def dropOldest(target: Target) -> str:
    """The same with a policy that drops the oldest messages: they stay open, and the memory kept for them is bounded."""
    peers = _stall(target, "/drop", target.times(10))
    publish(target, "stalled", b"x" * 200_000, 200)
    return _open(target, "stalled", peers)


@attack("stalled: latest", "open", memory=160 << 20)
def latest(target: Target) -> str:
    """The same with a policy that keeps only the newest message."""
    peers = _stall(target, "/latest", target.times(10))
    publish(target, "stalled", b"x" * 200_000, 200)
    return _open(target, "stalled", peers)


def _open(target: Target, channel: str, peers: list[Peer]) -> str:
    there = subscribers(target, channel)
    for peer in peers:
        peer.cut()
    return "open" if there == len(peers) else f"{len(peers) - there} of {len(peers)} are closed"


@attack("stalled broadcasts", _GONE)
def broadcasts(target: Target) -> str:
    """20 WebSockets read nothing of twenty 500 KB broadcasts in 5 s, which the good clients get too."""
    peers = [connect(_SMALL).upgrade() for connect in (target.ws, target.wss) for _ in range(target.times(10))]
    publisher = target.http()
    for _ in range(20):
        publisher.send(post("/broadcaster/broadcast", b"attack " + b"x" * 500_000))
        if publisher.answer()[0] != 200:
            raise Succeeded("a broadcast was not accepted")
        time.sleep(0.25)  # 25 MB to good clients, which may leave 1 MB each unread
    time.sleep(6)
    return ends(peers)


@attack("2-byte messages", _GONE, memory=48 << 20)
def tinyMessages(target: Target) -> str:
    """20 WebSockets and event streams read nothing of 200,000 two-byte messages: most of what waits is overhead."""
    peers = []
    for request in (upgrade("/channels/tiny"), get("/channels/tiny", _EVENTS)):
        for _ in range(target.times(10)):
            peer = target.ws(_SMALL)
            peer.send(request)
            peers.append(peer)
    publish(target, "tiny", b"x" * 100_000, 30)  # so much the kernel takes
    for _ in range(target.times(200)):
        batch(target, [{"channel": "tiny", "data": "ab"}] * 1000)
    time.sleep(6)
    return ends(peers)


@attack("unread pongs: drop-oldest", r"[0-9.]+ ms of work per message", memory=160 << 20)
def pingsUnread(target: Target) -> str:
    """20 drop-oldest clients read nothing, and each has 10,000 subprotocol pongs waiting, while messages go on in a channel."""
    peers = []
    for _ in range(20):
        peer = target.ws(_SMALL).upgrade("/drop/scan", V1)
        peers.append(peer)
    publish(target, "scan", b"x" * 100_000, 27)
    cpu = target.daemon.cpu()
    time.sleep(1)
    others = target.daemon.cpu() - cpu
    for peer in peers:
        peer.raw.settimeout(1)
        peer.send(frame(1, b'{"type":"ping"}') * 10_000)
    for _ in range(60):  # until the server has answered as many of these as it reads
        cpu = target.daemon.cpu()
        time.sleep(1)
        if target.daemon.cpu() - cpu < 1.2 * others + 0.05:
            break
    cpu, begin = target.daemon.cpu(), time.monotonic()
    publish(target, "scan", b"small", 500)
    work = target.daemon.cpu() - cpu - others * (time.monotonic() - begin)
    return f"{work / 500 * 1000:.1f} ms of work per message"


@attack("unread responses", r".* were accepted")
def answersUnread(target: Target) -> str:
    """20 connections request the page, the client and a history 2,000 times, and read nothing."""
    publish(target, "unread", b"x" * 50_000, 20)
    content = (get("/") + get("/twisted-ws.js") + get("/channels/unread?after=0")) * target.times(2000)
    taken = 0
    for connect in (target.ws, target.wss):
        for _ in range(10):
            taken += connect(_SMALL).pour(content, 0.3)
    return f"{taken >> 10} KB of requests were accepted"


@attack("readers that vanish", "noticed", variant=HASTY)
def vanish(target: Target) -> str:
    """80 clients, on every transport, vanish silently, so that nothing sent to them is acknowledged."""
    requests: tuple[tuple[Callable[..., Peer], bytes], ...] = tuple(
        (connect, request)
        for connect in (target.ws, target.wss)
        for request in (
            upgrade("/channels/vanish"),
            upgrade("/channels/vanish", V1),
            get("/channels/vanish", _EVENTS),
            get("/channels/vanish?wait=60"),
        )
    )
    peers = []
    for connect, request in requests:
        for _ in range(target.times(10)):
            peer = connect()
            peer.send(request)
            peers.append(peer)
    end = time.monotonic() + 10
    while subscribers(target, "vanish") < len(peers) and time.monotonic() < end:
        time.sleep(0.05)
    for peer in peers:
        peer.vanish()
    end = time.monotonic() + 50
    while (left := subscribers(target, "vanish")) and time.monotonic() < end:
        time.sleep(0.5)
    if left:
        raise Succeeded(f"{left} of {len(peers)} are still considered present after 50 s")
    return "noticed"


@attack("readers that sip", ".*")
def sip(target: Target) -> str:
    """20 event streams with a one-megabyte history to read take 2 KB per second: always some progress, never an end."""
    publish(target, "sip", b"x" * 10_000, 100)
    peers = []
    for connect in (target.ws, target.wss):
        for _ in range(target.times(10)):
            peer = connect(_SMALL)
            peer.send(get("/channels/sip?after=0", _EVENTS))
            peers.append(peer)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        publish(target, "sip", b"x" * 10_000, 10)
        for peer in peers:
            try:
                peer.socket.recv(2048)
            except OSError:
                pass
        time.sleep(1)
    return tally("open" if re.search(rb"HTTP/1.1 200", peer.received) else peer.end(0.5) for peer in peers)
