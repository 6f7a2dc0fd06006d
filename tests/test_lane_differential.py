from __future__ import annotations

import random
import socket
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.memory import clientFrame, upgrade
from twisted_ws import Caller, Limits, WebSocketServer

pytestmark = pytest.mark.exhaustive

SCRIPTS = 150
LIMIT = 5000

# Wherever a script stops, in the middle of a frame even, these bytes come to a frame that must not be: the server ends it.
END = b"\xff" * (2 * LIMIT)


class Told:
    """Echoes, and writes down every event."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.closed: Deferred[None] = Deferred()

    def onOpen(self, caller: Caller) -> None:
        self.events.append("open")

    def onTextMessage(self, caller: Caller, text: str) -> str:
        self.events.append(text)
        return text

    def onBinaryMessage(self, caller: Caller, data: bytes) -> bytes:
        self.events.append(data)
        return data

    def onPong(self, caller: Caller, data: bytes) -> None:
        self.events.append(("pong", data))

    def onError(self, caller: Caller, error: Exception) -> None:
        self.events.append((type(error).__name__, str(error)))

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        self.events.append(("close", statusCode, reason))
        self.closed.callback(None)


def frame(rng: random.Random) -> bytes:
    """Return a frame: mostly common ones, and of everything else that a peer may send."""
    size = rng.choice([0, 1, 5, 125, 126, 300, LIMIT, LIMIT + 1])
    text = ("grüß dich " * (size // 8 + 1)).encode()[:size].decode(errors="ignore").encode()
    kind = rng.randrange(20)
    if kind < 8:
        return clientFrame(1, text)
    if kind < 13:
        return clientFrame(2, rng.randbytes(size))
    if kind < 15:
        first, last = clientFrame(1, text[:1] or b"a", fin=False), clientFrame(0, b"end")
        return first + rng.choice([b"", clientFrame(9, b"within")]) + last
    return rng.choice(
        [
            b"".join([clientFrame(9, rng.randbytes(rng.choice([0, 3, 125]))) for _ in range(rng.randrange(1, 9))]),
            clientFrame(10, b"pong"),
            # No valid Close: what waits then is dropped, and without the lane that is what came in the same turn.
            clientFrame(8, (1005).to_bytes(2, "big") + b"bye"),
            clientFrame(1, b"\xff\xfe"),
            clientFrame(2, b"x", rsv=4),
            clientFrame(2, b"x", mask=None),
            clientFrame(3, b"x"),
            clientFrame(0, b"alone"),
            rng.randbytes(rng.randrange(1, 30)),
        ]
    )


def script(seed: int) -> list[bytes]:
    """Return what a client sends, in pieces as it may cut them."""
    rng = random.Random(seed)
    data = b"".join(frame(rng) for _ in range(rng.randrange(1, 12)))
    pieces = []
    while data:
        size = rng.choice([1, 3, 7, 50, 1000, len(data)])
        pieces.append(data[:size])
        data = data[size:]
    return pieces[:60] + ([b"".join(pieces[60:])] if pieces[60:] else [])


def talk(port: int, pieces: list[bytes]) -> bytes:
    """Send the pieces over a connection of its own, and return all that the server says until it ends."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        client.sendall(upgrade())
        while not received.endswith(b"\r\n\r\n"):
            received += client.recv(1)
        try:
            for piece in [*pieces, END]:
                client.sendall(piece)
        except OSError:
            pass  # refused already
        try:
            while data := client.recv(65536):
                received += data
        except OSError:
            pass
    return received


def answers(received: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the head and the frames of the server; and its pongs, which overtake the messages that wait."""
    head, _, rest = received.partition(b"\r\n\r\n")
    frames, pongs = [head], []
    while rest:
        size, start = rest[1], 2
        if size == 126:
            size, start = int.from_bytes(rest[2:4], "big"), 4
        (pongs if rest[0] == 0x8A else frames).append(rest[: start + size])
        rest = rest[start + size :]
    return frames, pongs


class LaneOnAndOff(TestCase):
    timeout = 100

    async def serve(self, lane: bool) -> tuple[int, list[Told]]:
        services: list[Told] = []

        class Each:
            def onUpgrade(self, request: Any) -> Told:
                services.append(Told())
                return services[-1]

        server = WebSocketServer(limits=Limits(maxMessageSize=LIMIT), reactor=reactor)
        server.mount("/ws", Each())
        port = reactor.listenTCP(0, server.factory(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(server.stop)
        if lane:
            server.adopt(port)
        return port.getHost().port, services

    async def test_same(self) -> None:
        """Whatever a client sends, in whatever pieces, it gets the same answers and the service the same events, lane or not."""
        on, off = await self.serve(True), await self.serve(False)
        for seed in range(SCRIPTS):
            said, told = [], []
            for port, services in (on, off):
                said.append(await deferToThread(talk, port, script(seed)))
                await services[-1].closed
                told.append(services[-1].events)
            assert told[0] == told[1], f"script {seed}"
            assert answers(said[0]) == answers(said[1]), f"script {seed}"
