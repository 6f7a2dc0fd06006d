"""Event streams that go on elsewhere: their clients notice nothing, and what ends a stream ends them there, too."""

from __future__ import annotations

import pytest
from twisted.internet.error import ConnectionDone

from tests.web.worlds import EventClient, World
from twisted_ws import Reject
from twisted_ws.channels.moving import Expectation
from twisted_ws.channels.service import ChannelService
from twisted_ws.server.handover.arrival import Arrival
from twisted_ws.server.handover.departure import Departure
from twisted_ws.web.channels.moving import StreamArrival, StreamDeparture, decode
from twisted_ws.wire.websocket.moving import Obstacle


def move(world: World, client: EventClient) -> Obstacle | str | None:
    """Let the stream of a client go through its bytes; return why it does not."""
    server = world.server
    expectation = Expectation(server.channels)
    departure = StreamDeparture(server, expectation, None, Departure(server, expectation, None))
    arrival = StreamArrival(server, expectation, Arrival(server, expectation, None))
    transport = client.transport

    def release():
        transport.unregisterProducer()
        return transport

    def attach(connection):
        transport.protocol = connection
        connection.makeConnection(transport)

    transport.release = release
    (stream,) = server.visits
    left = departure.depart(stream)
    if isinstance(left, Obstacle):
        return left
    state = decode(left[0])
    assert server.visits == set()
    assert server.counts.streams == 0
    why = arrival.refusal(state)
    if why is None:
        arrival.arrive(state, attach)
        (new,) = server.visits
        assert new is not stream
    return why


def test_goesOn() -> None:
    """A raw stream gets each message once, with its id, before and after."""
    world = World()
    client = world.events()
    world.publish("a", "1")
    assert move(world, client) is None
    assert world.publish("a", "2")[0].recipients == 1
    assert [(number, data) for kind, number, data in client.events() if kind == "message"] == [("e:1", "1"), ("e:2", "2")]
    assert (world.server.counts.streams, world.server.gate.open) == (1, 1)


def test_cursor() -> None:
    """The ids of a stream of several channels go on to be its positions in all of them."""
    world = World()
    client = world.events("/channels?channel=a&channel=b&channel=c.*")
    world.publish("a", "1")
    world.publish("b", "2")
    before = client.frames()[-1]["data"], client.lastId
    assert move(world, client) is None
    world.publish("a", "3")
    world.publish("c.d", "4")
    assert [each["data"] for each in client.frames()] == ["3", "4"]
    resumed = world.events(f"/channels?channel=a&channel=b&channel=c.*&after={client.lastId}")
    assert [each["recovered"] for each in resumed.frames() if each["type"] == "subscribed"][:2] == [True, True]
    assert before[0] == "2"
    assert before[1] != client.lastId


def test_unsent() -> None:
    """What the peer has not taken goes along, from the middle of an event on."""
    world = World()
    client = world.events()
    client.events()
    client.transport.room = 1000
    world.publish("a", "x" * 20_000)
    assert move(world, client) is None
    world.publish("a", "later")
    client.transport.room = None
    client.advance(1)
    assert [data for _, _, data in client.events()] == ["x" * 20_000, "later"]


def test_heartbeat() -> None:
    """The heartbeat comes when it would have."""
    world = World(pingInterval=20)
    client = world.events()
    client.advance(15)
    client.take()
    assert move(world, client) is None
    client.advance(4)
    assert client.take() == b""
    client.advance(2)
    assert b":\n\n" in client.take()


@pytest.mark.parametrize("ends", ["disconnected", "stop", "peer"])
def test_end(ends: str) -> None:
    """A stream that has moved ends as any other, and nothing of it is left."""
    left = []

    class Service(ChannelService):
        resumable = True

        def onUnsubscribe(self, caller, channel):
            left.append(channel)

    world = World(Service())
    client = world.events()
    assert move(world, client) is None
    assert left == []
    if ends == "disconnected":
        (stream,) = world.server.visits
        stream.subscriber.disconnect(4000, "go")
    elif ends == "stop":
        world.server.stop()
    else:
        client.transport.lose(ConnectionDone())
    client.advance(1)
    if ends != "peer":
        assert b"0\r\n\r\n" in client.take()
        client.transport.lose(ConnectionDone())
        client.advance(1)
    assert left == ["a"]
    assert (world.server.visits, world.server.counts.streams, world.server.gate.open) == (set(), 0, 0)


def test_stays() -> None:
    """A stream of a service that is not resumable does not go; nor one that has TLS here."""

    class Service(ChannelService):
        def onUnsubscribe(self, caller, channel):
            raise Reject

    world = World(Service())
    client = world.events()
    assert move(world, client) is Obstacle.SERVICE
    world = World()
    client = world.events()
    client.transport.isSecure = True
    assert move(world, client) is Obstacle.TLS
