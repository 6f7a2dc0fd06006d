from __future__ import annotations

import gc
import sys
from collections import Counter
from itertools import pairwise

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.dispatch.support import Turns
from tests.memory import MemoryClient, SteadyClock, clientFrame, upgrade
from tests.seams import connectionOf
from twisted_ws import Caller, ConfigurationError, Limits, Reject, ServiceError, WebSocketServer, WebSocketService
from twisted_ws.client import HandshakeRefused
from twisted_ws.dispatch.dispatcher import Dispatcher
from twisted_ws.dispatch.iterations import Iteration, Iterations
from twisted_ws.server.server import CLOSING
from twisted_ws.testing import serve
from twisted_ws.wire.frontdoor import FrontDoor
from twisted_ws.wire.loop.turns import STEPS
from twisted_ws.wire.websocket.connection import WebSocketConnection
from twisted_ws.wire.websocket.outbox import Outbox


class Room(WebSocketService):
    """Echoes, and keeps what it hears."""

    subProtocols = ["mqtt", "json"]

    def __init__(self):
        self.heard = []

    def onOpen(self, caller):
        self.heard.append(("open", caller))

    def onTextMessage(self, caller, text):
        return f"Echo: {text}"

    def onBinaryMessage(self, caller, data):
        raise RuntimeError("binary")

    def onClose(self, caller, statusCode, reason):
        self.heard.append(("close", statusCode))


class World:
    """A server in memory."""

    def __init__(self, reactor=None, **options):
        self.clock = reactor or SteadyClock()
        self.clock.advance(1000)
        self.server = WebSocketServer(reactor=self.clock, **options)
        self.room = Room()
        self.server.mount("/ws", self.room)

    def client(self, path="/ws", *lines, **replaced):
        client = MemoryClient(self.server.factory(), self.clock)
        client.head = client.connect(path, *lines, **replaced)
        return client


@pytest.fixture
def world():
    return World()


@pytest.fixture
def room():
    return Room()


@pytest.fixture
def memory(room):
    with serve({"/ws": room}) as memory:
        yield memory


def test_mount(world):
    """Mounting sets the server, and names mistakes of the service and of the path."""
    assert world.room.server is world.server
    assert dict(world.server.services) == {"/ws": world.room}
    with pytest.raises(ConfigurationError, match="taken"):
        world.server.mount("/ws", Room())
    with pytest.raises(ConfigurationError, match="not a path"):
        world.server.mount("ws", Room())
    with pytest.raises(ServiceError, match="Room is a class"):
        world.server.mount("/other", Room)


@pytest.mark.parametrize("asks", [False, True])
def test_mistakeAfterMounting(world, asks):
    """A service that is given a mistake after it was mounted refuses handshakes, with one line that names the mistake."""

    class Asked(Room):
        def onUpgrade(self, request):
            return self

    service = Asked() if asks else Room()
    world.server.mount("/other", service)
    service.subProtocols = 5
    with capturedLogs() as events:
        assert world.client("/other").head.startswith("HTTP/1.1 500 ")
    (line,) = [formatEvent(event) for event in events if "500: " in formatEvent(event)]
    assert f"{type(service).__name__}.subProtocols" in line
    assert not [event for event in events if "log_failure" in event]


@pytest.mark.parametrize(("name", "value"), [("allowedOrigins", ["app.example"]), ("trustedProxies", ["10.0.0.0/99"])])
def test_wrongOptions(name, value):
    """An invalid origin or network is an error of the operator, and named."""
    with pytest.raises(ConfigurationError, match=value[0].partition("/")[0]):
        World(**{name: value})


def test_paths(memory):
    """The longest path wins, parameters are given to the service, and an unknown path is 404."""
    requests = []

    class Orders(Room):
        def onUpgrade(self, request):
            requests.append(request)
            return self

    orders = Orders()
    memory.server.mount("/ws/orders/{id:int}", orders)
    memory.connect("/ws/orders/42/items?a=1&a=2", cookies={"user": "me"})
    request = requests[0]
    assert (request.pathParams, request.query, request.cookies) == ({"id": 42}, {"a": ["1", "2"]}, {"user": "me"})
    memory.connect("/ws/orders/x")
    assert len(requests) == 1
    with pytest.raises(HandshakeRefused) as refused:
        memory.connect("/nothing")
    assert refused.value.status == 404
    assert memory.server.find("/ws/orders/1") is orders
    assert memory.server.find("/nothing") is None


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["json", "mqtt"], "json"), (["mqtt", "json"], "mqtt"), (["x", "json"], "json"), (["x"], None), ([], None)],
)
def test_subProtocols(memory, offered, chosen):
    """Of the client's list, in its order, the first that the service speaks; none in common is no refusal."""
    client = memory.connect("/ws", subProtocols=offered)
    assert client.negotiatedSubProtocol == client.caller.negotiatedSubProtocol == chosen


