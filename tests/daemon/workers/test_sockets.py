from __future__ import annotations

import errno
import os
import socket
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.workers.sockets import HeldPort, HeldUnixPort, HoldingReactor, InheritingReactor

PATIENCE = 30


class _Hello(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello from " + self.factory.name)  # type: ignore[attr-defined]
        self.transport.loseConnection()


def _factory(name: bytes) -> Any:
    factory: Any = Factory.forProtocol(_Hello)
    factory.name, factory.noisy = name, False
    return factory


def _listen(where: str, slots: int = 2, interface: str = "127.0.0.1") -> Any:
    """Return what a supervisor holds for a place."""
    found: list[Any] = []
    endpoint = ListenAddress("listen", where, interface).endpoint(HoldingReactor(reactor, slots), 50)
    endpoint.listen(_factory(b"nobody")).addBoth(found.append)
    return found[0]


def _ask(address: Any, family: int = socket.AF_INET) -> socket.socket:
    client = socket.socket(family)
    client.settimeout(PATIENCE)
    client.connect(address)
    return client


class SocketsTests(TestCase):
    def accept(self, place: ListenAddress, descriptor: int, name: bytes) -> Any:
        """Return the port of a worker that accepts from a descriptor."""
        found: list[Any] = []
        place.endpoint(InheritingReactor(reactor, descriptor), 50).listen(_factory(name)).addBoth(found.append)
        self.addCleanup(found[0].stopListening)
        return found[0]

    async def answer(self, client: socket.socket) -> bytes:
        """Return what a client hears, while the reactor runs."""
        from twisted.internet.threads import deferToThread

        def read() -> bytes:
            with client:
                return client.recv(99)

        return bytes(await deferToThread(read))

    async def test_aSocketForEachSlot(self) -> None:
        """A port has a socket for each slot, on one number; what comes while nobody accepts waits for whoever fills the slot."""
        held = _listen("0")
        self.addCleanup(held.stopListening)
        descriptors = [held.descriptor(slot) for slot in (0, 1)]
        assert len(set(descriptors)) == 2
        number = held.getHost().port
        with socket.socket(fileno=os.dup(descriptors[1])) as other:
            assert other.getsockname() == ("127.0.0.1", number)
        waiting = [_ask(("127.0.0.1", number)) for _ in range(20)]
        place = ListenAddress("port", "0", "127.0.0.1")
        for slot, name in ((0, b"one"), (1, b"two")):
            self.accept(place, descriptors[slot], name)
        assert {await self.answer(client) for client in waiting} == {b"hello from one", b"hello from two"}

    async def test_aWorkerThatStops(self) -> None:
        """A worker that stops accepting leaves the socket to the next one, with all that waits."""
        held = _listen("0", 1)
        self.addCleanup(held.stopListening)
        place = ListenAddress("port", "0", "127.0.0.1")
        first = self.accept(place, held.descriptor(0), b"one")
        await first.stopListening()
        waiting = _ask(("127.0.0.1", held.getHost().port))
        self.accept(place, held.descriptor(0), b"two")
        assert await self.answer(waiting) == b"hello from two"

    async def test_aBlockingDescriptor(self) -> None:
        """An inherited descriptor that blocks does not hang the worker when nothing is left to accept."""
        held = _listen("0", 1)
        self.addCleanup(held.stopListening)
        os.set_blocking(held.descriptor(0), True)
        self.accept(ListenAddress("port", "0", "127.0.0.1"), held.descriptor(0), b"one")
        for _ in range(2):
            assert await self.answer(_ask(("127.0.0.1", held.getHost().port))) == b"hello from one"

    async def test_unix(self) -> None:
        """A Unix socket is one for all slots; its file has the mode of the endpoint, and stays until the supervisor stops."""
        with tempfile.TemporaryDirectory(prefix="ws-") as directory:
            path = f"{directory}/s"
            held = _listen(f"unix:{path}")
            assert isinstance(held, HeldUnixPort)
            assert held.descriptor(0) == held.descriptor(1)
            mode = os.stat(path).st_mode
            assert mode & 0o777 == 0o660
            worker = self.accept(ListenAddress("listen", f"unix:{path}"), held.descriptor(0), b"one")
            assert await self.answer(_ask(path, socket.AF_UNIX)) == b"hello from one"
            await worker.stopListening()
            assert os.stat(path).st_mode == mode
            await held.stopListening()
            assert os.listdir(directory) == []

    async def test_proxyProtocol(self) -> None:
        """A wrapped endpoint is wrapped in the worker: the header of a balancer is read there."""
        held = _listen("haproxy:tcp:0:interface=127.0.0.1", 1)
        self.addCleanup(held.stopListening)
        place = ListenAddress("listen", "haproxy:tcp:0:interface=127.0.0.1")
        self.accept(place, held.descriptor(0), b"one")
        client = _ask(("127.0.0.1", held.getHost().port))
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 5 6\r\n")
        assert await self.answer(client) == b"hello from one"


def test_twoServersDoNotShareAPort() -> None:
    """A port that another server has is taken, though the kernel would let both listen; and nothing is left open."""
    first = _listen("0")
    number = first.getHost().port
    before = os.listdir("/proc/self/fd")
    failure = _listen(str(number))
    assert failure.type is CannotListenError
    assert failure.value.socketError.errno == errno.EADDRINUSE
    assert (
        ListenAddress("port", str(number), "127.0.0.1").explain(failure.value).startswith("Another process is listening on port")
    )
    assert os.listdir("/proc/self/fd") == before
    first.stopListening()
    again = _listen(str(number))
    assert isinstance(again, HeldPort)
    again.stopListening()


def test_whereThereIsNoSuchAddress() -> None:
    """An address that the machine does not have is the operator's mistake, as without workers."""
    place = ListenAddress("port", "0", "192.0.2.1")
    assert "This machine has no address 192.0.2.1" in place.explain(_listen("0", 2, "192.0.2.1").value)


def test_aSocketThatIsSystemds() -> None:
    """In a worker, an endpoint of systemd is the inherited socket: its variables are the supervisor's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found: list[Any] = []
        place = ListenAddress("listen", "systemd:domain=INET:name=ws")
        place.endpoint(InheritingReactor(reactor, listening.fileno()), 50).listen(_factory(b"one")).addBoth(found.append)
        assert found[0].getHost().port == listening.getsockname()[1]
        found[0].stopListening()


def test_ipv6() -> None:
    """A port of both families is one of both for each slot."""
    held = _listen("0", 3, "::1")
    assert held.getHost().host == "::1"
    assert len({held.descriptor(slot) for slot in range(3)}) == 3
    held.stopListening()
