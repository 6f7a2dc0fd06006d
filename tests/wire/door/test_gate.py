from __future__ import annotations

import errno
import os
import resource
from itertools import chain
from weakref import ref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import fdesc
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.tcp import Port
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.policies import WrappingFactory

from tests.texts import Held
from twisted_ws.limits import Limits
from twisted_ws.wire.door.gate import DROPPED, LOOKED_AT, QUIET, SPARES, Gate, addressKey


class FakePort:
    """A listening port that knows whether it reads."""

    def __init__(self):
        self.reading = True

    def stopReading(self):
        self.reading = False

    def startReading(self):
        self.reading = True


class FakePeer:
    """The socket of one connection."""

    closed = False

    def __init__(self, descriptor=7):
        self.descriptor = descriptor

    def fileno(self):
        return self.descriptor

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", 0x20010DB800010002),
        ("2001:db8:1:2:ffff::", 0x20010DB800010002),
        ("2001:db8:1:3::", 0x20010DB800010003),
        ("fe80::1%eth0", 0xFE80000000000000),
        ("", None),
        ("/var/run/socket", None),
    ],
)
def test_addressKey(address, key):
    """One peer is an IPv4 address or the /64 of an IPv6 one."""
    assert addressKey(address) == key


def test_unlimited():
    """Without limits everybody is let in and counted."""
    gate = Gate(Limits())
    assert all(gate.admit("192.0.2.1") for _ in range(1000))
    assert gate.open == 1000
    assert not gate.full()


def test_maxConnections():
    """Above the total limit no connection is let in until another leaves."""
    gate = Gate(Limits(maxConnections=2))
    assert [gate.admit(address) for address in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "")] == [True, True, False, False]
    assert gate.full()
    gate.release("192.0.2.1")
    assert not gate.full()
    assert gate.admit("")


def test_maxConnectionsPerIp():
    """Over the limit of one address only that address is refused; a local socket has no address."""
    gate = Gate(Limits(maxConnectionsPerIp=1))
    assert [gate.admit(a) for a in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "", "")] == [
        True,
        False,
        True,
        True,
        False,
        True,
        True,
    ]
    assert gate.open == 5
    gate.release("192.0.2.1")
    assert gate.admit("192.0.2.1")


