from __future__ import annotations

import pytest

from tests.memory import SteadyClock
from twisted_ws import ChannelError
from twisted_ws.engines.expiring import FORGOTTEN_AT_ONCE, Expiring
from twisted_ws.wire.loop.wheel import TICK, Wheel


class World:
    def __init__(self, most=1000):
        self.clock = SteadyClock()
        self.ahead = 1_700_000_000.0
        self.wheel = Wheel(self.clock)
        self.kept = Expiring(self.wheel, self.now, most, "Full.")

    def now(self):
        return self.clock.seconds() + self.ahead

    def put(self, key, seconds, value=True):
        self.kept.put(key, self.now() + seconds, value)


def test_expiring():
    """A value counts until its time, and is forgotten then, though no other comes."""
    world = World()
    world.put("a", 10, 1)
    world.put("b", 5, 2)
    world.clock.advance(4)
    assert (world.kept.get("a"), world.kept.get("b"), world.kept.get("c")) == (1, 2, None)
    world.clock.advance(1)
    assert (world.kept.get("a"), world.kept.get("b")) == (1, None)
    assert [(key, value) for key, _, value in world.kept.items()] == [("a", 1)]
    world.clock.advance(TICK)
    assert len(world.kept) == 1
    world.clock.advance(5)
    assert (len(world.kept), len(world.wheel)) == (0, 0)
    world.put("d", 0)
    world.put("d", -1)
    assert (len(world.kept), len(world.wheel)) == (0, 0)


def test_putAgain():
    """A value that is put again counts until its last time, be that later or earlier."""
    world = World()
    world.put("a", 5, 1)
    world.put("b", 20, 2)
    world.put("a", 10, 3)
    world.put("b", 10, 4)
    world.clock.advance(9)
    assert (world.kept.get("a"), world.kept.get("b")) == (3, 4)
    world.clock.advance(1 + TICK)
    assert len(world.kept) == 0
    world.clock.advance(20)
    assert len(world.wheel) == 0


def test_full():
    """A new key beyond the limit is refused as long as all count; one that is there may be put again."""
    world = World(most=2)
    world.clock.advance(0.1)  # so the wheel turns a while after their time
    world.put("a", 10)
    world.put("b", 20)
    with pytest.raises(ChannelError) as caught:
        world.put("c", 10)
    assert (caught.value.code, caught.value.message) == ("unavailable", "Full.")
    world.put("b", 30, 2)
    world.clock.advance(10)
    assert len(world.kept) == 2
    world.put("c", 10)
    assert (world.kept.get("b"), world.kept.get("c")) == (2, True)


def test_manyAtOnce():
    """Of very many that end at one moment, a bounded number are forgotten in one turn of the wheel."""
    world = World(most=10_000)
    for number in range(2 * FORGOTTEN_AT_ONCE + 10):
        world.put(number, 10)
    world.clock.advance(9.5)
    before = len(world.kept)
    while before:
        world.clock.advance(TICK)
        assert before - len(world.kept) <= FORGOTTEN_AT_ONCE
        before = len(world.kept)
    assert len(world.wheel) == 0


def test_clockIsSetAheadAndBack():
    """What counted before the wall clock was set ahead counts again when it is set back, and is forgotten at its time."""
    world = World()
    world.put("a", 100)
    world.ahead += 10_000
    for number in range(10):
        world.put(number, 10)
        world.clock.advance(5)
    assert world.kept.get("a") is None
    world.ahead -= 10_000
    assert world.kept.get("a")
    world.clock.advance(50 + TICK)
    assert world.kept.get("a") is None
    world.clock.advance(10_000)
    assert (len(world.kept), len(world.wheel)) == (0, 0)


def test_clockIsSet():
    """When the wall clock is set, it decides what counts; what it has passed is forgotten at the wheel's time."""
    world = World()
    world.put("a", 10)
    world.ahead += 10
    assert world.kept.get("a") is None
    world.put("b", 10)
    world.ahead -= 5
    world.clock.advance(10.25)
    assert world.kept.get("b")
    world.clock.advance(5)
    assert (len(world.kept), len(world.wheel)) == (0, 0)
