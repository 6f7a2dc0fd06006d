"""What clients of each transport hear when the engine of the channels is away, or has lost messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.memory import MemoryClient
from tests.web.worlds import World
from twisted_ws.engines.contract import EngineState
from twisted_ws.message import Position


def told(client: MemoryClient) -> list[Any]:
    """Return the JSON that a WebSocket got since the last time."""
    return [json.loads(message) for message in client.messages()]


@pytest.fixture
def world() -> World:
    return World()


def socket(world: World, path: str, *lines: str) -> MemoryClient:
    client = MemoryClient(world.factory, world.clock)
    client.connect(path, *lines)
    return client


def lose(world: World) -> None:
    """Tell the channels that they go on from f:7."""
    world.server.channels.tellLost("a", Position("f", 7))
    world.clock.advance(0)


def test_loss(world: World) -> None:
    """Whoever can be told of a loss is; a raw WebSocket is closed, because it has no place for that."""
    v1 = socket(world, "/channels?channel=a&channel=b", "Sec-WebSocket-Protocol: twisted-ws.v1")
    raw, other = socket(world, "/channels/a"), socket(world, "/channels/b")
    plain, framed, several = (world.events(f"/channels/{path}") for path in ("a", "a?format=json", "a?channel=b"))
    poll = world.client()
    poll.ask("/channels?channel=a&channel=b&wait=30&after=a=e:0,b=e:0")
    told(v1), plain.events(), framed.events(), several.events()
    lose(world)
    answer = {"channel": "a", "id": "f:7", "recovered": False, "count": 0}
    assert told(v1) == [{"type": "subscribed", **answer}]
    assert raw.closeFrame() == (4410, "not recovered")
    assert other.closeFrame() is None
    assert [(kind, number, json.loads(data)) for kind, number, data in plain.events()] == [("subscribed", "f:7", answer)]
    assert framed.frames() == [{"type": "subscribed", **answer}]
    assert several.frames() == [{"type": "subscribed", **answer}]
    assert several.lastId == world.events("/channels?channel=a&channel=b&after=a=f:7,b=e:0").lastId or several.lastId
    (response,) = poll.responses()
    assert response.json["recovered"] is False
    assert response.json["messages"] == []
    assert "a=f:7" in response.json["id"]


def test_lossAfterMessages(world: World) -> None:
    """A poll that has messages already is answered with these, and the next one is told of the loss: no answer has a hole."""
    poll = world.client()
    poll.ask("/channels?channel=a&channel=b&wait=30&after=a=e:0,b=e:0")
    world.server.publish("a", "1")
    world.server.channels.tellLost("a", Position("f", 7))
    world.server.publish("a", "2")
    world.clock.advance(0)
    (response,) = poll.responses()
    assert [each["data"] for each in response.json["messages"]] == ["1"]
    assert response.json["messages"][0]["id"] in response.json["id"]


@pytest.mark.parametrize("missed", [0, 1])
@pytest.mark.parametrize("live", [0, 1])
def test_lossWhileSubscribing(world: World, missed: int, live: int) -> None:
    """A loss on a channel while a poll is subscribed to another one makes no hole in its answer either."""
    channels, begins = world.server.channels, []
    publish = world.server.publish
    for number in range(missed):
        publish("a", f"missed {number}")
    subscribe = channels.subscribe

    def subscribing(subscriber: Any, channel: str, *more: Any) -> Any:
        if channel == "b":
            for number in range(live):
                publish("a", f"live {number}")
            channels.tellLost("a", Position("f", 7))
            publish("a", "after")
        begins.append(channel)
        return subscribe(subscriber, channel, *more)

    channels.subscribe = subscribing  # type: ignore[method-assign]
    poll = world.client()
    poll.ask("/channels?channel=a&channel=b&wait=30&after=a=e:0,b=e:0")
    world.clock.advance(0)
    (response,) = poll.responses()
    assert begins == ["a", "b"]
    before = [f"missed {number}" for number in range(missed)] + [f"live {number}" for number in range(live)]
    assert [each["data"] for each in response.json["messages"]] == (before or ["after"])
    assert response.json["recovered"] is bool(before)
    assert response.json["messages"][-1]["id"] in response.json["id"]


def test_lossBeforeWaiting(world: World) -> None:
    """A loss on a channel without subscribers is told to nobody."""
    other = world.events("/channels/b")
    other.events()
    lose(world)
    assert other.events() == []


def test_degraded(world: World) -> None:
    """Clients of twisted-ws.v1 hear once that the engine is away, and that it is back; the others hear nothing and stay open."""
    v1 = socket(world, "/channels?channel=a&channel=b", "Sec-WebSocket-Protocol: twisted-ws.v1")
    raw, plain, framed = socket(world, "/channels/a"), world.events("/channels/a"), world.events("/channels/a?format=json")
    told(v1), plain.events(), framed.events()
    for state in (EngineState.DOWN, EngineState.DOWN, EngineState.RESUMING, EngineState.UP, EngineState.UP):
        world.server.node.stateChanged(state)
    world.clock.advance(0)
    expected = [{"type": "degraded"}, {"type": "restored"}]
    assert told(v1) == framed.frames() == expected
    assert (raw.messages(), plain.events(), raw.closeFrame()) == ([], [], None)


def test_ready(world: World) -> None:
    """While the engine is away, the server is not ready for more clients."""
    assert world.server.readiness() is None
    world.server.engine.state = EngineState.DOWN
    assert world.server.readiness() == "engine down"
