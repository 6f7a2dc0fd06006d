from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, Running, running, writeService
from tests.memory import upgrade

# More than two turns of the reactor have time for.
CLIENTS = 4500
ROUNDS = 6

# Some callers are on a channel, some are written to alone. Who says a number has messages sent to all, to the channel and to
# those alone, so many times.
_SERVICE = """
from twisted_ws import WebSocketService


class Many(WebSocketService):
    some = []

    def onOpen(self, caller):
        if "own" in caller.request.query:
            self.some.append(caller)
        if "channel" in caller.request.query:
            caller.subscribe("news")

    async def onTextMessage(self, caller, rounds):
        answers = []
        for number in range(int(rounds)):
            answers.append(self.server.broadcast(f"all {number}"))
            answers.append(self.server.publish("news", f"news {number}"))
            for each in self.some:
                each.writeTextMessage(f"own {number}")
        counts = [await answer for answer in answers]
        return str([getattr(count, "recipients", count) for count in counts])
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """Yield a server that may have as many descriptors as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        writeService(tmp_path, _SERVICE)
        # On a busy machine it takes long until all are there, and none of them answers a ping.
        (tmp_path / "limits.toml").write_text("[limits]\npingInterval = 0\nfanOutLag = 600\n")
        with running(tmp_path, "--service", "/many=rooms:Many", "--config", "limits.toml") as server:
            yield server
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Client:
    """One socket, and the texts that came."""

    def __init__(self, server: Running, number: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port("ws")), PATIENCE)
        self.data = b""
        query = "&channel" * (number % 3 == 0) + "&own" * (number % 100 == 0)
        self.socket.sendall(upgrade(f"/many?{query}"))

    def welcome(self) -> None:
        """Wait for the answer to the handshake."""
        while not self.data.endswith(b"\r\n\r\n"):
            self.data += self.socket.recv(4096)
        assert self.data.startswith(b"HTTP/1.1 101")
        self.data = b""

    def texts(self) -> list[str]:
        """Return the messages that came whole: each is short, in one frame."""
        found, at = [], 0
        while at + 2 <= len(self.data):
            assert self.data[at] == 0x81
            assert self.data[at + 1] < 126
            end = at + 2 + self.data[at + 1]
            if end > len(self.data):
                break
            found.append(self.data[at + 2 : end].decode())
            at = end
        return found


def test_inOrder(server: Running) -> None:
    """Thousands get what is sent to all, to a channel and to them alone in the order of the calls, and the counts are right."""
    with ExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            clients.append(Client(server, number))
            stack.enter_context(clients[-1].socket)
        for client in clients:
            client.welcome()
        asker = stack.enter_context(server.client("/many"))
        asker.send(str(ROUNDS))
        posted = server.curl("-d", "posted")
        assert posted == "OK"
        wanted = []
        for number in range(CLIENTS):
            one = []
            for each in range(ROUNDS):
                one += [f"all {each}"] + [f"news {each}"] * (number % 3 == 0) + [f"own {each}"] * (number % 100 == 0)
            wanted.append(one)
        selector = stack.enter_context(selectors.DefaultSelector())
        left = set(range(CLIENTS))
        for number in left:
            selector.register(clients[number].socket, selectors.EVENT_READ, number)
        while left:
            ready = selector.select(PATIENCE)
            assert ready, f"{len(left)} have not got all: {clients[min(left)].texts()}"
            for key, _ in ready:
                client = clients[key.data]
                client.data += client.socket.recv(65536)
                if len(client.texts()) > len(wanted[key.data]):
                    left.discard(key.data)
                    selector.unregister(client.socket)
        for client, one in zip(clients, wanted, strict=True):
            texts = client.texts()
            texts.remove("posted")  # before all others, after them, or in between
            assert texts == one
        onChannel = len(range(0, CLIENTS, 3))
        while not (answer := str(asker.recv(PATIENCE))).startswith("["):
            pass
        assert answer == str([CLIENTS + 1, onChannel] * ROUNDS)
