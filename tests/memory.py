"""A server without sockets: a transport that behaves as Twisted's TCP transport does, and the client's end of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from wsproto.events import Event
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode
from zope.interface import implementer

from twisted_ws.wire.loop.transports import unsentInKernel

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for KEY: the example of RFC 6455 section 1.3


def upgrade(path: str = "/ws", *lines: str, host: str = "localhost", **replaced: str | None) -> bytes:
    """Return the head of a handshake; `replaced` changes a header by its name with _ for -, None leaves it out."""
    headers: dict[str, str | None] = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    for name, value in replaced.items():
        headers[name.replace("_", "-")] = value
    pairs = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *pairs, *lines, "", ""]).encode("latin-1")


def clientFrame(
    opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bytes | None = b"\x01\x02\x03\x04"
) -> bytes:
    """Return one frame as a client sends it; `mask` None leaves it unmasked."""
    size = len(payload)
    bit = 0 if mask is None else 0x80
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if size < 126:
        head += bytes([bit | size])
    elif size < 65536:
        head += bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    if mask is None:
        return head + payload
    return head + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


class SteadyClock(Clock):
    """A clock on which time goes from one timer to the next, as with a reactor that never stands still."""

    def advance(self, amount: float) -> None:
        """Let time pass."""
        end = self.rightNow + amount
        while (calls := self.getDelayedCalls()) and (at := min(call.getTime() for call in calls)) <= end:
            self.rightNow = max(at, self.rightNow)
            super().advance(0)
        self.rightNow = max(end, self.rightNow)  # what was called may have let time pass

    def jump(self, amount: float) -> None:
        """Let time pass in which nothing is done, not even what is due: a reactor that stands still."""
        super().advance(amount)


@implementer(ITCPTransport, IHalfCloseableDescriptor)
class MemoryTransport:
    """What `twisted.internet.tcp.Server` promises, with a kernel that takes what `room` allows.

    `turn` is one turn of the reactor: the kernel takes bytes, and a close that was asked for happens.
    """

    disconnecting = False

    def __init__(self, address: str = "127.0.0.1", port: int = 40000) -> None:
        self.protocol: Any = None
        self.peer = IPv4Address("TCP", address, port)
        self.sent = bytearray()  # what the kernel took: what the peer sees
        self.room: int | None = None  # how much more the kernel takes; None: everything
        self.reading = True
        self.writeClosed = False
        self.aborted = False
        self.closed = False
        self.noDelay = False
        self.waiting = bytearray()  # what the kernel has not taken
        self.producer: Any = None  # whom it asks for more
        self._finishing = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.closed or self._finishing:
            return
        self.waiting += data

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def turn(self) -> None:
        """Do what a reactor does when the socket is writable."""
        if self.closed:
            return
        had = bool(self.waiting)
        size = len(self.waiting) if self.room is None else min(self.room, len(self.waiting))
        self.sent += self.waiting[:size]
        del self.waiting[:size]
        if self.room is not None:
            self.room -= size
        if self.waiting:
            return
        if self.producer is not None:
            if had:
                self.producer.resumeProducing()
        elif self.disconnecting:
            self.lose(ConnectionDone())
        elif self._finishing:
            self.writeClosed = True

    def settle(self) -> None:
        """Turn until nothing moves."""
        while True:
            before = len(self.sent), self.closed, self.writeClosed
            self.turn()
            if before == (len(self.sent), self.closed, self.writeClosed):
                return

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None, "a producer is registered already"
        self.producer = producer
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if not self.disconnecting:
            self.reading = True

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        self.disconnecting = True

    def loseWriteConnection(self) -> None:
        self._finishing = True

    def abortConnection(self) -> None:
        if not self.closed:
            self.aborted = True
            self.lose(ConnectionAborted())

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.noDelay = enabled

    def getTcpNoDelay(self) -> bool:
        return self.noDelay

    def getTcpKeepAlive(self) -> bool:
        return False

    def setTcpKeepAlive(self, enabled: bool) -> None:
        raise AssertionError("not used")

    def getPeer(self) -> IPv4Address:
        return self.peer

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8080)

    def lose(self, error: Exception) -> None:
        """End, and tell the protocol why."""
        if not self.closed:
            self.closed = True
            self.reading = False
            protocol, self.protocol, self.producer = self.protocol, None, None
            protocol.connectionLost(Failure(error))


class Behind:
    """A TCP connection whose peer is behind with reading.

    Attributes:
        writing: where the server writes; the kernel takes no more.
    """

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000)
            self._reading = socket.socket()
            self._reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._reading.connect(listening.getsockname())
            self.writing, _ = listening.accept()
        self.writing.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.writing.send(bytes(10_000))

    def read(self, size: int) -> None:
        """Have the peer's machine take so many bytes, if there are as many."""
        left = max(unsentInKernel(self.writing) - size, 0)
        while unsentInKernel(self.writing) > left:
            self._reading.recv(1024)

    def settle(self) -> None:
        """Wait until the kernel moves nothing any more: it looks for room at the peer after 0.2 seconds, and later."""
        unsent, since = -1, time.monotonic()
        while time.monotonic() - since < 0.5:
            if unsent != unsentInKernel(self.writing):
                unsent, since = unsentInKernel(self.writing), time.monotonic()
            time.sleep(0.02)

    def end(self) -> None:
        self._reading.close()
        self.writing.close()


