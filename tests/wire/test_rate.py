from __future__ import annotations

from twisted_ws.wire.rate import Rate


def test_rate():
    """So many a second are within the limit, the next is not, and a new second begins anew."""
    rate = Rate()
    assert [rate.within(3, 100.0 + n / 10) for n in range(5)] == [True, True, True, False, False]
    assert not rate.within(3, 100.99)
    assert [rate.within(3, 101.0) for _ in range(4)] == [True, True, True, False]


def test_rateAtTheBeginningOfTime():
    """A clock that begins at 0 makes no difference."""
    rate = Rate()
    assert [rate.within(1, 0.0), rate.within(1, 0.5), rate.within(1, 1.0)] == [True, False, True]
