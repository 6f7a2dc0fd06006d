from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_ws.server.pacing import SLICE, paced, sliceSize


def test_rate() -> None:
    """A slice is what the rate allows in its time; a stop of 50,000 callers takes ten seconds at 5,000 a second."""
    assert sliceSize(50_000, 5000, 30) == 500
    assert 50_000 / 500 * SLICE == 10


def test_timeIsShort() -> None:
    """Where the rate is too low for the time that the stop may take, all are asked within half of it."""
    size = sliceSize(50_000, 100, 4)
    assert 50_000 / size * SLICE <= 2
    assert sliceSize(50_000, 100, 0) == 50_000


def test_aFewAreAskedAtOnce() -> None:
    """Less than a slice needs no pause, not even one caller and no caller at all."""
    assert sliceSize(0, 5000, 30) > 0
    assert sliceSize(0, 5000, 0) > 0
    assert sliceSize(3, 1, 30) == 1


def test_pauses() -> None:
    """Items come in order, in slices with a pause between two of them and none at the end; pauses differ."""
    clock, came = Clock(), []

    async def items() -> AsyncIterator[int]:
        for n in range(50):
            yield n

    async def take() -> str:
        async for each in paced(items(), 5, clock):
            came.append((each, clock.seconds()))
        return "done"

    done = Deferred.fromCoroutine(take())
    assert [each for each, _ in came] == [0, 1, 2, 3, 4]
    while not done.called:
        clock.advance(SLICE / 100)
    assert [each for each, _ in came] == list(range(50))
    times = sorted({time for _, time in came})
    assert len(times) == 10
    pauses = {round(later - earlier, 6) for earlier, later in pairwise(times)}
    assert len(pauses) > 1
    assert all(SLICE / 2 <= pause <= SLICE * 1.51 + SLICE / 100 for pause in pauses)
