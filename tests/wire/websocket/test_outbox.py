from __future__ import annotations

import gc
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs

from tests.memory import MemoryTransport, SteadyClock
from tests.moments import MOMENTS, collectAt
from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.backlog import Backlog
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.speedups import sendMany
from twisted_ws.wire.speedups.pure import BEGUN
from twisted_ws.wire.websocket.outbox import CHARGE, CHARGE_AWAITED, SLICE, Outbox, failedWrite


class Owner:
    """Records what its outbox tells it."""

    def __init__(self):
        self.said = []
        self.onOverflow = None

    def outboxOverflowed(self, atOnce):
        self.said.append(("overflowed", atOnce))
        if self.onOverflow is not None:
            self.onOverflow()

    def outboxDrained(self):
        self.said.append("drained")

    def outboxEased(self):
        self.said.append("eased")


class Entry:
    """Something on the wheel."""

    wheelSlot = None


class World:
    """One outbox on a transport whose kernel takes what it is told to take."""

    def __init__(self, cap=100_000, ease=30_000, total=1_000_000, room=None, backlog=None):
        self.clock = SteadyClock()
        self.backlog = backlog or Backlog(total)
        self.owner = Owner()
        self.transport = MemoryTransport()
        self.transport.room = room
        self.wheel = Wheel(self.clock)
        self.outbox = Outbox(self.owner, self.transport, self.wheel, self.backlog, cap, ease)

    def message(self, data):
        """Send a message; return the list that gets its Deferred's result."""
        fired = []
        self.outbox.message(data).addCallbacks(fired.append, lambda failure: fired.append(str(failure.value)))
        return fired

    def begin(self, rest):
        """Send a frame as in a fan-out; the sender begins it, but the kernel takes none of it."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.close()  # so the kernel takes nothing
            sender = self.outbox.sender
            sender.handle, sender.open = ours.fileno(), True
            if sendMany([sender], rest, 0.0) == bytes([BEGUN]):
                assert sender.begun or self.outbox.size
                self.outbox.goOn()
            else:
                self.outbox.send(rest)


CLOSED = ConnectionClosed(1001, "bye")
CLOSED_TEXT = "the connection is closed (1001: bye)"


def test_atOnce():
    """When nothing waits, a frame goes straight to the transport, and its Deferred fires when the kernel has it."""
    world = World()
    fired = world.message(b"hello")
    assert fired == []
    assert world.outbox.busy
    assert world.outbox.size == world.backlog.total == 5
    world.transport.turn()
    assert fired == [None]
    assert bytes(world.transport.sent) == b"hello"
    assert world.outbox.size == world.backlog.total == 0
    assert world.owner.said == ["drained", "eased"]
    assert world.outbox.written == 1


def test_slices():
    """A large frame goes out one slice at a time, so that the transport never holds more."""
    world = World(room=0)
    world.message(b"x" * (3 * SLICE + 1))
    assert len(world.transport.waiting) == SLICE
    world.transport.room = SLICE
    world.transport.settle()
    assert world.outbox.size == 2 * SLICE + 1
    assert len(world.transport.waiting) == SLICE


def test_smallFramesTogether():
    """Small waiting frames go out in one write."""
    world = World(room=0)
    fired = [world.message(b"%03d" % n) for n in range(100)]
    world.transport.room = None
    world.transport.turn()
    assert [len(f) for f in fired] == [1] + [0] * 99
    world.transport.turn()
    assert all(f == [None] for f in fired)
    assert bytes(world.transport.sent) == b"".join(b"%03d" % n for n in range(100))


def test_order():
    """Control frames overtake messages but split none; Close goes last; only the newest pong is sent."""
    world = World(room=0)
    world.outbox.send(b"A" * 20_000)
    world.outbox.send(b"B")
    world.outbox.control(b"<ping>")
    for n in range(3):
        world.outbox.pong(b"<pong%d>" % n)
    world.outbox.last(b"<close>")
    assert world.outbox.size == world.backlog.total - SLICE == 20_000 + 1 + 6 + 7 + 7 + 3 * CHARGE
    world.transport.room = None
    world.transport.settle()
    assert bytes(world.transport.sent) == b"A" * 20_000 + b"<pong2><ping>B<close>"
    assert world.outbox.written == 2


def test_lastWithNothingWaiting():
    """A Close with nothing before it goes out at once, and so does a control frame."""
    world = World()
    world.outbox.control(b"<ping>", Deferred())
    world.transport.settle()
    world.outbox.last(b"<close>")
    world.transport.settle()
    assert bytes(world.transport.sent) == b"<ping><close>"


def test_overflow():
    """Above the cap the owner is told, once per message; when nothing waits, one message of any size is taken."""
    world = World(cap=1000, room=0)
    world.message(b"x" * 5000)
    assert world.owner.said == []
    world.message(b"x")
    assert world.owner.said == [("overflowed", False)]
    world.outbox.control(b"<ping>")
    assert world.owner.said == [("overflowed", False)]


@pytest.mark.parametrize("awaited", [False, True])
def test_charges(awaited):
    """Small frames count with the memory that they take, so that the caps hold for them; nothing is left of it when they go."""
    world = World(cap=100_000, room=0)
    count = 0
    while not world.owner.said:
        (world.outbox.message if awaited else world.outbox.send)(b"x")
        count += 1
    assert count == 100_000 // (1 + (CHARGE_AWAITED if awaited else CHARGE)) + 2
    assert world.outbox.size == world.backlog.total == count + world.outbox.charges > 100_000
    world.transport.room = None
    world.transport.settle()
    assert (world.outbox.size, world.outbox.charges, world.backlog.total) == (0, 0, 0)
    world.transport.room = 0
    for _ in range(3):
        world.outbox.send(b"x")
    world.outbox.clear(CLOSED)
    assert (world.outbox.size, world.outbox.charges, world.backlog.total) == (1, 0, 1)


def test_eased():
    """The owner is told when less than its mark waits."""
    world = World(ease=10_000, room=0)
    for _ in range(3):
        world.message(b"x" * SLICE)
    for left in (2 * SLICE, SLICE):
        world.transport.room = SLICE
        world.transport.settle()
        assert world.outbox.size - world.outbox.charges == left
        assert world.owner.said == []
    world.transport.room = None
    world.transport.settle()
    assert world.owner.said == ["drained", "eased"]


def test_progress():
    """Progress is when the transport got bytes, or the kernel had taken them all."""
    world = World(room=0)
    world.message(b"x")
    world.wheel.after(Entry(), 60)  # it advances while anything is on it
    for seconds in (5, 7):
        world.clock.advance(seconds)
        assert world.outbox.progressAt == 0
    world.transport.room = None
    world.transport.settle()
    assert world.outbox.progressAt == world.wheel.now >= 11


def test_clear():
    """What waits is dropped and its Deferreds fail, but a frame that was begun is finished."""
    world = World(room=0)
    begun = world.message(b"A" * 20_000)
    waits = world.message(b"B")
    world.outbox.pong(b"<pong>")
    pinged = []
    handed = Deferred()
    handed.addErrback(lambda failure: pinged.append(str(failure.value)))
    world.outbox.control(b"<ping>", handed)
    world.outbox.clear(CLOSED)
    assert (waits, pinged, begun) == ([CLOSED_TEXT], [CLOSED_TEXT], [])
    assert world.outbox.size == world.backlog.total - SLICE == 20_000
    world.transport.room = None
    world.transport.settle()
    assert bytes(world.transport.sent) == b"A" * 20_000
    assert begun == [None]


@pytest.mark.parametrize("size", [10, 50_000])
def test_abandon(size):
    """When the transport is gone, every Deferred fails, nothing is held, and nothing more is written."""
    world = World(room=0)
    fired = [world.message(b"x" * size), world.message(b"y")]
    world.outbox.send(b"z")
    world.outbox.abandon(CLOSED)
    assert fired == [[CLOSED_TEXT], [CLOSED_TEXT]]
    assert world.outbox.size == world.backlog.total == 0
    world.outbox.stopProducing()


def test_nothingAfterAbandon():
    """Nothing is written to a transport that is gone, even if nothing waited."""
    world = World()
    world.outbox.abandon(CLOSED)
    world.outbox.control(b"<ping>")
    assert not world.transport.waiting


def test_abandonWithABegunFrameOfNobody():
    """A begun frame without a Deferred is dropped just as quietly."""
    world = World(room=0)
    world.outbox.send(b"z" * 50_000)
    world.outbox.abandon(CLOSED)
    assert world.outbox.size == 0


def test_begun():
    """The rest of a frame that the kernel took in part goes out before anything later."""
    world = World(room=0)
    world.begin(b"the rest")
    world.outbox.send(b"next")
    assert world.outbox.size == world.backlog.total == 8 + 4 + CHARGE
    world.transport.room = None
    world.transport.settle()
    assert bytes(world.transport.sent) == b"the restnext"


def test_release():
    """The transport can be closed when the outbox has let go of it."""
    world = World()
    world.message(b"x")
    world.transport.settle()
    world.transport.loseConnection()
    world.transport.protocol = type("Nobody", (), {"connectionLost": lambda self, reason: None})()
    world.transport.turn()
    assert not world.transport.closed
    world.outbox.release()
    world.transport.turn()
    assert world.transport.closed


def test_closedBelow():
    """A socket that TLS has begun to close does not wait for the outbox."""
    world = World()
    world.message(b"x")
    world.transport.disconnecting = True
    world.outbox.resumeProducing()
    assert world.transport.producer is None


def test_unasked():
    """A transport that asks while nothing is on its way gets nothing."""
    world = World()
    world.outbox.resumeProducing()
    assert world.owner.said == []


def test_writesFromACallback():
    """Code that writes the next message whenever one is sent is served in order, without recursion."""
    world = World()
    count = 0

    def more(_):
        nonlocal count
        count += 1
        if count < 5000:
            world.outbox.message(b"%d," % count).addCallback(more)

    world.outbox.message(b"0,").addCallback(more)
    for _ in range(6000):
        world.transport.turn()
    assert bytes(world.transport.sent) == b"".join(b"%d," % n for n in range(5000))


class Through(LaneServer):
    """A transport that passes on at once what its kernel has room for."""

    disconnecting = False

    def __init__(self):
        self.sender = None
        self.taken = bytearray()
        self.room = 10**9
        self.held = bytearray()

    def registerProducer(self, producer, streaming):
        self.producer = producer

    def writeNow(self, data):
        size = min(self.room, len(data))
        self.taken += data[:size]
        self.held += data[size:]
        self.room -= size
        return size == len(data)

    def unsent(self):
        return len(self.held)

    def go(self, room):
        self.room = room
        held, self.held = bytes(self.held), bytearray()
        if self.writeNow(held):
            self.producer.resumeProducing()


def test_writesThrough():
    """On a transport that writes at once, a Deferred has fired when the writing method returns, however large the frame."""
    world = World()
    transport = Through()
    outbox = Outbox(world.owner, transport, Wheel(world.clock), world.backlog, 100_000, 30_000)
    fired = []
    outbox.message(b"x" * 50_000).addCallback(fired.append)
    assert (fired, outbox.size, outbox.busy) == ([None], 0, False)
    transport.room = 20_000
    outbox.message(b"y" * 50_000).addCallback(fired.append)
    outbox.send(b"z")
    assert outbox.busy
    transport.go(10**9)
    assert fired == [None, None]
    assert bytes(transport.taken) == b"x" * 50_000 + b"y" * 50_000 + b"z"


def test_afterAnAnswer():
    """What the transport still holds from before goes first and is counted, and no frame goes straight out past it."""
    world = World()
    transport = Through()
    transport.room = 0
    transport.writeNow(b"the end of a page")
    outbox = Outbox(world.owner, transport, Wheel(world.clock), world.backlog, 100_000, 30_000)
    assert (outbox.size, outbox.sender.waiting) == (17, True)
    fired = []
    outbox.message(b"x").addCallback(fired.append)
    assert fired == []
    transport.go(10**9)
    assert fired == [None]
    assert bytes(transport.taken) == b"the end of a pagex"
    assert (outbox.size, outbox.sender.waiting, world.backlog.total) == (0, False, 0)


@pytest.mark.parametrize("rest", [[], [b"c" * 20_000]])
def test_writesFromACallbackThrough(rest):
    """On a transport that writes at once, what a Deferred's callback writes comes after what already waits."""
    world = World()
    transport = Through()
    outbox = Outbox(world.owner, transport, Wheel(world.clock), world.backlog, 100_000, 30_000)
    transport.room = 0
    outbox.send(b"a" * 20_000)
    outbox.message(b"b").addCallback(lambda _: outbox.send(b"d"))
    for frame in rest:
        outbox.send(frame)
    transport.go(10**9)
    assert bytes(transport.taken) == b"a" * 20_000 + b"b" + b"".join(rest) + b"d"


