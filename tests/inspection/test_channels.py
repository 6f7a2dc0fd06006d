"""The largest channels."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from tests.web.worlds import World
from twisted_ws.inspection.channels import LOOKING, TOGETHER, largest
from twisted_ws.wire.loop.turns import STEPS


def ask(world, order, cursor="", limit=2, prefix="", allows=lambda name: True):
    """Return names and the next cursor."""
    later = Deferred.fromCoroutine(largest(world.server, prefix, order, cursor, limit, allows))
    while not later.called:
        world.clock.turn()
    found, following = later.result
    return [each.channel for each in found], following


def test_order():
    """Channels come with most messages or subscribers first, those that are equal by name, each once over all pages."""
    world = World()
    for name, count in ("a", 1), ("b", 3), ("c", 2), ("d", 2), ("e", 1):
        world.publish(name, *range(count))
    for name in ("d", "d", "e"):
        world.events(f"/channels/{name}")
    pages, cursor = [], ""
    while cursor is not None:
        page, cursor = ask(world, "messages", cursor)
        pages.append(page)
    assert pages == [["b", "c"], ["d", "a"], ["e"]]
    assert ask(world, "subscribers", limit=3)[0] == ["d", "e", "a"]


def test_shown():
    """Only what begins with the prefix, and may be shown, is in the list."""
    world = World()
    for name in ("orders.1", "orders.2", "secret", "orders.3"):
        world.publish(name, 1)
    assert ask(world, "messages", prefix="orders.")[0] == ["orders.1", "orders.2"]
    assert ask(world, "messages", allows=lambda name: name != "orders.1")[0] == ["orders.2", "orders.3"]


@pytest.mark.parametrize("cursor", ["x", "1", ":", "12", "z:z", "9" * 30 + ":x"])
def test_cursors(cursor):
    """A cursor of another list leads to its end, and not to an error."""
    world = World()
    world.publish("a", 1)
    assert ask(world, "messages", cursor) == ([], None)


def test_manyNames():
    """Among very many channels, the largest are found in many turns of the reactor, none of which has more than its steps."""
    world = World(channels=20_000, historyTotal=1 << 30)
    for number in range(20_000):
        world.publish(f"c{number}", 1)
    world.publish("c777", 1)
    turns, spent = world.server.runtime.turns, []
    later = Deferred.fromCoroutine(largest(world.server, "", "messages", "", 1, lambda name: True))
    while not later.called:
        before = turns.left
        world.clock.turn()
        spent.append(max(before, STEPS) - turns.left)
    assert later.result[0][0].channel == "c777"
    assert len(spent) >= 20_000 * LOOKING // STEPS
    assert max(spent) <= STEPS + LOOKING * TOGETHER
