from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.live.support import PATIENCE, Running, running, until, writeService

# /ws is the victim's service and /evil the one with the bad handlers; /count tells what the process holds.
_SERVICES = '''
import gc
from collections import Counter

from twisted.internet.defer import Deferred

from twisted_ws import WebSocketService

OURS = ("twisted_ws", "autobahn")


class Evil(WebSocketService):
    def onTextMessage(self, caller, text):
        if text == "raise":
            raise RuntimeError("a bug")
        if text == "hang":
            return Deferred()
        if text == "stream":
            return (str(number) for number in iter(int, 1))
        return text


class Count(WebSocketService):
    """Answers with the objects of this package and of Autobahn that are alive, beside those of the caller itself."""

    def onTextMessage(self, caller, text):
        gc.collect()
        kinds = Counter(kind.__name__ for kind in map(type, gc.get_objects()) if str(kind.__module__).startswith(OURS))
        del kinds["Buckets"]  # of metrics: one more for the first event of a kind, and so many at most
        return {**kinds, "callers": len(self.server.callers), "open": self.server.gate.open}
'''

_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# The default of --max-send-buffer.
CAP = 1 << 20
SERVICES = ("--service", "/ws=demo", "--service", "/evil=rooms:Evil", "--service", "/count=rooms:Count")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """Yield a server with all three services."""
    writeService(tmp_path, _SERVICES)
    (tmp_path / "limits.toml").write_text("[limits]\ncloseDeadline = 1\n")
    with running(tmp_path, *SERVICES, "--config", "limits.toml") as server:
        yield server


def _count(server: Running) -> dict[str, int]:
    with server.client("/count") as client:
        client.send("?")
        counts: dict[str, int] = json.loads(client.recv(PATIENCE))
        return counts


def _publish(server: Running, numbers: range, padding: str = "") -> None:
    """Broadcast numbered messages, over one connection."""
    with socket.create_connection(("localhost", server.port("http"))) as publisher:
        answers = publisher.makefile("rb")
        for number in numbers:
            body = f"{number} {padding}".encode()
            head = f"POST /broadcaster/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            publisher.sendall(head.encode() + body)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            while answers.readline() != b"\r\n":
                pass
            assert answers.read(2) == b"OK"


def _numbers(client: ClientConnection, count: int) -> list[int]:
    """Return the numbers of the next messages."""
    return [int(str(client.recv(PATIENCE)).partition(" ")[0]) for _ in range(count)]


def test_aHandlerThatRaisesHangsOrStreamsForEverHurtsNobodyElse(tmp_path: Path) -> None:
    """While one caller's handler fails, another's never ends and a third's reply is endless, the others get all, in order."""
    writeService(tmp_path, _SERVICES)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(tmp_path, *SERVICES, mayFail=True))
        victims = [stack.enter_context(server.client()) for _ in range(3)]
        failing, hanging = (stack.enter_context(server.client("/evil")) for _ in range(2))
        streaming = stack.enter_context(server.client("/evil", max_queue=None))
        failing.send("raise")
        hanging.send("hang")
        hanging.send("waits for ever")
        streaming.send("stream")
        assert streaming.recv(PATIENCE) == "0"
        with pytest.raises(ConnectionClosed) as raised:
            failing.recv(PATIENCE)
        assert raised.value.rcvd is not None
        assert raised.value.rcvd.code == 1011
        assert "bug" not in raised.value.rcvd.reason

        _publish(server, range(100))
        for victim in victims:
            assert _numbers(victim, 100) == list(range(100))
            victim.send("mine")
            assert victim.recv(PATIENCE) == "Echo: mine"
        # The caller whose handler hangs is still there, and gets what is broadcast.
        assert _numbers(hanging, 100) == list(range(100))
        assert server.output.count("RuntimeError: a bug") == 1
        assert server.output.count("Traceback") == 1


