from __future__ import annotations

from twisted_ws.daemon.workers.policy import LONGEST_WAIT, Pulse, Restarts, cover, isWorse


def test_oneThatDiesIsReplacedAtOnce() -> None:
    """A worker that dies now and then is replaced at once, however often that happens in a day."""
    restarts = Restarts()
    assert [restarts.ended(1000.0 * n, 900) for n in range(20)] == [0] * 20


def test_thirdDeathWithinTenSeconds() -> None:
    """The third death within ten seconds has the next worker wait, for twice as long each time, up to half a minute."""
    restarts = Restarts()
    assert [restarts.ended(float(n), 0.5) for n in range(9)] == [0, 0, 1, 2, 4, 8, 16, LONGEST_WAIT, LONGEST_WAIT]


def test_twoDeathsAreNotThree() -> None:
    """Deaths that are further apart than ten seconds do not count together."""
    restarts = Restarts()
    assert [restarts.ended(time, 1) for time in (0.0, 1.0, 10.5, 20.0, 21.0)] == [0, 0, 0, 0, 0]


def test_waitsAreForgotten() -> None:
    """A worker that has served for ten seconds ends the waiting: the next three deaths begin with one second again."""
    restarts = Restarts()
    for n in range(5):
        restarts.ended(float(n), 0.1)
    assert restarts.ended(100, 95) == 0
    assert [restarts.ended(101, 0.5), restarts.ended(102, 0.5)] == [0, 1]


def test_oneThatCannotStartDoesNotSpin() -> None:
    """A worker that could not start has the next one wait from the first time on."""
    restarts = Restarts()
    assert [restarts.ended(30.0 * n, None) for n in range(4)] == [1, 2, 4, 8]


def test_pulse() -> None:
    """A worker that has answered none of three questions is dead at the fourth, and any answer begins the count anew."""
    pulse = Pulse(3)
    assert [pulse.ask(), pulse.ask(), pulse.ask()] == [True, True, True]
    pulse.answered()
    assert [pulse.ask(), pulse.ask(), pulse.ask(), pulse.ask()] == [True, True, True, False]


def test_coverIsEven() -> None:
    """Empty slots are spread over those that accept, and who covers already goes on."""
    assert cover([0, 3, 5], [1, 2], {3: 1}) == {3: 1, 0: 2, 5: 1}


def test_coverEnds() -> None:
    """Nobody covers for a slot that is filled, and a slot whose substitute has died gets another."""
    assert cover([0], [2, 3], {0: 1, 4: 2}) == {0: 2}
    assert cover([0, 1], [], {0: 1}) == {}


def test_isWorse() -> None:
    """New code is worse if it fails more than twice as often for each caller as the old code does."""
    assert not isWorse((0, 50), (0, 5000))
    assert isWorse((1, 50), (0, 5000))
    assert not isWorse((2, 50), (100, 5000))
    assert isWorse((3, 50), (100, 5000))
    assert not isWorse((0, 0), (0, 0))
