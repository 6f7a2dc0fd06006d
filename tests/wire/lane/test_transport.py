from __future__ import annotations

import errno
import socket
import struct
import traceback
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.memory import clientFrame, upgrade
from tests.moments import COLLECTS_AT_ONCE, MOMENTS, collectAt, memoryAgain, noMemory
from tests.seams import connectionOf
from tests.web.conftest import turn
from tests.wire.lanes import IMPLEMENTATIONS, LaneWorld, framesOf
from twisted_ws import Limits
from twisted_ws import frames as framing
from twisted_ws.message import BINARY, TEXT
from twisted_ws.wire import speedups
from twisted_ws.wire.lane.group import EVENTS, PollGroup
from twisted_ws.wire.lane.ports import accelerate
from twisted_ws.wire.lane.transport import LANE_NAMES, LaneServer
from twisted_ws.wire.loop.turns import TURN
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.connection import PIECE


@implementer(IHalfCloseableProtocol)
class Recorder(Protocol):
    """Writes down what a connection tells."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.made: Deferred[None] = Deferred()
        self.lost: Deferred[Any] = Deferred()
        self.wanted: list[tuple[Any, Deferred[None]]] = []

    def tell(self, event: Any) -> None:
        self.events.append(event)
        for wanted, deferred in [*self.wanted]:
            if wanted(self.events):
                self.wanted.remove((wanted, deferred))
                deferred.callback(None)

    def until(self, wanted: Any) -> Deferred[None]:
        """Fire when `wanted(events)` is true."""
        deferred: Deferred[None] = Deferred()
        self.wanted.append((wanted, deferred))
        if wanted(self.events):
            self.wanted.pop()
            deferred.callback(None)
        return deferred

    def connectionMade(self) -> None:
        self.made.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self.tell(data)

    def readConnectionLost(self) -> None:
        self.tell("read lost")

    def writeConnectionLost(self) -> None:
        self.tell("write lost")

    def connectionLost(self, reason: Any = None) -> None:
        self.lost.callback(reason.value)


def _raise(error: Exception) -> Any:
    raise error


class PullProducer:
    """Writes `count` pieces, one each time it is asked."""

    def __init__(self, transport: Any, count: int) -> None:
        self.transport = transport
        self.left = count
        self.depth = self.deepest = 0
        self.done: Deferred[None] = Deferred()

    def resumeProducing(self) -> None:
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        if self.left:
            self.left -= 1
            self.transport.write(b"%09d" % self.left)
        elif not self.done.called:
            self.transport.unregisterProducer()
            self.done.callback(None)
        self.depth -= 1

    def stopProducing(self) -> None:
        self.left = 0


class PushProducer:
    """Writes down when it should pause and go on."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.resumed: Deferred[None] = Deferred()

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")
        self.resumed.callback(None)

    def stopProducing(self) -> None:
        self.events.append("stop")


