"""Several nodes behind one proxy, with the configurations of the how-to guide, real proxies and a real Valkey."""

from __future__ import annotations

import json
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.engines.redis.servers import Server
from tests.live.proxies import fromPage
from tests.live.support import PATIENCE, Running, running, until, unverified, writeService
from tests.ports import freePort
from tests.transcript import ROOT, blocks

SERVICE = """
from twisted_ws import WebSocketService

class Who(WebSocketService):
    def onOpen(self, caller):
        node = caller.connectionId.partition(".")[0]
        caller.writeTextMessage(f"{caller.request.peerAddress} {caller.request.isSecure} {node}")
"""
PROXIES = {"nginx": "nginx", "haproxy": "# haproxy.cfg"}


def _configuration(name: str) -> str:
    kind = PROXIES[name]
    (text,) = (each.text for each in blocks(ROOT / "docs/howto/machines.md") if each.kind == kind or each.text.startswith(kind))
    return text


def _through(port: int, path: str) -> ClientConnection:
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=("127.0.0.2", 0))
    options: dict[str, Any] = {"sock": sock, "ssl": unverified(), "origin": "https://chat.example", "open_timeout": PATIENCE}
    return connect(f"wss://chat.example{path}", **options)


def _node(client: ClientConnection) -> str:
    """Return which node a client has come to, which must have seen its address, and that it used TLS."""
    address, isSecure, node = str(client.recv(PATIENCE)).split()
    assert (address, isSecure) == ("127.0.0.2", "True")
    return node


class _Machine:
    """One node: it comes back at the same ports."""

    def __init__(self, directory: Path, engine: int) -> None:
        directory.mkdir()
        writeService(directory, SERVICE)
        self._directory = directory
        self._ports = freePort(), freePort()
        self._options = (
            "--service",
            "/who=rooms:Who",
            "--service",
            "/channels/{channel}=channels",
            "--trusted-proxy",
            "127.0.0.1",
        )
        self._options += ("--engine", f"redis://127.0.0.1:{engine}")
        self.replaced = f"127.0.0.1:{self._ports[0]}", str(self._ports[1])

    @contextmanager
    def __call__(self) -> Iterator[Running]:
        ports = ("--port", str(self._ports[0]), "--broadcast-port", str(self._ports[1]))
        with running(self._directory, *self._options, ports=ports) as server:
            yield server


def _here(text: str, machines: tuple[_Machine, ...]) -> dict[str, str]:
    """Return what is another for the machines of the page here: addresses, ports of callers, ports of the health check."""
    places = {}
    for number, machine in enumerate(machines, 11):
        address, health = machine.replaced
        for old, new in (
            (f"10.0.0.{number}:8080 check port 8081", f"{address} check port {health}"),
            (f"10.0.0.{number}:8080", address),
        ):
            if old in text:
                places[old] = new
                break
    return places


@pytest.mark.parametrize("name", PROXIES)
def test_twoMachines(name: str, tmp_path: Path) -> None:
    """Callers are spread over both nodes and hear both; one drains, nobody is refused, and it comes back."""
    with Server() as valkey, ExitStack() as stack:
        machines = tuple(_Machine(tmp_path / each, valkey.port) for each in ("one", "two"))
        one = stack.enter_context(machines[0]())
        text = _configuration(name)
        with machines[1]() as two:
            port = stack.enter_context(fromPage(name, text, tmp_path, _here(text, machines)))
            callers = [stack.enter_context(_through(port, "/who")) for _ in range(6)]
            nodes = [_node(each) for each in callers]
            assert sorted(Counter(nodes).values()) == [3, 3]

            listener = stack.enter_context(_through(port, "/channels/news"))
            for server, said in ((one, "from one"), (two, "from two")):
                until(lambda server=server: _subscribers(server) == 1)  # type: ignore[misc]
                server.curl("-d", said, path="/channels/news")
                assert listener.recv(PATIENCE) == said
            with two.client("/who") as direct:
                leaver = str(direct.recv(PATIENCE)).split()[2]
            leaving = [each for each, where in zip(callers, nodes, strict=True) if where == leaver]
        # It has drained and ended; each of its callers was asked to leave.
        for each in leaving:
            with pytest.raises(ConnectionClosed) as closed:
                each.recv(PATIENCE)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        again = [stack.enter_context(_through(port, "/who")) for _ in leaving]
        assert {_node(each) for each in again} == set(nodes) - {leaver}
        stack.enter_context(machines[1]())
        until(lambda: _elsewhere(port, set(nodes)))


def _subscribers(server: Running) -> int:
    found = json.loads(server.curl(path="/api/channels/news"))
    return int(found.get("subscribers", 0))


def _elsewhere(port: int, known: set[str]) -> bool:
    """Return whether a new connection comes to a node that none of those before knew."""
    with _through(port, "/who") as client:
        return _node(client) not in known
