"""What a caller or an event stream finds when it arrives: what has ended on the way ends there, with its reason."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import pytest

from tests.access.test_subscription_tokens import BEGIN, World, frames
from twisted_ws.channels.moving import Expectation
from twisted_ws.engines.contract import Revocation
from twisted_ws.server.handover.arrival import Arrival
from twisted_ws.server.handover.departure import Departure
from twisted_ws.server.handover.states import decode


@pytest.fixture
def stack():
    """What is open until the end of a test."""
    with ExitStack() as opened:
        yield opened


def onTheWay(world, client, meanwhile):
    """Let the caller of a client go on in the same server, after something has happened while it was on its way."""
    server = world.server
    expectation = Expectation(server.channels)
    state, transport = Departure(server, expectation, None).depart(client.caller)

    def attach(connection):
        transport.protocol = connection
        connection.makeConnection(transport)

    left = world.now()
    meanwhile()
    Arrival(server, expectation, None).arrive(decode(state), attach, world.now() - left)
    world.memory.settle()


@pytest.mark.parametrize("reason", ["expired", "revoked"])
def test_aTokenThatEndsOnTheWay(stack, tmp_path, reason):
    """A subscription whose token ends, or is revoked, while its connection moves ends with that reason; the others go on."""
    world = World(stack, tmp_path)
    client = world.v1()
    for channel, seconds in ("a", 12), ("b", 300):
        token = world.token(channel, seconds=seconds, jti=channel)
        client.writeMessage({"type": "subscribe", "channel": channel, "token": token})
    frames(client)
    ends = {
        "expired": partial(world.memory.advance, 13),
        "revoked": partial(world.server.engine.revoke, Revocation("a", None, 0, BEGIN + 1000)),
    }
    onTheWay(world, client, ends[reason])
    assert frames(client) == [{"type": "unsubscribed", "channel": "a", "reason": reason}]
    assert client.caller.channels == ("b",)
    world.memory.advance(300)
    assert frames(client) == [{"type": "unsubscribed", "channel": "b", "reason": "expired"}]
