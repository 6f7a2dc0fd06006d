from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, Running, curl, running
from tests.memory import clientFrame, upgrade

DESCRIPTORS = 160


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A server that may have few descriptors."""
    with running(tmp_path, descriptors=DESCRIPTORS) as server:
        yield server


def flood(port: int, count: int, data: bytes, stack: ExitStack) -> list[socket.socket]:
    """Open so many connections, each with these bytes sent and nothing read."""
    made = []
    for _ in range(count):
        made.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)))
        made[-1].sendall(data)
    return made


HALF = b"POST /broadcaster/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"


@pytest.mark.parametrize("data", [b"", HALF, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["silent", "half", "idle"])
def test_floodOfTheBroadcastSite(server: Running, data: bytes) -> None:
    """A crowd of connections that send no whole request keeps no publisher and no health check out, and fills no log."""
    port = server.port("http")
    with ExitStack() as stack, server.client() as caller:
        flood(port, 2 * DESCRIPTORS, data, stack)
        for number in range(20):
            assert server.curl("--data", str(number)) == "OK"
            assert curl(f"http://localhost:{port}/healthz")
            assert caller.recv(PATIENCE) == str(number)
    assert server.output.count("accepting") <= 2


def test_floodOfTheWebSocketPort(server: Running) -> None:
    """A crowd of WebSocket callers stops at the reserve, so the broadcast site answers; a place that is left is for the next."""
    with ExitStack() as stack:
        crowd = flood(server.port("ws"), 2 * DESCRIPTORS, upgrade(), stack)
        server.waitFor("accepting pauses")
        assert server.curl("--data", "hello") == "OK"
        assert crowd[0].recv(65536).startswith(b"HTTP/1.1 101 ")
        for each in crowd:
            each.sendall(clientFrame(8))
        with server.client() as caller:
            caller.send("there is a place")
            while (message := caller.recv(PATIENCE)) != "Echo: there is a place":
                assert message
    assert server.output.count("accepting") <= 2