class MemoryClient:
    """The client's end of one connection: it sends bytes, and reads what came with an independent implementation."""

    def __init__(self, factory: Any, clock: Clock, address: str = "127.0.0.1") -> None:
        self.clock = clock
        self.transport = MemoryTransport(address)
        protocol = factory.buildProtocol(self.transport.peer)
        self.refused = protocol is None
        if protocol is not None:
            self.transport.protocol = protocol
            protocol.makeConnection(self.transport)
        self._read = 0
        self._frames = FrameProtocol(client=True, extensions=[])

    def send(self, data: bytes, step: int | None = None) -> None:
        """Send bytes, in pieces of `step`; then the reactor turns."""
        for start in range(0, len(data), step or max(len(data), 1)):
            if self.transport.closed:
                break
            self.transport.protocol.dataReceived(data[start : start + (step or len(data))])
        self.transport.settle()

    def hangUp(self, error: Exception | None = None) -> None:
        """End the stream as a peer does that closes its socket (or whose connection breaks with `error`)."""
        self.transport.lose(error or ConnectionDone())

    def received(self) -> bytes:
        """Return the bytes that came since the last call."""
        self.transport.settle()
        data = bytes(self.transport.sent[self._read :])
        self._read += len(data)
        return data

    def putBack(self, data: bytes) -> None:
        """Have the last bytes that were returned come again."""
        self._read -= len(data)

    def connect(self, path: str = "/ws", *lines: str, **replaced: str | None) -> str:
        """Shake hands; return the head of the answer."""
        self.send(upgrade(path, *lines, **replaced))
        head, _, rest = self.received().partition(b"\r\n\r\n")
        self.putBack(rest)
        return head.decode("latin-1")

    def frames(self) -> list[Frame]:
        """Return the frames that came, each as wsproto reads it (data frames in pieces joined)."""
        self._frames.receive_bytes(self.received())
        return list(self._frames.received_frames())

    def messages(self) -> list[Any]:
        """Return the payloads of the text and binary messages that came."""
        found: list[Any] = []
        for frame in self.frames():
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                found.append(frame.payload if isinstance(frame.payload, str) else bytes(frame.payload))
        return found

    def closeFrame(self) -> tuple[int, str] | None:
        """Return code and reason of the Close frame among what came, None without one."""
        for frame in self.frames():
            if frame.opcode is Opcode.CLOSE:
                code, reason = frame.payload
                return int(code), reason or ""
        return None

    def live(self, seconds: float) -> None:
        """Let time pass as a good peer does, which answers pings within a second; other frames are dropped."""
        for _ in range(round(seconds)):
            self.advance(1)
            for frame in self.frames():
                if frame.opcode is Opcode.PING:
                    self.send(clientFrame(10, bytes(frame.payload)))

    def advance(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass in small steps, the reactor turning after each."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end - 1e-9:
            self.clock.advance(min(step, end - self.clock.seconds()))
            self.transport.settle()


__all__ = ["ACCEPT", "KEY", "Callable", "Event", "MemoryClient", "MemoryTransport", "SteadyClock", "clientFrame", "upgrade"]