@pytest.fixture
def descriptors(monkeypatch):
    """Let the process have 100 descriptors, 30 of them in use."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (100, 200))
    monkeypatch.setattr(os, "listdir", lambda path: ["x"] * 30)


@pytest.mark.usefixtures("descriptors")
def test_descriptors():
    """Accepting pauses a reserve below the descriptor limit, with one line that says so, and goes on when peers leave."""
    gate, port = Gate(Limits(descriptorReserve=64)), FakePort()
    gate.watch(port)
    with capturedLogs() as logs:
        for _ in range(6):  # 100 - 64 - 30
            assert port.reading
            assert gate.admit("192.0.2.1")
    assert not port.reading
    assert [formatEvent(event) for event in logs] == [
        "accepting pauses: 6 connections are open, 64 below the limit of descriptors (raise LimitNOFILE)"
    ]
    # A connection that was accepted all the same, in the same turn.
    assert not gate.admit("192.0.2.1")
    gate.release("192.0.2.1")
    assert port.reading


@pytest.mark.usefixtures("descriptors")
def test_warnedOnce():
    """However many leave a full server and come again, it is said once a minute, and how often it was so."""
    clock = Clock()
    gate = Gate(Limits(descriptorReserve=64), clock.seconds)
    gate.watch(FakePort())
    with capturedLogs() as logs:
        for _ in range(2):
            for _ in range(100):
                for _ in range(6):
                    gate.admit("")
                for _ in range(6):
                    gate.release("")
            clock.advance(QUIET)
    said = [(formatEvent(event).partition(":")[0], event["suppressed"]) for event in logs]
    assert said == [("accepting pauses", 0), ("accepting pauses", 99)]


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("wrapped", [False, True])
def test_essential(wrapped):
    """An essential port goes on when accepting pauses, and its connections have half of the reserve; TLS changes nothing."""
    gate, port, other = Gate(Limits(descriptorReserve=64)), FakePort(), FakePort()
    port.factory = Factory()
    port.factory.essential = True
    if wrapped:
        port.factory = WrappingFactory(port.factory)
    gate.watch(other)
    gate.watch(port)
    for _ in range(6):
        gate.admit("")
    assert (port.reading, other.reading) == (True, False)
    assert [gate.admit("", essential=True) for _ in range(33)] == [True] * 32 + [False]
    assert not gate.admit("")
    for _ in range(33):
        gate.release("")
    assert other.reading


@pytest.mark.usefixtures("descriptors")
def test_portsThatComeAndGo():
    """A port that begins to listen while accepting is paused is paused too; one that has stopped is left alone."""
    gate, first, second = Gate(Limits(descriptorReserve=64)), FakePort(), FakePort()
    gate.watch(first)
    for _ in range(6):
        gate.admit("")
    gate.watch(second)
    assert not second.reading
    gate.unwatch(first)
    gate.unwatch(first)
    gate.release("")
    assert not first.reading
    assert second.reading


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("state", [{"connected": False}, {"disconnecting": True}])
def test_portThatHasStopped(state):
    """A port that was not unwatched when it stopped is forgotten, and not woken, which would fail when a connection leaves."""
    gate, port = Gate(Limits(descriptorReserve=64)), FakePort()
    gate.watch(port)
    for _ in range(6):
        gate.admit("")
    for name, value in state.items():
        setattr(port, name, value)
    gate.release("")
    assert not port.reading
    port = ref(port)
    assert port() is None


@pytest.mark.usefixtures("descriptors")
def test_openConnectionsAreNotCountedTwice():
    """A port that is watched later does not take open connections for other descriptors."""
    gate = Gate(Limits(descriptorReserve=64))
    for _ in range(5):
        gate.admit("")
    gate.watch(FakePort())
    assert not gate.full()
    assert [gate.admit("") for _ in range(7)] == [True] * 6 + [False]


@pytest.mark.usefixtures("descriptors")
def test_watchedTwice():
    """A port is paused once, however often it is watched."""
    gate, port = Gate(Limits(descriptorReserve=64)), FakePort()
    gate.watch(port)
    gate.watch(port)
    gate.unwatch(port)
    for _ in range(6):
        gate.admit("")
    assert port.reading


class Sockets:
    """A listening socket that accepts what it is given: connections, or errors."""

    def __init__(self, *given):
        self.given = list(given)

    def accept(self):
        each = self.given.pop(0) if self.given else BlockingIOError(errno.EAGAIN, "none")
        if isinstance(each, Exception):
            raise each
        return each, ("192.0.2.1", 1)

    def fileno(self):
        return 7


@pytest.fixture
def port(monkeypatch):
    """A real port that listens nowhere, on a reactor whose clock is ours."""
    # Twisted 26.4 sets a flag of each descriptor, and those of fakes are none.
    monkeypatch.setattr(fdesc, "_setCloseOnExec", lambda descriptor: None)
    reactor = MemoryReactorClock()
    port = Port(0, Factory(), reactor=reactor)
    port.socket, port.fileno, port.numberAccepts = Sockets(), lambda: 7, 100
    port.connected, port.factory.buildProtocol = True, lambda address: None
    port.startReading()
    return port


@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_cannotAccept(port, code):
    """A port that cannot accept rests for a second instead of spinning, and says so once, not in each second."""
    gate, reactor, peer = Gate(Limits()), port.reactor, FakePeer()
    port.socket = Sockets(*[OSError(getattr(errno, code), "none left")] * 3, peer)
    gate.watch(port)
    assert port.socket.fileno() == 7
    with capturedLogs() as logs:
        for _ in range(3):
            port.doRead()
            assert port not in reactor.getReaders()
            reactor.advance(0.9)
            assert port not in reactor.getReaders()
            reactor.advance(0.1)
            assert port in reactor.getReaders()
        assert not peer.closed
        port.doRead()
    assert peer.closed
    assert [formatEvent(event) for event in logs] == [
        "accepting connections fails, and is tried again each second: none left",
        "accepting goes on",
    ]


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a socket of another family")])
def test_acceptRaises(port, error):
    """A failure inside accept, such as of an allocation, does not end the port: it rests for a second, and goes on."""
    gate, reactor, peer = Gate(Limits()), port.reactor, FakePeer()
    port.socket = Sockets(error, peer)
    gate.watch(port)
    with capturedLogs() as logs:
        port.doRead()
        assert port not in reactor.getReaders()
        reactor.advance(1)
        assert port in reactor.getReaders()
        port.doRead()
    assert peer.closed
    assert len(logs) == 2


def test_resumingFails(port):
    """A port that cannot be polled again at once, for want of memory, is tried again."""
    gate, reactor = Gate(Limits()), port.reactor
    port.socket = Sockets(OSError(errno.ENOMEM, "none left"))
    gate.watch(port)
    port.doRead()
    real, failing = port.startReading, [OSError(errno.ENOSPC, "no more watches")]

    def startReading():
        if failing:
            raise failing.pop()
        real()

    port.startReading = startReading
    reactor.advance(1)
    assert port not in reactor.getReaders()
    reactor.advance(1)
    assert port in reactor.getReaders()


class Visitor:
    """A connection of an essential port; `log` lists those that were dropped."""

    def __init__(self, log, name, waits=True):
        self.log = log
        self.name = name
        self.waitsForPeer = waits

    def drop(self):
        self.log.append(self.name)


@pytest.mark.usefixtures("descriptors")
def test_crowd(port):
    """If an essential port has no place left, connections that wait for their peers make room, oldest first, for new ones."""
    gate, reactor, dropped, peer = Gate(Limits(descriptorReserve=64)), port.reactor, [], FakePeer()
    port.factory.essential = True
    port.socket = Sockets(peer)
    gate.watch(port)
    visitors = []
    for number in range(6 + 32):
        assert gate.admit("192.0.2.1", essential=True)
        visitors.append(Visitor(dropped, number, waits=number > 2))
        gate.enroll(visitors[-1])
    port.doRead()
    assert dropped == list(range(3, 3 + DROPPED))
    assert port in reactor.getReaders()
    assert not peer.closed
    for number in dropped:
        gate.release("192.0.2.1", visitors[number])
    port.doRead()
    assert peer.closed  # as this factory wants it
    gate.admit("192.0.2.1", essential=True)


@pytest.mark.usefixtures("descriptors")
def test_busyCrowd(port):
    """Where all of them are being answered, the port rests for a second, and says so once."""
    gate, reactor, dropped = Gate(Limits(descriptorReserve=64)), port.reactor, []
    port.factory.essential = True
    port.socket = Sockets(FakePeer())
    gate.watch(port)
    for number in range(6 + 32):
        gate.admit("", essential=True)
        gate.enroll(Visitor(dropped, number, waits=False))
    with capturedLogs() as logs:
        for _ in range(3):
            port.doRead()
            assert port not in reactor.getReaders()
            reactor.advance(1)
            assert port in reactor.getReaders()
    assert dropped == []
    said = "accepting connections fails, and is tried again each second"
    assert [formatEvent(event).partition(":")[0] for event in logs] == [said]


@pytest.mark.usefixtures("descriptors")
def test_lookedAt():
    """Among many that are being answered, one that waits is found after a few calls, of which each looks at some only."""
    gate, dropped = Gate(Limits()), []
    for number in range(5 * LOOKED_AT):
        gate.enroll(Visitor(dropped, number, waits=number == 4 * LOOKED_AT))
    calls = 0
    while not gate.makePlace():
        calls += 1
    assert dropped == [4 * LOOKED_AT]
    assert calls == 4


def test_spareDescriptors(port):
    """If no descriptor is left, an essential port has a few spare ones, replaced as connections leave, and closed at the end."""
    gate, reactor, peers = Gate(Limits()), port.reactor, [FakePeer() for _ in range(2 * SPARES)]
    port.factory.essential = True
    failing = [[OSError(errno.EMFILE, "none left"), peer] for peer in peers]
    port.socket = Sockets(*chain(*failing))
    before = len(os.listdir("/proc/self/fd"))
    gate.watch(port)
    assert len(os.listdir("/proc/self/fd")) == before + SPARES
    for _ in range(SPARES):
        gate.admit("")
    port.doRead()
    assert [peer.closed for peer in peers] == [True] * SPARES + [False] * SPARES
    assert len(os.listdir("/proc/self/fd")) == before
    assert port not in reactor.getReaders()  # nobody is there who could make place
    gate.release("")
    assert len(os.listdir("/proc/self/fd")) == before + SPARES
    gate.unwatch(port)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("descriptors")
def test_othersTakeDescriptors(port):
    """When services have taken the descriptors, accepting pauses at the reserve too; more come in when they are back."""
    gate, reactor = Gate(Limits(descriptorReserve=64)), port.reactor
    port.socket = Sockets(FakePeer(30), FakePeer(36), FakePeer(31), *[FakePeer(30)] * 9)
    port.factory.buildProtocol = lambda address: gate.admit(address.host) and None
    gate.watch(port)
    port.doRead()
    assert gate.open == 2  # of 6
    assert port not in reactor.getReaders()
    for _ in range(2):
        gate.release("192.0.2.1")
    assert port in reactor.getReaders()
    for _ in range(6):  # Twisted accepts as many at once as there were before
        port.doRead()
    assert gate.open == 6


def test_otherErrorsOfAccept(port):
    """Any other error of accept is left to Twisted."""
    port.socket = Sockets(OSError(errno.ECONNABORTED, "gone"))
    Gate(Limits()).watch(port)
    port.doRead()
    assert port in port.reactor.getReaders()
    assert port.reactor.getDelayedCalls() == []


def test_restAndStop(port):
    """A port that stops while it rests does not start again."""
    gate = Gate(Limits())
    port.socket = Sockets(OSError(errno.ENFILE, "none left"))
    gate.watch(port)
    port.doRead()
    gate.unwatch(port)
    port.reactor.advance(2)
    assert port not in port.reactor.getReaders()


@pytest.mark.usefixtures("descriptors")
def test_pausedInTheSameTurn(port):
    """A connection that comes in the turn in which accepting pauses waits in the backlog like the others, and is not refused."""
    gate, peers = Gate(Limits(descriptorReserve=64)), [FakePeer() for _ in range(10)]
    port.socket = Sockets(*peers)
    port.factory.buildProtocol = lambda address: gate.admit(address.host) and None
    gate.watch(port)
    port.doRead()
    assert (gate.open, len(port.socket.given)) == (6, 4)
    gate.release("192.0.2.1")
    port.doRead()
    assert (gate.open, len(port.socket.given)) == (6, 3)


def test_noLimitOfDescriptors(monkeypatch):
    """If the system has no limit, there is none here; anything that is not a descriptor is not watched."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    gate = Gate(Limits())
    gate.watch(FakePort())
    gate.watch(object())
    assert all(gate.admit("") for _ in range(100))


def test_withoutProc(monkeypatch):
    """Where the descriptors in use cannot be counted, a guess stands for them; one connection is always possible."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (70, 70))
    monkeypatch.setattr(os.path, "isdir", lambda path: False)
    gate = Gate(Limits())
    gate.watch(FakePort())
    assert [gate.admit(""), gate.admit("")] == [True, False]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["192.0.2.1", "2001:db8::1", ""])), max_size=60))
def test_counts(moves):
    """However peers come and go, nothing is left when all have gone."""
    gate, inside, addresses = Gate(Limits(maxConnections=6, maxConnectionsPerIp=3)), [], Held()
    for comes, address in moves:
        if comes:
            if gate.admit(addresses.text(address)):
                inside.append(address)
        elif address in inside:
            inside.remove(address)
            gate.release(address)
        assert gate.open == len(inside) <= 6
        assert all(inside.count(a) <= 3 for a in inside if a)
    for address in inside:
        gate.release(address)
    assert gate.open == 0
    assert len(addresses) == 0