def test_oneObjectForEachConnection(memory):
    """The hook onUpgrade may return an object for each connection, with headers for the 101; the settings of that one count."""
    made = []

    class One(WebSocketService):
        def onTextMessage(self, caller, text):
            return f"{made.index(self)}: {text}"

    class Factory(WebSocketService):
        def onUpgrade(self, request):
            made.append(One())
            return made[-1], {"X-Number": str(len(made))}

    memory.server.mount("/each", Factory())
    clients = [memory.connect("/each") for _ in range(2)]
    assert [client.response.headers["x-number"] for client in clients] == ["1", "2"]
    for client in clients:
        client.writeTextMessage("hi")
    assert [client.readTextMessage() for client in clients] == ["0: hi", "1: hi"]
    assert made[0].server is memory.server


def test_reject(memory):
    """A Reject is the answer, word for word."""

    class Closed(Room):
        def onUpgrade(self, request):
            raise Reject(401, "no token", {"WWW-Authenticate": "Bearer"})

    memory.server.mount("/closed", Closed())
    with pytest.raises(HandshakeRefused) as refused:
        memory.connect("/closed")
    answer = refused.value
    assert (answer.status, answer.headers["www-authenticate"], answer.body) == (401, "Bearer", b"no token\n")


def test_slotsWithoutAPlace(memory):
    """A service that has no place for the server works without."""

    class Small:
        __slots__ = ()

        def onTextMessage(self, caller, text):
            return text

    memory.server.mount("/small", Small())
    client = memory.connect("/small")
    client.writeTextMessage("x")
    assert client.readTextMessage() == "x"


def test_broadcast(memory):
    """A broadcast reaches the callers of all services, past slow and closed ones; what it cannot say it refuses."""
    memory.server.mount("/other", Room())
    clients = [memory.connect(path) for path in ("/ws", "/other", "/ws", "/ws")]
    slow = clients[2]
    slow.pause()
    clients.pop().close()
    assert len(memory.callers) == 3
    assert [memory.broadcast(each) for each in ("Hello!", b"bytes", {"json": 1})] == [3, 3, 3]
    slow.resume()
    assert [client.readMessages() for client in clients] == [["Hello!", b"bytes", '{"json":1}']] * 3
    with pytest.raises(TypeError):
        memory.broadcast(object())
    with pytest.raises(ValueError, match="surrogate"):
        memory.broadcast("\ud800")


def test_callers(memory, room):
    """The callers can be counted, asked for, and closed while one iterates."""
    clients = [memory.connect("/ws") for _ in range(3)]
    callers = memory.server.callers
    assert repr(callers) == "<3 callers>"
    assert room.heard[0][1] in callers
    for caller in callers:
        caller.close(4000, "bye")
    assert [client.closed for client in clients] == [(4000, "bye")] * 3
    assert len(callers) == 0


def test_nothingIsKeptOfWhoHasLeft(world):
    """Once its caller has left, a broadcast that it got holds nothing of a connection, even when no other one follows."""
    client = world.client()
    sender = connectionOf(world.room.heard.pop()[1]).sender
    only = sys.getrefcount(object())
    assert world.server.broadcast("to all").result == 1
    assert sys.getrefcount(sender) > only + 1
    client.hangUp()
    del client
    gc.collect()
    assert sys.getrefcount(sender) == only + 1  # the name `sender`


def test_oneBadServiceHurtsNobodyElse(memory):
    """A handler that raises closes its own connection with 1011, and the others go on."""
    good, bad = memory.connect("/ws"), memory.connect("/ws")
    bad.writeBinaryMessage(b"x")
    assert bad.closed == (1011, "internal error")
    assert [type(error) for error in memory.flushErrors()] == [RuntimeError]
    good.writeTextMessage("still here")
    assert good.readTextMessage() == "Echo: still here"


