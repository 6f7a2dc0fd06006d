"""What a peer has not taken yet.

Twisted's transports take any number of bytes and never refuse (only a registered producer learns that they pile up), and one
that holds a megabyte for a slow peer cannot give any of it back. So the transport has at most one small slice at any time; the
rest waits here, where it can be counted, overtaken by a ping, and dropped.

Creating an object or calling a function may run the garbage collector, and with it a finaliser that writes to this very
connection. So a frame is counted before it is queued, and only `_pump`, which never runs inside itself, takes from the queues
and gives to the transport: whatever comes meanwhile waits in a queue, in order, and goes out in its loop. No statement between a
look at the state and the change that relies on it calls anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.backlog import Backlog
from twisted_ws.wire.loop.transports import innermost
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.speedups import Sender

# Bytes given to the transport at once when it is behind. Progress shows one slice at a time, so a peer must take one slice per
# write deadline (16 KiB in 30 s: 546 bytes a second) or it counts as dead.
SLICE = 16 * 1024

# The charge for a queued frame besides its bytes, without and with a Deferred: the size of the Python objects around it, so that
# even the smallest messages take no more memory than the caps allow.
CHARGE = 112
CHARGE_AWAITED = 288


_log = Logger()

# In place of a queue that is not needed yet: an empty deque takes 600 bytes, and most connections never wait.
_NOTHING: deque[tuple[bytes, Deferred[None] | None]] = deque(maxlen=0)


class OutboxOwner(Protocol):
    """The owner of an outbox: the connection."""

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Too much waits: the outbox is over its cap, or (`atOnce`) it is the largest while all together are over theirs."""

    def outboxDrained(self) -> None:
        """The kernel has taken everything."""

    def outboxEased(self) -> None:
        """Less than `Limits.replyBuffer` waits; called after each slice while anything is left."""


