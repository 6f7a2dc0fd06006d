"""A server and its peers that do what they want, in any order, in the middle of each other; every byte is at its place.

    python -m tests.stateful [SECONDS] [SEED]

runs worlds for so long (10), each with its own seed (from 1 on), and stops at the first that is wrong. `TWISTED_WS_SPEEDUPS=0`
does it in Python. A world is one server with a plain and a TLS port, in one thread, whose peers connect, write in pieces, read
in pieces, and go. Its service writes, replies, broadcasts, closes and has the reactor turn within a turn; so do finalisers,
which the garbage collector runs in the middle of anything; and in half of the worlds allocations fail. A model of what each peer
may get and must get is beside it:

- a frame is whole, and one that was sent to this peer; none comes twice;
- what was sent before another by a call that had returned comes before it;
- who is still there in the end has all that was sent to it by a call that did not raise. Where allocations fail, that is not
  asked of broadcasts: one that could not be handed to somebody counts one less, without saying whom;
- what the service hears of a peer is what that one sent, in order, with nothing left out;
- who is no longer there was said good-bye to, once.

Where an allocation failed a connection may have ended, without a word even; one that has not is as promised.
"""

from __future__ import annotations

import errno
import gc
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import trustme
from OpenSSL import SSL
from twisted.internet.tcp import Port
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from tests.memory import upgrade
from tests.moments import ReactorClock, holdCode
from twisted_ws import Caller, Limits, WebSocketServer
from twisted_ws.errors import ConnectionClosed
from twisted_ws.frames import frame
from twisted_ws.wire import speedups
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings

try:
    from _testcapi import remove_mem_hooks, set_nomemory
except ImportError:  # where Python comes without it, no allocation fails
    set_nomemory = None

    def remove_mem_hooks() -> None:
        pass


__all__ = ["World", "run"]

SIZES = (0, 1, 100, 125, 126, 2040, 2048, 16_370, 16_384, 20_000, 65_535, 65_536, 300_000)
PEERS = 8
# Bytes on their way to a peer from which on nothing more is written to it.
ENOUGH = 2_000_000
LIMITS = Limits(
    maxSendBuffer=1 << 30,
    maxSendBufferTotal=1 << 32,
    maxReceiveBufferTotal=1 << 32,
    maxConnectionsPerIp=1000,
    controlRate=1_000_000,
    pingInterval=0,
    fanOutLag=3600,
)
GONE = (SSL.ZeroReturnError, SSL.SysCallError, SSL.Error, ConnectionError)
LATER = (SSL.WantReadError, SSL.WantWriteError, BlockingIOError)
FOREVER = sys.maxsize
# Seconds without a byte after which what has not come never will.
PATIENCE = 10


class Wrong(AssertionError):
    """What must not be."""


