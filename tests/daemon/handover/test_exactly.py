"""Callers on their way between two workers of one hub: whatever happens in the meantime, each gets it once and in order."""

from __future__ import annotations

import random

import msgspec
import pytest
from twisted.internet.defer import Deferred

from tests.engines.hub.test_servers import Machine, SoonTransport, heard
from tests.turns import Counting
from twisted_ws import ChannelService, Identity, WebSocketService
from twisted_ws.daemon.handover.giving import BACK, Giving, Sockets
from twisted_ws.daemon.handover.taking import Taking
from twisted_ws.engines.contract import Disconnect
from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.callers import Asked, callers
from twisted_ws.server.handover.arrival import Arrival
from twisted_ws.wire.loop.turns import STEPS


class Late(SoonTransport):
    """Delivers somewhat later, and in order."""

    delay = 0.0

    def write(self, data):
        """Send."""
        self.clock.callLater(self.delay, self.other.protocol.dataReceived, data)


class MemorySockets(Sockets):
    """Those of a network in memory."""

    def attach(self, connection, runtime, socket):
        """Give it one."""
        socket.protocol = connection
        connection.makeConnection(socket)

    def close(self, socket):
        """Do nothing: there is one copy only."""


class MemoryStream:
    """One end of a `HandStream` in memory.

    Attributes:
        delay: seconds on the way to the other end.
    """

    delay = 0.0

    def __init__(self, clock):
        self.clock = clock
        self.isOpen = True
        self.ends = 0

    def send(self, *fields, descriptors=(), sent=None):
        """Send a frame."""
        frame = msgspec.msgpack.decode(msgspec.msgpack.encode(fields))
        if self.other.isOpen:
            self.clock.callLater(self.delay, lambda: self.other.received(frame, [*descriptors]))
        if sent is not None:
            sent()

    def finish(self):
        """Send nothing more."""
        if not self.ends:
            self.ends = 1
            self.clock.callLater(self.delay, lambda: self.other.ended())

    def close(self):
        """Do the same."""
        self.isOpen = False
        self.finish()


def streams(clock):
    """Return both ends of a stream."""
    one, other = MemoryStream(clock), MemoryStream(clock)
    one.other, other.other = other, one
    return one, other


class Listener(WebSocketService):
    """Listens to broadcasts."""


class Room(WebSocketService):
    """Keeps its callers."""

    def onOpen(self, caller):
        """Do nothing."""


class Moving:
    """Workers, the first of which can give its callers to the second."""

    def __init__(self, monkeypatch, workers=2):
        monkeypatch.setattr("tests.engines.hub.test_servers.SoonTransport", Late)
        self.machine = Machine(workers)
        for each in self.machine.workers:
            each.server.mount("/patterns", ChannelService(wildcards=True))
            each.server.mount("/listen", Listener())
        self.clock = self.machine.clock

    def give(self, share=None, old=0, new=1):
        """Begin to give everything, or a share, from one worker to another."""
        one, self.stream = streams(self.clock)
        one.delay = 0.002
        workers = self.machine.workers
        self.giving = Giving(workers[old].server, one, MemorySockets(), share)
        self.taking = Taking(workers[new].server, self.stream, MemorySockets())
        self.done = []
        Deferred.fromCoroutine(self.giving.run(self.clock.seconds() + 5)).addBoth(self.done.append)

    def step(self, seconds=0.0):
        """Let a little happen."""
        for each in self.machine.workers:
            each.advance(seconds)


@pytest.fixture
def moving(monkeypatch):
    """Two workers."""
    return Moving(monkeypatch)


def links(machine):
    """Return the transports from the hub to each worker."""
    return [spoke.link.transport for spoke in machine.hub.engine.spokes.values()]


