from __future__ import annotations

import gzip
import random
from typing import Any

import pytest
from twisted.internet.error import ConnectionLost

from tests.web.conftest import readResponses, turn
from tests.web.worlds import Client, World
from twisted_ws.web.http.compression import listed, takesGzip, wanted
from twisted_ws.wire.loop.turns import QUANTUM, STEPS

MIB = 2**20


@pytest.mark.parametrize(
    ("accepted", "taken"),
    [
        ("gzip", True),
        ("GZip;q=0.1", True),
        ("br, \tx-gzip ;q=1.0", True),
        ("*", True),
        ("br;q=0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("x-gzip;q=0, *", False),
        ("identity, br", False),
        ("gzipped", False),
        ("my-gzip", False),
        ("br;gzip", False),
        ("", False),
        (",,gzip,,", True),
    ],
)
def test_takesGzip(accepted: str, taken: bool) -> None:
    """A named coding is acceptable unless its weight is 0; "*" stands for all that are not named."""
    assert takesGzip(accepted) is taken


def test_wanted() -> None:
    """However long the list, only the elements that matter are looked at."""
    names = listed("text/event-stream")
    assert [*wanted("," * 16_000, names)] == []
    assert [*wanted("a;q=0," * 2_600 + "Text/Event-Stream; charset=x", names)] == [("text/event-stream", True)]
    assert [*wanted(" \t" * 8_000, names)] == []


def large(world: World) -> list[str]:
    """Fill a channel with messages that hardly compress."""
    chance = random.Random(1)
    texts = ["".join(chance.choices("0123456789abcdef", k=10_000)) for _ in range(100)]
    world.publish("a", *texts)
    return texts


def ask(client: Client) -> None:
    """Ask for all of it, without a turn of the reactor."""
    client.transport.protocol.dataReceived(b"GET /channels/a?after=0 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n")


@pytest.mark.exhaustive
def test_slices() -> None:
    """However many clients ask for a whole history at once, each turn of the reactor does a bounded part of the work."""
    world = World()
    texts = large(world)
    turns, clients = world.server.runtime.turns, [world.client() for _ in range(12)]
    for client in clients:
        ask(client)
    count, most = 0, 0
    while True:
        most = max(most, STEPS - turns.left)
        if not turn(world.clock):
            break
        count += 1
    assert count >= 12 * len("".join(texts)) // (64 * STEPS)
    assert most <= STEPS + QUANTUM
    for client in clients:
        (response,) = client.responses()
        assert response.header("content-encoding") == "gzip"
        body = gzip.decompress(response.body).decode()
        assert all(text in body for text in texts)
        assert client.get("/channels/a").status == 200


@pytest.mark.parametrize("leaves", [False, True])
def test_slicesOfOne(leaves: bool) -> None:
    """An answer that takes several turns comes once, whole; if the client has left meanwhile, nothing more is done."""
    world = World()
    large(world)
    client = world.client()
    ask(client)
    assert turn(world.clock)
    assert client.transport.sent == b""
    if leaves:
        client.transport.lose(ConnectionLost())
        assert turn(world.clock)
        assert not turn(world.clock)
        assert client.transport.sent == b""
    else:
        while turn(world.clock):
            pass
        client.transport.settle()
        (response,) = readResponses(bytes(client.transport.sent))
        assert len(gzip.decompress(response.body)) > MIB * 9 // 10


def test_small() -> None:
    """An answer no larger than a slice is there at once."""
    world = World()
    world.publish("a", "x" * 2000)
    client = world.client()
    ask(client)
    client.transport.settle()
    (response,) = readResponses(bytes(client.transport.sent))
    assert b"x" * 2000 in gzip.decompress(response.body)


def test_fails(monkeypatch: pytest.MonkeyPatch, logged: list[Any]) -> None:
    """An error in the middle is a 500 and a traceback in the log."""
    world = World()
    large(world)
    client = world.client()
    ask(client)
    monkeypatch.setattr("twisted_ws.web.http.compression.SLICE", None)
    while turn(world.clock):
        pass
    assert [response.status for response in client.responses()] == [500]
    assert len([event for event in logged if "log_failure" in event]) == 1