class LaneTests(TestCase):
    """Real sockets over loopback, on whichever reactor runs."""

    timeout = 30

    async def connect(self, bufferSize: int | None = None) -> tuple[Recorder, socket.socket]:
        """Return what is at the server's end of a lane connection, and the client's blocking socket."""
        made: Deferred[Recorder] = Deferred()

        class Factory(ServerFactory):
            noisy = False

            def buildProtocol(self, addr: Any) -> Recorder:
                protocol = Recorder()
                made.callback(protocol)
                return protocol

        port = reactor.listenTCP(0, Factory(), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.group = PollGroup(reactor, Wheel(reactor))
        assert accelerate(port, self.group)
        client = socket.socket()
        if bufferSize is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, bufferSize)
        self.addCleanup(client.close)
        await deferToThread(client.connect, ("127.0.0.1", port.getHost().port))
        protocol = await made
        await protocol.made
        assert isinstance(protocol.transport, LaneServer)
        if bufferSize is not None:
            protocol.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, bufferSize)
        return protocol, client

    async def close(self, protocol: Recorder) -> None:
        if not protocol.lost.called:
            protocol.transport.abortConnection()
            await protocol.lost
        assert len(self.group.sockets) == 0

    async def test_readAndWrite(self) -> None:
        """Bytes come and go; a write is with the kernel at once."""
        protocol, client = await self.connect()
        client.sendall(b"hello")
        await protocol.until(lambda events: events == [b"hello"])
        protocol.transport.write(b"an")
        protocol.transport.writeSequence([b"sw", b"er"])
        assert protocol.transport.isDrained()
        assert client.recv(100) == b"answer"
        await self.close(protocol)

    async def test_orderUnderPressure(self) -> None:
        """What the kernel does not take follows in order, whatever is written meanwhile."""
        protocol, client = await self.connect(4096)
        pieces = [bytes([n]) * 20_000 for n in range(50)]
        for piece in pieces:
            protocol.transport.write(piece)
        assert not protocol.transport.isDrained()
        assert 0 < protocol.transport.unsent() < 1_000_000

        def receive() -> bytes:
            received = b""
            while len(received) < 1_000_000:
                received += client.recv(65536)
            return received

        assert await deferToThread(receive) == b"".join(pieces)
        assert protocol.transport.unsent() == 0
        await self.close(protocol)

    async def test_pullProducer(self) -> None:
        """A pull producer is asked again after each write, in a turn of its own, to its end."""
        protocol, client = await self.connect()
        producer = PullProducer(protocol.transport, 100)
        protocol.transport.registerProducer(producer, False)
        await producer.done
        assert producer.deepest == 1
        received = b""
        while len(received) < 900:
            received += client.recv(65536)
        assert received == b"".join(b"%09d" % n for n in reversed(range(100)))
        await self.close(protocol)

    async def test_pushProducer(self) -> None:
        """A push producer pauses when more than the buffer waits, and goes on when all is taken."""
        protocol, client = await self.connect(4096)
        producer = PushProducer()
        protocol.transport.registerProducer(producer, True)
        protocol.transport.write(b"x")
        assert producer.events == []
        protocol.transport.write(b"x" * 1_000_000)
        assert producer.events == ["pause"]

        def drain() -> None:
            left = 1_000_001
            while left:
                left -= len(client.recv(65536))

        await deferToThread(drain)
        await producer.resumed
        assert producer.events == ["pause", "resume"]
        protocol.transport.unregisterProducer()
        await self.close(protocol)

    async def test_loseConnectionFlushes(self) -> None:
        """A close waits for what was written."""
        protocol, client = await self.connect(4096)
        protocol.transport.write(b"x" * 500_000)
        protocol.transport.loseConnection()

        def drain() -> int:
            size = 0
            while data := client.recv(65536):
                size += len(data)
            return size

        assert await deferToThread(drain) == 500_000
        assert isinstance(await protocol.lost, ConnectionDone)
        await self.close(protocol)

    async def test_acceptedByTwisted(self) -> None:
        """When accept fails once, Twisted handles that, and a connection that it then accepts has a lane all the same."""
        accept, failures = speedups.acceptOne, [OSError(errno.ECONNABORTED, "gone")]
        self.patch(speedups, "acceptOne", lambda listening: accept(listening) if not failures else _raise(failures.pop()))  # type: ignore[no-untyped-call]
        protocol, client = await self.connect()
        assert failures == []
        client.sendall(b"hello")
        await protocol.until(lambda events: events == [b"hello"])
        assert protocol.transport.reactor is self.group
        await self.close(protocol)

    async def test_socket(self) -> None:
        """The socket is there when asked for, always the same; it has its descriptor's settings, and ends with the connection."""
        protocol, _ = await self.connect()
        transport = protocol.transport
        made = transport.socket
        assert made is transport.socket
        assert made.fileno() == transport.fileno() == transport.descriptor
        assert (made.family, made.gettimeout()) == (socket.AF_INET, 0.0)
        assert transport.getTcpNoDelay()
        transport.abortConnection()
        await protocol.lost
        assert made.fileno() == -1
        assert not hasattr(transport, "socket")
        assert transport.fileno() == -1

    async def test_names(self) -> None:
        """A connection that was slow, and has ended, has no attribute but those that all share the names of."""
        protocol, client = await self.connect(bufferSize=4096)
        protocol.transport.write(b"x" * 1_000_000)
        await deferToThread(client.recv, 4096)
        transport = protocol.transport
        await self.close(protocol)
        assert vars(transport).keys() - set(LANE_NAMES) <= {"_aborting", "doRead", "doWrite"}

    async def test_writeAfterTheEnd(self) -> None:
        """What is written after the end is dropped, without an error."""
        protocol, client = await self.connect()
        client.close()
        await protocol.until(lambda events: events == ["read lost"])
        protocol.transport.loseConnection()
        await protocol.lost
        protocol.transport.write(b"x")
        await self.close(protocol)

    async def test_halfClose(self) -> None:
        """Either side may end its half: the peer's end is told, and so is ours."""
        protocol, client = await self.connect()
        client.shutdown(socket.SHUT_WR)
        await protocol.until(lambda events: events == ["read lost"])
        protocol.transport.write(b"still here")
        assert client.recv(100) == b"still here"
        protocol.transport.loseWriteConnection()
        await protocol.until(lambda events: "write lost" in events)
        assert client.recv(100) == b""
        await self.close(protocol)

    async def test_reset(self) -> None:
        """A reset is ConnectionLost."""
        protocol, client = await self.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert isinstance(await protocol.lost, ConnectionLost)
        await self.close(protocol)

    async def test_resetInTheLane(self) -> None:
        """A reset is ConnectionLost, and an end of stream is told, also while frames are read."""
        protocol, client = await self.connect()
        protocol.transport.setLane(protocol.tell, 1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert isinstance(await protocol.lost, ConnectionLost)
        await self.close(protocol)
        protocol, client = await self.connect()
        protocol.transport.setLane(protocol.tell, 1000)
        client.shutdown(socket.SHUT_WR)
        await protocol.until(lambda events: events == ["read lost"])
        await self.close(protocol)

    async def test_abort(self) -> None:
        """An abort drops what waits and tells ConnectionAborted, in a later turn."""
        protocol, _ = await self.connect(4096)
        protocol.transport.write(b"x" * 1_000_000)
        protocol.transport.abortConnection()
        assert not protocol.lost.called
        assert isinstance(await protocol.lost, ConnectionAborted)
        await self.close(protocol)

    async def test_pauseReading(self) -> None:
        """While reading pauses nothing is read; then it comes."""
        protocol, client = await self.connect()
        protocol.transport.pauseProducing()
        client.sendall(b"later")
        for _ in range(5):
            await deferLater(reactor, 0)
        assert protocol.events == []
        protocol.transport.resumeProducing()
        await protocol.until(lambda events: events == [b"later"])
        await self.close(protocol)

    async def test_frames(self) -> None:
        """For a receiver the socket is read into frames; what is none of the common ones comes as bytes."""
        protocol, client = await self.connect()
        protocol.transport.setLane(protocol.tell, 1000)
        client.sendall(clientFrame(1, b"a") + clientFrame(2, b"b"))
        await protocol.until(lambda events: events == ["a", b"b"])
        client.sendall(clientFrame(1, b"c") + clientFrame(9, b"ping"))
        await protocol.until(lambda events: events[2:] == ["c", clientFrame(9, b"ping")])
        client.sendall(clientFrame(9, b"ping"))
        await protocol.until(lambda events: events[4:] == [clientFrame(9, b"ping")])
        await self.close(protocol)

    async def test_aHandlerThatRaises(self) -> None:
        """An exception from a protocol ends its connection, is logged, and the others go on."""
        protocol, client = await self.connect()
        other, _ = await self.connect()
        protocol.dataReceived = lambda data: 1 / 0  # type: ignore[method-assign]
        client.sendall(b"x")
        assert isinstance(await protocol.lost, ZeroDivisionError)
        assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1
        await self.close(other)

    async def test_theReactorEnds(self) -> None:
        """When the reactor drops everything, the connections of the group hear it."""
        protocol, _ = await self.connect()
        from twisted.python.failure import Failure

        self.group.connectionLost(Failure(ConnectionLost()))
        assert isinstance(await protocol.lost, ConnectionLost)
        await self.close(protocol)


def test_otherPorts() -> None:
    """A port of another kind stays as it is."""
    assert not accelerate(object(), PollGroup(reactor, Wheel(reactor)))


BIG = b"B" * 200_000


class Console:
    """Keeps its callers."""

    def __init__(self) -> None:
        self.callers: list[Any] = []

    def onOpen(self, caller: Any) -> None:
        self.callers.append(caller)


class Decider(Console):
    """Decides later, and writes down what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[Deferred[Any]] = []
        self.heard: list[Any] = []

    def onUpgrade(self, request: Any) -> Any:
        self.decisions.append(Deferred())
        return self.decisions[-1]

    def onOpen(self, caller: Any) -> None:
        self.heard.append("open")

    def isOpening(self) -> bool:
        """Say whether onOpen was called, and has not returned."""
        return any(frame.f_code is Decider.onOpen.__code__ for frame, _ in traceback.walk_stack(None))

    def onTextMessage(self, caller: Any, text: str) -> None:
        self.heard.append(text)

    def onError(self, caller: Any, error: Exception) -> None:
        self.heard.append("error")

    def onClose(self, caller: Any, statusCode: int, reason: str) -> None:
        self.heard.append("close")


@pytest.mark.parametrize("inner", ["messages", "end"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_finaliserWhileItOpens(monkeypatch, implementation, inner):
    """Where a finaliser has the reactor turn while a connection opens, what came is heard after onOpen, and so is its end."""
    service = Decider()
    world = LaneWorld(implementation, monkeypatch, service)
    came = 0
    for number in range(200):
        service.heard.clear()
        before: list[str] = []
        client = world.dial()
        client.sendall(upgrade() + clientFrame(1, b"1"))
        while not service.decisions:
            world.turn()

        def act(client=client, before=before):
            if service.isOpening() and not service.heard:
                before.append("error")  # the collector came before the first line of onOpen, where it writes that down
            if inner == "messages":
                client.sendall(clientFrame(1, b"2") + clientFrame(1, b"3"))
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            for _ in range(3):
                world.turn()

        with collectAt(number, act) as moment:
            service.decisions.pop().callback(service)
        came += moment.came
        if inner == "messages" or not moment.came:
            client.sendall(clientFrame(1, b"4"))
            client.shutdown(socket.SHUT_WR)
            world.readAllOrLost(client)
            client.close()
            expected = ["open", "1", *("23" if inner == "messages" and moment.came else ""), "4", "close"]
            assert service.heard == expected, f"at moment {number}"
        for _ in range(3):
            world.turn()
        if service.heard:
            assert service.heard[0] == "open" or service.heard[:2] == [*before, "open"], f"at moment {number}"
            assert service.heard.index("close") == len(service.heard) - 1, f"at moment {number}"
        assert not world.server.callers, f"at moment {number}"
        if not moment.came:
            break
    assert came
    world.close()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_endWithinAReply(monkeypatch, implementation):
    """A connection may end at any moment of a reply that stands behind what is on its way to many."""
    service = Console()
    world = LaneWorld(implementation, monkeypatch, service)
    came = 0
    for number in MOMENTS:
        client = world.connect()
        link, turns = connectionOf(service.callers[-1]), world.server.runtime.turns

        def act(link=link):
            link.abort()
            world.reactor.advance(0.001)

        turns.spend(turns.left)
        world.server.broadcast("to all")
        assert world.server.runtime.fanOuts.pending
        with collectAt(number, act) as moment:
            kept = [[], [], [], []]  # so that objects that go at once count, too
            link.reply(TEXT, "to one")
        del kept
        came += moment.came
        frames = framesOf(world.readAllOrLost(client))
        assert frames == [(1, b"to all"), (1, b"to one")][: len(frames)]
        assert moment.came or len(frames) == 2
        client.close()
        while world.server.callers:
            world.turn()
        if not moment.came:
            break
    assert came
    world.close()


@pytest.mark.parametrize("inner", ["text", "ping", "broadcast", "close"])
@pytest.mark.parametrize("outer", ["reply", "broadcast"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_writesOfAFinaliser(monkeypatch, implementation, outer, inner):
    """What a finaliser writes while the kernel has a part of a frame comes before or after it; all is sent and counted."""
    service = Console()
    world = LaneWorld(implementation, monkeypatch, service, Limits(maxSendBuffer=40_000_000))
    came = 0
    for number in MOMENTS:
        client, other = world.connect(), world.connect()
        caller = service.callers[-2]
        counts = []

        def act(caller=caller, counts=counts):
            if inner == "text":
                caller.writeTextMessage("LOG LINE")
            elif inner == "ping":
                caller.ping(b"LOG LINE")
            elif inner == "broadcast":
                counts.append(world.server.broadcast("LOG LINE"))
            else:
                caller.close(1000, "LOG LINE")

        with collectAt(number, act) as moment:
            if outer == "reply":
                connectionOf(caller).reply(BINARY, BIG)
            else:
                counts.append(world.server.broadcast(BIG))
        came += moment.came
        opcode = {"ping": 9, "close": 8}.get(inner, 1)
        wanted = [(2, BIG), (opcode, b"\x03\xe8LOG LINE" if inner == "close" else b"LOG LINE")]
        frames = framesOf(world.readAll(client))
        if frames == wanted[1:]:
            assert inner == "close"  # so early that nothing can follow
        else:
            assert sorted(frames) == sorted(wanted[: 1 + moment.came])
            assert {count.result for count in counts} <= {2}
        others = framesOf(world.readAll(other))
        assert others.count((2, BIG)) == (outer == "broadcast")
        assert others.count(wanted[1]) == (inner == "broadcast" and moment.came)
        for each in (client, other):
            each.close()
        while world.server.callers:
            world.turn()
        if not moment.came:
            break
    assert came
    world.close()


@pytest.mark.parametrize("state", ["drained", "behind", "gathering"])
def test_writesWithinAWrite(monkeypatch, state):
    """What a finaliser writes in the middle of a write, or of the sending of what waits, comes whole and in order."""
    world = LaneWorld("compiled", monkeypatch, Console())
    first, second = b"1" * 100_000, b"2" * 100_000
    came = 0
    for number in MOMENTS:
        client = world.connect()
        transport = next(each for each in world.server.runtime.group.sockets.transports())
        before = b""
        if state != "drained":
            before = b"0" * 100_000
            transport.write(before)
        if state == "gathering":
            transport.write(b"0" * 1000)
            transport.write(b"0" * 1000)
            before += b"0" * 2000
            received = b""
            while transport.unsent() > 3000 and len(received) < 90_000:
                received += world.read(client, 4096)
                world.turn()
        with collectAt(number, lambda transport=transport: transport.write(second)) as moment:
            if state == "gathering":
                transport.doWrite()
            else:
                transport.write(first)
        came += moment.came
        received = (received if state == "gathering" else b"") + world.readAll(client)
        pieces = [before, *([first] if state != "gathering" else []), *([second] if moment.came else [])]
        if state == "drained" and moment.came:
            assert received in (first + second, second + first)
        elif state == "behind" and moment.came:
            assert received in (before + first + second, before + second + first)
        else:
            assert received == b"".join(pieces)
        client.close()
        while world.server.callers:
            world.turn()
        if not moment.came:
            break
    # Nothing is made that the collector counts, or nothing is called after that.
    assert came or state == "drained" or (state == "behind" and not COLLECTS_AT_ONCE)
    world.close()


def test_startReadingAfterTheEnd(monkeypatch):
    """A transport that has ended is no longer polled, whatever it asks for; the next owner of its descriptor is left alone."""
    world = LaneWorld("compiled", monkeypatch, Console())
    world.connect().close()
    (former,) = world.server.runtime.group.sockets.transports()
    while world.server.callers:
        world.turn()
    former.startReading()
    former.startWriting()
    assert len(world.server.runtime.group.sockets) == 0
    client = world.connect()
    (transport,) = world.server.runtime.group.sockets.transports()
    assert transport.descriptor == former.descriptor
    former.setLane(None)
    former.startReading()
    former.stopReading()
    client.sendall(clientFrame(1, b"x") + clientFrame(9, b"ping"))
    assert framesOf(world.readAll(client)) == [(10, b"ping")]
    client.close()
    world.close()


def test_groupWithoutMemory(monkeypatch):
    """A turn that fails for all connections, for want of memory, ends none of them."""
    service = Console()
    world = LaneWorld("python", monkeypatch, service)
    client = world.connect()
    sockets = world.server.runtime.group.sockets

    def serve(maximum, now):
        raise MemoryError

    with monkeypatch.context() as patch, capturedLogs() as logs:
        patch.setattr(sockets, "serve", serve)
        world.turn()
    assert len(logs) == 1
    service.callers[0].writeTextMessage("still here")
    assert framesOf(world.readAll(client)) == [(1, b"still here")]
    world.close()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_violationAndFlood(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is closed for a violation and sends as fast as it can is read for a while, reads our Close, and is dropped."""

    class Service:
        def onTextMessage(self, caller: Any, text: str) -> None:
            """Take it."""

    world = LaneWorld(implementation, monkeypatch, Service(), Limits(lingerBytes=300_000, closeDeadline=5))
    try:
        client = world.connect(1 << 16)
        client.send(clientFrame(1, b"unmasked", mask=None))
        flood = clientFrame(2, bytes(1000)) * 100
        sent = blocked = 0
        while blocked < 50:
            world.turn()
            try:
                sent += client.send(flood)
                blocked = 0
            except BlockingIOError:
                blocked += 1
            assert sent < 50_000_000
        ((opcode, payload),) = framesOf(world.readAll(client))
        assert (opcode, payload[:2]) == (8, b"\x03\xea")
        assert len(world.server.callers) == 0
        assert world.server.gate.open == 1
        for _ in range(6 * 4):  # in one step it would be a reactor that stands still
            world.reactor.advance(0.25)
        assert world.server.gate.open == 0
    finally:
        world.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["text", "more than are delivered at once", "fragments", "pings between"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_flooders(implementation: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many flood, and with what, a turn takes ten milliseconds and what is begun by then; all is handled in the end."""
    cost = 1e-5

    class Service:
        handled = 0

        def onTextMessage(self, caller: Any, text: str) -> None:
            """Take so much time."""
            self.handled += 1
            world.reactor.rightNow += cost

    text = clientFrame(1, b"x")
    flood, count = {
        "text": (text * 64, 64),
        "more than are delivered at once": (text * 1000, 1000),
        "fragments": ((clientFrame(1, b"x", fin=False) + clientFrame(0)) * 500, 500),
        "pings between": ((clientFrame(9) + text * 9) * 50, 450),
    }[kind]
    service = Service()
    world = LaneWorld(implementation, monkeypatch, service)
    try:
        clients = [world.connect() for _ in range(40)]
        for client in clients:
            client.sendall(flood)
        (group,) = [reader for reader in world.reactor.getReaders() if reader is not world.port]
        turns = 0
        while service.handled < count * len(clients):
            begin = world.reactor.seconds()
            turn(world.reactor)
            group.doRead()
            assert world.reactor.seconds() - begin <= 2 * TURN + (EVENTS * 64 + 2 * PIECE // 7) * cost
            turns += 1
            assert turns < 1000
        assert turns > 2
    finally:
        world.close()
    assert service.handled == count * len(clients)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_turnWithoutMemory(implementation, monkeypatch):
    """If an allocation fails in a turn, or even before it begins, the connections go on."""

    class Echo:
        def onTextMessage(self, caller, text):
            return text

    world = LaneWorld(implementation, monkeypatch, Echo())
    try:
        client = world.connect()
        (group,) = [reader for reader in world.reactor.getReaders() if reader is not world.port]
        for number in range(12):
            with noMemory(number):
                try:
                    group.doRead()
                except MemoryError as error:
                    failed = Failure(error)
                else:
                    failed = None
            if failed is not None:  # the reactor does this
                world.reactor.removeReader(group)
                group.connectionLost(failed)
        world.reactor.removeReader(group)
        group.connectionLost(Failure(MemoryError()))
        client.sendall(clientFrame(1, b"still here"))
        assert framesOf(world.readAll(client)) == [(1, b"still here")]
    finally:
        world.close()


class Echo(Console):
    """Replies to the second message what is long, in the middle of whatever is at work."""

    def onTextMessage(self, caller: Any, text: str) -> Any:
        return BIG if text == "long" else "short"


@pytest.mark.exhaustive
@pytest.mark.parametrize("outer", ["write", "broadcast", "pause"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_readOnWhenRepliesHaveGone(monkeypatch, implementation, outer):
    """A peer that has read all that it was sent is read from, whenever it was that this had become much, and little again."""
    service = Echo()
    world = LaneWorld(implementation, monkeypatch, service, Limits(maxSendBuffer=40_000_000))
    came = 0
    for number in MOMENTS:
        client = world.connect(4096 if outer == "pause" else 1 << 20)
        caller = service.callers[-1]
        transport = connectionOf(caller).transport
        if outer != "pause":
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        received = bytearray()

        def act(caller=caller, client=client, received=received):
            if outer == "pause":
                received += world.readAll(client)
            else:
                caller.writeBinaryMessage(BIG)

        with collectAt(number, act) as moment:
            if outer == "broadcast":
                world.server.broadcast(BIG)
            else:
                caller.writeBinaryMessage(BIG)
        came += moment.came
        received += world.readAll(client)
        assert framesOf(bytes(received)).count((2, BIG)) == 1 + (moment.came and outer != "pause")
        client.sendall(clientFrame(0x81, b"are you there?"))
        assert framesOf(world.readAll(client)) == [(1, b"short")], f"at moment {number}"
        client.close()
        while world.server.callers:
            world.turn()
        if not moment.came:
            break
    assert came
    world.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothingFollowsAFrameThatFailed(monkeypatch, implementation):
    """Where memory is short in the middle of writing, a peer gets whole frames, and at most the beginning of one more."""
    service = Console()
    world = LaneWorld(implementation, monkeypatch, service, Limits(maxSendBuffer=40_000_000))
    whole = framing.frame(2, BIG) + framing.frame(1, b"next")
    for number in MOMENTS:
        client = world.connect(1 << 20)
        caller = service.callers[-1]
        with capturedLogs():
            try:
                with noMemory(number):
                    caller.writeBinaryMessage(BIG)
            except MemoryError:
                pass
            caller.writeTextMessage("next").addErrback(lambda _: None)
            received = world.readAllOrLost(client)
        assert whole.startswith(received) or received == framing.frame(1, b"next"), f"at moment {number}: {received[-20:]!r}"
        client.close()
        while world.server.callers:
            world.turn()
    world.close()


class Witness:
    """Hears, answers, and counts how often each was opened and closed."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.closed: list[Any] = []
        self.heard: list[str] = []

    def onOpen(self, caller: Any) -> None:
        memoryAgain()
        self.opened.append(caller)

    def onTextMessage(self, caller: Any, text: str) -> Any:
        self.heard.append(text)
        if text == "close":
            return caller.close()
        if text == "abort":
            return connectionOf(caller).abort()
        return BIG if text == "much" else text

    def onClose(self, caller: Any, statusCode: int, reason: str) -> None:
        memoryAgain()
        self.closed.append(caller)


SENT = {
    "message": clientFrame(1, b"hello"),
    "messages": clientFrame(1, b"one") + clientFrame(1, b"two") + clientFrame(1, b"x" * 70_000),
    "fragments": clientFrame(1, b"one", fin=False) + clientFrame(0, b"two"),
    "ping": clientFrame(9, b"ping"),
    "much": clientFrame(1, b"much"),
    "service closes": clientFrame(1, b"close"),
    "service aborts": clientFrame(1, b"abort"),
    "peer closes": clientFrame(8, b"\x03\xe8"),
    "violation": clientFrame(3, b""),
    "end": b"",
    "reset": b"",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", SENT)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_wholeOrEnded(monkeypatch, implementation, what):
    """Whichever allocation fails in an event, its connection goes on with nothing lost, or ends, and the service is told once."""
    service = Witness()
    world = LaneWorld(implementation, monkeypatch, service, Limits(pingInterval=0))
    group = world.server.runtime.group
    went = quiet = number = 0
    while quiet < 25:
        number += 1 + number // 40  # in Python thousands can fail: the later, the more are left out
        client = world.connect()
        caller = service.opened[-1]
        service.heard.clear()
        client.sendall(SENT[what])
        if what == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if what in ("end", "reset"):
            client.close()
        with capturedLogs() as logs:
            failed = None
            with noMemory(number):
                try:
                    group.doRead()
                except MemoryError as error:
                    failed = Failure(error)
            if failed is not None:  # the reactor does this
                world.reactor.removeReader(group)
                group.connectionLost(failed)
            quiet = 0 if failed or any("log_failure" in event for event in logs) else quiet + 1
            received = b"" if what in ("end", "reset") else world.readAllOrLost(client)
            for _ in range(4):
                world.turn()
        if caller.isOpen():
            went += 1
            frames = framesOf(received)
            if what == "ping":
                assert frames == [(10, b"ping")], f"at moment {number}"
            else:
                assert [payload for _, payload in frames] == [BIG if each == "much" else each.encode() for each in service.heard]
            assert service.closed.count(caller) == 0, f"at moment {number}"
            assert caller in world.server.callers
            client.sendall(clientFrame(1, b"there?"))
            assert framesOf(world.readAll(client)) == [(1, b"there?")], f"at moment {number}"
        client.close()
        for _ in range(300):
            if caller in service.closed:
                break
            world.turn()
        assert service.closed.count(caller) == 1, f"at moment {number}"
        assert not world.server.callers, f"at moment {number}"
        for _ in range(3):
            world.turn()
        assert world.server.gate.open == 0, f"at moment {number}"
        assert not group.sockets.transports(), f"at moment {number}"
    world.close()
    assert number > quiet  # some failed
    assert went or what not in ("message", "messages", "fragments", "ping", "much")


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_toldThoughMemoryWasShortBefore(monkeypatch, implementation):
    """Where memory was short so often that the exceptions of that are one object, the service is told of an end all the same."""
    service = Witness()
    world = LaneWorld(implementation, monkeypatch, service, Limits(pingInterval=0))
    group = world.server.runtime.group
    kept: list[MemoryError] = []
    for _ in range(20):  # CPython has 16 of its own for this
        try:
            with noMemory():
                _ = [object()]
        except MemoryError as error:
            kept.append(error)
    try:
        for number in MOMENTS:
            client = world.connect()
            client.close()
            with capturedLogs():
                try:
                    with noMemory(number):
                        group.doRead()
                except MemoryError as error:  # the reactor does this
                    world.reactor.removeReader(group)
                    group.connectionLost(Failure(error))
                for _ in range(4):
                    world.turn()
            assert service.closed == service.opened, f"at moment {number}"
    finally:
        for each in kept:
            each.__traceback__ = None  # which the one for all would keep, and they in a frame of that
        kept.clear()
    world.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_openedOrNot(monkeypatch, implementation):
    """Whichever allocation fails in a handshake, the connection is open or it ends; the service hears of both, or of neither."""
    service = Witness()
    world = LaneWorld(implementation, monkeypatch, service, Limits(pingInterval=0))
    group = world.server.runtime.group
    number = quiet = 0
    while quiet < 25:
        number += 1
        service.opened.clear()
        service.closed.clear()
        client = world.dial()
        client.sendall(upgrade())
        while not group.sockets.transports():
            world.port.doRead()
        with capturedLogs() as logs:
            failed = None
            with noMemory(number):
                try:
                    group.doRead()
                except MemoryError as error:
                    failed = Failure(error)
            if failed is not None:  # the reactor does this
                world.reactor.removeReader(group)
                group.connectionLost(failed)
            quiet = 0 if failed or any("log_failure" in event for event in logs) else quiet + 1
            for _ in range(4):
                world.turn()
            if world.server.callers:
                client.sendall(clientFrame(1, b"there?"))
                client.setblocking(False)
                assert framesOf(world.readAllOrLost(client).partition(b"\r\n\r\n")[2]) == [(1, b"there?")], f"at moment {number}"
            client.close()
            for _ in range(300):
                if not world.server.gate.open:
                    break
                world.turn()
        assert world.server.gate.open == 0, f"at moment {number}"
        assert service.opened == service.closed, f"at moment {number}"
        assert not world.server.callers
        assert not group.sockets.transports(), f"at moment {number}"
    world.close()
    assert number > quiet  # some failed


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_abortedIsLeftAlone(monkeypatch, implementation):
    """A connection that is to be dropped is no longer polled, whatever asks for that, and it ends in the next turn."""
    service = Witness()
    world = LaneWorld(implementation, monkeypatch, service)
    client = world.connect()
    transport = connectionOf(service.opened[0]).transport
    sockets = world.server.runtime.group.sockets
    client.sendall(clientFrame(1, b"unread"))
    transport.abortConnection()
    transport.resumeProducing()
    transport.startReading()
    transport.startWriting()
    transport.write(b"more")
    assert sockets.asked(transport.descriptor) == 0
    assert (service.heard, service.closed) == ([], [])
    world.turn()
    assert (service.heard, service.closed) == ([], service.opened)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    world.close()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_abortWithoutMemory(monkeypatch, implementation):
    """Where an allocation fails while a connection is dropped, it is dropped all the same, or nothing was done."""
    service = Witness()
    world = LaneWorld(implementation, monkeypatch, service)
    for number in range(40):
        client = world.connect()
        caller = service.opened[-1]
        transport = connectionOf(caller).transport
        try:
            with noMemory(number):
                transport.abortConnection()
        except MemoryError:
            pass
        transport.startReading()
        world.turn()
        if caller.isOpen():
            client.sendall(clientFrame(1, b"there?"))
            assert framesOf(world.readAll(client)) == [(1, b"there?")]
        else:
            assert service.closed.count(caller) == 1
        client.close()
        while world.server.callers:
            world.turn()
    world.close()


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nobodyOvertakesAFanOut(monkeypatch, implementation):
    """What is written to one alone comes after what was sent to many before, also in the middle of the turn of that."""
    service = Console()
    world = LaneWorld(implementation, monkeypatch, service, Limits(maxSendBuffer=40_000_000))
    clients = [world.connect(1 << 20), world.connect(1 << 20)]
    for caller in service.callers:
        connectionOf(caller).transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    came = 0
    for number in range(20):
        # So many that some have to wait for the next turn.
        broadcasts = [world.server.broadcast(BIG) for _ in range(24)]
        assert not broadcasts[-1].called
        with collectAt(number, lambda: [caller.writeTextMessage("after") for caller in service.callers]) as moment:
            world.reactor.advance(0.001)
        came += moment.came
        for client in clients:
            assert framesOf(world.readAll(client)) == [(2, BIG)] * 24 + [(1, b"after")] * moment.came, f"at moment {number}"
    assert came
    world.close()
