"""Rates of users and addresses count at all workers together, without a question that anybody waits for."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from tests.engines.hub.links import connect, settle
from twisted_ws.access.failures import Failures
from twisted_ws.access.rates import Rates
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.rates import COLLECTED, TOLD, RateCounts, RateShare
from twisted_ws.limits import Limits
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.websocket.runtime import Runtime

ANN = ("message", True, "ann")
ADDRESS = "192.0.2.1"


class World:
    """Some workers and a hub, on one clock."""

    def __init__(self, count=4, **limits):
        self.clock = Clock()
        self.clock.advance(1000)
        self.turns = Turns(self.clock)
        self.transports, self.workers, self.links = [], [], []
        hub = RateCounts()
        for number in range(count):
            runtime = Runtime(self.clock, Limits(**limits), False)
            rates, failures = Rates(runtime), Failures(runtime.limits, self.clock.seconds)
            hubLink, link = Link(self.turns, f"worker {number}"), Link(self.turns, "the supervisor")
            hub.attach(hubLink)
            transports = connect(hubLink, link)
            self.transports += transports
            self.links.append(link)
            RateShare(link, rates, failures, count, self.clock.callLater)
            self.workers.append((rates, failures, transports))
        self.settle()

    def settle(self):
        settle(*self.transports, clock=self.clock)

    def advance(self, seconds):
        for _ in range(round(seconds / COLLECTED)):
            self.clock.advance(COLLECTED)
            self.settle()

    def allowed(self, seconds, rate, tries=3):
        """Return how many events are allowed, of a user who tries this often at each worker in a tenth of a second."""
        found = 0
        for _ in range(round(seconds / COLLECTED)):
            found += sum(not rates.take(ANN, rate) for rates, _, _ in self.workers for _ in range(tries))
            self.advance(COLLECTED)
        return found


def test_adopted():
    """Workers that have joined another process before this one are told of each other, too."""
    clock = Clock()
    turns = Turns(clock)
    hub, told, transports = RateCounts(), [], []
    for number in range(2):
        hubLink, link = Link(turns, f"worker {number}"), Link(turns, "the supervisor")
        hub.attach(hubLink)
        link.handle("rateElsewhere", lambda *fields, number=number: told.append((number, *fields)))
        transports += connect(hubLink, link)
        hub.adopt(hubLink)
    link.send("rateHere", [[ANN, 10.0, 3]], [])
    settle(*transports, clock=clock)
    assert told == [(0, [[[*ANN], 10.0, 3]], [])]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("rate", [10, 2])
def test_together(count, rate):
    """However many workers somebody is connected to, no more is allowed in the long run than the rate says, and not much less."""
    found = World(count).allowed(60, rate)
    assert 58 * rate <= found <= (60 + count + 1) * rate


def test_oneWorker():
    """Whoever is connected to one worker has the whole rate there, the burst included."""
    world = World(4)
    rates = world.workers[0][0]
    assert sum(not rates.take(ANN, 10) for _ in range(50)) == 10
    world.advance(1)
    assert sum(not rates.take(ANN, 10) for _ in range(50)) == 10


def test_fewEventsCostNothing():
    """Whoever does less than a worker's part of the rate is not told of."""
    world = World(4)
    rates = world.workers[0][0]
    sent = []
    world.links[0].send = lambda *message: sent.append(message)
    for _ in range(20):
        assert not rates.take(ANN, 10)
        world.advance(0.2)
    assert sent == []
    for _ in range(5):
        assert not rates.take(ANN, 10)
    world.advance(COLLECTED)
    assert [message[0] for message in sent] == ["rateHere"]


def test_failures():
    """Wrong credentials count at all workers, whichever has seen them."""
    world = World(3, authFailures=5)
    for number in range(5):
        world.workers[number % 3][1].charge(ADDRESS)
    world.advance(COLLECTED)
    for _, failures, _ in world.workers:
        with pytest.raises(AccessRefused):
            failures.check(ADDRESS)
        failures.check("192.0.2.2")


def test_many():
    """However many are active at once, a message has a bounded number of them, and all are told in the end."""
    world = World(2)
    one, other = (rates for rates, _, _ in world.workers)
    users = [("message", True, f"user{number}") for number in range(3 * TOLD)]
    for user in users:
        assert not one.take(user, 1)
    world.advance(COLLECTED)
    assert len(other) == TOLD
    world.advance(3 * COLLECTED)
    assert len(other) == len(one) == 3 * TOLD


def test_aWorkerEnds():
    """One that has ended is told nothing; the others go on, and a link that is down costs nothing but its news."""
    world = World(3)
    for transport in world.workers[0][2]:
        transport.protocol.transport.loseConnection()
    world.settle()
    for rates, _, _ in world.workers:
        for _ in range(10):
            rates.take(ANN, 10)
    world.advance(COLLECTED)
    assert [bool(rates.take(ANN, 10)) for rates, _, _ in world.workers] == [False, True, True]