def test_askedWhileGiving():
    """A transport that asks for more from inside its write never gets bytes out of order."""
    world = World()

    class Asking(MemoryTransport):
        def write(self, data):
            super().write(data)
            self.turn()

    transport = Asking()
    outbox = Outbox(world.owner, transport, Wheel(world.clock), world.backlog, 10**9, 30_000)
    fired = []
    outbox.message(b"a" * 50_000).addCallback(fired.append)
    outbox.send(b"b")
    assert bytes(transport.sent) == b"a" * 50_000 + b"b"
    assert fired == [None]
    assert outbox.size == 0


def test_backlog():
    """Above the limit for all together the largest gives way, then the next, until the limit holds."""
    backlog = Backlog(100_000 + 3 * SLICE)  # a frame that was begun is held until its end
    worlds = [World(room=0, backlog=backlog, cap=10**9) for _ in range(3)]
    for world in worlds:
        world.owner.onOverflow = lambda world=world: world.outbox.abandon(CLOSED)
    for world, size in zip(worlds, (30_000, 50_000, 20_000), strict=True):
        world.outbox.send(b"x" * size)
    assert [world.owner.said for world in worlds] == [[], [], []]
    worlds[2].outbox.send(b"x")
    assert [world.owner.said for world in worlds] == [[], [("overflowed", True)], []]
    assert backlog.total == 50_001 + CHARGE + 2 * SLICE


