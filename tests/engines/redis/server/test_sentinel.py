from __future__ import annotations

from contextlib import ExitStack

import pytest
from twisted.internet import reactor

from tests.engines.redis.harness import FaultyHarness
from tests.engines.redis.servers import Server
from tests.ports import freePort
from twisted_ws.engines.contract import EngineSettings, EngineState
from twisted_ws.engines.redis.several import makeEngine
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.message import Message
from twisted_ws.testing.engines import RecordingNode
from twisted_ws.wire.loop.wheel import Wheel

harness = FaultyHarness()


def sentinel(primary):
    return Server(
        sentinel=f"sentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened
    harness.advance(0.02)


def start(url):
    node = RecordingNode()
    node.engine = makeEngine(EngineSettings(url, None, Limits(), Wheel(reactor), reactor), harness.times)
    harness.wait(node.engine.start(node))
    return node


def test_failOver(stack):
    """When the primary dies, the engine goes on with the one that Sentinels choose, and every message is there once."""
    primary = stack.enter_context(Server())
    replica = stack.enter_context(Server(replicaof=f"127.0.0.1 {primary.port}"))
    asked = stack.enter_context(sentinel(primary))
    assert harness.until(lambda: "slave" in str(asked.ask("SENTINEL", "REPLICAS", "main")))
    assert harness.until(lambda: "master_link_status:up" in replica.ask("INFO", "replication"))
    nodes = [start(f"redis+sentinel://127.0.0.1:{freePort()},127.0.0.1:{asked.port}/main") for _ in range(2)]
    feeds = [node.watch("a") for node in nodes]
    assert harness.until(lambda: all(feed.isLive for feed in feeds))
    for number in range(20):
        harness.wait(nodes[number % 2].engine.publish("a", Message.of(str(number))))
    primary.kill()
    published = [str(number) for number in range(20)]
    for number in range(20, 30):
        while str(number) not in published:
            try:
                harness.wait(nodes[number % 2].engine.publish("a", Message.of(str(number)), None, str(number)))
            except ChannelError:
                continue  # nobody was there for too long: publish again
            published.append(str(number))
    assert harness.until(lambda: all(len(feed.heard) >= 30 for feed in feeds))
    assert [feed.texts for feed in feeds] == [published] * 2
    assert [feed.gaps for feed in feeds] == [[], []]
    assert [node.engine.state for node in nodes] == [EngineState.UP] * 2
    for node in nodes:
        harness.wait(node.engine.stop())


def test_unknown(stack):
    """Sentinels that do not know the primary, or are none, are named in one line, and so is one where a server belongs."""
    server = stack.enter_context(Server())
    asked = stack.enter_context(sentinel(server))
    with pytest.raises(ConfigurationError, match=r"primary other is not known to the Sentinels"):
        start(f"redis+sentinel://127.0.0.1:{asked.port}/other?wait=2")
    with pytest.raises(ConfigurationError, match=rf"primary main cannot be found: 127\.0\.0\.1:{server.port} is not a Sentinel"):
        start(f"redis+sentinel://127.0.0.1:{server.port}/main?wait=2")
    with pytest.raises(ConfigurationError, match=r"is a Sentinel: the URL must be like redis\+sentinel:"):
        start(f"redis://127.0.0.1:{asked.port}")
