from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher

from tests.moments import MOMENTS, collectAt, noMemory
from tests.web.conftest import turn
from twisted_ws.wire.loop.turns import FEW, QUANTUM, STEPS, TURN, Turns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def turns(clock: Clock) -> Turns:
    return Turns(clock)


def test_lightWork(clock: Clock, turns: Turns) -> None:
    """While the budget lasts, nothing is left with the reactor."""
    for _ in range(10):
        assert turns.begin()
        turns.left -= 10
        turns.end()
    assert not turns.over
    assert clock.getDelayedCalls() == []


def test_steps(clock: Clock, turns: Turns) -> None:
    """When the steps are used up, what is left waits for another turn, which has the whole budget again."""
    done: list[int] = []

    def work() -> None:
        turns.left -= QUANTUM
        done.append(turns.left)

    turns.left = 0
    for _ in range(2 * STEPS // QUANTUM + 1):
        assert turns.over
        turns.later(work)
    counts = []
    while turn(clock):
        counts.append(len(done))
    assert counts == [STEPS // QUANTUM, 2 * STEPS // QUANTUM, 2 * STEPS // QUANTUM + 1]
    assert not turns.over
    assert clock.getDelayedCalls() == []


def test_seconds(clock: Clock, turns: Turns) -> None:
    """Time counts as well as steps do: that of all together, and only while somebody works."""
    for _ in range(3):
        clock.advance(10)
        assert turns.begin()
        clock.advance(TURN / 4)
        assert not turns.begin()  # in the work of the other: it is not counted twice
        assert not turns.over
        turns.end()
    assert not turns.over
    turns.begin()
    clock.advance(TURN / 3)
    assert turns.over
    turns.end()
    assert turns.over
    turns.later(lambda: None)
    turn(clock)
    assert not turns.over


def test_order(clock: Clock, turns: Turns) -> None:
    """Work that is not finished queues behind what waits already."""
    order: list[str] = []

    def worker(name: str, rounds: int) -> None:
        order.append(name)
        if rounds:
            turns.later(lambda: worker(name, rounds - 1))

    turns.later(lambda: worker("a", 2))
    turns.later(lambda: worker("b", 1))
    turns.later(lambda: worker("c", 0))
    assert turn(clock)
    assert order == ["a", "b", "c", "a", "b", "a"]
    assert not turn(clock)


def test_raises(clock: Clock, turns: Turns) -> None:
    """One that fails is logged, and stops none of those behind it."""
    events: list[dict[str, Any]] = []
    done: list[int] = []
    globalLogPublisher.addObserver(events.append)
    try:
        turns.later(lambda: 1 / 0)
        turns.later(lambda: done.append(1))
        turn(clock)
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert done == [1]
    assert len([event for event in events if "log_failure" in event]) == 1


def test_next(clock: Clock, turns: Turns) -> None:
    """A coroutine waits for its turn by a Deferred, which may be cancelled."""
    first, second = turns.next(), turns.next()
    failures: list[Any] = []
    second.addErrback(failures.append)
    second.cancel()
    assert not first.called
    turn(clock)
    assert first.called
    assert failures[0].check(CancelledError)


def test_spend(clock: Clock, turns: Turns) -> None:
    """What costs little leaves nothing with the reactor, however often it comes; what costs more is forgotten with the turn."""
    for _ in range(FEW):
        turns.spend(1)
    assert clock.getDelayedCalls() == []
    turns.spend(1)
    turns.spend(5 * STEPS)
    assert len(clock.getDelayedCalls()) == 1
    assert turns.over
    assert turn(clock)
    assert turns.left == STEPS
    assert not turn(clock)


def test_through(clock: Clock, turns: Turns) -> None:
    """Going through very many items does as much as fits into each turn, and shares the turns with others that do the same."""
    done: list[str] = []

    async def work(name: str) -> None:
        async for _ in turns.through(range(STEPS // 2), 4):
            done.append(name)

    for name in "ab":
        Deferred.fromCoroutine(work(name))
    counts = [len(done)]
    while turn(clock):
        counts.append(len(done))
        assert counts[-1] - counts[-2] <= STEPS // 4
        assert counts[-1] == STEPS or {"a", "b"} == set(done[counts[-2] :])
    assert counts == [*(STEPS * n // 4 for n in range(1, 5)), STEPS]
    assert turns.left == STEPS
    assert (done.count("a"), done.count("b")) == (STEPS // 2, STEPS // 2)


def test_turnWithinWork(clock: Clock, turns: Turns) -> None:
    """If work has the reactor turn, it goes on after that as it began, and what waits gets its turn."""
    came: list[str] = []
    turns.later(lambda: came.append("waited"))
    assert turns.begin()
    turn(clock)
    turns.end()
    for _ in range(3):
        turn(clock)
    assert came == ["waited"]
    assert turns.begin()
    turns.end()


@pytest.mark.parametrize("outer", ["later", "spend", "turn"])
def test_turnOfAFinaliser(outer: str) -> None:
    """If a finaliser has the reactor turn while a turn is being asked for, what waits afterwards gets one, too."""
    came = 0
    for number in MOMENTS:
        clock, done = Clock(), list[str]()
        turns = Turns(clock)
        if outer == "turn":
            turns.later(lambda turns=turns, done=done: turns.later(lambda: done.append("first")))
        with collectAt(number, lambda clock=clock: turn(clock)) as moment:
            if outer == "later":
                turns.later(lambda done=done: done.append("first"))
            elif outer == "spend":
                turns.spend(STEPS)
            else:
                turn(clock)
        came += moment.came
        turns.later(lambda done=done: done.append("last"))
        for _ in range(3):
            turn(clock)
        assert done == (["last"] if outer == "spend" else ["first", "last"]), f"at moment {number}"
        if not moment.came:
            break
    assert came


@pytest.mark.exhaustive
@pytest.mark.parametrize("outer", ["later", "turn"])
def test_turnWithoutMemory(outer: str) -> None:
    """Whichever allocation fails, what waits gets its turn, or its caller is told; others get theirs after it."""
    for number in range(60):
        clock, done = Clock(), list[str]()
        turns = Turns(clock)
        if outer == "turn":
            for name in "ab":
                turns.later(lambda done=done, turns=turns, name=name: (done.append(name), turns.spend(STEPS)))
        try:
            with noMemory(number):
                if outer == "turn":
                    turn(clock)
                else:
                    turns.later(lambda done=done: done.append("a"))
        except MemoryError:
            pass
        for _ in range(3):
            turn(clock)
        if outer == "turn" and number:
            assert turns.left == STEPS, f"at allocation {number}"
        turns.later(lambda done=done: done.append("last"))
        turn(clock)
        assert done[-1] == "last", f"at allocation {number}"


def test_callWithoutMemory(clock: Clock, turns: Turns) -> None:
    """A turn that the reactor could not call, or that could not call what waits, keeps nothing waiting."""
    done: list[str] = []
    turns.later(lambda: done.append("first"))
    clock.calls.pop().called = 1  # as the reactor notes it before it calls
    turns.later(lambda: done.append("second"))
    calls = iter([MemoryError()])

    def third() -> None:
        for error in calls:
            raise error
        done.append("third")

    turns.later(third)
    while turn(clock):
        pass
    assert done == ["first", "second", "third"]


def test_counting(clock: Clock, turns: Turns) -> None:
    """What is counted as work takes its steps and its seconds from the turn, also within other work."""
    with turns.counting(5):
        assert turns.left == STEPS - 5
        clock.advance(TURN)
    assert turns.over
    turns.later(lambda: None)
    turn(clock)
    assert not turns.over
    turns.begin()
    with turns.counting(5):
        clock.advance(TURN)
    assert turns.over
    turns.end()