def test_backlogThatCannotShrink():
    """If giving way frees nothing (a large frame was begun), each is asked once, and that is all."""
    backlog = Backlog(10)
    worlds = [World(room=0, backlog=backlog) for _ in range(2)]
    worlds[0].outbox.send(b"x" * 8)
    worlds[1].outbox.send(b"x" * 8)
    assert [world.owner.said for world in worlds] == [[("overflowed", True)], [("overflowed", True)]]


def test_quietFailures():
    """A failed write that nobody handles is not reported; one that is handled has its error."""
    with capturedLogs() as logs:
        failedWrite(CLOSED)
        failedWrite(CLOSED, Deferred())
        gc.collect()
    assert logs == []
    found = []
    failedWrite(CLOSED).addErrback(lambda failure: found.append(failure.value))
    assert found == [CLOSED]


@given(
    st.lists(
        st.tuples(st.sampled_from(["message", "send", "control", "pong", "room", "turn"]), st.integers(0, 40_000)), max_size=40
    )
)
def test_anyOrder(moves):
    """However writes and the kernel alternate, no frame is split or lost, and exactly what waits is counted."""
    world = World(room=0, cap=10**9, total=10**9)
    messages, controls, fired = [], [], []
    for n, (move, size) in enumerate(moves):
        if move == "room":
            world.transport.room = size
        elif move == "turn":
            world.transport.turn()
        elif move == "pong":
            world.outbox.pong(b"P%06d" % 0)
        else:
            frame = b"%s%06d" % (b"C" if move == "control" else b"M", size % 1000) + bytes([n]) * (size % 1000)
            if move == "message":
                world.outbox.message(frame).addCallback(fired.append)
                messages.append(frame)
            elif move == "send":
                world.outbox.send(frame)
                messages.append(frame)
            else:
                world.outbox.control(frame)
                controls.append(frame)
        assert world.outbox.size == world.backlog.total
        assert len(world.transport.waiting) <= SLICE
    world.transport.room = None
    world.transport.settle()
    rest, found = bytes(world.transport.sent), {b"M": [], b"C": [], b"P": []}
    while rest:
        size = 7 + int(rest[1:7])
        found[rest[:1]].append(rest[:size])
        rest = rest[size:]
    assert found[b"M"] == messages
    assert found[b"C"] == controls
    assert len(fired) == sum(move == "message" for move, _ in moves)
    assert world.outbox.size == world.outbox.charges == world.backlog.total == 0
    assert not world.outbox.busy


