from __future__ import annotations

import pytest

from tests.memory import SteadyClock
from twisted_ws.web.http.timeout import Timeout
from twisted_ws.wire.loop.wheel import TICK, Wheel


@pytest.fixture
def made():
    """A clock, the times at which the deadline was reached, and the deadline."""
    clock = SteadyClock()
    reached = []
    return clock, reached, Timeout(Wheel(clock), lambda: reached.append(clock.seconds()))


def test_reached(made):
    """The function is called once, when the time has come, and nothing is left over."""
    clock, reached, deadline = made
    deadline.set(5)
    clock.pump([4, 1, 10])
    assert reached == [pytest.approx(5, abs=TICK)]
    assert clock.getDelayedCalls() == []


def test_later(made):
    """A later deadline replaces an earlier one without moving on the wheel at once, and nothing is called early."""
    clock, reached, deadline = made
    deadline.set(5)
    place = deadline.wheelSlot
    clock.advance(3)
    deadline.set(5)
    assert deadline.wheelSlot == place
    clock.pump([2, 2.5])
    assert reached == []
    clock.advance(0.5 + TICK)
    assert reached == [pytest.approx(8, abs=TICK)]


def test_earlier(made):
    """An earlier deadline replaces a later one."""
    clock, reached, deadline = made
    deadline.set(75)
    deadline.set(5)
    clock.advance(5 + TICK)
    clock.advance(100)
    assert reached == [pytest.approx(5, abs=TICK)]


def test_clear(made):
    """A deadline that was met is not reached, and another can follow."""
    clock, reached, deadline = made
    deadline.set(5)
    assert deadline.isSet
    deadline.clear()
    assert not deadline.isSet
    clock.advance(5 + TICK)
    assert (reached, clock.getDelayedCalls()) == ([], [])
    deadline.set(1)
    clock.advance(1 + TICK)
    assert reached == [pytest.approx(6 + TICK, abs=TICK)]


def test_end(made):
    """At the end nothing is left with the reactor."""
    clock, reached, deadline = made
    deadline.end()
    deadline.set(5)
    deadline.end()
    assert (reached, clock.getDelayedCalls()) == ([], [])


def test_standingStill(made):
    """Time in which the reactor stands still is not the peer's."""
    clock, reached, deadline = made
    deadline.set(5)
    clock.advance(4)
    clock.jump(100)
    clock.advance(0.5)
    assert reached == []
    clock.advance(0.5)
    assert len(reached) == 1
