from __future__ import annotations

from twisted.internet.task import Clock

from twisted_ws.access.asking.breaker import FAILURES, Breaker


def opened():
    clock = Clock()
    breaker = Breaker(clock.seconds)
    for _ in range(FAILURES):
        assert breaker.wait() == 0
        breaker.fail(breaker.begin())
    return clock, breaker


def test_restsAfterFailuresInARow():
    """After five failures in a row nothing is asked for two seconds; an answer between them begins the count again."""
    breaker = Breaker(Clock().seconds)
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.fail(breaker.begin())
        breaker.succeed()
    assert breaker.wait() == 0
    _, breaker = opened()
    assert breaker.wait() == 2


def test_oneProbe():
    """After a rest one question alone is asked; any answer ends the rest."""
    clock, breaker = opened()
    clock.advance(2)
    assert breaker.wait() == 0
    assert breaker.begin()
    assert breaker.wait() > 0
    breaker.succeed()
    assert breaker.wait() == 0
    assert not breaker.begin()


def test_restsDouble():
    """Each probe that fails doubles the rest, up to half a minute; after an answer the rests are short again."""
    clock, breaker = opened()
    rests = []
    for _ in range(6):
        rests.append(breaker.wait())
        clock.advance(rests[-1])
        breaker.fail(breaker.begin())
    assert rests == [2, 4, 8, 16, 30, 30]
    breaker.succeed()
    for _ in range(FAILURES):
        breaker.fail(breaker.begin())
    assert breaker.wait() == 2


def test_lateFailures():
    """Questions that were asked before a rest and fail during it do not make it longer, nor end the probe."""
    clock, breaker = opened()
    clock.advance(1)
    breaker.fail(False)
    assert breaker.wait() == 1
    clock.advance(1)
    assert breaker.begin()
    breaker.fail(False)
    assert breaker.wait() == 1  # the probe is still out


def test_aProbeThatSaysNothing():
    """A probe that was given up lets the next question be one."""
    clock, breaker = opened()
    clock.advance(2)
    breaker.forget(breaker.begin())
    assert breaker.wait() == 0
    assert breaker.begin()
