"""Which worker gives its connections to which: the crew's part of a hand-over."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.daemon.workers.test_crew import LIMITS, Stage
from twisted_ws.daemon.workers.crew import OBSERVED, Crew, RollFailed
from twisted_ws.errors import ChannelError


class Relieving(Stage):
    """A crew whose workers can be joined.

    Attributes:
        joined: which were.
    """

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.joined: list[tuple[Any, Any]] = []
        self.crew = Crew(count, LIMITS, self.clock, self._launch, lambda: self.orders, self._join)

    def _join(self, old: Any, new: Any) -> bool:
        self.joined.append((old, new))
        return True

    def roll(self) -> list[Any]:
        """Begin to replace all; return what becomes of that."""
        done: list[Any] = []
        Deferred.fromCoroutine(self.crew.roll()).addBoth(done.append)
        return done

    def answer(self, worker: Any, kind: str, answer: Any) -> None:
        """Answer the last request of a kind."""
        found = [later for asked, later in worker.line.asked if asked == kind and not later.called]
        found[-1].callback(answer)

    def observe(self, old: Any, new: Any, before: int, after: int, failures: int) -> None:
        """Let both be looked at, after one connection has gone over."""
        self.answer(old, "worker.giveSome", 1)
        self.answer(old, "worker.failures", [before, 99])
        self.clock.advance(OBSERVED)
        self.answer(old, "worker.failures", [after, 99])
        self.answer(new, "worker.failures", [failures, 1])


def kinds(worker: Any) -> list[str]:
    """Return what a worker was told."""
    return [frame[0] for frame in worker.line.sent]


def test_theFirstIsTried() -> None:
    """The first new worker gets a few connections, then all, as the old one leaves; the next ones get all at once."""
    stage = Relieving(2)
    stage.start()
    one, two = stage.launched
    done = stage.roll()
    new = stage.last
    stage.ready(new)
    assert (kinds(one), kinds(new)) == ([], ["worker.take"])
    assert stage.crew.ready == [one, two]
    stage.observe(one, new, 5, 5, 0)
    assert (kinds(one), kinds(new)) == (["worker.give"], ["worker.take"] * 2)
    assert stage.crew.ready == [new, two]
    one.process.exit()
    other = stage.last
    stage.ready(other)
    assert (kinds(two), kinds(other)) == (["worker.give"], ["worker.take"])
    assert stage.joined == [(one, new), (one, new), (two, other)]
    two.process.exit()
    assert done == [None]


def test_newCodeThatFails() -> None:
    """If it fails, it gives back what it has, the old one goes on, and nothing else is replaced."""
    stage = Relieving(2)
    stage.start()
    old = stage.launched[0]
    done = stage.roll()
    new = stage.last
    stage.ready(new)
    stage.observe(old, new, 5, 5, 1)
    assert (kinds(old), kinds(new)) == (["worker.take"], ["worker.take", "worker.give"])
    assert stage.joined == [(old, new), (new, old)]
    assert stage.crew.ready == stage.launched[:2]
    with pytest.raises(RollFailed, match=r"The new services fail \(1 errors for 1 connections in 2 s, 0 for 99"):
        done[0].raiseException()
    new.process.exit()
    stage.pass_(60)
    assert len(stage.launched) == 3


def test_nobodyToTryItWith() -> None:
    """Without a connection that can go, nothing is waited for."""
    stage = Relieving(1)
    stage.start()
    (old,) = stage.launched
    stage.roll()
    stage.ready(stage.last)
    stage.answer(old, "worker.giveSome", 0)
    assert kinds(old) == ["worker.give"]


def test_deathWhileItIsTried() -> None:
    """If the new worker dies with its first connections, the old one goes on; if the old one does, the new one takes over."""
    stage = Relieving(1)
    stage.start()
    (old,) = stage.launched
    done = stage.roll()
    new = stage.last
    stage.ready(new)
    stage.answer(old, "worker.giveSome", 1)
    stage.answer(old, "worker.failures", [0, 99])
    new.process.exit()
    stage.clock.advance(OBSERVED)
    stage.answer(old, "worker.failures", [0, 99])
    new.line.asked[-1][1].errback(ChannelError("unavailable", "gone"))
    assert "died" in str(done[0].value)
    assert stage.crew.ready == [old]

    done = stage.roll()
    new = stage.last
    stage.ready(new)
    stage.answer(old, "worker.giveSome", 1)
    old.process.exit()
    old.line.asked[-1][1].errback(ChannelError("unavailable", "gone"))
    assert stage.crew.ready == [new]
    assert done == [None]


def test_theOneThatTookThemDies() -> None:
    """If the new worker dies while the old one gives, the next one gets the rest; the old one has as long as before."""
    stage = Relieving(1)
    stage.start()
    (old,) = stage.launched
    stage.roll()
    new = stage.last
    stage.ready(new)
    stage.answer(old, "worker.giveSome", 0)
    new.process.exit()
    stage.pass_(1)
    third = stage.last
    assert third is not new
    stage.ready(third)
    assert stage.joined[-1] == (old, third)
    assert kinds(old) == ["worker.give"] * 2
    stage.clock.advance(LIMITS.drainTimeout)
    assert old.process.pid is not None
    stage.clock.advance(10)
    assert old.process.pid is None


def test_stopWhileItGives() -> None:
    """A stop asks a worker to leave that still gives its connections, and lets it take as long as any other, once."""
    stage = Relieving(1)
    stage.start()
    (old,) = stage.launched
    stage.roll()
    new = stage.last
    stage.ready(new)
    stage.answer(old, "worker.giveSome", 0)
    stage.clock.advance(LIMITS.drainTimeout)
    stage.crew.stop()
    assert (kinds(old), kinds(new)) == (["worker.give", "worker.drain"], ["worker.take"] * 2 + ["worker.drain"])
    stage.clock.advance(LIMITS.drainTimeout)
    assert old.process.pid is not None
    stage.crew.stop()
    assert kinds(old)[2:] == []
    stage.clock.advance(10)
    assert old.process.pid is None