def test_stop(world):
    """A stop closes every caller with 1001, refuses new ones with 503, and drops those that do not answer; each call waits."""
    good, mute = world.client(), world.client()
    assert world.server.readiness() is None
    assert not world.server.isStopping
    ended = []
    world.server.stop(3).addCallback(ended.append)
    assert world.server.readiness() == "draining"
    assert world.server.isStopping
    assert good.closeFrame() == mute.closeFrame() == (1001, "server stops")
    late = world.client()
    assert late.head.startswith("HTTP/1.1 503")
    assert "Retry-After: 5" in late.head
    good.send(clientFrame(8, (1001).to_bytes(2, "big")))
    assert ended == []
    world.server.stop().addCallback(ended.append)
    for _ in range(20):
        world.clock.advance(0.25)
    assert ended == [None, None]
    assert mute.transport.aborted
    world.server.stop().addCallback(ended.append)
    assert ended == [None, None, None]


@pytest.mark.parametrize("answers", [True, False])
def test_stopOfMany(answers):
    """A stop closes a bounded number of callers in one turn of the reactor, tells each, and gives all the same time."""
    world = World(reactor=Turns())
    clients = [world.client() for _ in range(500)]
    world.clock.turn()
    ended = []
    world.server.stop(3).addCallback(ended.append)
    counts = [500, len(world.server.callers)]
    while counts[-1]:
        world.clock.turn()
        counts.append(len(world.server.callers))
        assert 0 < counts[-2] - counts[-1] <= STEPS // CLOSING + 1
    for client in clients:
        assert client.closeFrame() == (1001, "server stops")
        if answers:
            client.send(clientFrame(8, (1001).to_bytes(2, "big")))
    assert ended == [None] * answers
    world.clock.advance(3)
    assert [client.transport.aborted for client in clients] == [not answers] * 500
    assert ended == [None]


def test_stopInSlices():
    """A stop asks callers at the rate of `drainRate` and not all at once, or they would all be back at once."""
    world = World(limits=Limits(drainRate=20))
    clients = [world.client() for _ in range(10)]
    began, ended, counts = world.clock.seconds(), [], [10]
    world.server.stop().addCallback(ended.append)
    counts.append(len(world.server.callers))
    while counts[-1]:
        world.clock.advance(0.01)
        counts.append(len(world.server.callers))
    assert {earlier - later for earlier, later in pairwise(counts)} == {0, 2}
    assert 0.19 < world.clock.seconds() - began < 0.7
    for client in clients:
        assert client.closeFrame() == (1001, "server stops")
        client.send(clientFrame(8, (1001).to_bytes(2, "big")))
    assert ended == [None]


@pytest.mark.parametrize("ends", ["decided", "refused", "left"])
def test_stopOfManyHandshakes(ends):
    """Handshakes that end while a stop is busy with others do not disturb it."""
    world, decisions = World(reactor=Turns()), []

    class Slow(Room):
        def onUpgrade(self, request):
            decisions.append(Deferred())
            return decisions[-1]

    slow = Slow()
    world.server.mount("/slow", slow)
    client = world.client()
    clients = [world.client("/slow") for _ in range(500)]
    world.clock.turn()
    ended = []
    world.server.stop(3).addCallback(ended.append)
    for each, decision in zip(clients, decisions, strict=True):
        if ends == "left":
            each.hangUp()
        elif not decision.called:
            decision.callback(slow) if ends == "decided" else decision.errback(Reject(403))
    for _ in range(20):
        world.clock.turn()
    assert client.closeFrame() == (1001, "server stops")
    client.send(clientFrame(8, (1001).to_bytes(2, "big")))
    for each in clients:
        each.hangUp()
    world.clock.turn()
    assert ended == [None]


def test_stopOfWhatFails(world):
    """A response that fails when it is asked to end is logged, and the stop goes on."""

    class Broken:
        def stop(self, timeout):
            raise RuntimeError("broken")

    client = world.client()
    world.server.visits.add(Broken())
    ended = []
    with capturedLogs() as events:
        world.server.stop(3).addCallback(ended.append)
    assert [str(event["log_failure"].value) for event in events if "log_failure" in event] == ["broken"]
    assert client.closeFrame() == (1001, "server stops")
    client.send(clientFrame(8, (1001).to_bytes(2, "big")))
    assert ended == [None]


