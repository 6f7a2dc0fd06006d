from __future__ import annotations

from tests.engines.redis.harness import FaultyHarness, RedisHarness
from twisted_ws.testing.engines import EngineContract


class SomeBytes(FaultyHarness):
    stride = 23


class TestFaults(EngineContract):
    """What `make faults` does at each byte and with both servers."""

    Harness = SomeBytes


# Those that wait for long are left to it altogether.
for _name in ("test_deaf", "test_stall", "test_refusedWhileCut"):
    setattr(TestFaults, _name, None)
for _name in dir(EngineContract):
    _needed = getattr(getattr(EngineContract, _name), "needs", None)
    if _name.startswith("test_") and (not _needed or _needed <= RedisHarness.capabilities):
        setattr(TestFaults, _name, None)  # TestValkey has it
