from __future__ import annotations

import os
import resource
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.limits import Limits
from twisted_ws.wire.gate import Gate, addressKey


class FakePort:
    """A listening port that knows whether it reads."""

    def __init__(self):
        self.reading = True

    def stopReading(self):
        self.reading = False

    def startReading(self):
        self.reading = True


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", IPv4Address("192.0.2.1")),
        ("::ffff:192.0.2.1", IPv4Address("192.0.2.1")),
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
    """Over the limit of all nobody is let in, until somebody leaves."""
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


def test_noLimitOfDescriptors(monkeypatch):
    """Where the system has no limit there is none; what is no descriptor is not watched."""
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
    gate, inside = Gate(Limits(maxConnections=6, maxConnectionsPerIp=3)), []
    for comes, address in moves:
        if comes:
            if gate.admit(address):
                inside.append(address)
        elif address in inside:
            inside.remove(address)
            gate.release(address)
        assert gate.open == len(inside) <= 6
        assert all(inside.count(a) <= 3 for a in inside if a)
    for address in inside:
        gate.release(address)
    assert gate.open == 0
    assert gate._perAddress == {}