def body(serial: int, size: int) -> bytes:
    """Return what a message carries: its number, and bytes that are in no other."""
    mark = b"%d," % serial
    return b"%d:" % serial + (mark * (size // len(mark) + 1))[:size]


def masked(data: bytes, mask: bytes) -> bytes:
    """XOR with a mask."""
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(len(data), "little")


def clientFrame(first: int, data: bytes, mask: bytes) -> bytes:
    """Return a frame of a client."""
    plain = frame(first & 15, b"\0" * len(data))
    head = plain[: len(plain) - len(data)]
    return bytes([first, head[1] | 0x80]) + head[2:] + mask + masked(data, mask)


class Sent:
    """One message of the server: who may get it, and between which two moments the call was that sent it."""

    __slots__ = ("certain", "end", "isText", "must", "size", "start", "to")

    def __init__(self, isText: bool, size: int, to: tuple[int, ...], start: int) -> None:
        self.isText, self.size, self.to, self.start = isText, size, to, start
        self.end = FOREVER
        self.certain = False  # the call has returned
        self.must: tuple[int, ...] = to

    def __repr__(self) -> str:
        return f"message of {self.size} from {self.start} to {self.end} for {self.to}"


class Peer:
    """The other end of one connection."""

    def __init__(self, world: World, secure: bool) -> None:
        self.world, self.secure = world, secure
        self.id = world.newPeer()
        self.socket = socket.socket()
        if world.random.random() < 0.6:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, world.random.choice([2304, 8192]))
        self.socket.connect(world.address(secure))
        self.socket.setblocking(False)
        self.tls: Any = None
        if secure:
            self.tls = SSL.Connection(world.clientContext, self.socket)
            self.tls.set_connect_state()
        self.caller: Caller | None = None
        self.out = bytearray(upgrade("/ws", f"X-Peer: {self.id}"))
        self.again = 0  # bytes that TLS wants to have offered again
        self.received = bytearray()
        self.begun = self.gone = self.left = False  # the head has come; nothing more comes; we have gone, or said so
        self.isBusy = False  # it sends or reads: a finaliser in the middle would send or take the same once more
        self.hungUp = False
        self.farewells = 0
        self.isClosing = FOREVER  # since when the server closes it
        self.sent = self.heard = 0  # messages to the server
        self.heardAll = True  # nothing failed while the service heard it
        self.got: set[int] = set()
        self.pending = 0  # bytes that the server has sent, as far as is known, and that have not come
        self.latest = 0  # the latest start of what has come

    def write(self) -> None:
        """Have something more to send."""
        r = self.world.random
        for _ in range(r.choice([1, 1, 2, 5, 90])):
            kind = r.random()
            if kind < 0.04:
                self.out += clientFrame(0x89, b"%d" % self.id, r.randbytes(4))
                continue
            size = r.choice(SIZES[:-3]) if r.random() < 0.5 else r.choice([0, 1, 30])
            data = b"%d:%d:" % (self.id, self.sent) + "grüß€".encode() * (size // 9)
            self.sent += 1
            opcode = r.choice([1, 2])
            if kind < 0.1:
                cut = r.randrange(len(data) + 1)
                self.out += clientFrame(opcode, data[:cut], r.randbytes(4)) + clientFrame(0x80, data[cut:], r.randbytes(4))
            else:
                self.out += clientFrame(0x80 | opcode, data, r.randbytes(4))

    def flush(self) -> None:
        """Give the kernel some of it."""
        if self.gone or not self.out or self.isBusy:
            return
        self.isBusy = True
        try:
            self._flush()
        finally:
            self.isBusy = False

    def _flush(self) -> None:
        r = self.world.random
        size = len(self.out) if r.random() < 0.6 else r.randrange(1, len(self.out) + 1)
        size = max(size, self.again)
        try:
            taken = self.tls.send(bytes(self.out[:size])) if self.secure else self.socket.send(self.out[:size])
        except LATER:
            self.again = size if self.secure else 0
            return
        except GONE:
            self.left = True
            self.out.clear()
            return
        self.again = 0
        del self.out[:taken]

    def read(self, most: int) -> bool:
        """Read, and look at it; say whether something came."""
        if self.gone or self.isBusy:
            return False
        self.isBusy = True
        try:
            return self._read(most)
        finally:
            self.isBusy = False

    def _read(self, most: int) -> bool:
        try:
            data = self.tls.recv(most) if self.secure else self.socket.recv(most)
        except LATER:
            return False
        except GONE:
            data = b""
        if not data:
            self.gone = True
            return False
        self.received += data
        self.world.count["bytes"] += len(data)
        self._look()
        return True

    def _look(self) -> None:
        data = self.received
        if not self.begun:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self.gone = True  # refused, where an allocation failed
                return
            del data[: end + 4]
            self.begun = True
        while len(data) >= 2:
            size, start = data[1], 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, start = int.from_bytes(data[2:10], "big"), 10
            if data[0] not in (0x81, 0x82, 0x88, 0x8A) or size > 400_000:
                raise Wrong(f"peer {self.id}: no frame begins with {bytes(data[:40])!r}")
            if len(data) < start + size:
                return
            payload = bytes(data[start : start + size])
            first = data[0]
            del data[: start + size]
            self._take(first, payload)

    def _take(self, first: int, payload: bytes) -> None:
        world = self.world
        if first == 0x8A:
            if payload != b"%d" % self.id:
                raise Wrong(f"peer {self.id}: a strange pong, {payload[:40]!r}")
            return
        if first == 0x88:
            self.left = True
            if payload[:2] == b"\x03\xe8" and self.isClosing != FOREVER:
                self._mustHave(self.isClosing)
            return
        serial = int(payload.partition(b":")[0]) if payload[:1].isdigit() else 0
        sent = world.sent.get(serial)
        if sent is None or payload != body(serial, sent.size) or (first == 0x81) != sent.isText:
            raise Wrong(f"peer {self.id}: nobody has sent this, {payload[:60]!r}... of {len(payload)}")
        if self.id not in sent.to:
            raise Wrong(f"peer {self.id}: message {serial} was for {sent.to}")
        if serial in self.got:
            raise Wrong(f"peer {self.id}: message {serial} came twice")
        if sent.end < self.latest:
            raise Wrong(f"peer {self.id}: message {serial} came after one that was sent later")
        self.latest = max(self.latest, sent.start)
        self.got.add(serial)
        self.pending -= len(payload)
        world.count["messages"] += 1

    def _mustHave(self, before: int) -> None:
        for serial, sent in self.world.sent.items():
            if sent.certain and self.id in sent.must and sent.end < before and serial not in self.got:
                raise Wrong(f"peer {self.id} ({self.secure=}): {sent} was sent, and never came")

    def leave(self) -> None:
        """Go, with or without a word."""
        self.left = True
        if self.world.random.random() < 0.5:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.gone = self.hungUp = True

    def judge(self) -> None:
        """Say what is wrong in the end."""
        if self.farewells > 1 or (self.hungUp and self.caller is not None and not self.farewells):
            raise Wrong(f"peer {self.id} ({self.secure=}): {self.farewells} times it was said good-bye to")
        if self.gone or self.left or self.caller is None or not self.caller.isOpen() or self.isClosing != FOREVER:
            return
        if self.received:
            raise Wrong(f"peer {self.id}: a frame never ended: {bytes(self.received[:40])!r}")
        self._mustHave(FOREVER - 1)
        if self.heardAll and (self.heard != self.sent or self.out):
            raise Wrong(f"peer {self.id} ({self.secure=}): {self.sent} were sent, {self.heard} heard, {len(self.out)} bytes left")


class Finaliser:
    """Garbage that does something when it is collected."""

    def __init__(self, world: World) -> None:
        self.itself, self.world = self, world

    def __del__(self) -> None:
        remove_mem_hooks()
        world = self.world
        if world.isOver or world.depth > 3:
            return
        world.count["finalisers"] += 1
        world.guarded(world.act)


class Service:
    """Hears, and does something."""

    def __init__(self, world: World) -> None:
        self.world = world

    def onOpen(self, caller: Caller) -> None:
        remove_mem_hooks()
        self.world.tick()
        peer = self.world.peers[int(caller.request.headers["x-peer"])]
        caller.attributes["peer"] = peer.id
        peer.caller = caller
        self.world.callers.append(caller)

    def onClose(self, caller: Caller, statusCode: int, reason: str) -> None:
        remove_mem_hooks()
        self.world.tick()
        self.world.peers[caller.attributes["peer"]].farewells += 1
        if caller in self.world.callers:
            self.world.callers.remove(caller)

    def onTextMessage(self, caller: Caller, text: str) -> Any:
        remove_mem_hooks()
        return self.world.hear(caller, text.encode())

    def onBinaryMessage(self, caller: Caller, data: bytes) -> Any:
        remove_mem_hooks()
        return self.world.hear(caller, data)


class World:
    """One server with its peers.

    Args:
        seed: of all that happens.
        certificate: of the TLS port, a PEM file.
    """

    def __init__(self, seed: int, certificate: str) -> None:
        self.random = random.Random(seed)
        self.count: Counter[str] = Counter()
        self.reactor = ReactorClock()
        self.server = WebSocketServer(reactor=self.reactor, limits=LIMITS)
        self.server.mount("/ws", Service(self))
        self.clientContext = SSL.Context(SSL.TLS_METHOD)
        tls = ServerTLS(TLSSettings(certificate=certificate))
        self.ports = []
        small = self.random.random() < 0.8
        for factory in (self.server.factory(), tls.wrap(self.server.factory(), self.reactor)):
            port = Port(0, factory, interface="127.0.0.1", reactor=self.reactor)
            port.startListening()
            if small:
                port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
            self.server.adopt(port)
            self.ports.append(port)
        self.peers: dict[int, Peer] = {}
        self.callers: list[Caller] = []
        self.sent: dict[int, Sent] = {}
        self.moment = 0
        self.depth = 0
        self.isOver = False
        self.isShort = self.fails = set_nomemory is not None and self.random.random() < 0.5
        self.wrong: BaseException | None = None

    def newPeer(self) -> int:
        """Return the number of one that comes."""
        return len(self.peers) + 1

    def address(self, secure: bool) -> tuple[str, int]:
        """Return where a port listens."""
        return "127.0.0.1", self.ports[secure].getHost().port

    def tick(self) -> int:
        """Return a moment that was never before."""
        self.moment += 1
        return self.moment

    def guarded(self, action: Any, *args: Any) -> Any:
        """Do something where an exception would be swallowed."""
        self.depth += 1
        try:
            return action(*args)
        except BaseException as error:
            if self.wrong is None:
                self.wrong = error
        finally:
            self.depth -= 1

    def failing(self, most: int) -> None:
        """Let one of the next allocations fail, perhaps."""
        if self.fails and self.random.random() < 0.15:
            self.count["failures"] += 1
            number = self.random.randrange(most)
            set_nomemory(number, number + 1)

    def hear(self, caller: Caller, data: bytes) -> Any:
        """Note what the service hears, and do something."""
        return self.guarded(self._hear, caller, data)

    def _hear(self, caller: Caller, data: bytes) -> Any:
        peer, number, _ = data.split(b":", 2)
        known = self.peers[caller.attributes["peer"]]
        if int(peer) != known.id:
            raise Wrong(f"peer {known.id}: what was heard of it is of {data[:40]!r}")
        if int(number) != known.heard:
            raise Wrong(f"peer {known.id} ({known.secure=}): message {int(number)} was heard where {known.heard} was to be")
        known.heard += 1
        self.count["heard"] += 1
        if self.depth < 4 and self.random.random() < 0.5:
            self.act(caller)
        if caller.isOpen() and known.pending < ENOUGH and self.random.random() < 0.2:
            serial, sent = self._message((known.id,))
            # When it is sent, is the server's affair: after what has been sent, and before what comes.
            known.pending += sent.size
            sent.certain = known.isClosing == FOREVER
            data = body(serial, sent.size)
            return data.decode() if sent.isText else data
        return None

    def _message(self, to: tuple[int, ...]) -> tuple[int, Sent]:
        start = self.tick()
        r = self.random
        sent = Sent(r.random() < 0.5, r.choice(SIZES) if r.random() < 0.5 else r.randrange(60), to, start)
        self.sent[start] = sent
        return start, sent

    def act(self, caller: Caller | None = None) -> None:
        """Do one of the things that a service can do."""
        r = self.random
        if caller is None or r.random() < 0.6:
            if not self.callers:
                return
            caller = r.choice(self.callers)
        peer = self.peers[caller.attributes["peer"]]
        kind = r.randrange(20)
        if kind < 7:
            self.write(caller, peer)
        elif kind < 10:
            self.broadcast()
        elif kind < 13 and self.depth < 4:
            self.turn()  # within a turn
        elif kind < 16:
            Finaliser(self)
        elif kind == 16:
            gc.collect(0)
        elif kind == 17 and r.random() < 0.15:
            peer.isClosing = min(peer.isClosing, self.tick())
            caller.close(timeout=r.choice([0, 60]))
        elif kind == 18:
            peer.read(r.choice([1, 1000, 70_000]))
        else:
            peer.flush()

    def write(self, caller: Caller, peer: Peer) -> None:
        """Write to one."""
        if peer.pending > ENOUGH:
            return
        serial, sent = self._message((peer.id,))
        data: Any = body(serial, sent.size)
        if sent.isText:
            data = data.decode()
        wasOpen = caller.isOpen() and peer.isClosing == FOREVER
        failed: list[Any] = []
        try:
            self.failing(60)
            waiter = caller.writeTextMessage(data) if sent.isText else caller.writeBinaryMessage(data)
        except MemoryError:
            remove_mem_hooks()
            return
        finally:
            remove_mem_hooks()
        waiter.addErrback(lambda why: failed.append(why.trap(ConnectionClosed)))
        sent.end = self.tick()
        peer.pending += sent.size
        sent.certain = wasOpen and not failed
        self.count["writes"] += 1

    def broadcast(self) -> None:
        """Write to all."""
        if max([self.peers[caller.attributes["peer"]].pending for caller in self.callers], default=0) > ENOUGH:
            return
        to = tuple(self.peers)
        serial, sent = self._message(to)
        sent.must = tuple(
            [
                peer.id
                for caller in self.callers
                if (peer := self.peers[caller.attributes["peer"]]).isClosing == FOREVER and caller.isOpen()
            ]
        )
        data: Any = body(serial, sent.size)
        if sent.isText:
            data = data.decode()
        try:
            self.failing(60)
            self.server.broadcast(data)
        except MemoryError:
            remove_mem_hooks()
            return
        finally:
            remove_mem_hooks()
        sent.end = self.tick()
        for number in sent.must:
            self.peers[number].pending += sent.size
        # Where allocations fail, it is not known who could not be handed it: such a one is only not counted.
        sent.certain = not self.isShort
        self.count["broadcasts"] += 1

    def turn(self) -> None:
        """Have the reactor turn once, perhaps within a turn."""
        for reader in tuple(self.reactor.getReaders()):
            if reader not in self.reactor.getReaders():
                continue
            try:
                if reader not in self.ports:
                    self.failing(150)
                reader.doRead()
            except MemoryError as error:  # before it began; as the reactor has it
                remove_mem_hooks()
                self.reactor.removeReader(reader)
                reader.connectionLost(Failure(error))
            finally:
                remove_mem_hooks()
        for writer in tuple(self.reactor.getWriters()):
            writer.doWrite()
        self.reactor.advance(0.0001)

    def step(self) -> None:
        """Have each do something."""
        r = self.random
        here = [peer for peer in self.peers.values() if not peer.gone]
        if len(here) < PEERS and r.random() < 0.3:
            number = self.newPeer()
            self.peers[number] = Peer(self, r.random() < 0.5)
        for peer in here:
            kind = r.random()
            if kind < 0.25 and peer.begun and not peer.left and len(peer.out) < 500_000:
                peer.write()
            elif kind < 0.26 and r.random() < 0.3:
                peer.leave()
                continue
            peer.flush()
            if r.random() < 0.6:
                peer.read(r.choice([1, 100, 5000, 100_000]))
        self.guarded(self.act)
        self.turn()
        if self.wrong is not None:
            raise self.wrong

    def run(self, steps: int) -> None:
        """Live, and be judged."""
        threshold = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(self.random.choice([1, 2, 3, 7, 50, 700]), 5, 5)
        try:
            for _ in range(steps):
                self.step()
            gc.set_threshold(*threshold)
            self.fails = False
            self._settle()
        finally:
            self.isOver = True
            gc.set_threshold(*threshold)
            gc.unfreeze()
            self.end()

    def _settle(self) -> None:
        """Go on until each peer has what it must have, or nothing moves any more."""
        idle, since = 0, time.monotonic()
        while True:
            before = self.count["bytes"], self.count["heard"]
            for peer in [*self.peers.values()]:
                peer.flush()
                while peer.read(100_000):
                    pass
            self.turn()
            if self.wrong is not None:
                raise self.wrong
            if before != (self.count["bytes"], self.count["heard"]):
                idle, since = 0, time.monotonic()
                continue
            idle += 1
            if idle < 20:
                continue
            try:
                for peer in self.peers.values():
                    peer.judge()
                return
            except Wrong:
                if time.monotonic() - since > PATIENCE:
                    raise
            time.sleep(0.005)  # for the kernel, which asks a full window again after a while

    def end(self) -> None:
        """Close all sockets."""
        for peer in self.peers.values():
            peer.socket.close()
        for port in self.ports:
            port.stopListening()
        for _ in range(5):
            self.turn()


def run(seconds: float, seed: int, worlds: int = sys.maxsize) -> Counter[str]:
    """Run worlds for so long; return what has happened.

    Raises:
        Wrong: the first thing that was.
    """
    holdCode()
    total: Counter[str] = Counter()
    end = time.monotonic() + seconds
    world: World | None = None

    def look(event: dict[str, Any]) -> None:
        why = event.get("log_failure")
        if why is None or why.check(MemoryError, SystemError):  # the latter from what is below us, short of memory
            return
        if not (why.check(OSError) and why.value.errno == errno.EIO):  # Python, short of memory, cannot know how much went
            total[f"logged {why.type.__name__}"] += 1
            if world is not None and world.wrong is None and not why.check(ConnectionClosed):
                world.wrong = why.value

    globalLogBeginner.beginLoggingTo([look], redirectStandardIO=False, discardBuffer=True)
    with tempfile.TemporaryDirectory() as place:
        pem = Path(place, "server.pem")
        pem.write_bytes(trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.bytes())
        pem.chmod(0o600)
        while time.monotonic() < end and total["worlds"] < worlds:
            world = World(seed, str(pem))
            try:
                world.run(200)
            except BaseException:
                print("world", seed, "is wrong", dict(world.count), flush=True)
                raise
            total.update(world.count)
            total["worlds"] += 1
            world = None
            gc.collect()
            seed += 1
    return total


if __name__ == "__main__":
    print("compiled:", speedups.compiled, "TLS:", speedups.tlsCompiled, "allocations fail:", set_nomemory is not None, flush=True)
    print(dict(run(float(sys.argv[1]) if len(sys.argv) > 1 else 10, int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
