from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from websockets.typing import Subprotocol

from tests.live.support import PATIENCE, Running, running, until, writeService

# /close, /drop and /latest are channels with each policy; /state tells what waits in the process.
_SERVICES = """
import os

from twisted_ws import ChannelService, WebSocketService


class Drop(ChannelService):
    def __init__(self):
        super().__init__(policy="drop-oldest")


class Latest(ChannelService):
    def __init__(self):
        super().__init__(policy="latest")


class State(WebSocketService):
    def onTextMessage(self, caller, text):
        channels = self.server.channels
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return {"resident": resident, "waits": channels.backlog.total, "subscribers": channels.count(text)}
"""
MOUNTS = ("/close/{channel}=channels", "/drop/{channel}=rooms:Drop", "/latest/{channel}=rooms:Latest", "/state=rooms:State")
OPTIONS = [part for mount in MOUNTS for part in ("--service", mount)]
# What ends or drops slow readers here are the caps, however long a busy machine takes to publish all that.
LIMITS = """[limits]
closeDeadline = 1
writeDeadline = 600
subscriberLag = 600
pingTimeout = 600
"""
# The default of --max-send-buffer.
CAP = 1 << 20
SIZE = 200_000
COUNT = 150  # so much of it is more than the kernel takes for one socket, and the cap beside
V1 = "Sec-WebSocket-Protocol: twisted-ws.v1\r\n"
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
EVENTS = "Accept: text/event-stream\r\n"

State = Callable[[], dict[str, int]]
Publish = Callable[[str], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """Yield a server with a service for each policy."""
    writeService(tmp_path, _SERVICES)
    (tmp_path / "limits.toml").write_text(LIMITS)
    with running(tmp_path, *OPTIONS, "--config", "limits.toml") as server:
        yield server


def _ask(server: Running, path: str, lines: str = "") -> socket.socket:
    """Send a request, and read the first bytes of its answer at most; the kernel keeps little of the rest."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port("ws")))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
    return client


@pytest.fixture
def state(server: Running) -> Iterator[State]:
    """Yield what tells how the process and the channel ``a`` are."""
    with server.client("/state") as client:

        def ask() -> dict[str, int]:
            client.send("a")
            found: dict[str, int] = json.loads(client.recv(PATIENCE))
            return found

        yield ask


@pytest.fixture
def publish(server: Running) -> Iterator[Publish]:
    """Yield what publishes a text to the channel ``a``."""
    with contextlib.closing(HTTPConnection("localhost", server.port("http"), timeout=PATIENCE)) as connection:

        def tell(text: str) -> None:
            connection.request("POST", "/channels/a", text.encode())
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()

        yield tell


def _events(stream: Any) -> Iterator[tuple[int, str]]:
    """Yield offset and text of the messages of an event stream."""
    number, named = 0, False
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "id":
            number = int(value.rpartition(":")[2])
        elif name == "event":
            named = True
        elif name == "data" and not named:
            yield number, value
        elif not name:
            named = False


def test_whoStallsIsEndedAndTheOthersGetAll(server: Running, state: State, publish: Publish) -> None:
    """Of 30 MB, a raw, a JSON, an event and a polling client that read nothing hold their caps at most; the others get all."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(server.client("/close/a"))
        stream = stack.enter_context(stack.enter_context(_ask(server, "/close/a", EVENTS)).makefile("rb"))
        for lines in UPGRADE, UPGRADE + V1, EVENTS:
            stack.enter_context(_ask(server, "/close/a", lines))
        until(lambda: state()["subscribers"] == 5)
        poller = stack.enter_context(_ask(server, "/close/a?wait=60"))
        until(lambda: state()["subscribers"] == 6)
        events = _events(stream)
        before = state()["resident"]
        for number in range(COUNT):
            text = f"{number} {'x' * SIZE}"
            publish(text)
            assert reader.recv(PATIENCE) == text
            assert next(events) == (number + 1, text)
            # Each answer would have a megabyte: they are asked for behind each other, and none is read.
            poller.sendall(b"GET /close/a?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert state()["waits"] < 4 * (CAP + 2 * SIZE)
        assert state()["resident"] - before < 50 * CAP
        waited = [int(size) for size in re.findall(r"(\d+) bytes (?:of channel messages )?wait for it", server.output)]
        assert len(waited) == 3
        assert all(size <= CAP + 2 * SIZE for size in waited), waited
        assert server.output.count("the event stream ends") == 1
        assert server.output.count("(1013)") == 2
        until(lambda: state()["subscribers"] == 2)


@pytest.mark.parametrize(("path", "enough"), [("/drop/a", 2), ("/latest/a", 1)])
def test_whoStallsGoesOnWithTheNewest(server: Running, state: State, publish: Publish, path: str, enough: int) -> None:
    """With the other policies nobody is ended: who reads again gets what is left in order, up to the newest, then what comes."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(server.client(path))
        json_ = stack.enter_context(server.client(path, max_queue=1, subprotocols=[Subprotocol("twisted-ws.v1")]))
        stream = stack.enter_context(stack.enter_context(_ask(server, path, EVENTS)).makefile("rb"))
        until(lambda: state()["subscribers"] == 3)
        for number in range(COUNT):
            publish(f"{number} {'x' * SIZE}")
            assert str(reader.recv(PATIENCE)).partition(" ")[0] == str(number)
            assert state()["waits"] < 2 * (CAP + 2 * SIZE)
        for found in _frames(json_), _events(stream):
            got = []
            while not got or got[-1] != COUNT:
                offset, text = next(found)
                assert text.partition(" ")[0] == str(offset - 1)
                got.append(offset)
            assert enough <= len(got) < COUNT
            assert got == sorted(set(got))
        publish("last")
        assert reader.recv(PATIENCE) == "last"
        assert next(_frames(json_)) == (COUNT + 1, "last")
        assert next(found) == (COUNT + 1, "last")


def _frames(client: Any) -> Iterator[tuple[int, str]]:
    """Yield offset and text of the messages of a JSON client."""
    while True:
        frame = json.loads(client.recv(PATIENCE))
        if frame["type"] == "message":
            yield int(frame["id"].rpartition(":")[2]), frame["data"]