def test_stopOfManyHandlers():
    """At the end of a stop, the handlers of a bounded number of callers are given up in one turn of the reactor."""
    world, heard = World(reactor=Turns()), []

    class Busy:
        def onTextMessage(self, caller, text):
            return Deferred()

        def onClose(self, caller, statusCode, reason):
            heard.append(caller)

    world.server.mount("/busy", Busy())
    for _ in range(500):
        client = world.client("/busy")
        client.send(clientFrame(1, b"go"))
        client.hangUp()
    world.clock.turn()
    ended = []
    world.server.stop(3).addCallback(ended.append)
    world.clock.rightNow += 3
    counts = [0]
    while len(heard) < 500:
        world.clock.turn()
        counts.append(len(heard))
        assert counts[-1] - counts[-2] <= STEPS // CLOSING + 1
        assert len(counts) < 20
    assert ended == [None]
    assert len(set(heard)) == 500


@pytest.mark.parametrize("late", [False, True])
def test_stopWaitsForHandlers(world, late):
    """A stop gives handlers that still run, and onClose, the rest of its time; then it waits no longer."""
    work, closing, heard = Deferred(), Deferred(), []

    class Busy:
        async def onTextMessage(self, caller, text):
            await work
            heard.append("work")

        async def onClose(self, caller, statusCode, reason):
            heard.append(statusCode)
            await closing
            heard.append("closed")

    world.server.mount("/busy", Busy())
    client = world.client("/busy")
    client.send(clientFrame(1, b"go"))
    ended = []
    world.server.stop(5).addCallback(ended.append)
    client.send(clientFrame(8, (1001).to_bytes(2, "big")))
    assert (len(world.server.callers), heard, ended) == (0, [], [])
    if late:
        client.advance(4.75)
        assert (heard, ended) == ([], [])
        client.advance(0.25)
        assert (heard, ended) == ([1001], [None])
    else:
        work.callback(None)
        assert (heard, ended) == (["work", 1001], [])
        closing.callback(None)
        assert (heard, ended) == (["work", 1001, "closed"], [None])
    assert world.clock.getDelayedCalls() == []


def test_stopAndDropAll(world):
    """A peer that does not answer does not lengthen a stop by the time of its handlers."""
    heard = []

    class Busy:
        def onTextMessage(self, caller, text):
            return Deferred()

        def onClose(self, caller, statusCode, reason):
            heard.append(statusCode)

    world.server.mount("/busy", Busy())
    client = world.client("/busy")
    client.send(clientFrame(1, b"go"))
    ended = []
    world.server.stop(3).addCallback(ended.append)
    client.advance(4)
    assert client.transport.aborted
    assert (heard, ended) == ([1006], [None])


def test_stopWhileAServiceDecides(memory):
    """A handshake that is decided after the stop began is refused."""
    decision = Deferred()

    class Slow(Room):
        def onUpgrade(self, request):
            return decision

    slow = Slow()
    memory.server.mount("/slow", slow)
    connecting = memory.connecting("/slow")
    memory.server.stop()
    decision.callback(slow)
    refused = []
    connecting.addErrback(lambda failure: refused.append(failure.value.status))
    memory.settle()
    assert refused == [503]


def test_leftWhileOnUpgradeRunsTheReactor(world):
    """A stop does not wait for a client that leaves while onUpgrade runs the reactor; its decision is cancelled."""
    cancelled = []

    class Blocking(Room):
        def onUpgrade(self, request):
            client.hangUp()
            return Deferred(cancelled.append)

    world.server.mount("/blocking", Blocking())
    client = MemoryClient(world.server.factory(), world.clock)
    client.connect("/blocking")
    ended = []
    world.server.stop(3).addCallback(ended.append)
    assert (len(cancelled), ended) == (1, [None])


@pytest.fixture
def deciding(world):
    """Return two clients whose handshakes wait for ever, and what has become of their decisions."""
    decisions = []

    class Slow(Room):
        async def onUpgrade(self, request):
            try:
                await Deferred()
            except BaseException as error:
                decisions.append(type(error))
                raise

    world.server.mount("/slow", Slow())
    clients = [world.client("/slow"), world.client("/slow")]
    assert [client.head for client in clients] == ["", ""]
    return clients, decisions


