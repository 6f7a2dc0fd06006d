"""Attacks that make services misbehave."""

from __future__ import annotations

import time

from hostile.attack import Succeeded, Target, attack
from hostile.peer import close, ends, frame, tally, upgrade


def _say(target: Target, text: str, count: int) -> str:
    """Send a text to the misbehaving service on this many connections, and return the results."""
    peers = [(target.wss if number % 2 else target.ws)().upgrade("/evil") for number in range(count)]
    for peer in peers:
        peer.send(frame(1, text.encode()))
    return ends(peers, 2)


@attack("handlers that raise", "close 1011", mayRaise=True)
def raising(target: Target) -> str:
    """A handler raises for 50 callers."""
    return _say(target, "raise", target.times(50))


@attack("each event raises", r"(?:HTTP 500|close 1011|close 1000|close 1002|dropped|[\dx, ])+", mayRaise=True)
def everyEvent(target: Target) -> str:
    """Each event handler of a service raises in turn, from onUpgrade to onClose, with and without a protocol error."""
    events = (
        "onUpgrade",
        "onOpen",
        "onTextMessage",
        "onBinaryMessage",
        "onPing",
        "onPong",
        "onIdleTimeout",
        "onError",
        "onClose",
    )
    ends = []
    for event in events:
        for last in (close(1000), frame(3, b"x")):
            peer = target.ws(patience=5)
            peer.send(upgrade(f"/raising/{event}"))
            if event != "onUpgrade":
                peer.read(b"\r\n\r\n")
                peer.send(frame(1, b"a") + frame(2, b"b") + frame(9, b"c") + frame(10, b"d"))
                time.sleep(1.6 if event == "onIdleTimeout" else 0)
                peer.send(last)
            ends.append(peer.end())
    return tally(ends)


@attack("handlers that hang", "open")
def hanging(target: Target) -> str:
    """A handler never returns, for 50 callers that go on sending."""
    peers = [target.ws().upgrade("/evil") for _ in range(target.times(50))]
    for peer in peers:
        peer.send(frame(1, b"hang") + frame(1, b"x" * 1000) * 50)
    return ends(peers, 1)


@attack("handlers that block", "open")
def blocking(target: Target) -> str:
    """A handler blocks the reactor for 50 ms, 100 times."""
    peers = [target.ws().upgrade("/evil") for _ in range(10)]
    for peer in peers:
        peer.send(frame(1, b"block") * target.times(10))
    for peer in peers:
        for _ in range(target.times(10)):
            peer.read(b"blocked")
    return ends(peers, 0.5)


@attack("endless replies", "open", memory=128 << 20)
def forever(target: Target) -> str:
    """20 callers get an endless reply, and read none or all of it."""
    peers = [target.ws(4096 if number % 2 else 0).upgrade("/evil") for number in range(target.times(20))]
    for peer in peers:
        peer.send(frame(1, b"forever"))
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for peer in peers[::2]:
            peer.socket.recv(1 << 18)
    ends = ["open" if peer.send(frame(9, b"x")) else "dropped" for peer in peers]
    for peer in peers:
        peer.cut()
    return tally(ends)


@attack("100,000 replies", "200,000 replies")
def many(target: Target) -> str:
    """Two callers request 100,000 replies to one message, and read them."""
    peers = [target.ws().upgrade("/evil"), target.wss().upgrade("/evil")]
    for peer in peers:
        peer.send(frame(1, b"many"))
    found = sum(100_000 for peer in peers if peer.read(b"99999").endswith(b"99999"))
    return f"{found:,} replies"


@attack("invalid replies", "close 1011", mayRaise=True)
def noReplies(target: Target) -> str:
    """Handlers return something that is not a message, a text that is not valid Unicode, or an iterator that raises."""
    return tally(_say(target, text, target.times(5)) for text in ("object", "surrogate", "broken"))


@attack("a service that hoards", "close 1013|reset|.* x .*")
def hoarding(target: Target) -> str:
    """A handler writes 100 MB without waiting to a caller that does not read."""
    peers = [target.ws(4096).upgrade("/evil") for _ in range(target.times(5))]
    for peer in peers:
        peer.send(frame(1, b"hoard 20000"))
    time.sleep(1)
    return ends(peers)


@attack("writes after a close", "close 4000")
def twice(target: Target) -> str:
    """A handler closes its caller twice, then writes to it."""
    return _say(target, "twice", target.times(50))


@attack("publishing from handlers", "open")
def recursion(target: Target) -> str:
    """20 callers make handlers publish to a channel 500 times each in one turn."""
    peers = [target.ws().upgrade("/evil") for _ in range(target.times(20))]
    for peer in peers:
        peer.send(frame(1, b"recurse") * 500 + frame(1, b"block"))
    for peer in peers:
        if b"blocked" not in peer.read(b"blocked"):
            raise Succeeded("a caller got no answer")
    return ends(peers, 0.5)