def _mute(server: Running) -> socket.socket:
    """Return a connection that never reads again, after its handshake."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", server.port("ws")))
    client.sendall(_HANDSHAKE)
    while not client.recv(4096).endswith(b"\r\n\r\n"):
        pass
    return client


def test_aPeerThatStopsReadingIsDroppedAndTheOthersGetAll(server: Running) -> None:
    """A broadcast of 40 MB reaches who reads; who does not is closed at its cap, and nothing is kept for it."""
    before = _count(server)
    with contextlib.ExitStack() as stack:
        victims = [stack.enter_context(server.client()) for _ in range(2)]
        mutes = [stack.enter_context(_mute(server)) for _ in range(5)]
        for number in range(80):
            _publish(server, range(number, number + 1), "x" * 500_000)
            for victim in victims:
                assert _numbers(victim, 1) == [number]
        # They are closed with 1013 when more than the cap waits for them, and dropped when they do not answer that either.
        server.waitFor("bytes wait for it (1013)", len(mutes))
        waited = [int(size) for size in re.findall(r"(\d+) bytes wait for it", server.output)]
        assert len(waited) == len(mutes)
        assert all(size <= CAP + 2 * 500_000 for size in waited), waited
        _until(server, {**before, "callers": before["callers"] + 2, "open": before["open"] + 2}, "callers", "open")
    _until(server, before)


def _until(server: Running, before: dict[str, int], *names: str) -> None:
    """Wait until the server holds no more than it did before: of all that it counts, or of these."""
    more: dict[str, tuple[int, int]] = {}

    def isNoMore() -> bool:
        after = _count(server)
        more.clear()
        more.update({each: (before.get(each, 0), count) for each, count in after.items() if count > before.get(each, 0)})
        return not (more.keys() & names if names else more)

    # A peer that never reads is still given time for each byte that its kernel takes.
    until(isNoMore)


def _abort(client: socket.socket) -> None:
    """Close with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_tenThousandOpensAndAbortsLeaveNothing(server: Running) -> None:
    """After 10,000 connections that end at every point of their life, as many objects are alive as before."""
    address = ("127.0.0.1", server.port("ws"))
    frame = b"\x81\x82\0\0\0\0hi"
    sent = [b"", b"GET /", _HANDSHAKE[:40], _HANDSHAKE, _HANDSHAKE + frame, _HANDSHAKE + frame[:3], _HANDSHAKE + b"\xff" * 20]
    for content in sent:  # what is made once, as caches are, is no leak
        client = socket.create_connection(address)
        client.sendall(content)
        _abort(client)
    with server.client() as victim:
        victim.send("first")
        assert victim.recv(PATIENCE) == "Echo: first"
    before = _count(server)
    with server.client() as victim:
        for number in range(10_000):
            client = socket.create_connection(address)
            client.sendall(sent[number % len(sent)])
            if number % 3:
                _abort(client)
            else:
                client.close()
            if number % 1000 == 0:
                victim.send(str(number))
                assert victim.recv(PATIENCE) == f"Echo: {number}"
        assert server.curl("-d", "still there") == "OK"
        assert victim.recv(PATIENCE) == "still there"
    _until(server, before)
    assert "Unhandled" not in server.output


def test_aFloodOfGarbageHurtsNobody(server: Running) -> None:
    """Random bytes on both ports, on many connections at once, are answered or dropped; the messages of others all arrive."""
    before = _count(server)
    with server.client() as victim:
        flood = [socket.create_connection(("127.0.0.1", server.port(scheme))) for scheme in ("ws", "http") for _ in range(100)]
        for number, each in enumerate(flood):
            with contextlib.suppress(ConnectionError):  # the server may have had enough of it
                each.sendall(os.urandom(1000 + 10 * number) + b"\r\n\r\n")
        _publish(server, range(50))
        assert _numbers(victim, 50) == list(range(50))
        for each in flood:
            _abort(each)
        victim.send("alive")
        assert victim.recv(PATIENCE) == "Echo: alive"
    _until(server, before)
    assert not [line for line in server.lines if not line.isprintable()]
