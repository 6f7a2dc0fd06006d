from __future__ import annotations

from tests.engines.redis.harness import RedisHarness
from tests.engines.subscribers import SubscribersContract
from twisted_ws.engines.redis.server.contact import Times
from twisted_ws.testing.engines import EngineContract


class TestValkey(EngineContract):
    Harness = RedisHarness


class PatientHarness(RedisHarness):
    """Takes no delay of a busy machine for an outage: what is told meanwhile of who comes and goes, nobody hears."""

    times = Times(closed=0.02, probe=60.0, lease=200.0)


class TestSubscribersOfValkey(SubscribersContract):
    Harness = PatientHarness
