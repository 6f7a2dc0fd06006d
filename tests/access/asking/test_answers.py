from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from tests.access.asking.support import outcome, turns
from twisted_ws.access.asking import answers
from twisted_ws.access.asking.answers import Answers, Kept
from twisted_ws.access.asking.exchange import Unanswered


class Asked:
    """What is asked, answered by hand."""

    def __init__(self):
        self.flights = []
        self.cancelled = 0

    def __call__(self):
        def cancel(_):
            self.cancelled += 1

        self.flights.append(Deferred(cancel))
        return self.flights[-1]


def test_oneFlight():
    """All who ask the same at the same time wait for one question; thousands are told over several turns."""
    clock, asked = Clock(), Asked()
    found = Answers(clock)
    waiting = [found.find("a", asked) for _ in range(2000)]
    assert len(asked.flights) == 1
    asked.flights[0].callback(Kept("yes", 10))
    assert sum(each.called for each in waiting) < 100
    turns(clock, 100)
    assert {outcome(each) for each in waiting} == {"yes"}


def test_keepsForAWhile():
    """An answer counts for its time; then it is asked for again."""
    clock, asked = Clock(), Asked()
    found = Answers(clock)
    first = found.find("a", asked)
    asked.flights[0].callback(Kept("yes", 10))
    assert outcome(first) == "yes"
    clock.advance(9.9)
    assert found.find("a", asked) == "yes"
    clock.advance(0.1)
    assert isinstance(found.find("a", asked), Deferred)
    assert len(asked.flights) == 2


@pytest.mark.parametrize("stale", [0, 60])
def test_staleIfError(stale):
    """An answer that has ended is used when there is no new one, only for as long as was said, and not at all by default."""
    clock = Clock()
    found = Answers(clock, stale)
    assert outcome(found.find("a", lambda: succeed(Kept("yes", 10)))) == "yes"
    clock.advance(69)
    again = outcome(found.find("a", lambda: fail(Unanswered("away"))))
    assert again == "yes" if stale else isinstance(again, Unanswered)
    clock.advance(1)
    assert isinstance(outcome(found.find("a", lambda: fail(Unanswered("away")))), Unanswered)


def test_failuresAreNotShared():
    """Each who waits gets an error of their own."""
    clock, asked = Clock(), Asked()
    found = Answers(clock)
    waiting = [found.find("a", asked) for _ in range(3)]
    asked.flights[0].errback(Unanswered("away", 4))
    errors = [outcome(each) for each in waiting]
    assert [(each.detail, each.seconds) for each in errors] == [("away", 4)] * 3
    assert len({id(each) for each in errors}) == 3


def test_onesThatLeave():
    """Who leaves does not end the question of the others; when all have left, it is given up."""
    clock, asked = Clock(), Asked()
    found = Answers(clock)
    first, second = found.find("a", asked), found.find("a", asked)
    first.cancel()
    assert (isinstance(outcome(first), CancelledError), asked.cancelled) == (True, 0)
    second.cancel()
    outcome(second)
    assert asked.cancelled == 1
    third = found.find("a", asked)
    asked.flights[1].callback(Kept("yes", 10))
    assert outcome(third) == "yes"


def test_bounded(monkeypatch):
    """The least recently used are forgotten, by number and by bytes."""
    monkeypatch.setattr(answers, "MOST_BYTES", 100_000)
    found = Answers(Clock(), most=3)
    for key in "abc":
        found.put(key, Kept(key, 10))
    assert found.get("a") == "a"
    found.put("d", Kept("d", 10))
    assert [key for key in "abcd" if found.get(key)] == ["a", "c", "d"]
    found.put("e", Kept("e", 10, 99_200))
    assert [key for key in "abcde" if found.get(key)] == ["d", "e"]
    found.clear()
    assert len(found) == 0
