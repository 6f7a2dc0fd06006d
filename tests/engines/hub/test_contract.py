from __future__ import annotations

from tests.engines.hub.links import connect
from tests.engines.hub.worlds import TestNode
from tests.engines.subscribers import SubscribersContract
from twisted_ws.engines.hub.hub import Hub
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.worker import HubEngine
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.testing.engines import Capability, ClockHarness, EngineContract
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.loop.wheel import Wheel


class HubHarness(ClockHarness):
    """A hub, and a worker for each engine; each has a reactor's budget of its own, as a process has."""

    capabilities = frozenset({Capability.NODES, Capability.DEATH, Capability.DEAF})
    watchRest = 0.1
    lease = 0.0

    def setUp(self):
        self.hub = None
        self.transports = []
        self.ends = {}

    def engine(self, node, limits):
        if self.hub is None:
            wheel, turns = Wheel(self.clock), Turns(self.clock)
            self.hub = Hub(MemoryEngine(limits, wheel, wheel.seconds), limits, wheel, turns)
            self.hub.start(TestNode("supervisor"))
            self.turnsOfHub = turns
        here, there = Link(Turns(self.clock), "the supervisor"), Link(self.turnsOfHub, node.id)
        self.hub.attach(there)
        ends = connect(there, here)
        self.transports += ends
        engine = HubEngine(here, limits, Wheel(self.clock))
        self.ends[engine] = (there, *ends)
        return engine

    def turn(self):
        super().turn()
        for transport in self.transports:
            transport.turn()

    def advance(self, seconds):
        super().advance(seconds)
        self.turn()

    def kill(self, engine):
        _, _, mine = self.ends[engine]
        mine.lose()

    def deafen(self, engine):
        link, _, mine = self.ends[engine]
        mine.pauseProducing()
        return lambda: link.unread


class TestHub(EngineContract):
    Harness = HubHarness


class TestSubscribersOfHub(SubscribersContract):
    Harness = HubHarness
