from __future__ import annotations

import random

import pytest
from twisted.internet.task import Clock

from tests.engines.hub.links import connect, settle
from twisted_ws.engines.hub.addresses import AddressCounts, AddressShare
from twisted_ws.engines.hub.link import Link
from twisted_ws.limits import Limits
from twisted_ws.wire.door.gate import Gate
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel

HERE = "192.0.2.1"


class Place:
    """A worker with a gate.

    Attributes:
        open: the addresses of its connections.
        refused: how many were not let in, at once or a little later.
        frames: how many it has sent.
    """

    def __init__(self, world, name):
        self.gate = Gate(world.limits, world.clock.seconds)
        self.hubLink, self.link = Link(world.turns, name), Link(world.turns, "the supervisor")
        world.counts.attach(self.hubLink)
        self.transports = connect(self.hubLink, self.link)
        world.transports += self.transports
        self.census = AddressShare(self.link, self.gate, world.limits.maxConnectionsPerIp, world.workers)
        self.open = []
        self.refused = 0

    def come(self, address=HERE):
        """Have a connection come; return whether it was let in, for now."""
        if not self.gate.admit(address):
            self.refused += 1
            return False
        connection = [address]
        self.open.append(connection)

        def turnAway():
            if any(each is connection for each in self.open):
                self.refused += 1
                self.leave(connection)

        self.gate.report(address, turnAway)
        return True

    def leave(self, connection=None):
        """Have one leave."""
        connection = connection or self.open[0]
        self.open = [each for each in self.open if each is not connection]
        self.gate.release(connection[0])


class Places:
    def __init__(self, limit, workers):
        self.limits = Limits(maxConnectionsPerIp=limit)
        self.workers = workers
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.counts = AddressCounts(limit, workers, Wheel(self.clock), self.turns)
        self.transports = []
        self.places = [Place(self, f"worker {number}") for number in range(workers)]
        self.settle()

    def settle(self):
        """Let everything arrive, and wait for what was refused in vain."""
        settle(*self.transports, clock=self.clock)
        for _ in range(100):
            self.clock.advance(0.25)
            settle(*self.transports, clock=self.clock)
            if not self.clock.getDelayedCalls():
                break

    @property
    def open(self):
        return sum(len(place.open) for place in self.places)


@pytest.mark.parametrize(("limit", "workers"), [(1, 4), (3, 4), (4, 4), (10, 4), (10, 1), (7, 2)])
@pytest.mark.parametrize("uneven", [True, False])
def test_limit(limit, workers, uneven):
    """However the kernel spreads them, an address gets as many connections as the limit says, and a place again for each lost."""
    world = Places(limit, workers)
    for number in range(limit * 3):
        world.places[0 if uneven and number < limit - 1 else number % workers].come()
        world.settle()
        assert world.open == min(number + 1, limit)
    busy = next(place for place in world.places if place.open)
    busy.leave()
    world.settle()
    assert world.open == limit - 1
    world.places[-1].come()
    world.settle()
    assert world.open == limit


def test_ordinaryAddresses():
    """As long as an address stays within the share of a worker, nothing is sent about it."""
    world = Places(100, 4)
    for place in world.places:
        for number in range(25 * 40):
            assert place.come(f"192.0.2.{number % 40}")
    assert not any(transport.waiting for transport in world.transports)
    assert len(world.counts) == 0


def test_forgotten():
    """An address that has become ordinary again is no longer counted at the hub."""
    world = Places(10, 2)
    for _ in range(8):
        world.places[0].come()
    world.settle()
    assert len(world.counts) == 1
    for _ in range(7):
        world.places[0].leave()
    world.settle()
    assert len(world.counts) == 0


def test_lostWorker():
    """The connections of a worker that has ended no longer count, and those of one that comes do."""
    world = Places(4, 2)
    one, other = world.places
    for _ in range(3):
        one.come()
    world.settle()
    one.transports[0].lose()
    world.places.remove(one)
    world.settle()
    for _ in range(3):
        other.come()
    world.settle()
    third = Place(world, "worker 3")
    world.places.append(third)
    third.come()
    third.come()
    world.settle()
    assert world.open == 4


def comeAndGo(chance):
    """Do 200 things in a random order, and check what came of it."""
    limit, workers = chance.randint(1, 12), chance.randint(1, 4)
    world = Places(limit, workers)
    for _ in range(200):
        place = chance.choice(world.places)
        what = chance.random()
        if what < 0.5:
            place.come(chance.choice((HERE, "192.0.2.2")))
        elif what < 0.8 and place.open:
            place.leave(chance.choice(place.open))
        elif what < 0.97:
            chance.choice(world.transports).turn()
        else:
            world.settle()
        if chance.random() < 0.05:
            world.settle()
            counts = [sum(each[0] == address for place in world.places for each in place.open) for address in (HERE, "192.0.2.2")]
            assert max(counts) <= limit
            for address, count in zip((HERE, "192.0.2.2"), counts, strict=True):
                if count < limit:
                    assert chance.choice(world.places).come(address)
                    world.settle()
                    assert sum(each[0] == address for place in world.places for each in place.open) == count + 1
    for place in world.places:
        while place.open:
            place.leave()
    world.settle()
    assert len(world.counts) == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("tens", range(10))
def test_random(tens):
    """Whatever comes and goes meanwhile, no address has more than the limit once everything has arrived, and none is kept out."""
    for seed in range(tens * 30, tens * 30 + 30):
        comeAndGo(random.Random(seed))
