from __future__ import annotations

from typing import Any

import pytest

from tests.memory import SteadyClock
from twisted_ws import WebSocketServer
from twisted_ws.engines.contract import Revocation
from twisted_ws.engines.memory import MemoryEngine


@pytest.fixture
def server() -> WebSocketServer:
    return WebSocketServer(reactor=SteadyClock())


def test_id(server: WebSocketServer) -> None:
    """Each server has an id of its own, also in one process."""
    other = WebSocketServer(reactor=SteadyClock())
    assert server.node.id != other.node.id
    assert server.node.id.isalnum()
    assert len(server.node.id) == len(other.node.id) == 6


def test_info(server: WebSocketServer) -> None:
    """A node says how many connections it has."""
    assert server.engine.nodes() == [server.node.info()]
    assert server.node.info().connections == 0


def test_answers(server: WebSocketServer) -> None:
    """A question is answered by whoever has registered for its kind; an unknown one is answered with nothing."""
    server.node.answers["upper"] = bytes.upper
    assert server.engine.ask("upper", b"abc") == [b"ABC"]
    assert server.engine.ask("lower", b"abc") == [b""]


def test_revoked(server: WebSocketServer) -> None:
    """A revocation is passed on to whoever wants to know."""
    known: list[Revocation] = []
    server.node.revocations.append(known.append)
    revocation = Revocation("t1", None, 0.0, 4e9)
    assert server.engine.revoke(revocation) is None
    assert known == [revocation]


def test_started(server: WebSocketServer) -> None:
    """With the engine in memory, a server can work at once; a failure of another engine is told to everybody who asks."""
    results: list[Any] = []
    server.started().addCallback(results.append)
    assert results == [None]

    class Broken(MemoryEngine):
        def start(self, node: Any) -> Any:
            from twisted.internet.defer import fail

            return fail(ValueError("wrong password"))

    wheel = server.runtime.wheel
    broken = WebSocketServer(engine=Broken(server.limits, wheel, wheel.seconds), reactor=SteadyClock())
    for _ in range(2):
        broken.started().addErrback(lambda failure: results.append(str(failure.value)))
    assert results == [None, "wrong password", "wrong password"]
