"""Attacks on channels: names, histories, positions, keys and lists."""

from __future__ import annotations

import json
import time

from hostile.attack import Succeeded, Target, Variant, attack
from hostile.attacks.readers import V1, batch, get, post, publish
from hostile.peer import Peer, frame, tally

KEYS = Variant("keys", limits={"idempotencyAge": 8})
_EVENTS = "Accept: text/event-stream"


def _text(**fields: object) -> bytes:
    return frame(1, json.dumps(fields).encode())


@attack("subscribe and unsubscribe", r"open, \d+ KB were accepted|(?:reset|dropped|close 10\d\d), \d+ KB were accepted")
def growth(target: Target) -> str:
    """A client keeps subscribing to a full channel from its beginning and unsubscribing, for 10 s, and reads nothing."""
    batch(target, [{"channel": "growth", "data": "hello"}] * 1000)
    peer = target.ws(4096).upgrade("/channels", V1)
    pair = _text(type="subscribe", channel="growth", after="0") + _text(type="unsubscribe", channel="growth")
    taken = peer.pour(pair * 1000, 10 * target.scale)
    return f"{'open' if peer.send(b'') else 'dropped'}, {taken >> 10} KB were accepted"


@attack("resume of 128 channels", r"[\d.]+ MB each")
def resume(target: Target) -> str:
    """10 event streams ask for all of 128 channels with 1,000 messages each, and read nothing."""
    names = [f"full{number}" for number in range(128)]
    for name in names:
        batch(target, [{"channel": name, "data": "0123456789"}] * 1000)
    before = target.daemon.memory()
    query = "&".join(f"channel={name}" for name in names)
    peers = [target.ws(2048) for _ in range(10)]
    for peer in peers:
        peer.send(get(f"/channels?{query}&after=0", _EVENTS))
    peak, end = before, time.monotonic() + 5
    while time.monotonic() < end:
        peak = max(peak, target.daemon.memory())
        time.sleep(0.05)
    each = (peak - before) / len(peers)
    if each > 4 << 20:
        raise Succeeded(f"{each / (1 << 20):.1f} MB each, which no limit counts")
    return f"{each / (1 << 20):.1f} MB each"


@attack("made-up names", r"[\d,]+ of [\d,]+ names exist")
def names(target: Target) -> str:
    """One client subscribes to 100,000 made-up names, and unsubscribes from each again."""
    peer = target.ws(patience=60).upgrade("/channels", V1)
    count = target.times(100_000)
    for start in range(0, count, 100):
        pairs = (
            (_text(type="subscribe", channel=f"made{n}"), _text(type="unsubscribe", channel=f"made{n}"))
            for n in range(start, start + 100)
        )
        if not peer.send(b"".join(part for pair in pairs for part in pair) + _text(type="ping")):
            break
        if not peer.read(b'"pong"').endswith(b'"pong"'):
            break
    there = _count(target, "made")
    if there > 50_000:
        raise Succeeded(f"one client has made {there:,} channels")
    return f"{there:,} of {count:,} names exist"


def _count(target: Target, prefix: str) -> int:
    """Return the number of channels whose names begin with this."""
    asker, cursor, found = target.http(patience=60), "", 0
    while cursor is not None:
        asker.send(get(f"/api/channels?limit=1000&prefix={prefix}" + (f"&cursor={cursor}" if cursor else "")))
        page = json.loads(asker.answer()[1])
        found, cursor = found + len(page["channels"]), page["next"]
    return found


@attack("keys that expire at once", r"[\d,]+ keys", variant=KEYS)
def keys(target: Target) -> str:
    """A publisher uses 200,000 idempotency keys within a few seconds; a little later, all of them expire at once."""
    count = 0
    for number in range(target.times(200)):
        messages = [{"channel": "keys", "data": "x", "idempotencyKey": f"key-{number}-{each}"} for each in range(1000)]
        batch(target, messages)
        count += len(messages)
    time.sleep(10)
    return f"{count:,} keys"


@attack("lists of many channels", "HTTP 200", memory=128 << 20)
def lists(target: Target) -> str:
    """With 50,000 channels, somebody reads the list one by one, and disconnects absent users, as fast as possible."""
    for start in range(0, target.times(50_000), 1000):
        batch(target, [{"channel": f"list{start + number}", "data": "x"} for number in range(1000)])
    asker = target.http(patience=60)
    found = []
    for number in range(target.times(300)):
        asker.send(get(f"/api/channels?limit=1&prefix=list{number}"))
        found.append(asker.answer()[0])
        asker.send(post("/api/disconnect", json.dumps({"user": f"nobody{number}"}).encode()))
        found.append(asker.answer()[0])
    return tally(f"HTTP {status}" for status in found)


@attack("presence of many users", "HTTP 200", memory=160 << 20)
def presence(target: Target) -> str:
    """2,000 clients are present in a channel, whose presence is requested 100 times."""
    peers = [target.ws() for _ in range(target.times(2000))]
    for peer in peers:
        peer.send(get("/shown/crowd", _EVENTS))
    asker = target.http(patience=60)
    found = []
    for _ in range(target.times(100)):
        asker.send(get("/api/channels/crowd/presence"))
        found.append(asker.answer()[0])
    return tally(f"HTTP {status}" for status in found)


@attack("compressed histories", "HTTP 200")
def histories(target: Target) -> str:
    """20 clients request a compressed one-megabyte history again and again."""
    publish(target, "zipped", bytes(range(33, 126)) * 100, 100)
    found = []
    peers = [(target.wss if number % 2 else target.ws)() for number in range(target.times(20))]
    for _ in range(5):
        for peer in peers:
            peer.send(get("/channels/zipped?after=0", "Accept-Encoding: gzip"))
        found += [peer.answer()[0] for peer in peers]
    return tally(f"HTTP {status}" for status in found)


@attack("invalid positions", "HTTP 400")
def positions(target: Target) -> str:
    """Polls and event streams send positions that are malformed, endless, or thousands at once."""
    wrong = ("x", "a:b", "a:-1", "a:" + "9" * 400, "a=b:1," * 500, "%00", "a:1:2", "k:1e3")
    peers: list[Peer] = []
    for after in wrong:
        for line in ("Accept: */*", _EVENTS):
            peer = target.ws()
            peer.send(get(f"/channels/p?after={after}", line))
            peers.append(peer)
    return tally(f"HTTP {peer.status()}" for peer in peers)


@attack("invalid subprotocol requests", "open")
def requests(target: Target) -> str:
    """A client sends JSON that is nested 100,000 levels deep, is not an object, or has wrong types or invalid names."""
    deep = b"[" * 100_000
    wrong = (
        b"",
        b"{",
        b"[]",
        b"null",
        deep,
        b'{"type":' + deep,
        b'{"type":1}',
        b'{"type":"subscribe","channel":["a"]}',
        b'{"type":"x"}',
    )
    bad = ("a b", "a..b", "../x", "*", "é", "x" * 129)
    peer = target.ws().upgrade("/channels", V1)
    for each in wrong:
        peer.send(frame(1, each))
    for name in bad:
        peer.send(_text(type="subscribe", channel=name))
    peer.send(_text(type="ping"))
    answer = peer.read(b'"pong"')
    if answer.count(b'"error"') != len(wrong) + len(bad):
        raise Succeeded(f"{answer.count(b'error')} of {len(wrong) + len(bad)} were refused")
    return "open" if b'"pong"' in answer else peer.end()
