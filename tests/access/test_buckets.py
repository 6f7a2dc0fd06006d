from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from twisted_ws.access.buckets import Budget, Budgets


def test_burst() -> None:
    """A budget gives its burst at once and then nothing."""
    budget = Budget(2, 3, Clock().seconds)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]


def test_refill() -> None:
    """A budget fills at its rate, and not beyond its burst."""
    clock = Clock()
    budget = Budget(2, 3, clock.seconds)
    for _ in range(3):
        budget.take()
    assert budget.wait() == pytest.approx(0.5)
    clock.advance(0.25)
    assert not budget.take()
    assert budget.wait() == pytest.approx(0.25)
    clock.advance(0.25)
    assert budget.wait() == 0
    assert budget.take()
    clock.advance(1000)
    assert budget.left() == 3


def test_debt() -> None:
    """What is charged without being there has to be waited for."""
    clock = Clock()
    budget = Budget(1, 2, clock.seconds)
    for _ in range(5):
        budget.charge()
    assert budget.wait() == pytest.approx(4)
    clock.advance(4)
    assert budget.take()


def test_clockGoesBack() -> None:
    """A clock that goes back takes nothing away."""
    now = 100.0
    budget = Budget(1, 2, lambda: now)
    budget.take()
    now = 50.0
    assert budget.left() == 1


def test_keys() -> None:
    """Each key has a budget of its own."""
    budgets = Budgets(1, 1, Clock().seconds)
    assert budgets.wait("a") == 0
    assert budgets.take("a")
    assert not budgets.take("a")
    assert budgets.take("b")
    assert budgets.wait("a") == pytest.approx(1)
    budgets.charge("a")
    assert budgets.wait("a") == pytest.approx(2)


def test_keysAreBounded() -> None:
    """Beyond the most keys, the one that was used longest ago is forgotten."""
    budgets = Budgets(1, 1, Clock().seconds, most=3)
    for key in "abc":
        budgets.take(key)
    budgets.take("a")
    for key in range(2):
        budgets.take(key)
    assert len(budgets) == 3
    assert budgets.wait("a") > 0
    assert budgets.wait("b") == 0
