"""Requests that wait for their turn."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import CancelledError, Deferred

from twisted_ws.channels.subscribers.line import AHEAD, AHEAD_BYTES, Line


class World:
    """A line whose requests wait for Deferreds, and what was done."""

    def __init__(self):
        self.line = Line()
        self.done = []
        self.result = []

    def add(self, name, asked=None, size=10):
        return self.line.add(partial(self.do, name, asked), asked, size)

    async def do(self, name, asked):
        if asked is not None:
            await asked
        self.done.append(name)

    def work(self):
        Deferred.fromCoroutine(self.line.work()).addBoth(self.result.append)


def test_order():
    """Requests are done in their order, however early an answer comes, also those that come meanwhile."""
    world, first, second = World(), Deferred(), Deferred()
    for name, asked in ("a", first), ("b", None), ("c", second):
        assert world.add(name, asked) is None
    world.work()
    second.callback(True)
    world.add("d")
    assert world.done == []
    first.callback(True)
    assert world.done == ["a", "b", "c", "d"]
    assert world.result == [None]


@pytest.mark.parametrize(("count", "size"), [(AHEAD, 1), (2, AHEAD_BYTES // 2)])
def test_room(count, size):
    """When so many wait, or so many bytes, there is room for the next only when one has been done."""
    world, asked = World(), Deferred()
    rooms = [world.add(number, asked if number == 0 else None, size) for number in range(count)]
    assert [each is None for each in rooms] == [True] * (count - 1) + [False]
    world.work()
    assert not rooms[-1].called
    asked.callback(True)
    assert rooms[-1].called


def test_givingUp():
    """Who leaves is not asked about any more, and nothing of theirs is done; whoever waits for room is told."""
    world, asked = World(), [Deferred(), Deferred()]
    for number, each in enumerate(asked):
        world.add(number, each, AHEAD_BYTES // 2)
    room = world.add("last")
    world.work()
    world.line.giveUp()
    assert (world.done, room.called, [each.called for each in asked]) == ([], True, [True, True])
    assert world.result[0].check(CancelledError)


def test_leavingInTheMiddle():
    """A request that makes its client leave is the last."""
    world = World()

    async def leave():
        world.line.giveUp()

    world.line.add(leave, None, 1)
    world.add("b")
    world.work()
    assert (world.done, world.result) == ([], [None])
