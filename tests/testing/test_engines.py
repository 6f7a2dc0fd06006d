from __future__ import annotations

from tests.testing.shared import SharedHarness
from twisted_ws.testing.engines import EngineContract


class TestShared(EngineContract):
    Harness = SharedHarness
