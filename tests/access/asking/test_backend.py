from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from tests.access.asking.support import Server, outcome, turn, turns
from twisted_ws.access.asking import backend
from twisted_ws.access.asking.exchange import Answer, Question, Unanswered

ASK = Question("GET", "http://127.0.0.1/")


def test_someAtATime():
    """No more questions are out than may be; those that wait follow in their order."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, inFlight=2)
    found = [asking.ask(ASK._replace(url=f"http://127.0.0.1/{n}")) for n in range(4)]
    assert len(server.questions) == 2
    server.reply(body=b"0")
    assert len(server.questions) == 2  # not from within the end of the first
    turns(clock)
    assert [each.url[-1] for each in server.questions] == ["0", "1", "2"]
    assert outcome(found[0]) == Answer(200, b"0")


def test_theDeadlineCountsFromTheAsking():
    """Whoever waits for others has no more time than they have: all are refused at the deadline, and what hangs is given up."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, deadline=3, inFlight=2)
    found = [asking.ask(ASK) for _ in range(100)]
    clock.advance(2.9)
    assert not any(each.called for each in found)
    clock.advance(0.1)
    turns(clock)
    assert all(isinstance(outcome(each), Unanswered) for each in found)
    assert (len(server.questions), server.cancelled) == (2, 2)
    assert clock.getDelayedCalls() == []


def test_thousandsThatAreLateAtOnce():
    """Thousands that are late in the same moment, as after a halt, are refused some in each turn, and none is asked."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, deadline=3, inFlight=2)
    found = [asking.ask(ASK) for _ in range(3000)]
    clock.rightNow += 10
    counts = []
    while not all(each.called for each in found):
        turn(clock)
        counts.append(sum(each.called for each in found))
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) <= 64
    assert all(isinstance(outcome(each), Unanswered) for each in found)
    assert (len(server.questions), server.cancelled) == (2, 2)
    turns(clock)
    assert clock.getDelayedCalls() == []


def test_restsWhenAllFail():
    """After failures the back end is not asked for a while, and whoever waits is refused; one question brings it back."""
    clock, server = Clock(), Server()
    server.answer = Answer(500)
    asking = server.backEnd(clock, inFlight=1)
    waiting = [asking.ask(ASK) for _ in range(1)]
    for _ in range(4):
        waiting.append(asking.ask(ASK))
    assert [outcome(each).detail for each in waiting] == ["it answered 500"] * 5
    with pytest.raises(Unanswered) as caught:
        asking.ask(ASK)
    assert (caught.value.seconds, len(server.questions)) == (2, 5)
    clock.advance(2)
    server.answer = None
    probe = asking.ask(ASK)
    with pytest.raises(Unanswered):
        asking.ask(ASK)
    server.reply()
    assert outcome(probe) == Answer(200, b"{}")
    assert not asking.ask(ASK).called
    assert len(server.questions) == 7


def test_thousandsThatFailAtOnce():
    """Thousands that wait while each fails at once are all answered, some in each turn."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, inFlight=1)
    found = [asking.ask(ASK) for _ in range(3000)]
    server.answer = Unanswered("no connection")
    server.pending.pop(0).errback(Unanswered("no connection"))
    turn(clock)
    assert 0 < sum(each.called for each in found) < 100
    turns(clock, 3000)
    assert all(isinstance(outcome(each), Unanswered) for each in found)
    assert len(server.questions) == 5


def test_onesThatLeave():
    """A question of somebody who has left is not asked; one that is out goes on, and says nothing against the back end."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, inFlight=1)
    first, second, third = (asking.ask(ASK) for _ in range(3))
    second.cancel()
    assert isinstance(outcome(second), CancelledError)
    first.cancel()
    assert (isinstance(outcome(first), CancelledError), server.cancelled) == (True, 0)
    server.reply()
    turns(clock)
    assert len(server.questions) == 2
    server.reply()
    assert outcome(third).status == 200
    assert clock.getDelayedCalls() == []


def test_tooManyWait(monkeypatch):
    """Beyond a number of questions that wait, the next is refused at once."""
    monkeypatch.setattr(backend, "WAITING", 2)
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, inFlight=1)
    for _ in range(3):
        asking.ask(ASK)
    with pytest.raises(Unanswered):
        asking.ask(ASK)


def test_ourOwnDelay():
    """A question that has waited here for most of its time does not count against the back end when it is late."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, deadline=3, inFlight=1)
    for _ in range(10):
        first, second = asking.ask(ASK), asking.ask(ASK)
        clock.advance(2)
        server.reply()
        turns(clock)
        clock.advance(1)
        assert (outcome(first).status, outcome(second).detail) == (200, "no answer within 3 seconds")


def test_stops():
    """At the end all that wait are told, and nothing is left."""
    clock, server = Clock(), Server()
    asking = server.backEnd(clock, inFlight=1)
    found = [asking.ask(ASK) for _ in range(3)]
    asking.stop()
    turns(clock)
    assert all(isinstance(outcome(each), Unanswered) for each in found)
    assert clock.getDelayedCalls() == []
