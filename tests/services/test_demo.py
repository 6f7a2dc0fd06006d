from __future__ import annotations

from collections.abc import Iterator

import pytest

from twisted_ws.services.demo import Demo
from twisted_ws.testing import MemoryServer, serve


@pytest.fixture
def demo() -> Demo:
    return Demo()


@pytest.fixture
def server(demo: Demo) -> Iterator[MemoryServer]:
    with serve({"/ws": demo}) as server:
        yield server


def test_callers(server: MemoryServer, demo: Demo) -> None:
    """The demo keeps every caller from its open to its close."""
    first, second = server.connect("/ws"), server.connect("/ws/below")
    assert demo.callers == {first.caller, second.caller}
    first.close()
    assert demo.callers == {second.caller}
    second.cut()
    assert demo.callers == set()


def test_echo(server: MemoryServer) -> None:
    """Text comes back with "Echo: " before it, and binary as it came."""
    client = server.connect("/ws")
    for text in ("Hällo", ""):
        client.writeTextMessage(text)
        assert client.readTextMessage() == f"Echo: {text}"
    client.writeBinaryMessage(b"\x00\xff")
    assert client.readBinaryMessage() == b"\x00\xff"


def test_goesOnElsewhere() -> None:
    """New code takes over the demo's callers: each is kept by the new demo alone, and its echo goes on."""
    old, new = Demo(), Demo()
    with serve({"/ws": old}) as server:
        client = server.connect("/ws")
        assert server.handOver({"/ws": new}) == 1
        assert (old.callers, new.callers) == (set(), {client.caller})
        client.writeTextMessage("next")
        assert client.readTextMessage() == "Echo: next"


def test_separateDemos() -> None:
    """Two demos do not share their callers."""
    assert Demo().callers is not Demo().callers
