"""What becomes of those who come before the engine works for the first time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from twisted.internet.defer import Deferred

from tests.memory import MemoryClient, SteadyClock
from tests.web.worlds import Client, EventClient
from twisted_ws import ConfigurationError, Limits, WebSocketServer
from twisted_ws.channels.service import ChannelService
from twisted_ws.engines.contract import EngineState
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.server.server import EARLY
from twisted_ws.web.pages import pagesSite
from twisted_ws.wire.loop.turns import STEPS


class Starting(MemoryEngine):
    """An engine that works when its `begun` has fired."""

    def start(self, node):
        super().start(node)
        self.state = EngineState.DOWN
        self.begun = Deferred()
        return self.begun.addCallback(self._begin)

    def _begin(self, _):
        self.state = EngineState.UP


class World:
    def __init__(self):
        self.clock = SteadyClock()
        self.server = WebSocketServer(
            reactor=self.clock, engine=lambda runtime: Starting(Limits(), runtime.wheel, self.clock.seconds)
        )
        self.engine = self.server.engine
        self.server.mount("/channels/{channel}", ChannelService(publish=True))
        self.factory = self.server.factory(pagesSite(self.server))

    def socket(self, path="/channels/a", *lines):
        client = MemoryClient(self.factory, self.clock)
        client.head = client.connect(path, *lines)
        return client

    def begin(self):
        self.engine.begun.callback(None)
        self.clock.advance(0)


@pytest.fixture
def world():
    return World()


def test_handshakeWaits(world):
    """A WebSocket opens when the engine works: nobody is open who is not subscribed."""
    client = world.socket()
    assert client.head == ""
    world.begin()
    assert client.received().startswith(b"HTTP/1.1 101 ")
    world.server.publish("a", "hello")
    assert client.messages() == ["hello"]


def test_manyWait(world):
    """When the engine works, hundreds that have waited are let in over many turns of the reactor."""
    clients = [world.socket() for _ in range(300)]
    world.engine.begun.callback(None)
    opened = [0]
    while opened[-1] < len(clients):
        call = world.clock.calls.pop(0)  # one turn of the reactor
        call.called = 1
        call.func(*call.args, **call.kw)
        opened.append(len(world.server.callers))
        assert opened[-1] > opened[-2]
    assert max(after - before for before, after in pairwise(opened)) <= STEPS // EARLY
    assert [each.received()[:13] for each in clients] == [b"HTTP/1.1 101 "] * len(clients)


def test_requestsWait(world):
    """Event streams, polls and posts over HTTP wait like handshakes, and are then answered."""
    stream, poll, post = EventClient(world.factory, world.clock), *[Client(world.factory, world.clock) for _ in "ab"]
    stream.ask("/channels/a", "Accept: text/event-stream")
    poll.ask("/channels/a")
    post.ask("/channels/a", method="POST", body=b"hello")
    assert (stream.take(), poll.take(), post.take()) == (b"", b"", b"")
    world.begin()
    assert stream.take().startswith(b"HTTP/1.1 200 ")
    assert [each.status for each in (*poll.responses(), *post.responses())] == [200, 200]


def test_pagesDoNotWait(world):
    """What no service answers needs no engine."""
    assert Client(world.factory, world.clock).get("/nothing/there").status == 404


def test_deadline(world):
    """Whoever has waited for `startDeadline` is sent away with 503, and may come again."""
    client, poll = world.socket(), Client(world.factory, world.clock)
    poll.ask("/channels/a")
    deadline = world.server.limits.startDeadline
    client.advance(deadline - 0.1)
    assert client.received() == b""
    client.advance(0.2)
    for head in (client.received(), poll.take()):
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 5\r\n" in head
    world.begin()
    assert world.socket().head.startswith("HTTP/1.1 101 ")


def test_leaves(world):
    """A client that leaves while it waits is forgotten; nothing is kept of it, and the others are served."""
    gone, stays = world.socket(), world.socket()
    gone.hangUp()
    world.begin()
    assert stays.received().startswith(b"HTTP/1.1 101 ")
    assert len(world.server.callers) == 1
    stays.hangUp()
    world.clock.advance(0)
    assert len(world.server.callers) == 0


def test_stop(world):
    """A stop before the engine works answers those who wait with 503."""
    client = world.socket()
    world.server.stop()
    assert client.received().startswith(b"HTTP/1.1 503 ")


def test_readiness(world):
    """Until the engine works, the server is not ready for traffic, whatever the state of the contact; then it is."""
    for state in (EngineState.DOWN, EngineState.RESUMING, EngineState.UP):
        world.engine.state = state
        assert world.server.readiness() == "starting"
    world.begin()
    assert world.server.readiness() is None


def test_failed(world):
    """An engine that cannot start makes nobody wait for it."""
    client = world.socket()
    failed = []
    world.server.started().addErrback(lambda failure: failed.append(failure.type))
    world.engine.begun.errback(ConfigurationError("The password is wrong."))
    assert failed == [ConfigurationError]
    world.clock.advance(0)
    assert client.received() != b""
    assert world.server.readiness() == "engine down"
