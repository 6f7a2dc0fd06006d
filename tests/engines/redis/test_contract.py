from __future__ import annotations

from tests.engines.redis.harness import RedisHarness
from tests.engines.subscribers import SubscribersContract
from twisted_ws.testing.engines import EngineContract


class TestValkey(EngineContract):
    Harness = RedisHarness


class TestSubscribersOfValkey(SubscribersContract):
    Harness = RedisHarness
