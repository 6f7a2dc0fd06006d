"""What the server says that it holds for its peers, against what it takes of memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from tests.memory import MemoryClient, clientFrame
from tests.seams import connectionOf
from tests.web.worlds import World
from twisted_ws import Caller, WebSocketService
from twisted_ws.channels.service import ChannelService
from twisted_ws.message import BINARY

pytestmark = pytest.mark.exhaustive

# What is held may be so much more than what is counted, and what is counted than what is held.
FACTOR = 1.5
SIZES = (0, 1, 125, 65536)
POLICIES = ("close", "drop-oldest", "latest")
V1 = "Sec-WebSocket-Protocol: twisted-ws.v1"


class Held:
    """A server of which nobody reads, and what it holds since `begin`."""

    def __init__(self, policy: str = "close", **limits: Any) -> None:
        everything = {"maxSendBuffer": 1 << 40, "maxSendBufferTotal": 1 << 50, "replyBuffer": 1 << 40}
        self.world = World(ChannelService(policy=policy, wildcards=True, publish=True), **{**everything, **limits})
        self.server = self.world.server
        self.backlog = self.server.runtime.backlog
        self._before = 0

    def connect(self, path: str, *lines: str) -> MemoryClient:
        """Connect a peer by WebSocket, whose kernel is full."""
        client = MemoryClient(self.world.factory, self.world.clock)
        client.connect(path, *lines)
        self._fill(client)
        return client

    def events(self, path: str) -> Any:
        """Open an event stream, whose kernel is full."""
        client = self.world.events(path)
        self._fill(client)
        return client

    def _fill(self, client: Any) -> None:
        client.transport.settle()
        client.transport.room = 0

    def begin(self) -> None:
        """Begin to look."""
        gc.collect()
        self._before = self.backlog.total + self.server.runtime.intake.total
        tracemalloc.start()

    def end(self) -> tuple[int, int]:
        """Return what is held since then, and what is counted."""
        gc.collect()
        real = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return real, self.backlog.total + self.server.runtime.intake.total - self._before


def payload(number: int, size: int) -> bytes:
    """Return bytes that no other message shares."""
    return (b"%08d" % number)[-size:].ljust(size, b"x") if size else b""


def countOf(size: int) -> int:
    """Return how many messages make a difference that can be seen."""
    return 1000 if size < 1000 else 30


def compare(real: int, counted: int) -> None:
    """Fail when more is held than is counted, or much less."""
    assert real <= FACTOR * counted
    assert counted <= FACTOR * real


def reply(caller: Caller, data: bytes) -> None:
    connectionOf(caller).reply(BINARY, data)


def write(caller: Caller, data: bytes) -> None:
    caller.writeBinaryMessage(data)


def ping(caller: Caller, data: bytes) -> None:
    caller.ping(data[:125])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", [reply, write, ping])
def test_writes(way: Callable[[Caller, bytes], None], size: int) -> None:
    """What a service writes to one that does not read is counted as what it takes."""
    held = Held()
    client = held.connect("/channels/a")
    (caller,) = held.server.callers
    caller.writeTextMessage("x" * 20_000)
    held.begin()
    for number in range(countOf(size)):
        way(caller, payload(number, size))
    compare(*held.end())
    client.hangUp()
    assert held.backlog.total == 0


@pytest.mark.parametrize("size", SIZES)
def test_broadcasts(size: int) -> None:
    """What is broadcast to one that does not read is counted as what it takes; to many, each is charged for all of it."""
    for many in (1, 5):
        held = Held()
        clients = [held.connect("/channels/a") for _ in range(many)]
        held.server.broadcast("x" * 20_000)
        held.begin()
        for number in range(countOf(size)):
            held.server.broadcast(payload(number, size))
        real, counted = held.end()
        if many == 1:
            compare(real, counted)
        assert real <= FACTOR * counted
        for client in clients:
            client.hangUp()


_WAYS = {
    "raw": lambda held: held.connect("/channels/a"),
    "json": lambda held: held.connect("/channels/a", V1),
    "pattern": lambda held: held.connect("/channels/*", V1),
    "events": lambda held: held.events("/channels/a"),
    "json events": lambda held: held.events("/channels/a?format=json"),
    "events of many": lambda held: held.events("/channels?channel=a&channel=b"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("way", "policy"),
    [(way, policy) for way in ("raw", "pattern") for policy in POLICIES]
    + [(way, "close") for way in ("json", "events", "json events", "events of many")],
)
def test_channels(way: str, policy: str, size: int) -> None:
    """What is published to one that does not read is counted as what it takes when no history has it any more."""
    held = Held(policy, historyMessages=0)
    channels = [f"a{number}" if way == "pattern" else "a" for number in range(countOf(size))]
    for channel in dict.fromkeys(channels):
        held.server.publish(channel, "")  # what a channel itself takes is not its subscribers'
    client = _WAYS[way](held)
    held.server.publish("a", b"x" * 20_000)
    held.server.publish("a", b"x" * 20_000)
    held.begin()
    for number, channel in enumerate(channels):
        held.server.publish(channel, payload(number, size), key=str(number))
    compare(*held.end())
    client.transport.lose(Exception())
    held.world.clock.advance(0)
    assert held.backlog.total == 0


# The longest, and those whose characters take most.
_KEYS: dict[str, Callable[[int], str]] = {
    "ASCII": lambda number: f"{number:0128}",
    "emoji": lambda number: "\U0001f600" * 120 + f"{number:08}",
}


@pytest.mark.parametrize("key", _KEYS.values(), ids=_KEYS)
@pytest.mark.parametrize("policy", POLICIES)
def test_keys(policy: str, key: Callable[[int], str]) -> None:
    """The keys of messages that wait are counted as what they take."""
    held = Held(policy, historyMessages=0)
    held.connect("/channels/a")
    held.server.publish("a", b"x" * 20_000)
    held.server.publish("a", b"x" * 20_000)
    held.begin()
    for number in range(1000):
        held.server.publish("a", b"x", key=key(number))
    compare(*held.end())


@pytest.mark.parametrize("key", _KEYS.values(), ids=_KEYS)
def test_keysKept(key: Callable[[int], str]) -> None:
    """The keys of messages that are kept are counted as what they take."""
    held = Held()
    held.server.publish("a", "")
    held.begin()
    for number in range(900):
        held.server.publish("a", b"%d" % number, key=key(number))
    real, _ = held.end()
    found: list[Any] = []
    held.server.channels.describe("a").addCallback(found.append)
    compare(real, found[0].bytes)


@pytest.mark.parametrize("policy", POLICIES)
def test_resumes(policy: str) -> None:
    """Resumes of long histories take some bytes for each channel and no copies, and are counted as what they take."""
    held = Held(policy)
    channels = [f"c{number}" for number in range(100)]
    for channel in channels:
        for number in range(100):
            held.server.publish(channel, b"x", key=str(number))
    held.connect("/channels", V1)
    (caller,) = held.server.callers
    caller.writeTextMessage("x" * 40_000)
    held.begin()
    for channel in channels:
        caller.subscribe(channel, "0")
    real, counted = held.end()
    audience = 400 * len(channels)  # that somebody is subscribed is no message
    assert real - audience <= FACTOR * counted
    assert counted < 1000 * len(channels)


def test_replies() -> None:
    """Answers to requests of twisted-ws.v1 that are not read are counted as what they take."""
    held = Held()
    client = held.connect("/channels", V1)
    (caller,) = held.server.callers
    caller.writeTextMessage("x" * 40_000)
    held.begin()
    for number in range(1000):
        client.send(clientFrame(1, b'{"type":"ping","ref":%d}' % number))
    compare(*held.end())


# What came from peers.


class Slow(WebSocketService):
    """Never gets done with the first message."""

    async def onTextMessage(self, caller: Caller, text: str) -> None:
        await Deferred()

    async def onBinaryMessage(self, caller: Caller, data: bytes) -> None:
        await Deferred()


@pytest.mark.parametrize("text", ["", "x", "x" * 125, "x" * 65536, "\u00e9" * 125, "x" * 1000 + "\U0001f600"])
@pytest.mark.parametrize("opcode", [1, 2])
def test_waiting(opcode: int, text: str) -> None:
    """Messages that wait for a handler are counted as what they take, also texts that take four bytes for each character."""
    held = Held(readAhead=1 << 40)
    held.server.mount("/slow", Slow())
    client = held.connect("/slow")
    client.send(clientFrame(1, b"first"))
    data = b"".join([clientFrame(opcode, text.encode())] * 10)
    held.begin()
    for _ in range(countOf(len(text)) // 10):
        client.send(data)
    real, counted = held.end()
    assert real <= FACTOR * counted
    if len(text) > 1:  # the shortest ones are shared by all
        assert counted <= FACTOR * real
    client.hangUp()
    held.world.clock.advance(100)
    assert held.server.runtime.intake.total == 0


@pytest.mark.parametrize("piece", [0, 1, 125, 65536])
def test_messagesInPart(piece: int) -> None:
    """A message that is not whole is counted as what it takes, in pieces of any size."""
    held = Held()
    clients = [held.connect("/channels/a") for _ in range(20)]
    pieces = clientFrame(2, fin=False) + clientFrame(0, b"x" * piece, fin=False) * min(600_000 // max(piece, 1), 1000)
    held.begin()
    for client in clients:
        client.send(pieces)
    real, counted = held.end()
    # An empty one is charged nothing here: beside what a connection takes there is no more.
    assert real - 20 * 2048 <= FACTOR * counted
    assert counted <= FACTOR * real


@pytest.mark.parametrize("size", [200, 10_000, 600_000])
def test_bodiesInPart(size: int) -> None:
    """The body of a request that is not whole is counted as what it takes; so is one that waits for its answer."""
    held = Held()
    clients = [held.world.client() for _ in range(20)]
    head = "POST /channels/a HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 700000\r\n\r\n"
    for client in clients:
        client.send(head.encode())
    held.begin()
    for client in clients:
        for _ in range(0, size, 10_000):
            client.send(b"x" * min(size, 10_000))
    real, counted = held.end()
    assert real - 20 * 2048 <= FACTOR * counted
    assert counted <= FACTOR * real
