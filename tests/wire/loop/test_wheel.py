from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, capturedLogs

from tests.dispatch.support import Turns
from tests.memory import SteadyClock
from tests.moments import MOMENTS, collectAt, memoryAgain, noMemory
from twisted_ws.wire.loop.wheel import AT_ONCE, TICK, Wheel


class Entry:
    """Writes down when its deadline came, and may do something then."""

    def __init__(self, then=None):
        self.wheelSlot = None
        self.reached = []
        self.then = then

    def deadlineReached(self, now):
        self.reached.append(now)
        if self.then is not None:
            self.then()


@pytest.fixture
def clock():
    made = SteadyClock()
    made.advance(1000.1)
    return made


@pytest.fixture
def wheel(clock):
    return Wheel(clock)


def run(clock, seconds, step=TICK / 5):
    end = clock.seconds() + seconds
    while clock.seconds() < end - 1e-9:
        clock.advance(step)


class Patient(Entry):
    """One that has all the memory it wants itself."""

    def deadlineReached(self, now):
        memoryAgain()
        super().deadlineReached(now)


def test_neverEarlyAndATickLate(clock, wheel):
    """A deadline comes once, not early, and at most a tick late."""
    entries = {delay: Entry() for delay in (0.01, 0.25, 0.3, 1.0, 7.77, 100.0)}
    begin = clock.seconds()
    for delay, entry in entries.items():
        wheel.set(entry, begin + delay)
    run(clock, 101)
    for delay, entry in entries.items():
        (at,) = entry.reached
        assert begin + delay <= at + 1e-6
        assert at <= begin + delay + TICK + 0.06


def test_past(clock, wheel):
    """A deadline in the past comes at the next turn, not at once."""
    entry = Entry()
    wheel.set(entry, 5)
    assert entry.reached == []
    clock.advance(TICK)
    assert len(entry.reached) == 1


def test_setAgain(clock, wheel):
    """Only the last place counts."""
    entry = Entry()
    wheel.set(entry, clock.seconds() + 1)
    wheel.set(entry, clock.seconds() + 5)
    assert len(wheel) == 1
    run(clock, 4.5)
    assert entry.reached == []
    run(clock, 1)
    assert len(entry.reached) == 1


def test_drop(clock, wheel):
    """What is dropped does not come; an empty wheel has no timer."""
    first, second = Entry(), Entry()
    wheel.set(first, clock.seconds() + 1)
    wheel.set(second, clock.seconds() + 1)
    assert len(clock.getDelayedCalls()) == 1
    wheel.drop(first)
    wheel.drop(first)
    assert len(clock.getDelayedCalls()) == 1
    wheel.drop(second)
    assert clock.getDelayedCalls() == []
    run(clock, 2)
    assert first.reached == second.reached == []


def test_oneTimer(clock, wheel):
    """Ten thousand deadlines are one timer, which goes when they have come."""
    entries = [Entry() for _ in range(10_000)]
    for n, entry in enumerate(entries):
        wheel.set(entry, clock.seconds() + n / 1000)
    assert len(clock.getDelayedCalls()) == 1
    assert len(wheel) == 10_000
    run(clock, 11)
    assert all(len(entry.reached) == 1 for entry in entries)
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("jump", [1, 100, 1e6, -100])
def test_standingStill(clock, wheel, jump):
    """While the reactor stands still, or its clock is set, no time passes on the wheel; then there is a tick for reading."""
    soon, late = Entry(), Entry()
    wheel.set(soon, wheel.seconds() + 0.5)
    wheel.set(late, wheel.seconds() + 10)
    run(clock, 0.4)
    before = wheel.seconds()
    clock.rightNow += jump
    assert before - TICK <= wheel.seconds() <= before + TICK
    clock.jump(max(-jump, 0))  # a reactor's timers wait for a clock that was set back
    assert before - TICK <= wheel.seconds() <= before + TICK + 1e-6
    assert soon.reached == []
    run(clock, TICK - 0.06)
    assert soon.reached == []
    run(clock, 0.1)
    assert len(soon.reached) == 1
    run(clock, 8.8)
    assert late.reached == []
    run(clock, 1.2)
    assert len(late.reached) == 1
    assert clock.getDelayedCalls() == []


