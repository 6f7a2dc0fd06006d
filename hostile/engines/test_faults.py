"""Every promise of an engine, with every fault, for each server that there is: run by `make faults`."""

from __future__ import annotations

from tests.engines.redis.harness import FaultyHarness
from tests.engines.redis.servers import REDIS, VALKEY
from twisted_ws.testing.engines import EngineContract


class ValkeyHarness(FaultyHarness):
    """Valkey."""

    binary = VALKEY


class RedisHarness(FaultyHarness):
    """The system's Redis."""

    binary = REDIS


class TestValkey(EngineContract):
    """Valkey, cut at each byte."""

    Harness = ValkeyHarness


class TestRedis(EngineContract):
    """Redis, cut at each byte."""

    Harness = RedisHarness
