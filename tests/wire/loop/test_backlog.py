from __future__ import annotations

import gc
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_ws.wire.loop.backlog import ASKED, LOOKED_AT, Backlog


class Peer:
    """Something that waits."""

    def __init__(self, backlog, canShrink=True):
        self.backlog = backlog
        self.canShrink = canShrink
        self.counted = 0
        self.asked = 0

    def giveWay(self):
        self.asked += 1
        if self.canShrink:
            self.backlog.note(self, 0)


def peers(backlog, sizes, canShrink=True):
    found = []
    for size in sizes:
        found.append(Peer(backlog, canShrink))
        backlog.note(found[-1], size)
    return found


def test_largest():
    """The largest gives way, and then the next, until all together are within the limit."""
    backlog = Backlog(100)
    some = peers(backlog, [10, 30, 70, 40])
    backlog.relieve()
    assert [each.asked for each in some] == [0, 0, 1, 0]
    backlog.note(some[0], 41)
    backlog.relieve()
    assert [each.asked for each in some] == [1, 0, 1, 0]
    assert backlog.total == 70


def test_within():
    """Up to the limit, no holder is asked."""
    backlog = Backlog(100)
    (one,) = peers(backlog, [100])
    backlog.relieve()
    assert one.asked == 0


@pytest.mark.parametrize("count", [2, ASKED + 1])
def test_cannotShrink(count):
    """A holder that cannot give way is asked once in a call, and only so many are; the turn of the others comes next."""
    backlog = Backlog(10)
    some = peers(backlog, [8] * count, canShrink=False)
    backlog.relieve()
    assert sum(each.asked for each in some) == min(count, ASKED)
    assert max(each.asked for each in some) == 1
    backlog.relieve()
    assert min(each.asked for each in some) >= 1


class Counting(int):
    """A count that counts how often it is compared."""

    compared = 0

    def __gt__(self, other):
        Counting.compared += 1
        return int.__gt__(self, other)

    __lt__ = __gt__


@pytest.mark.parametrize("canShrink", [True, False])
def test_steps(canShrink):
    """Among 50,000 that wait, a few are looked at to find one that gives way; it has half as much as the largest, or more."""
    backlog = Backlog(0)
    sizes = [1000 + number % 20_000 for number in range(50_000)]
    some = peers(backlog, sizes, canShrink)
    for each in some:
        each.counted = Counting(each.counted)
    Counting.compared = 0
    backlog.relieve()
    assert 0 < Counting.compared <= ASKED * (LOOKED_AT + 5)
    asked = [size for each, size in zip(some, sizes, strict=True) if each.asked]
    assert len(asked) == ASKED
    assert min(asked) > max(sizes) / 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1 << 40)), max_size=100))
def test_total(moves):
    """The total is the sum of what each holder has, and one that has nothing is not kept."""
    backlog = Backlog(1 << 60)
    some = peers(backlog, [0] * 6)
    for index, size in moves:
        backlog.note(some[index], size)
        assert backlog.total == sum(each.counted for each in some)
    known = [(ref(each), each.counted > 0) for each in some]
    del some
    gc.collect()
    assert [each() is not None for each, _ in known] == [has for _, has in known]
