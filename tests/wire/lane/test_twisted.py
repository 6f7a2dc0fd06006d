"""Twisted's own tests of TCP transports, run over the fast lane, on each reactor that this system has.

What they promise of a transport (order, producers, half-close, aborts, addresses), a connection of the lane promises too.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from twisted.internet.test import test_tcp
from twisted.internet.test.reactormixins import ReactorBuilder

from twisted_ws.wire.lane.group import PollGroup
from twisted_ws.wire.lane.ports import accelerate
from twisted_ws.wire.loop.wheel import Wheel

# Some of these tests use what Twisted itself has deprecated, to see that it goes on working.
pytestmark = [pytest.mark.exhaustive, pytest.mark.filterwarnings("default")]

# The reactors that people run servers with here; the others in Twisted's list need a screen or another system.
REACTORS = ("SelectReactor", "PollReactor", "EPollReactor", "AsyncioSelectorReactor")

# Before it uses up the descriptors, Twisted 26.4 reads the source of every package that is loaded, for coverage. It takes each to
# be an attribute of the package around it, and fails at Autobahn's flatbuffers.
if hasattr(test_tcp, "SourceCacheForCoverage"):
    test_tcp.SourceCacheForCoverage.enable = classmethod(lambda cls: None)


class OnTheLane:
    """Has the ports of the reactor accept for the lane."""

    def buildReactor(self) -> Any:
        # The asyncio reactor wants one, and whoever has called asyncio.run before has left none.
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        self.addCleanup(loop.close)  # type: ignore[attr-defined]
        self.addCleanup(asyncio.set_event_loop, None)  # type: ignore[attr-defined]
        reactor: Any = super().buildReactor()  # type: ignore[misc]
        group, listen = PollGroup(reactor, Wheel(reactor)), reactor.listenTCP

        def listenTCP(*arguments: Any, **options: Any) -> Any:
            port = listen(*arguments, **options)
            assert accelerate(port, group)
            return port

        reactor.listenTCP = listenTCP
        return reactor


def laneTests(builder: type[ReactorBuilder], name: str, **more: Any) -> dict[str, Any]:
    """Return the test cases of one of Twisted's builders, for each reactor."""
    made = type(name, (OnTheLane, builder), {**more, "__module__": __name__})
    return {key: case for key, case in made.makeTestCaseClasses().items() if any(reactor in key for reactor in REACTORS)}


globals().update(laneTests(test_tcp.TCPPortTestsBuilder, "Port"))
# This one looks for the transport among the reactor's own readers, where the whole group is one.
globals().update(laneTests(test_tcp.TCPConnectionTestsBuilder, "Connection", test_resumeProducing=None))
# And this one for the name of a connection in the reactor's log context, which the group does not set for each event.
globals().update(laneTests(test_tcp.TCP4ClientTestsBuilder, "Client", test_logPrefix=None))
globals().update(laneTests(test_tcp.TCPTransportTestsBuilder, "Transport"))
globals().update(laneTests(test_tcp.AbortConnectionTests, "Abort"))