# What a finaliser may do, in the middle of what else is done.
OTHERS = ["message", "send", "control", "pong", "last", "clear", "abandon", "taken"]


@pytest.mark.parametrize("inner", OTHERS)
@pytest.mark.parametrize("outer", [*OTHERS, "begun"])
def test_interrupted(outer, inner):
    """Whatever happens in the middle of anything, no frame is split or lost, each Deferred fires once, and all is counted."""
    came = True
    for number in MOMENTS:
        if not came:
            break
        world = World(room=0, cap=10**9, total=10**9)
        fired, frames = [], []

        def act(what, world=world, fired=fired, frames=frames):
            frame = b"%06d" % len(frames) + b"x" * 20_000
            if what in ("message", "send", "control", "last"):
                frames.append(frame)
            if what == "message":
                index = len(frames) - 1
                world.outbox.message(frame).addCallbacks(lambda _: fired.append(index), lambda _: fired.append(index))
            elif what in ("send", "control", "last"):
                getattr(world.outbox, what)(frame)
            elif what == "pong":
                world.outbox.pong(b"pong")
            elif what in ("clear", "abandon"):
                getattr(world.outbox, what)(CLOSED)
            elif what == "taken":
                world.transport.room = 30_000
                world.transport.turn()
                world.transport.room = 0
            elif what == "begun":
                frames.append(frame)
                world.begin(frame)

        if outer in ("clear", "abandon", "taken"):
            for what in ("message", "send", "control", "message"):
                act(what)
        with collectAt(number, lambda inner=inner, act=act: act(inner)) as moment:
            act(outer)
        came = moment.came
        assert world.backlog.total == world.outbox.counted
        act("message")
        world.transport.room = None
        world.transport.settle()
        sent, found = bytes(world.transport.sent).replace(b"pong", b""), []
        while sent:
            index = int(sent[:6])
            if sent[:20_006] != frames[index][: len(sent)]:
                pytest.fail(f"frame {index} is split at moment {number}")
            if len(sent) >= 20_006:
                found.append(index)
            sent = sent[20_006:]
        dropped = "clear" in (outer, inner) or "abandon" in (outer, inner)
        if not dropped:
            assert sorted(found) == list(range(len(frames)))
        assert len(found) == len(set(found))
        assert len(fired) == len(set(fired))
        assert len(frames) - 1 in fired
        assert (world.outbox.size, world.outbox.charges, world.outbox.counted, world.backlog.total) == (0, 0, 0, 0)


def test_writingFails():
    """If writing fails halfway, the connection ends, for it is unknown how much went; the code that wrote continues."""
    world = World()

    class Broken(MemoryTransport):
        def write(self, data):
            super().write(data[:3])
            raise MemoryError

        def abortConnection(self):
            self.aborted = True

    transport = Broken()
    outbox = Outbox(world.owner, transport, Wheel(world.clock), world.backlog, 10**9, 30_000)
    with capturedLogs() as logs:
        outbox.send(b"frame")
    assert transport.aborted
    assert len(logs) == 1
