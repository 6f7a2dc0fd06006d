"""A server in memory that does what a test says, and a client connected to it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode
from wsproto.utilities import generate_accept_token
from zope.interface import implementer

from tests.memory import MemoryTransport, SteadyClock
from twisted_ws.client import WebSocketClient, connect
from twisted_ws.frames import frame

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Peer:
    """The server's end of one connection."""

    def __init__(self, protocol: Any) -> None:
        self.transport = MemoryTransport("127.0.0.1", 8080)
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        self._read = 0
        self._begun: Frame | None = None
        self._frames = FrameProtocol(client=False, extensions=[])

    def received(self) -> bytes:
        """Return the bytes that came since the last call."""
        self.transport.settle()
        data = bytes(self.transport.sent[self._read :])
        self._read += len(data)
        return data

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the request line and the headers of the handshake."""
        line, *lines = self.received().decode("latin-1").split("\r\n")[:-2]
        return line, {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}

    def send(self, data: bytes, step: int | None = None) -> None:
        """Send bytes, in pieces of `step`."""
        for start in range(0, len(data), step or max(len(data), 1)):
            if self.transport.closed:
                return
            self.transport.protocol.dataReceived(data[start : start + (step or len(data))])

    def accept(self, *lines: str, rest: bytes = b"", **replaced: str | None) -> None:
        """Answer the handshake with 101; `replaced` changes a header by its name with _ for -, None leaves it out."""
        _, headers = self.request()
        answer: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Accept": generate_accept_token(headers["sec-websocket-key"].encode()).decode(),
        }
        for name, value in replaced.items():
            answer[name.replace("_", "-")] = value
        pairs = [f"{name}: {value}" for name, value in answer.items() if value is not None]
        self.send("\r\n".join(["HTTP/1.1 101 Switching Protocols", *pairs, *lines, "", ""]).encode() + rest)

    def frames(self) -> list[Frame]:
        """Return the frames that came as a whole, parsed (and required to be masked) by an implementation that is not ours."""
        self._frames.receive_bytes(self.received())
        whole = []
        for each in self._frames.received_frames():  # which come in the pieces that were read
            if self._begun is not None:
                each = each._replace(payload=self._begun.payload + each.payload)
            self._begun = None if each.frame_finished else each
            if each.frame_finished:
                whole.append(each)
        return whole

    def messages(self) -> list[str | bytes]:
        """Return the payloads of the messages that came."""
        return [
            each.payload if isinstance(each.payload, str) else bytes(each.payload)
            for each in self.frames()
            if each.opcode in (Opcode.TEXT, Opcode.BINARY)
        ]

    def text(self, text: str) -> None:
        """Send a text message."""
        self.send(frame(TEXT, text.encode()))

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send Close."""
        self.send(frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode()))

    def hangUp(self, error: Exception | None = None) -> None:
        """End the stream, or break the connection with `error`."""
        self.transport.lose(error or ConnectionDone())


@implementer(IStreamClientEndpoint)
class MemoryEndpoint:
    """Connects to a `Peer`, or fails."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.peers: list[Peer] = []
        self.attempts: list[float] = []
        self.failure: Exception | None = None
        self.hangs = False

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append(self.clock.seconds())
        if self.hangs:
            return Deferred()
        if self.failure is not None:
            return fail(self.failure)
        protocol = factory.buildProtocol(None)
        self.peers.append(Peer(protocol))
        return succeed(protocol)

    @property
    def peer(self) -> Peer:
        """The last one."""
        return self.peers[-1]


class Setup:
    """A client that connects to a server in memory, on a fake clock."""

    def __init__(self, url: str = "ws://server.example/ws", **options: Any) -> None:
        self.clock = SteadyClock()
        self.endpoint = MemoryEndpoint(self.clock)
        self.url = url
        self.options = options
        self.connecting: Any = None

    def start(self) -> Setup:
        """Begin to connect."""
        self.connecting = connect(self.url, endpoint=self.endpoint, reactor=self.clock, **self.options)
        return self

    @property
    def peer(self) -> Peer:
        return self.endpoint.peer

    def advance(self, seconds: float) -> None:
        """Let time pass, in small steps, and the kernel take what is written."""
        for _ in range(int(seconds * 4)):
            self.clock.advance(0.25)
            for peer in self.endpoint.peers:
                peer.transport.settle()
        self.clock.advance(seconds % 0.25)

    def error(self) -> Any:
        """Return what the attempt to connect failed with."""
        return failed(self.connecting)


def result(deferred: Deferred[Any]) -> Any:
    """Return what a Deferred has fired with; it must have."""
    found: list[Any] = []
    deferred.addCallback(found.append)
    assert found, "it has not fired with a result"
    return found[0]


def failed(deferred: Deferred[Any]) -> Any:
    """Return the exception that a Deferred has failed with; it must have."""
    found: list[Any] = []
    deferred.addErrback(lambda failure: found.append(failure.value))
    assert found, "it has not failed"
    return found[0]


def pending(deferred: Deferred[Any]) -> bool:
    """Say whether a Deferred still waits."""
    return not deferred.called


def opened(*lines: str, **options: Any) -> tuple[WebSocketClient, Peer, Setup]:
    """Return an open client with its server; `lines` are more headers of the 101."""
    setup = Setup(**options).start()
    setup.peer.accept(*lines)
    return result(setup.connecting), setup.peer, setup
