"""What a real process takes for peers that do not read, against what it counts."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import PATIENCE, Running, running, until, writeService

# /many are those that do not read; /state does what it is asked for, and says what the process takes, and what it counts.
_SERVICES = """
import json
import os

from twisted_ws import ChannelService, WebSocketService


class Many(WebSocketService):
    def onOpen(self, caller):
        caller.subscribe("a")


class State(WebSocketService):
    async def onTextMessage(self, caller, text):
        asked, answers = json.loads(text), []
        for number in range(asked["count"]):
            data = (b"%08d" % number)[-asked["size"]:].ljust(asked["size"], b"x")
            if asked["way"] == "broadcast":
                answers.append(self.server.broadcast(data))
            elif asked["way"] == "publish":
                answers.append(self.server.publish("a", data))
                self.server.channels.forget("a")
            for each in self.server.callers if asked["way"] == "write" else ():
                if each is not caller:
                    each.writeBinaryMessage(data[:])
        for each in answers:  # which come when all have been written to
            await each
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        return {"resident": resident, "waits": self.server.runtime.backlog.total, "came": self.server.runtime.intake.total}
"""
_LIMITS = """
[limits]
maxSendBuffer = 1000000000
writeDeadline = 1000
pingInterval = 0
subscriberLag = 1000
"""
PEERS = 16
# What a process takes now and then of its own, for garbage and for its allocator.
NOISE = 6 << 20
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
EVENTS = "Accept: text/event-stream\r\n"


class World:
    """A server, and who tells what is in it."""

    def __init__(self, server: Running, state: Any, stack: contextlib.ExitStack) -> None:
        self.server = server
        self.stack = stack
        self._state = state

    def connect(self, path: str, lines: str) -> socket.socket:
        """Connect a peer that will not read; its kernel keeps little, and the answer has begun when this returns."""
        peer = self.stack.enter_context(socket.socket())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.settimeout(PATIENCE)
        peer.connect(("127.0.0.1", self.server.port("ws")))
        peer.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode())
        assert peer.recv(1)
        return peer

    def state(self, way: str = "", count: int = 0, size: int = 0) -> dict[str, int]:
        """Have messages sent, and return what the process takes and counts then."""
        self._state.send(json.dumps({"way": way, "count": count, "size": size}))
        while isinstance(said := self._state.recv(PATIENCE), bytes):
            pass  # a broadcast, which is for the one that asks, too
        found: dict[str, int] = json.loads(said)
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Yield a server that ends nobody who does not read."""
    writeService(tmp_path, _SERVICES)
    (tmp_path / "limits.toml").write_text(_LIMITS)
    mounts = ("/many=rooms:Many", "/state=rooms:State", "/channels/{channel}=channels")
    options = [part for mount in mounts for part in ("--service", mount)]
    with running(tmp_path, *options, "--config", "limits.toml") as server, contextlib.ExitStack() as stack:
        yield World(server, stack.enter_context(server.client("/state")), stack)


@pytest.mark.parametrize(
    ("way", "path", "lines"),
    [
        ("write", "/many", UPGRADE),
        ("broadcast", "/many", UPGRADE),
        ("publish", "/many", UPGRADE),
        ("publish", "/channels/a?format=json", EVENTS),
    ],
)
def test_messages(world: World, way: str, path: str, lines: str) -> None:
    """For messages of any size and way, a process takes no more than half as much again as it counts."""
    for _ in range(PEERS):
        world.connect(path, lines)
    # More than the kernel takes for one.
    world.state("publish" if path != "/many" else "write", 60, 100_000)
    for size, count in (2, 3000), (125, 2000), (65536, 15):
        world.state(way, 100, size)
        before = _settled(world)
        after = world.state(way, count, size)
        counted = after["waits"] - before["waits"]
        assert counted >= PEERS * count * size // 2  # the kernel may take some
        assert after["resident"] - before["resident"] <= 1.5 * counted + NOISE


def test_messagesInPart(world: World) -> None:
    """Messages that are not whole take what is counted for them, and nothing when their senders have gone."""
    before = world.state()
    peers = [world.connect("/many", UPGRADE) for _ in range(PEERS)]
    size = 900_000
    for peer in peers:
        peer.sendall(b"\x82\xff" + (1_000_000).to_bytes(8, "big") + b"\0" * 4 + b"x" * size)
    after = _until(world, lambda state: state["came"] >= PEERS * size - 100_000)
    assert after["resident"] - before["resident"] <= 1.5 * after["came"] + NOISE
    for peer in peers:
        peer.close()
    _until(world, lambda state: state["came"] == 0)


def test_bodiesInPart(world: World) -> None:
    """So do bodies of requests, on the port for WebSocket."""
    before = world.state()
    peers = []
    size = 900_000
    for _ in range(PEERS):
        peer = world.stack.enter_context(socket.create_connection(("127.0.0.1", world.server.port("ws")), PATIENCE))
        peer.sendall(b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * size)
        peers.append(peer)
    after = _until(world, lambda state: state["came"] >= PEERS * size - 100_000)
    assert after["resident"] - before["resident"] <= 1.5 * after["came"] + NOISE
    for peer in peers:
        peer.close()
    _until(world, lambda state: state["came"] == 0)


def test_answers(world: World) -> None:
    """So do answers by HTTP that are not read: one for each connection, however many are asked for behind each other."""
    for number in range(9):
        world.server.curl("--data-binary", "@-", path="/channels/kept", body=b"%d" % number + b"x" * 100_000)
    before = world.state()
    for _ in range(PEERS):
        peer = world.connect("/channels/kept", "")
        peer.sendall(b"GET /channels/kept?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 8)
    _until(world, lambda state: state["waits"] >= PEERS * 900_000)
    after = _settled(world)
    assert after["waits"] < PEERS * 1_000_000
    assert after["resident"] - before["resident"] <= 1.5 * after["waits"] + NOISE


def _settled(world: World) -> dict[str, int]:
    """Return the state when the kernel takes no more."""
    same, state = 0, world.state()
    while same < 20:
        before, state = state, world.state()
        same = same + 1 if state["waits"] == before["waits"] else 0
    return state


def _until(world: World, holds: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    state: dict[str, int] = {}

    def asked() -> bool:
        state.update(world.state())
        return holds(state)

    until(asked)
    return state
