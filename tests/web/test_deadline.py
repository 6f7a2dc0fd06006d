from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from twisted_ws.web.deadline import Deadline


@pytest.fixture
def made():
    """A clock, the times at which the deadline was reached, and the deadline."""
    clock = Clock()
    reached = []
    return clock, reached, Deadline(clock, lambda: reached.append(clock.seconds()))


def test_reached(made):
    """The function is called once, when the time has come, and there is nothing left to do."""
    clock, reached, deadline = made
    deadline.set(5)
    clock.pump([4, 1, 10])
    assert reached == [5]
    assert clock.getDelayedCalls() == []


def test_later(made):
    """A later one takes the place of an earlier one, with the same timer until that ends; nothing is called early."""
    clock, reached, deadline = made
    deadline.set(5)
    (timer,) = clock.getDelayedCalls()
    clock.advance(3)
    deadline.set(5)
    assert clock.getDelayedCalls() == [timer]
    clock.pump([2, 2.5])
    assert reached == []
    clock.advance(0.5)
    assert reached == [8]


def test_earlier(made):
    """An earlier one takes the place of a later one."""
    clock, reached, deadline = made
    deadline.set(75)
    deadline.set(5)
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(5)
    clock.advance(100)
    assert reached == [5]


def test_clear(made):
    """A deadline that was met is not reached, and another can follow."""
    clock, reached, deadline = made
    deadline.set(5)
    deadline.clear()
    clock.advance(5)
    assert (reached, clock.getDelayedCalls()) == ([], [])
    deadline.set(1)
    clock.advance(1)
    assert reached == [6]


def test_end(made):
    """At the end nothing is left with the reactor."""
    clock, reached, deadline = made
    deadline.end()
    deadline.set(5)
    deadline.end()
    assert (reached, clock.getDelayedCalls()) == ([], [])
