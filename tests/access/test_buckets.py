from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from twisted_ws.access.buckets import TokenBucket, TokenBuckets


def test_burst() -> None:
    """A bucket gives its burst at once and then nothing."""
    bucket = TokenBucket(2, 3, Clock().seconds)
    assert [bucket.take() for _ in range(5)] == [True, True, True, False, False]


def test_refill() -> None:
    """A bucket fills at its rate, and not beyond its burst."""
    clock = Clock()
    bucket = TokenBucket(2, 3, clock.seconds)
    for _ in range(3):
        bucket.take()
    assert bucket.wait() == pytest.approx(0.5)
    clock.advance(0.25)
    assert not bucket.take()
    assert bucket.wait() == pytest.approx(0.25)
    clock.advance(0.25)
    assert bucket.wait() == 0
    assert bucket.take()
    clock.advance(1000)
    assert bucket.left() == 3


def test_debt() -> None:
    """What is charged beyond the contents has to be waited for."""
    clock = Clock()
    bucket = TokenBucket(1, 2, clock.seconds)
    for _ in range(5):
        bucket.charge()
    assert bucket.wait() == pytest.approx(4)
    clock.advance(4)
    assert bucket.take()


def test_clockGoesBack() -> None:
    """A clock that goes backwards takes nothing away."""
    now = 100.0
    bucket = TokenBucket(1, 2, lambda: now)
    bucket.take()
    now = 50.0
    assert bucket.left() == 1


def test_keys() -> None:
    """Each key has a bucket of its own."""
    budgets = TokenBuckets(1, 1, Clock().seconds)
    assert budgets.wait("a") == 0
    assert budgets.take("a")
    assert not budgets.take("a")
    assert budgets.take("b")
    assert budgets.wait("a") == pytest.approx(1)
    budgets.charge("a")
    assert budgets.wait("a") == pytest.approx(2)


def test_keysAreBounded() -> None:
    """Beyond the maximum number of keys, the least recently used one is forgotten."""
    budgets = TokenBuckets(1, 1, Clock().seconds, most=3)
    for key in "abc":
        budgets.take(key)
    budgets.take("a")
    for key in range(2):
        budgets.take(key)
    assert len(budgets) == 3
    assert budgets.wait("a") > 0
    assert budgets.wait("b") == 0
