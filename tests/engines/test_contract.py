from __future__ import annotations

from tests.engines.subscribers import SubscribersContract
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.testing.engines import Capability, ClockHarness, EngineContract
from twisted_ws.wire.loop.wheel import Wheel


class MemoryHarness(ClockHarness):
    capabilities = frozenset({Capability.SYNCHRONOUS})
    watchRest = 0.0

    def engine(self, node, limits):
        wheel = Wheel(self.clock)
        return MemoryEngine(limits, wheel, wheel.seconds)


class TestMemory(EngineContract):
    Harness = MemoryHarness


class TestSubscribersOfMemory(SubscribersContract):
    Harness = MemoryHarness