@pytest.mark.parametrize("seed", range(12))
def test_onceAndInOrder(moving, seed):
    """What is published and broadcast at any moment of a hand-over reaches every caller once, in order, whoever lags behind."""
    choose = random.Random(seed)
    machine = moving.machine
    raw = [machine.workers[0].connect("/?channel=a.b") for _ in range(3)]
    json = [machine.connect(0, f"u{number}", "a.b") for number in range(3)]
    patterns = [machine.workers[0].connect("/patterns?channel=a.*") for _ in range(3)]
    listeners = [machine.workers[0].connect("/listen") for _ in range(3)]
    other = machine.workers[1].connect("/?channel=a.b")
    for each in json:
        each.readMessages()
    for transport in links(machine):
        transport.delay = choose.choice((0.0, 0.001, 0.005))
    published, broadcast = [], []

    def do():
        if choose.random() < 0.6:
            published.append(f"p{len(published)}")
            machine.hub.publish("a.b", published[-1])
        elif choose.random() < 0.5:
            broadcast.append(f"b{len(broadcast)}")
            machine.hub.broadcast(broadcast[-1])

    for _ in range(10):
        do()
        moving.step(choose.choice((0.0, 0.001)))
    moving.give()
    while not moving.done:
        do()
        moving.step(choose.choice((0.0, 0.0, 0.001, 0.002)))
    do()
    moving.step(1)
    assert moving.done == [True]
    assert (len(machine.workers[0].server.callers), moving.giving.given) == (0, 12)
    assert len(machine.workers[1].server.callers) == 13
    for each in (*raw, *patterns):
        came = each.readMessages()
        assert [text for text in came if text[0] == "p"] == published
        assert [text for text in came if text[0] == "b"] == broadcast
    for each in listeners:
        assert each.readMessages() == broadcast
    for each in json:
        came = [msgspec.json.decode(text) for text in each.readMessages()]
        assert [found["data"] for found in came if found["type"] == "message"] == published
        assert [found["data"] for found in came if found["type"] == "broadcast"] == broadcast
    assert [text for text in other.readMessages() if text[0] == "p"] == published


@pytest.mark.parametrize("delays", [(0.0, 0.005), (0.005, 0.0), (0.0, 0.0)])
def test_presence(moving, delays):
    """Nobody is told of anybody who only moves; a user who comes or leaves meanwhile is told to all, once."""
    machine = moving.machine
    watchers = [machine.connect(number % 2, f"w{number}", "a", presence=True) for number in range(4)]
    stays = machine.connect(1, "ann", "a")
    for each in (*watchers, stays):
        each.readMessages()
    for transport, delay in zip(links(machine), delays, strict=True):
        transport.delay = delay
    moving.give()
    moving.step()
    machine.workers[1].connect("/?channel=a", user="bob")
    while not moving.done:
        moving.step(0.001)
    stays.close()
    for _ in range(20):
        moving.step(1)  # both networks have to move
    for each in watchers:
        told = [(found["type"], found["member"]["user"]) for found in heard(each, "join", "leave")]
        assert told == [("join", "bob"), ("leave", "ann")]


def test_disconnected(moving):
    """A caller that is to be disconnected while it is on its way is closed where it arrives."""
    machine = moving.machine
    client = machine.connect(0, "ann", "a")
    bob = machine.connect(0, "bob", "a")
    moving.give()
    while len(machine.workers[0].server.callers):
        moving.step(0.001)
    assert not any(each.user == "ann" for each in machine.workers[1].server.callers)
    machine.hub.engine.command(Disconnect(None, "ann", 4000, "go"))
    while not moving.done:
        moving.step(0.001)
    moving.step(1)
    assert client.closed == (4000, "go")
    assert bob.closed is None


def test_expired(moving):
    """A caller whose credentials end while it is on its way is told that they have expired, not that they are revoked."""
    old = moving.machine.workers[0]
    client = old.connect("/listen", identity=Identity("ann", expiresAt=old.server.runtime.unixTime() + 4))
    moving.give()
    moving.stream.other.delay = 3  # the first frame takes as long: this one leaves with a second left
    while not moving.done:
        moving.step(0.1)
    moving.step(1)
    assert (moving.giving.given, client.closed) == (1, (4401, "expired"))


def test_leavesOnItsWay(moving):
    """A service is told of a caller that has left while the new process still asked for what it had missed."""
    told = []

    class Noting(ChannelService):
        resumable = True

        def onHandOver(self, caller):
            return "ann"

        def onResume(self, caller, state):
            told.append(("resumed", state, caller.isOpen()))

        def onClose(self, caller, statusCode, reason):
            told.append(("closed", statusCode))

    machine = moving.machine
    for each in machine.workers:
        each.server.mount("/noting", Noting())
    client = machine.workers[0].connect("/noting?channel=a")
    client.pause()
    for _ in range(100):
        machine.hub.publish("a", "x" * 1000)
    moving.step(1)
    moving.give()
    while len(machine.workers[0].server.callers):
        moving.step(0.001)
    links(machine)[1].delay = 0.1  # the answer to what it asks
    while not moving.taking.taken:
        moving.step(0.001)
    assert told == []
    client.cut()
    while not moving.done:
        moving.step(0.001)
    moving.step(1)
    assert told == [("resumed", "ann", False), ("closed", 1006)]
    assert len(machine.workers[1].server.callers) == 0


