from __future__ import annotations

from twisted_ws.wire.loop.rate import Rate


def test_rate():
    """So many events a second are within the limit, the next is not, and each second starts from zero."""
    rate = Rate()
    assert [rate.within(3, 100.0 + n / 10) for n in range(5)] == [True, True, True, False, False]
    assert not rate.within(3, 100.99)
    assert [rate.within(3, 101.0) for _ in range(4)] == [True, True, True, False]


def test_rateAtTheBeginningOfTime():
    """A clock that begins at 0 makes no difference."""
    rate = Rate()
    assert [rate.within(1, 0.0), rate.within(1, 0.5), rate.within(1, 1.0)] == [True, False, True]


def test_unread():
    """What waited unread for some seconds comes at once, and has the rate of those seconds; and no more."""
    rate = Rate()
    assert [rate.within(10, 100.0) for _ in range(11)] == [True] * 10 + [False]
    assert [rate.within(10, 103.0, 3.0) for _ in range(42)] == [True] * 40 + [False, False]
    assert [rate.within(10, 104.0, 3.0) for _ in range(11)] == [True] * 10 + [False]


def test_unreadALittle():
    """What was not read for a moment, before each of a flood, is allowed for the moments together, not for one more at each."""
    rate = Rate()
    assert [rate.within(10, 100 + n / 1000, n / 1000) for n in range(100)].count(True) == 11
    assert [rate.within(10, 200.0, 0.099) for _ in range(11)] == [True] * 10 + [False]


def test_unreadForNow():
    """While it is not known for how long nothing was read, nothing is allowed for that."""
    rate = Rate()
    assert [rate.within(2, 101.0, -101.0) for _ in range(3)] == [True, True, False]
    assert [rate.within(2, 102.0, 0.5) for _ in range(4)] == [True, True, True, False]


def test_unreadForLong():
    """What waited unread, and takes more than a second to handle, is allowed for to its end."""
    rate = Rate()
    assert [rate.within(10, 100.0, 3.0) for _ in range(5)] == [True] * 5
    assert [rate.within(10, 101.0, 3.0) for _ in range(36)] == [True] * 35 + [False]


def test_clockThatIsSetBack():
    """A clock that is set back begins a new second."""
    rate = Rate()
    assert [rate.within(1, 100.0), rate.within(1, 50.0), rate.within(1, 50.5), rate.within(1, 51.0)] == [True, True, False, True]
