"""What a server holds, as the reference lists it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.engines.redis.harness import FaultyHarness
from twisted_ws.engines.contract import Revocation
from twisted_ws.engines.redis.server.contact import Times
from twisted_ws.message import Message

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "engines.md"
TYPES = {"zset": "sorted set"}


class Harness(FaultyHarness):
    times = Times(closed=0.25, probe=0.5, lease=1.5)


@pytest.fixture
def harness():
    made = Harness()
    made.setUp()
    made.started = []
    yield made
    for node in made.started:
        made.wait(node.engine.stop())
    made.tearDown()


def listed():
    """Return the types that the page gives to the names of keys."""
    table = PAGE.read_text().partition("## What a server holds")[2].partition("\n## ")[0]
    rows = [row.split("|")[1:3] for row in table.splitlines() if row.startswith("| `")]
    return {name: kind.strip() for names, kind in rows for name in re.findall(r"`([^`]+)`", names)}


def test_keys(harness, node):
    """The reference names every key that a server holds, with its type, and none that it does not."""
    first = node(presenceDelay=60)
    first.counts["a"] = 2
    feed = first.watch("a")
    assert harness.until(lambda: feed.isLive)
    engine = first.engine
    for user in ("ann", "bob"):
        engine.enter("a", user, user, b"{}")
    harness.wait(engine.publish("a", Message.of("text"), idempotencyKey="once"))
    harness.wait(engine.claim("ticket", time.time() + 60))
    harness.wait(engine.revoke(Revocation("token", None, 0.0, time.time() + 60)))
    assert harness.until(lambda: harness.wait(engine.members("a", "", 10, 1000)).members)
    engine.leave("a", "bob")
    server, prefix = harness.server, f"{harness.prefix}:tw1:"
    patterns = {name: name.replace("CHANNEL", "a").replace("NODE", first.id).replace(":KEY", ":*") for name in listed()}

    def held():
        keys = {name: server.ask("KEYS", prefix + pattern) for name, pattern in patterns.items()}
        return {name: server.ask("TYPE", found[0])[1:] for name, found in keys.items() if found}

    assert harness.until(lambda: len(held()) == len(patterns))
    assert {name: TYPES.get(kind, kind) for name, kind in held().items()} == listed()
    named = {key for pattern in patterns.values() for key in server.ask("KEYS", prefix + pattern)}
    assert {*server.ask("KEYS", prefix + "*")} == named
