"""A server with real sockets in one thread: the test says when the reactor turns, and which implementation is at work."""

from __future__ import annotations

import fcntl
import select
import socket
import termios
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.tcp import Port

from tests.memory import upgrade
from tests.moments import ReactorClock
from twisted_ws import Limits, WebSocketServer
from twisted_ws.wire import speedups
from twisted_ws.wire.speedups import pure
from twisted_ws.wire.websocket import connection, fanout, outbox

__all__ = ["IMPLEMENTATIONS", "LaneWorld", "framesOf"]

IMPLEMENTATIONS = ["python", "compiled"]

# The seconds that a turn takes, and the number of turns after which nothing more comes, if nothing came.
_TURN = 0.001
_IDLE = 50


def framesOf(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of each frame of a server.

    Raises:
        AssertionError: these are no whole frames.
    """
    frames = []
    while data:
        assert data[0] in (0x81, 0x82, 0x88, 0x89, 0x8A), f"no frame begins with {data[:20]!r}"
        size, start = data[1], 2
        if size == 126:
            size, start = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, start = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= start + size, f"a frame of {size} bytes has {len(data) - start}"
        frames.append((data[0] & 15, data[start : start + size]))
        data = data[start + size :]
    return frames


def _areUnderWay(sender: socket.socket, receiver: socket.socket) -> bool:
    """Whether bytes that were sent have not reached the receiver's kernel."""
    receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # else it may wait 40 ms before it says what it has
    return any(fcntl.ioctl(sender, termios.TIOCOUTQ, bytes(4)))


class LaneWorld:
    """A `WebSocketServer` with one port on loopback.

    Args:
        implementation: one of `IMPLEMENTATIONS`; where the part was not compiled, both are Python.
        patch: puts the chosen one in place.
        limits: of the server.
        service: what answers ``/ws``.
        http: makes what answers plain requests to the server.
    """

    def __init__(
        self,
        implementation: str,
        patch: pytest.MonkeyPatch,
        service: Any,
        limits: Limits | None = None,
        http: Callable[[WebSocketServer], Any] = lambda server: None,
    ) -> None:
        if implementation == "python":
            for name in ("PollSet", "Sender", "acceptOne", "plainHead", "readSome", "sendMany", "split"):
                patch.setattr(speedups, name, getattr(pure, name))
            patch.setattr(fanout, "sendMany", pure.sendMany)
            patch.setattr(outbox, "Sender", pure.Sender)
            patch.setattr(connection, "split", pure.split)
        self.reactor = ReactorClock()
        self.server = WebSocketServer(reactor=self.reactor, limits=limits)
        self.server.mount("/ws", service)
        factory = self.server.factory(http(self.server))
        self.port = Port(0, factory, interface="127.0.0.1", reactor=self.reactor)
        self.port.startListening()
        # Those that it accepts have the same: a kernel that takes little.
        self.port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.server.adopt(self.port)
        self.clients: list[socket.socket] = []

    def turn(self) -> None:
        """Have the reactor turn once."""
        for reader in tuple(self.reactor.getReaders()):
            reader.doRead()
        self.reactor.advance(_TURN)

    def dial(self) -> socket.socket:
        """Return the client's end of a connection that waits to be accepted."""
        return socket.create_connection(("127.0.0.1", self.port.getHost().port), timeout=60)

    def connect(self, bufferSize: int = 4096) -> socket.socket:
        """Return the client's end of an open connection, whose kernel takes little."""
        client = socket.socket()
        self.clients.append(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bufferSize)
        client.connect(("127.0.0.1", self.port.getHost().port))
        client.setblocking(False)
        client.sendall(upgrade())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            self.turn()
            head += self.read(client, 1)
        assert head.startswith(b"HTTP/1.1 101 ")
        return client

    def read(self, client: socket.socket, most: int = 1 << 20) -> bytes:
        """Return what has come; b"" for nothing."""
        try:
            return client.recv(most)
        except BlockingIOError:
            return b""

    def readAll(self, client: socket.socket) -> bytes:
        """Turn until nothing more comes, and nothing is on its way."""
        received, idle = bytearray(), 0
        while idle < _IDLE:
            self.turn()
            underWay = self._isUnderWay(client)  # before reading: what arrives after that read would be neither
            data = self.read(client)
            received += data
            idle = 0 if data or underWay else idle + 1
            if idle and self._isQuiet(client):
                break
        return bytes(received)

    def readAllOrLost(self, client: socket.socket) -> bytes:
        """Do so with a connection that the server may have dropped."""
        received, idle = bytearray(), 0
        while idle < _IDLE:
            self.turn()
            underWay = self._isUnderWay(client)
            try:
                data = self.read(client)
            except ConnectionError:
                break
            received += data
            idle = 0 if data or underWay else idle + 1
            if idle and self._isQuiet(client):
                break
        return bytes(received)

    def _isQuiet(self, client: socket.socket) -> bool:
        """Whether more turns would do nothing: no call is due soon, no reader is ready, and the kernel has nothing under way."""
        soon = self.reactor.seconds() + _IDLE * _TURN
        if any(call.getTime() <= soon for call in self.reactor.getDelayedCalls()):
            return False
        readers = select.poll()
        for each in self.reactor.getReaders():
            readers.register(each, select.POLLIN)
        transport = self._serverEnd(client)
        return not readers.poll(0) and transport is not None and not _areUnderWay(client, transport.getHandle())

    def _isUnderWay(self, client: socket.socket) -> bool:
        """Whether the server's kernel has bytes for a client that it has not taken."""
        transport = self._serverEnd(client)
        return transport is not None and _areUnderWay(transport.getHandle(), client)

    def _serverEnd(self, client: socket.socket) -> Any:
        """Return the server's end of a client's connection; None once the server has closed it."""
        ours = client.getsockname()[1]
        return next((each for each in self.server.runtime.group.sockets.transports() if each.getPeer().port == ours), None)

    def close(self) -> None:
        """End all."""
        for client in self.clients:
            client.close()
        for _ in range(10):
            self.turn()
        self.port.stopReading()
        self.port.connectionLost(None)  # type: ignore[arg-type]
        assert not self.server.callers
