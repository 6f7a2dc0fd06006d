"""Put an engine to the promises of its contract: subclass `EngineContract`, and say by an `EngineHarness` how to make one."""

from twisted_ws.testing.engines.harness import Capability, ClockHarness, Data, EngineHarness, ReactorHarness
from twisted_ws.testing.engines.promises import EngineContract
from twisted_ws.testing.engines.recording import Feed, RecordingNode

__all__ = [
    "Capability",
    "ClockHarness",
    "Data",
    "EngineContract",
    "EngineHarness",
    "Feed",
    "ReactorHarness",
    "RecordingNode",
]
