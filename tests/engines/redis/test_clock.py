"""The clock of the server is set ahead, and back."""

from __future__ import annotations

from hashlib import sha1

import pytest

from tests.engines.redis.harness import FaultyHarness
from twisted_ws.engines.contract import Disconnect
from twisted_ws.engines.redis.server.contact import Times
from twisted_ws.engines.redis.server.scripts import SCRIPTS
from twisted_ws.message import Message, parsePosition

HOUR = 3600
# What scripts take for the time: that of the server, and so many seconds more.
_SHIFTED = """
local function shifted()
  local now = redis.call('TIME')
  now[1] = now[1] + (redis.call('GET', 'shift') or 0)
  return now
end
"""


class Harness(FaultyHarness):
    times = Times(closed=0.25, probe=0.5, lease=1.5)
    servers = {}  # of its own: the clock is that of all tests with one

    def shift(self, seconds):
        self.server.ask("SET", "shift", str(seconds))


@pytest.fixture
def harness(monkeypatch):
    for each in SCRIPTS:
        text = _SHIFTED + each.text.replace("redis.call('TIME')", "shifted()")
        monkeypatch.setattr(each, "text", text)
        monkeypatch.setattr(each, "sha", sha1(text.encode("ascii")).hexdigest().encode("ascii"))
    made = Harness()
    made.setUp()
    made.isSpoilt = True
    made.started = []
    yield made
    for node in made.started:
        made.wait(node.engine.stop())
    made.tearDown()


def ids(harness, node):
    return sorted(each.id for each in harness.wait(node.engine.nodes()))


def members(harness, node):
    return harness.wait(node.engine.members("a", "", 10, 1000)).members


def users(harness, node):
    return [each.user for each in members(harness, node)]


def test_setBackWhenANodeDies(harness, node):
    """A node that dies just before the clock is set back is gone in time, with its users, and nobody waits for it any more."""
    first, second, dead = node(presenceDelay=1), node(), node()
    first.watch("a")
    for number, each in enumerate((first, second, dead)):
        each.enter("a", number, f"user {number}")
    assert harness.until(lambda: len(users(harness, second)) == 3)
    harness.started.remove(dead)
    harness.kill(dead.engine)
    harness.shift(-HOUR)
    assert harness.until(lambda: ids(harness, first) == sorted([first.id, second.id]))
    assert harness.until(lambda: [member.user for _, member in first.leaves] == ["user 2"])
    assert harness.wait(first.engine.command(Disconnect("nowhere.1", None, 1000, ""))) == 0
    assert users(harness, second) == ["user 0", "user 1"]


def test_setBackWhenAUserLeaves(harness, node):
    """A user that leaves just before the clock is set back has left in time."""
    first = node(presenceDelay=2)
    first.watch("a")
    for number in range(2):
        first.enter("a", number, f"user {number}")
    assert harness.until(lambda: len(first.joins) == 2)
    first.leave("a", 1)
    assert harness.until(lambda: sum(each.connections for each in members(harness, first)) == 1)
    harness.shift(-HOUR)
    assert harness.until(lambda: first.leaves)
    assert users(harness, first) == ["user 0"]


@pytest.mark.parametrize("shift", [HOUR, -HOUR])
def test_set(harness, node, shift):
    """When the clock is set, nodes stay, users stay, and messages arrive once and in order; what is too old by it, is."""
    nodes = [node(presenceDelay=60) for _ in range(3)]  # longer than a busy machine stands still
    feeds = [each.watch("a") for each in nodes]
    assert harness.until(lambda: all(feed.isLive for feed in feeds))
    for number, each in enumerate(nodes):
        each.enter("a", number, f"user {number}")
    texts = [str(number) for number in range(40)]
    (first, *_) = [harness.wait(nodes[0].engine.publish("a", Message.of(text))) for text in texts[:10]]
    harness.shift(shift)
    answers = [nodes[number % 3].engine.publish("a", Message.of(text)) for number, text in enumerate(texts[10:])]
    for answer in answers:
        harness.wait(answer)
    assert harness.until(lambda: all(len(feed.heard) >= 40 for feed in feeds))
    assert feeds[0].texts == feeds[1].texts == feeds[2].texts
    assert sorted(feeds[0].texts, key=int) == texts
    assert [feed.gaps for feed in feeds] == [[], [], []]
    history = harness.wait(nodes[1].engine.since("a", parsePosition(first.id)))
    kept = [each.payload.decode() for each in history.publications]
    assert (history.recovered, kept) == ((False, feeds[0].texts[10:]) if shift > 0 else (True, feeds[0].texts[1:]))
    harness.advance(2 * Harness.times.lease)  # nothing tells that a lease has not ended
    assert harness.until(lambda: ids(harness, nodes[0]) == sorted(each.id for each in nodes))
    assert users(harness, nodes[2]) == ["user 0", "user 1", "user 2"]
    assert [each.leaves for each in nodes] == [[], [], []]