def test_theNewOneDies(moving):
    """What the new process has not taken when it ends goes on in the old one, which has missed nothing for it."""
    machine = moving.machine
    clients = [machine.connect(0, f"u{number}", "a") for number in range(3)]
    listener = machine.workers[0].connect("/listen")
    for each in clients:
        each.readMessages()
    moving.give()
    stream = moving.stream
    real = stream.received

    def received(frame, descriptors):
        if frame[0] == "callers":
            machine.hub.publish("a", "meanwhile")
            machine.hub.broadcast("all")
            stream.close()
        else:
            real(frame, descriptors)

    stream.received = received
    while not moving.done:
        moving.step(0.001)
    moving.step(1)
    assert moving.done == [False]
    assert len(machine.workers[0].server.callers) == 4
    machine.hub.publish("a", "later")
    moving.step(1)
    for each in clients:
        assert [found["data"] for found in heard(each, "message")] == ["meanwhile", "later"]
    assert listener.readMessages() == ["all"]


@pytest.mark.parametrize("seed", range(4))
def test_twoAtOnce(monkeypatch, seed):
    """A worker that takes from one and gives to another, as when new code has failed and is mended, loses and doubles nothing.

    One connection waits in the middle of a message until the second hand-over runs.
    """
    choose = random.Random(seed)
    moving = Moving(monkeypatch, 3)
    machine = moving.machine
    paths = ("/patterns?channel=a.*", "/listen")
    clients = [machine.workers[number].connect(path) for number in (0, 1) for path in paths]
    late = machine.workers[1].connect("/listen")
    late.sendBytes(b"\x01\x80\0\0\0\0")
    published, broadcast = [], []

    def do(holds):
        while not holds():
            published.append(f"p{len(published)}")
            machine.hub.publish("a.b", published[-1])
            broadcast.append(f"b{len(broadcast)}")
            machine.hub.broadcast(broadcast[-1])
            moving.step(choose.choice((0.0, 0.001)))

    moving.give(old=1, new=0)
    first = moving.done
    do(lambda: len(machine.workers[1].server.callers) == 1)
    moving.give(0.5, old=0, new=2)
    do(lambda: moving.done)
    late.sendBytes(b"\x80\x80\0\0\0\0")
    do(lambda: first)
    moving.step(1)
    assert (first, moving.done) == ([True], [True])
    assert [len(worker.server.callers) for worker in machine.workers] == [3, 0, 2]
    for client in (*clients, late):
        came = client.readMessages()
        assert [text for text in came if text[0] == "b"] == broadcast
        assert [text for text in came if text[0] == "p"] in (published, [])


@pytest.mark.parametrize("how", ["dies", "refuses"])
def test_allComeBack(moving, monkeypatch, how):
    """When very many come back, because the new process has died or refuses them, that takes as many turns as it needs."""
    machine = moving.machine
    clients = [machine.workers[0].connect("/listen") for _ in range(256)]
    moving.give()
    stream = moving.stream
    if how == "dies":
        real = stream.received
        stream.received = lambda frame, descriptors: frame[0] == "callers" or real(frame, descriptors)
    else:
        machine.workers[1].server.remount("/listen", Room())
    while len(machine.workers[0].server.callers):
        moving.step(0.001)
    arrivals = Counting(machine.workers[0].server.runtime.turns, monkeypatch, Arrival, "arrive")
    if how == "dies":
        stream.close()
    while not moving.done:
        moving.step(0.001)
    moving.step(1)
    assert arrivals.count == 256
    assert arrivals.most <= STEPS // BACK + 1
    machine.hub.broadcast("still here")
    moving.step(1)
    if how == "dies":
        assert [client.readMessages() for client in clients] == [["still here"]] * 256
    else:
        assert {client.closed for client in clients} == {(1012, "service restarts")}
    machine.workers[0].flushErrors()


def test_stops(moving):
    """When all are asked to leave meanwhile, those on their way come back first, and nobody waits for who cannot go yet."""
    machine = moving.machine
    clients = [machine.workers[0].connect("/listen") for _ in range(3)]
    middle = machine.workers[0].connect("/listen")
    middle.sendBytes(b"\x01\x80\0\0\0\0")
    moving.give()
    while len(machine.workers[0].server.callers) > 1:
        moving.step(0.001)
    began = moving.clock.seconds()
    stopped = []
    moving.taking.stop()
    moving.giving.stop().addCallback(stopped.append)
    while not stopped:
        moving.step(0.001)
    assert moving.clock.seconds() - began < 0.1
    assert len(machine.workers[0].server.callers) == 4
    machine.workers[0].server.stop()
    moving.step(1)
    assert [client.closed for client in (*clients, middle)] == [(1001, "server stops")] * 4
    moving.giving.stop().addCallback(stopped.append)
    assert len(stopped) == 2
    machine.workers[0].flushErrors()