def test_stopAnswersHandshakesThatAreNotDecided(world, deciding):
    """A stop without callers answers clients that wait for a decision with 503, and waits until they have the answer."""
    (polite, mute), decisions = deciding
    ended = []
    world.server.stop(3).addCallback(ended.append)
    for client in (polite, mute):
        head = client.received().decode()
        assert head.startswith("HTTP/1.1 503 ")
        assert "Retry-After: 5\r\n" in head
        assert client.transport.writeClosed
    assert decisions == [CancelledError, CancelledError]
    polite.hangUp()
    assert ended == []
    mute.advance(2.5)
    assert (ended, mute.transport.aborted) == ([], False)
    mute.advance(1)
    assert (ended, mute.transport.aborted) == ([None], True)
    assert world.clock.getDelayedCalls() == []


def test_stopKnowsOnlyHandshakesThatAreNotDecided(world, deciding):
    """A stop does not wait for a handshake whose decision was given up, or whose client has left."""
    (left, late), _ = deciding
    left.hangUp()
    late.advance(world.server.limits.upgradeDeadline + 0.5)
    assert late.received().startswith(b"HTTP/1.1 503 ")
    ended = []
    world.server.stop(3).addCallback(ended.append)
    assert ended == [None]
    assert late.received() == b""


def test_reactor(world):
    """A service finds the server's reactor, for timers of its own."""
    assert world.server.reactor is world.clock


def test_full():
    """At the limit of connections the next is closed at accept, and readiness says so."""
    world = World(limits=Limits(maxConnections=1))
    world.client()
    assert world.server.readiness() == "full"
    assert MemoryClient(world.server.factory(), world.clock).refused


def test_failuresDoNotFillTheLog(world):
    """A handler that anybody can make fail is logged ten times in ten seconds; then a line says how many more there were."""
    with capturedLogs() as events:
        for _ in range(50):
            world.client().send(clientFrame(2, b"binary"))
        assert len([event for event in events if "log_failure" in event]) == 10
        world.clock.advance(10)
        world.client().send(clientFrame(2, b"binary"))
    failed = [event for event in events if "log_failure" in event]
    assert [event["suppressed"] for event in failed] == [0] * 10 + [40]


@pytest.mark.parametrize(
    ("forwarded", "name"),
    [("[2001:DB8::7]:99", "2001:db8::7"), ("192.0.2.7", "192.0.2.7"), (None, "127.0.0.1:40000")],
)
def test_nameOfTheClient(forwarded, name):
    """The log of a connection that is failed names the client that a trusted proxy names, or else who has connected."""
    world = World(trustedProxies=["127.0.0.1"])
    client = world.client("/ws", *([f"X-Forwarded-For: {forwarded}"] if forwarded else []))
    with capturedLogs() as events:
        client.send(clientFrame(1, b"\xff"))
    assert [formatEvent(event).partition(": ")[0] for event in events] == [name]


def test_noCycles(world):
    """What a connection was made of goes with it: nothing is left to the collector of cycles."""
    kinds = (WebSocketConnection, Caller, Dispatcher, FrontDoor, Outbox)
    world.client("/ws").hangUp()
    gc.collect()
    gc.disable()
    try:
        before = [each for each in gc.get_objects() if isinstance(each, kinds)]
        client = world.client("/ws")
        client.send(clientFrame(1, b"hello"))
        assert [each for each in gc.get_objects() if isinstance(each, kinds)] != before
        client.hangUp()
        del client
        world.room.heard.clear()
        assert [each for each in gc.get_objects() if isinstance(each, kinds)] == before
    finally:
        gc.enable()


@pytest.mark.exhaustive
def test_nothingIsLeft(world):
    """10,000 connections that open and abort, at every stage, leave no object behind."""
    kinds = (WebSocketConnection, Caller, Dispatcher, FrontDoor)

    def count():
        gc.collect()
        return sum(isinstance(each, kinds) for each in gc.get_objects())

    before = count()
    factory = world.server.factory()
    for number in range(10_000):
        client = MemoryClient(factory, world.clock)
        if number % 4:
            client.connect("/ws")
        if number % 4 == 2:
            client.send(clientFrame(1, b"hello"))
        if number % 4 == 3:
            client.send(clientFrame(1, b"a frame that is not whole")[:-3])
        client.hangUp()
    del client
    world.room.heard.clear()
    assert count() == before
    assert len(world.server.callers) == 0
    assert world.server.gate.open == 0
    assert world.clock.getDelayedCalls() == []