def test_alwaysLate(clock, wheel):
    """If the reactor stands still again and again, deadlines take several times their time, but not for ever."""
    entry = Entry()
    wheel.set(entry, wheel.seconds() + 10)
    turns = 0
    while not entry.reached:
        clock.jump(0.6)
        turns += 1
    assert 30 <= turns <= 60


def test_missed(clock, wheel):
    """The wheel says how long the reactor stood still, before it has turned as well as after."""
    wheel.set(Entry(), wheel.seconds() + 100)
    run(clock, 10)
    assert wheel.missed == wheel.missedUntil(clock.seconds()) == 0
    clock.rightNow += 20
    assert wheel.missedUntil(clock.seconds()) == pytest.approx(20, abs=TICK)
    run(clock, 1)
    assert wheel.missed == wheel.missedUntil(clock.seconds()) == pytest.approx(20, abs=TICK)
    clock.rightNow += 5
    run(clock, 10)
    assert wheel.missed == pytest.approx(25, abs=2 * TICK)


def test_setFromADeadline(clock, wheel):
    """A deadline may set itself again, put off another that is due now, and drop one."""
    dropped, putOff = Entry(), Entry()

    def act():
        wheel.drop(dropped)
        wheel.set(putOff, clock.seconds() + 10)
        wheel.set(acting, clock.seconds() + 1)
        acting.then = None

    acting = Entry(act)
    wheel.set(acting, clock.seconds() + 1.1)
    wheel.set(putOff, clock.seconds() + 1.3)
    wheel.set(dropped, clock.seconds() + 3)
    clock.advance(0.8)
    clock.jump(0.12)
    clock.jump(0.49)
    # Both were due in one turn: the new place of the second counts.
    assert (len(acting.reached), len(putOff.reached)) == (1, 0)
    run(clock, 20)
    assert (len(acting.reached), len(putOff.reached), len(dropped.reached)) == (2, 1, 0)


def test_dropInTheSameTurn(clock, wheel):
    """Of two that are due in one turn and drop each other, one comes."""
    first, second = Entry(lambda: wheel.drop(second)), Entry(lambda: wheel.drop(first))
    for entry in (first, second):
        wheel.set(entry, clock.seconds() + 1)
    run(clock, 2)
    assert len(first.reached) + len(second.reached) == 1
    assert clock.getDelayedCalls() == []


def test_setAndDropInATurn(clock, wheel):
    """What is set and dropped again within a turn leaves no timer."""
    other = Entry()

    def act():
        wheel.set(other, clock.seconds() + 5)
        wheel.drop(other)

    wheel.set(Entry(act), clock.seconds() + 1)
    clock.advance(1.5)
    assert clock.getDelayedCalls() == []
    assert len(wheel) == 0


def test_oneThatFails(clock, wheel):
    """A deadline that raises is logged, and the others of the same turn still come."""
    entries = [Entry(lambda: 1 / 0) for _ in range(3)] + [Entry()]
    for entry in entries:
        wheel.set(entry, clock.seconds() + 1)
    with capturedLogs() as logs:
        run(clock, 2)
    assert [len(entry.reached) for entry in entries] == [1, 1, 1, 1]
    assert [event["log_level"] for event in logs] == [LogLevel.critical] * 3


def test_manyAtOnce():
    """Of very many that are due together, the reactor turns between a bounded number; each comes once, dropped ones do not."""
    clock = Turns()
    clock.advance(1000)
    wheel = Wheel(clock)
    entries = [Entry() for _ in range(10 * AT_ONCE)]
    for number, entry in enumerate(entries):
        wheel.set(entry, 1001 + number % 2 * TICK)
    again = Entry()
    entries.append(Entry(lambda: wheel.set(again, 1002.5)))  # in the middle of a turn that is one too long
    wheel.set(entries[-1], 1001)
    clock.pump([0.25] * 3)
    clock.rightNow += 0.5
    came = [0]
    while len(came) < 2 or came[-1] > came[-2]:
        clock.turn()
        came.append(sum(len(entry.reached) for entry in entries))
        assert came[-1] - came[-2] <= AT_ONCE
        late = [entry for entry in entries if not entry.reached]
        if late and len(came) == 3:
            wheel.drop(late[0])
            wheel.set(late[1], 1002.5)
    assert sum(len(entry.reached) for entry in entries) == len(entries) - 2
    clock.pump([0.25] * 6)
    assert (len(late[0].reached), len(late[1].reached), len(again.reached)) == (0, 1, 1)
    assert clock.getDelayedCalls() == []