def test_patternWhileAChannelIsAskedFor(moving):
    """A subscriber of a pattern whose other channel has to be asked for gets what is published meanwhile once."""
    machine = moving.machine
    client = machine.workers[0].connect("/patterns?channel=b&channel=a.*")
    client.pause()
    for number in range(100):
        machine.hub.publish("b", f"b{number} " + "x" * 1000)
    moving.step(1)
    moving.give()
    while len(machine.workers[0].server.callers):
        moving.step(0.001)
    links(machine)[1].delay = 0.1
    for _ in range(20):
        machine.hub.publish("a.x", "p")
        machine.hub.broadcast("all")
        moving.step(0.02)
    while not moving.done:
        moving.step(0.001)
    client.resume()
    moving.step(1)
    came = client.readMessages()
    assert (came.count("p"), came.count("all"), len([text for text in came if text[0] == "b"])) == (20, 20, 100)


def test_aHandlerThatRunsOn(moving):
    """Whoever waits for a handler goes when that has ended; one for whom it runs on stays to the end of the time."""
    ends = []

    class Slow(WebSocketService):
        resumable = True

        def onTextMessage(self, caller, text):
            ends.append(Deferred())
            return ends[-1]

    machine = moving.machine
    for each in machine.workers:
        each.server.mount("/slow", Slow())
    clients = [machine.workers[0].connect("/slow") for _ in range(2)]
    for client in clients:
        client.writeTextMessage("go")
    moving.step(0.1)
    moving.give()
    for _ in range(20):
        moving.step(0.1)
    assert (moving.done, len(machine.workers[0].server.callers)) == ([], 2)
    ends[0].callback("done")
    for _ in range(20):
        moving.step(0.1)
    assert clients[0].readMessages() == ["done"]
    assert [len(each.server.callers) for each in machine.workers] == [1, 1]
    while not moving.done:
        moving.step(0.1)
    assert (moving.done, moving.giving.given) == ([True], 1)
    assert [client.closed for client in clients] == [None, None]  # whoever has called this asks those who are left to leave
    ends[1].callback("late")
    moving.step(0.1)
    assert clients[1].readMessages() == ["late"]


def test_whoIsThere(moving):
    """A list of callers, made at any moment, has nobody twice, and at the end everybody."""
    machine = moving.machine
    for server in (machine.hub, *[each.server for each in machine.workers]):
        answerInspection(server)
    clients = [machine.connect(0, f"u{number}", "a") for number in range(100)]
    moving.give()
    lists = []
    while not moving.done:
        looking = Deferred.fromCoroutine(callers(machine.hub, Asked(limit=1000)))
        while not looking.called:
            moving.step(0.0005)
        lists.append([msgspec.json.decode(each)["id"] for each in looking.result.callers])
    looking = Deferred.fromCoroutine(callers(machine.hub, Asked(limit=1000)))
    moving.step(0.1)
    assert len(lists) > 2
    assert all(len(set(each)) == len(each) for each in lists)
    assert len(looking.result.callers) == looking.result.total == len(clients)


def test_anotherVersion(moving, monkeypatch):
    """A process that takes another version of the state gets nothing: the callers stay, to be asked to leave."""
    machine = moving.machine
    client = machine.connect(0, "ann", "a")
    moving.give()
    monkeypatch.setattr("twisted_ws.daemon.handover.taking.VERSION", 99)
    while not moving.done:
        moving.step(0.001)
    assert moving.done == [True]
    assert (moving.giving.given, len(machine.workers[0].server.callers)) == (0, 1)
    for worker in machine.workers:
        worker.flushErrors()
    client.close()


def test_someOfEach(moving):
    """A part of the callers is one of each service at least, so that new code of each is tried; the others stay."""
    machine = moving.machine
    clients = [machine.connect(0, f"u{number}", "a") for number in range(30)]
    clients += [machine.workers[0].connect("/patterns?channel=b.*"), machine.workers[0].connect("/listen")]
    moving.give(0.1)
    while not moving.done:
        moving.step(0.001)
    assert moving.done == [True]
    paths = sorted(caller.request.path for caller in machine.workers[1].server.callers)
    assert paths == ["/"] * 3 + ["/listen", "/patterns"]
    assert len(machine.workers[0].server.callers) == 27
    machine.hub.publish("a", "x")
    moving.step(0.001)
    assert [len(heard(client, "message")) for client in clients[:30]] == [1] * 30