class Hanging(WebSocketService):
    """Waits for ever, for something that nobody else knows, in whatever a message asks for."""

    idleTimeout = 20

    async def onUpgrade(self, request):
        if request.path.endswith("never"):
            await Deferred()
        return self

    async def onTextMessage(self, caller, text):
        return await getattr(self, text)(caller)

    async def hang(self, caller):
        await Deferred()

    async def hold(self, caller):
        try:
            await Deferred()
        finally:
            caller.close()

    async def write(self, caller):
        await caller.writeBinaryMessage(b"x" * 300_000)

    async def close(self, caller):
        await caller.close(4000, timeout=3)

    async def iterator(self, caller):
        return iter(lambda: "item", None)

    async def waiting(self, caller):
        return self.items()

    async def stubborn(self, caller):
        return self.items(Deferred())

    async def items(self, end=None):
        try:
            yield "item"
            await Deferred()
        finally:
            await end if end else None

    async def onBinaryMessage(self, caller, data):
        caller.user = caller
        await Deferred()

    onPing = onPong = onBinaryMessage

    def onIdleTimeout(self, caller):
        return Deferred()

    def onError(self, caller, error):
        return Deferred()

    async def onClose(self, caller, statusCode, reason):
        await Deferred()


@pytest.mark.exhaustive
@pytest.mark.parametrize("ending", ["leaves", "breaks", "closes", "is silent", "misbehaves"])
def test_nothingOfHandlersIsLeft(world, ending):
    """Handlers that hang for ever, streams, and writes that wait leave no object behind when peer and deadlines are gone."""
    world.server.mount("/hanging", Hanging())
    kinds = (WebSocketConnection, Caller, Dispatcher, FrontDoor, Iterations, Iteration)

    def count():
        gc.collect()
        return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))

    before = count()
    doings = [clientFrame(1, name.encode()) for name in ("hang", "hold", "write", "close", "iterator", "waiting", "stubborn")]
    doings += [clientFrame(2, b"binary"), clientFrame(9, b"ping"), clientFrame(10, b"pong"), clientFrame(1, b"rest")[:-1], b""]
    clients = []
    for number in range(20 * len(doings)):
        client = MemoryClient(world.server.factory(), world.clock)
        client.connect("/hanging/never" if number % 20 == 19 else "/hanging")
        if number % 3 == 0:
            client.transport.room = 100  # a peer that does not read
        client.send(doings[number % len(doings)] * (1 + number % 2))
        clients.append(client)
    with capturedLogs() as events:
        for number, client in enumerate(clients):
            if number % 20 == 0:
                client.advance(1)
            if ending == "leaves":
                client.hangUp()
            elif ending == "breaks":
                client.hangUp(ConnectionLost())
            elif ending == "closes":
                client.send(clientFrame(8, (1000).to_bytes(2, "big")))
            elif ending == "misbehaves":
                client.send(clientFrame(3))
        for _ in range(200):
            world.clock.advance(1)
            for client in clients:
                client.transport.settle()
    # Twisted keeps events until a log begins, and others may for longer.
    assert events
    assert not [each for each in events if isinstance(each.get("log_source"), kinds)]
    del client
    clients.clear()
    assert not count() - before  # more may be gone than came, of other tests
    assert len(world.server.callers) == 0
    assert world.server.gate.open == 0
    assert world.clock.getDelayedCalls() == []


class Sockets(TestCase):
    """The server on real ports."""

    async def test_adopt(self):
        """A port serves alike whether the server has adopted it or not, with the reactor of the process."""
        for adopted in (False, True):
            server = WebSocketServer()
            server.mount("/ws", Room())
            port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(server.factory())
            if adopted:
                server.adopt(port)
            received, closed = Deferred(), Deferred()

            class Client(Protocol):
                data = b""

                def connectionMade(self):
                    self.transport.write(upgrade("/ws"))

                def dataReceived(self, data):
                    before, self.data = self.data, self.data + data
                    if b"\r\n\r\n" in self.data and b"\r\n\r\n" not in before:
                        self.transport.write(clientFrame(1, b"Hello!"))
                    if self.data.endswith(b"Echo: Hello!"):
                        received.callback(None)  # noqa: B023 - each client ends in its turn of the loop
                        self.transport.loseConnection()

                def connectionLost(self, reason):
                    closed.callback(None)  # noqa: B023 - as above

            await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(Factory.forProtocol(Client))
            await received
            await closed
            await server.stop()
            await port.stopListening()
            assert len(server.callers) == 0