def test_clock(clock, wheel):
    """The wheel's own clock is right to a tick while something waits."""
    wheel.set(Entry(), clock.seconds() + 100)
    for _ in range(50):
        clock.advance(0.1)
        assert 0 <= clock.seconds() - wheel.now <= TICK + 1e-6
    clock.advance(200)
    assert len(wheel) == 0
    before = wheel.seconds()
    clock.advance(1000)
    wheel.set(Entry(), wheel.seconds() + 1)
    assert before <= wheel.now <= before + TICK  # which nobody has waited for


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 30), st.floats(0.01, 20)), max_size=30))
def test_anyOrder(moves):
    """However deadlines are set, moved and dropped, each comes once after its last setting and never before its time."""
    clock = SteadyClock()
    wheel = Wheel(clock)
    entries = [Entry() for _ in range(5)]
    due = {}
    for which, delay, wait in moves:
        entry = entries[which]
        if delay < 1:
            wheel.drop(entry)
            due.pop(which, None)
        else:
            wheel.set(entry, wheel.seconds() + delay)
            due[which] = wheel.seconds() + delay
        entry.reached.clear()
        clock.advance(wait)
        for n in list(due):
            if entries[n].reached:
                assert entries[n].reached[0] >= due.pop(n) - 1e-6
        assert all(when > wheel.seconds() - TICK - 1e-6 for when in due.values())
    clock.pump([0.25] * 130)
    assert len(wheel) == 0
    assert clock.getDelayedCalls() == []
    assert all(len(entries[n].reached) == 1 for n in due)


def test_turnsOnWithoutMemory(clock):
    """Whichever allocation fails in a turn, each deadline comes, at the latest when somebody has another one."""
    for number in range(60):
        wheel = Wheel(clock)
        first, second = Patient(), Patient()
        wheel.set(first, wheel.seconds() + 1)
        run(clock, 0.8)
        with capturedLogs(), suppress(MemoryError), noMemory(number):
            clock.advance(0.5)
        wheel.set(second, wheel.seconds() + 1)
        run(clock, 4)
        assert (len(first.reached), len(second.reached)) == (1, 1), f"at moment {number}"
        assert len(wheel) == 0
        assert clock.getDelayedCalls() == []


def test_turnOfAFinaliser():
    """Where a finaliser has the reactor turn while a deadline is set, it can be dropped, and the next one comes."""
    came = 0
    for number in MOMENTS:
        clock = SteadyClock()
        wheel, first, second = Wheel(clock), Entry(), Entry()
        with collectAt(number, lambda clock=clock: clock.advance(4 * TICK)) as moment:
            wheel.set(first, wheel.seconds() + 100)
        came += moment.came
        wheel.drop(first)
        wheel.set(second, wheel.seconds() + 1)
        clock.advance(1 + 2 * TICK)
        assert (first.reached, len(second.reached)) == ([], 1), f"at moment {number}"
        assert clock.getDelayedCalls() == []
        if not moment.came:
            break
    assert came


def test_callWithoutMemory():
    """A turn of the wheel that the reactor could not call is made up for when the next deadline is set."""
    clock = SteadyClock()
    wheel, first, second = Wheel(clock), Entry(), Entry()
    wheel.set(first, wheel.seconds() + 1)
    clock.calls.pop().called = 1  # as the reactor notes it before it calls
    wheel.set(second, wheel.seconds() + 1)
    clock.advance(1 + 2 * TICK)
    assert (len(first.reached), len(second.reached)) == (1, 1)