class _Nobody:
    """The owner of an outbox that has ended."""

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Nothing waits."""

    def outboxDrained(self) -> None:
        """Nothing waits."""

    def outboxEased(self) -> None:
        """Nothing waits."""


_NOBODY: OutboxOwner = _Nobody()


class _Quiet:
    """Replaces what a Deferred uses to report an unhandled failure: reports nothing."""

    failResult: Failure | None = None


def failedWrite(error: ConnectionClosed, waiter: Deferred[Any] | None = None) -> Deferred[Any]:
    """Fail `waiter` (or a new Deferred) with `error`, without an "Unhandled error in Deferred" if nobody handles it.

    Most callers write and forget; onClose tells them that the peer has gone.
    """
    waiter = Deferred() if waiter is None else waiter
    waiter._debugInfo = _Quiet()  # type: ignore[assignment]  # no public way; tests/wire/websocket/test_outbox.py holds it
    waiter.errback(Failure(error))
    return waiter


@implementer(IPullProducer)
class Outbox:
    """The frames for one peer, in order; control frames overtake messages, but never split a frame.

    Attributes:
        owner: told of overflow, drain and ease.
        size: bytes that wait, including those with the transport, and `charges`.
        charges: what the queued frames are charged on top of their bytes.
        counted: everything held for this peer: `size`, what `keep` adds, and the sent part of a frame whose rest still waits.
        progressAt: when the transport last got bytes, or had passed them all on (the wheel's seconds).
        sender: sends frames straight to the socket when nothing waits.
        isAwaited: whether the owner waits for ease or drain. The owner sets it before it looks at `size`: either may already
            have happened, or may happen without a call from the transport when everything is taken at once.
        busy: whether the transport has bytes that the kernel has not taken, or nothing is written any more.
        written: the number of messages and control frames that the service has written.
    """

    __slots__ = (
        "_backlog",
        "_cap",
        "_control",
        "_ease",
        "_ended",
        "_give",
        "_gone",
        "_held",
        "_inFlight",
        "_kept",
        "_messages",
        "_partial",
        "_pong",
        "_pumping",
        "_socket",
        "_waiters",
        "_wheel",
        "busy",
        "charges",
        "counted",
        "isAwaited",
        "owner",
        "progressAt",
        "sender",
        "size",
        "written",
    )

    def __init__(self, owner: OutboxOwner, transport: Any, wheel: Wheel, backlog: Backlog, cap: int, ease: int) -> None:
        """Take over the writing side of `transport`.

        Args:
            owner: told of overflow, drain and ease.
            transport: an `ITransport` and `IConsumer` without a producer.
            wheel: its clock.
            backlog: counts for the whole server.
            cap: above this many bytes `owner` is told of overflow.
            ease: below this many bytes `owner` is told of ease.
        """
        self.owner = owner
        self._wheel = wheel
        self._backlog = backlog
        self._cap = cap
        self._ease = ease
        self._messages = self._control = _NOTHING  # a deque each once it is needed
        self._pong: bytes | None = None
        self._partial: tuple[memoryview, Deferred[None] | None] | None = None
        self._waiters: Sequence[Deferred[None]] = ()
        self._inFlight = 0
        self._gone = 0  # sent bytes of the partial frame, whose memory is held until the last one has gone
        self._kept = 0
        self._pumping = False
        self._held = False
        self._ended: ConnectionClosed | None = None  # why nothing is written any more
        self.size = 0
        self.counted = 0
        self.charges = 0
        self.progressAt = wheel.now
        self.busy = False
        self.isAwaited = False
        self.written = 0
        # A transport asks a pull producer for more once the kernel has taken everything, which shows what was handed over.
        # The producer goes below TLS, which would itself keep asking forever; it holds no bytes back once its handshake is done.
        self._give: Callable[[bytes], Any]
        if isinstance(transport, LaneServer):
            self._socket: Any = transport
            self.sender = transport.sender or Sender()
            self._give = transport.writeNow  # returns whether the kernel took everything
            unsent = transport.unsent()
        else:
            self._socket = innermost(transport)
            self.sender = Sender()
            self._give = transport.write
            unsent = 0
        self._socket.registerProducer(self, False)
        if unsent:
            # The end of an HTTP response before the handshake goes first, like a slice of ours.
            self.busy = True
            self._inFlight = unsent
            self._count(unsent)

    def message(self, frame: bytes) -> Deferred[None]:
        """Send a frame from the service; see `Caller.writeTextMessage` for the Deferred."""
        self.written += 1
        waiter: Deferred[None] = Deferred()
        self._enqueue(False, frame, waiter)
        return waiter

    def send(self, frame: bytes) -> None:
        """Send a frame from the service without a Deferred, as for a broadcast or a returned value."""
        self.written += 1
        self._enqueue(False, frame, None)

    def hold(self, held: bool) -> None:
        """Send nothing straight out, because something elsewhere has to go first; False: do so again."""
        self._held = held
        if held:
            self.isAwaited = True
        self.sender.waiting = self.size > 0 or held

    def keep(self, by: int) -> None:
        """Count `by` more bytes that are held elsewhere for this peer, or fewer if negative."""
        self._kept += by
        self._count(0)

    def giveWay(self) -> None:
        """Tell the owner: this outbox is the largest, and all together are over their limit (see `Backlog`)."""
        self.owner.outboxOverflowed(True)

    def waiting(self) -> int:
        """Return how many bytes wait behind the frame that is being written, including `charges`."""
        return self.size - self._inFlight - (len(self._partial[0]) if self._partial else 0)

    def goOn(self) -> None:
        """Send the rest of a frame that `sender` has begun."""
        self._pump()
        self._backlog.relieve()

    def control(self, frame: bytes, waiter: Deferred[None] | None = None) -> None:
        """Send a control frame before all messages that wait."""
        self._enqueue(True, frame, waiter)

    def last(self, frame: bytes) -> None:
        """Send a Close frame after all messages that wait; the owner sends nothing after it."""
        self._enqueue(False, frame, None)

    def pong(self, frame: bytes) -> None:
        """Answer a ping; of several waiting pongs, only the newest is sent (RFC 6455 section 5.5.3)."""
        if self._ended is not None:
            return
        self._count(len(frame))
        former, self._pong = self._pong, frame
        self._count(-len(former or b""))
        self._backlog.relieve()
        self._pump()

    def clear(self, error: ConnectionClosed) -> None:
        """Drop what waits, except the rest of a frame that was begun; the Deferreds of dropped frames fail with `error`."""
        pong, self._pong = self._pong, None
        dropped = [*_emptied(self._control), *_emptied(self._messages)]
        charges = sum([_charge(waiter) for _, waiter in dropped])
        self._uncharge(charges)
        self._count(-charges - len(pong or b"") - sum([len(frame) for frame, _ in dropped]))
        for _, waiter in dropped:
            if waiter is not None:
                failedWrite(error, waiter)

    def abandon(self, error: ConnectionClosed) -> None:
        """Drop everything, because the transport is gone; every waiting Deferred fails with `error`."""
        if self._ended is None:
            self._ended = error
        self.busy = True
        if not self._pumping and (self.size or self.sender.begun):
            self._drop(self._ended)

    def end(self, error: ConnectionClosed) -> None:
        """Call `abandon` for the last time, and forget the owner."""
        self.abandon(error)
        self.owner = _NOBODY

    def release(self) -> None:
        """Give the writing side back, so that the transport can be closed."""
        self._socket.unregisterProducer()

    # Hand-over to another process.

    @property
    def isWriting(self) -> bool:
        """Whether something is being given to the transport at this moment, or is not written any more."""
        return self._pumping or self._ended is not None

    def depart(self, unsent: bytes, error: ConnectionClosed) -> bytes:
        """Return all bytes that wait, for another outbox, and give the transport up; the Deferreds of frames fail with `error`.

        Args:
            unsent: what the transport has, and the kernel has not.
            error: why nothing is written here any more.
        """
        self._ended = error
        self.busy = True
        self.sender.open = False
        parts: list[bytes | memoryview] = [unsent, (self.sender.rest() or b"") if self.sender.begun else b""]
        waiters: list[Deferred[None] | None] = [*self._waiters]
        partial = () if self._partial is None else (self._partial,)
        for data, waiter in (*partial, (self._pong or b"", None), *self._control, *self._messages):
            parts.append(data)
            waiters.append(waiter)
        self._waiters, self._partial, self._pong = (), None, None
        self._control = self._messages = _NOTHING
        self._inFlight = self.charges = 0
        self.sender.restNoted()
        self._endPartial()
        self._count(-self.size)
        self.keep(-self._kept)
        self.owner = _NOBODY
        for waiter in waiters:
            if waiter is not None:
                failedWrite(error, waiter)
        return b"".join(parts)

    def arrive(self, data: bytes) -> None:
        """Send what another outbox had, before anything else: it may begin in the middle of a frame."""
        if data:
            self._partial = memoryview(data), None
            self._count(len(data))
            self._pump()

    # IPullProducer.

    def resumeProducing(self) -> None:
        """The kernel has taken everything that the transport had."""
        if self._socket.disconnecting:
            # TLS has ended below us, and the socket waits for its producer to leave.
            self.release()
            return
        if not self.busy:
            return
        self._taken()
        if self._pumping:
            return  # it was taken at once: the loop that gave it continues
        self.isAwaited = True
        self._pump()

    def _tell(self) -> None:
        """Tell the owner about drain and ease; it does not matter how often."""
        if self.size == 0:
            self.isAwaited = False
            self.owner.outboxDrained()
        if self.size < self._ease:
            self.owner.outboxEased()
        if self._held:
            self.isAwaited = True  # something still waits elsewhere

    def stopProducing(self) -> None:
        """The transport is gone; the owner's connectionLost calls `end`."""

    # The way to the transport.

    def _count(self, more: int) -> None:
        """Count bytes and charges that came, or (negative) went."""
        self.size += more  # no call and no new object between reading and writing: a finaliser may count, too
        if self.size < 0:
            self.size = 0  # everything was dropped while something was subtracted
        self.sender.waiting = self.size > 0 or self._held
        while self.counted != (count := self.size + self._kept):  # a finaliser may change it before it is noted
            self._backlog.note(self, count)

    def _uncharge(self, charges: int) -> None:
        self.charges -= charges
        if self.charges < 0:
            self.charges = 0  # as `_count`

    def _enqueue(self, urgent: bool, frame: bytes, waiter: Deferred[None] | None) -> None:
        entry, charge, before = (frame, waiter), _charge(waiter), self.size
        empty: deque[tuple[bytes, Deferred[None] | None]] = deque()
        try:
            self._count(len(frame) + charge)
            if self._ended is not None:
                self._count(-self.size)
                if waiter is not None:
                    failedWrite(self._ended, waiter)
                return
            self.charges += charge
            if urgent:
                if self._control is _NOTHING:
                    self._control = empty
                self._control.append(entry)
            else:
                if self._messages is _NOTHING:
                    self._messages = empty
                self._messages.append(entry)
            if not self.busy:
                self._pump()
            self._backlog.relieve()
            # A message of any size is taken when nothing waits; the cap limits what piles up.
            if before and self.counted > self._cap and not urgent:
                self.owner.outboxOverflowed(False)
        except MemoryError:
            self._break()
            raise

    def _taken(self) -> None:
        """Note that the kernel has what the transport was given."""
        self.progressAt = self._wheel.now
        waiters, size = self._waiters, self._inFlight
        self._waiters = ()
        self._inFlight = 0
        self.busy = self._ended is not None
        self._count(-size)
        for waiter in waiters:
            waiter.callback(None)

    def _pump(self) -> None:
        """Give the transport slices until it is behind or nothing waits."""
        if self._pumping:
            return  # a Deferred that fired, or a finaliser, wrote more: the running loop takes it
        try:
            self._pumping = True
            try:
                while not self.busy and self._adopt() and self.size:
                    chunk, waiters = self._slice()
                    size = len(chunk)
                    if not size:
                        if self._control or self._messages or self._pong is not None:
                            continue  # queued just now
                        break  # counted, but not queued yet
                    self._waiters = waiters
                    self._inFlight = size
                    self.busy = True
                    self.progressAt = self._wheel.now
                    if self._give(chunk):
                        self._taken()
            finally:
                self._pumping = False
                if self._ended is not None:
                    self._drop(self._ended)
            if self.isAwaited and self._ended is None:
                self._tell()
        except Exception:
            self._break()  # others that are sent the same message must still get it

    def _break(self) -> None:
        """End the connection: memory ran short, so it is unknown how much of a frame has gone, and who was told.

        The end comes in a separate turn; until then nothing is sent.
        """
        self.busy = True
        self.sender.open = False
        self._socket.abortConnection()
        _log.failure("a connection failed inside the server while it wrote", event="connection.broken")

    def _adopt(self) -> bool:
        """Take over the rest of a frame that `sender` has begun; return whether what waits may follow."""
        if not self.sender.begun:
            return True
        rest = self.sender.rest()
        if rest is None:
            return False  # it is being sent at this moment, and the code that sends it continues
        self._partial = memoryview(rest), None
        self._count(len(rest))
        self.sender.restNoted()
        return True

    def _endPartial(self) -> None:
        self._partial = None
        gone, self._gone = self._gone, 0
        self._kept -= gone

    def _slice(self) -> tuple[bytes, list[Deferred[None]]]:
        """Take the next bytes: the rest of the frame that was begun, then control frames, then messages."""
        parts: list[bytes | memoryview] = []
        waiters: list[Deferred[None]] = []
        room, charged = SLICE, 0
        while room > 0:
            if self._partial is None:
                if self._pong is not None:
                    pong, self._pong = self._pong, None
                    self._partial = (memoryview(pong), None)
                else:
                    entry = _first(self._control) or _first(self._messages)
                    if entry is None:
                        break
                    frame, waiter = entry
                    self._partial = (memoryview(frame), waiter)
                    charged += _charge(waiter)
            rest, waiter = self._partial
            parts.append(rest[:room])
            if len(rest) > room:
                self._partial = (rest[room:], waiter)
                self._gone += room
                self._kept += room
                break
            room -= len(rest)
            self._endPartial()
            if waiter is not None:
                waiters.append(waiter)
        if not self._control:
            self._control = _NOTHING
        if not self._messages:
            self._messages = _NOTHING
        self._uncharge(charged)
        self._count(-charged)
        return (bytes(parts[0]) if len(parts) == 1 else b"".join(parts)), waiters

    def _drop(self, error: ConnectionClosed) -> None:
        """Drop everything; `_pump` must not be running."""
        waiting, self._waiters = self._waiters, ()
        waiters = [*waiting]
        partial, self._partial = self._partial, None
        self._endPartial()
        self._inFlight = 0
        self.sender.restNoted()
        self.clear(error)
        self._count(-self.size)
        if partial is not None and partial[1] is not None:
            waiters.append(partial[1])
        for waiter in waiters:
            failedWrite(error, waiter)


def _emptied(queue: deque[tuple[bytes, Deferred[None] | None]]) -> Iterator[tuple[bytes, Deferred[None] | None]]:
    """Remove the entries of a queue one by one, so that code that does the same meanwhile gets others."""
    while (entry := _first(queue)) is not None:
        yield entry


def _first(queue: deque[tuple[bytes, Deferred[None] | None]]) -> tuple[bytes, Deferred[None] | None] | None:
    """Remove the first entry of a queue; None if there is none, even if only since just now."""
    try:
        return queue.popleft() if queue else None
    except IndexError:
        return None


def _charge(waiter: Deferred[None] | None) -> int:
    return CHARGE if waiter is None else CHARGE_AWAITED
