"""Frames between a supervisor and one of its workers, over a stream that both have from birth.

A frame is a length of four bytes and a msgpack array: its kind, a str, and the fields of that kind. All frames of one direction
arrive in the order in which they were sent; that order is a promise that engines build on.
"""

from __future__ import annotations

import functools
import inspect
import struct
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from types import MethodType
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.errors import ChannelError
from twisted_ws.limits import KIB, MIB
from twisted_ws.wire.loop.turns import Turns

# Bytes of one frame, at most: the largest message by default, and whatever else is in its frame, several times over. More is for
# `Link.largest`; a length beyond it is not waited for, because it is garbage.
LARGEST = 16 * MIB
# Bytes that the other side may leave unread before the link is dropped: it has stopped, or will never keep up. What the kernel
# holds, some 200 KiB, is not counted.
UNREAD = 64 * MIB
# The same after which no more large answers are made until it has read some: they would only wait, and drop the link in the end.
BUSY = 2 * MIB
# Bytes that are given to a transport at once, so the rest stays counted here. As many as Twisted sends in one call.
SLICE = 128 * KIB
# Bytes of frames that are joined while a read goes on, before they are written even so.
JOINED = 64 * KIB
# Fields that share one frame, at most: for each the other side may have work to do, and a frame is handled in one go.
TOGETHER = 128
# From this size on a frame is decoded where it is and not copied first.
LARGE = 4 * KIB
# Bytes of a frame that cost another step of `Turns`.
STEP_BYTES = 4 * KIB

_HEAD = 4

# The kinds that answer a request, and the one that says that it needs no answer any more.
_ANSWER = "="
_REFUSAL = "!"
_CANCEL = "-"
# The kinds by which a hub that is about to move to another process makes the other side hold back what it would send, and go on;
# and what it does send meanwhile: what it still owes.
_HOLD = "hold"
_GO_ON = "goOn"
_OWED = (_ANSWER, _REFUSAL, _GO_ON, "ack")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[Any, ...]).decode
_SIZE = struct.Struct(">I").unpack_from


def frameOf(kind: str, *fields: Any) -> bytes:
    """Return a frame as bytes, to send it over several links with `Link.sendFrame`.

    Raises:
        TypeError: msgpack has no form for one of the fields.
    """
    body = _encode((kind, *fields))
    return len(body).to_bytes(_HEAD, "big") + body


@implementer(IPullProducer)
class Link(Protocol):
    """One end of a stream between a supervisor and a worker, on any stream transport of Twisted.

    Handlers must be there before the other side can send their kind: an unknown kind drops the link, as anything does that
    cannot be read. What a handler raises is a bug here; it is logged, and the link goes on.

    Frames that are sent by handlers are written together when everything that has arrived is handled; all others are written at
    once. Frames are handled for at most a turn of `turns`; then reading pauses until the next one.

    Args:
        turns: the budget of the reactor.
        name: the other side, in the log.

    Attributes:
        turns: as given; may be replaced.
        name: as given; may be replaced.
        largest: bytes of one frame, at most; may be raised.
        mostUnread: see `UNREAD`.
        isUp: whether it is connected, and not dropped.
        unread: bytes that the other side has not taken.
        heard: when something last came (the reactor's seconds).
        whyDropped: why this side has dropped it; None if it has not.
    """

    transport: Any

    _log = Logger()

    def __init__(self, turns: Turns, name: str) -> None:
        self.turns = turns
        self.name = name
        self.largest = LARGEST
        self.mostUnread = UNREAD
        self.isUp = False
        self.unread = 0
        self.heard = 0.0
        self.whyDropped: str | None = None
        # By kind: the handler, how long its frames are at least and at most, and whether it is asked for an answer.
        self._handlers: dict[str, tuple[Callable[..., Any], int, int, bool]] = {}
        self._large: dict[str, Callable[..., bool]] = {}  # the kinds whose answers may be large, and which of them are
        # Requests of these for later, by number. In a plain dict, finding the first steps over all that were removed.
        self._postponed: OrderedDict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = OrderedDict()
        self._isCalled = False  # whether their turn comes
        self._written = 0  # bytes of all that was ever written
        self._end = 0  # of the last large answer, in these
        self.handle(_ANSWER, self._answered)
        self.handle(_REFUSAL, self._refused)
        self.handle(_CANCEL, self._cancelled)
        self.answer(_HOLD, self._hold)
        self.handle(_GO_ON, self._release)
        self._held: list[bytes] | None = None  # frames that are held back; None: none are
        self._isMoving = False  # whether even what is owed is
        self._asked = 0  # requests of the other side that are being answered
        self._requests: dict[int, Deferred[Any]] = {}
        self._seq = 0
        self._lost: list[Callable[[], object]] = []
        self._isLost = False
        # What came and is not handled yet.
        self._came: list[bytes] = []
        self._cameSize = 0
        self._wanted = _HEAD  # bytes that are needed before there is anything to do
        self._isReading = False
        self._isPaused = False
        # What goes out: frames of this read, fields that join one frame at its end, and what the kernel has not taken.
        self._joined: list[bytes] = []
        self._joinedSize = 0
        self._fields: dict[str, list[Any]] = {}
        self._waiting: deque[bytes | memoryview] = deque()
        self._sliced = 0  # bytes that the transport has
        self._isProducing = False
        self._writeSome: Callable[[bytes], int | Exception] | None = None

    # What the two sides do.

    def handle(self, kind: str, handler: Callable[..., object]) -> None:
        """Call `handler` with the fields of each frame of a kind; the number of its parameters is checked."""
        self._handlers[kind] = (handler, *_lengths(handler, 1), False)

    def answer(self, kind: str, handler: Callable[..., Any], isLarge: Callable[..., bool] | None = None) -> None:
        """Call `handler` with the fields of each `request` of a kind; it returns what is answered, or a Deferred of that.

        It refuses with a `ChannelError`, which the other side gets as it is. Where `isLarge` says of the same fields that the
        answer is large, a request waits while the other side has much to read, earlier large answers among it; other requests
        overtake it.
        """
        if isLarge is not None:
            self._large[kind] = isLarge
        self._handlers[kind] = (handler, *_lengths(handler, 2), True)

    def onLost(self, call: Callable[[], object]) -> None:
        """Call this when the link has ended, for whatever reason; at once if it has already."""
        if self._isLost:
            call()
        else:
            self._lost.append(call)

    def send(self, kind: str, *fields: Any) -> None:
        """Send a frame; do nothing if the link is not up.

        Raises:
            TypeError: msgpack has no form for one of the fields.
            ChannelError: "too-large": more than `largest` bytes.
        """
        self._sendOrHold(kind, frameOf(kind, *fields))

    def _sendOrHold(self, kind: str, frame: bytes) -> None:
        if self._held is None or self._isMoving or kind in _OWED or not self.isUp:
            self.sendFrame(frame)
            return
        self._checkSize(frame)
        self._held.append(frame)
        self.unread += len(frame)
        if self.unread > self.mostUnread:
            self.drop(f"{self.unread} bytes wait until it can be sent anything again")

    def _checkSize(self, frame: bytes) -> None:
        if len(frame) - _HEAD > self.largest:
            raise ChannelError("too-large", f"A message between processes has at most {self.largest} bytes.")

    def sendFrame(self, frame: bytes) -> None:
        """Send what `frameOf` has made; see `send`."""
        self._checkSize(frame)
        if self._isMoving and self._held is not None:
            self._held.append(frame)
            return
        if not self._isReading:
            self._write(frame)
            return
        self._joined.append(frame)
        self._joinedSize += len(frame)
        if self._joinedSize > JOINED:
            self._flush()

    def sendTogether(self, kind: str, *fields: Any) -> None:
        """Send fields that may share one frame with others of the kind: handlers send many as one, after other frames."""
        if not self._isReading:
            self.send(kind, *fields)
            return
        some = self._fields.setdefault(kind, [])
        some += fields
        if len(some) >= TOGETHER:
            del self._fields[kind]
            self.send(kind, *some)

    def request(self, kind: str, *fields: Any) -> Deferred[Any]:
        """Send a frame whose handler answers; return a Deferred of that.

        It fails with a `ChannelError`: what the other side refused with; "unavailable" if the link ends first or is not up. A
        Deferred that is cancelled leaves nothing behind here, and a large answer is not made if it is not yet; but the other side
        may have done what it was asked for.
        """
        if not self.isUp:
            return fail(self._unavailable())
        self._seq = seq = self._seq + 1
        frame = frameOf(kind, seq, *fields)
        later: Deferred[Any] = Deferred(partial(self._forget, seq))
        self._requests[seq] = later
        try:
            self._sendOrHold(kind, frame)
        except ChannelError:
            del self._requests[seq]
            return fail(Failure())
        return later

    def close(self) -> None:
        """End the link once everything that was sent is written."""
        if self.isUp:
            self._flush()
            self.isUp = False
            self.transport.loseConnection()

    def drop(self, why: str) -> None:
        """End the link at once, and say why in the log."""
        if self.isUp:
            self.isUp = False
            self.whyDropped = why
            self._log.error("the link to {name} is dropped: {reason}", name=self.name, reason=why, event="hub.dropped")
            self.transport.abortConnection()

    # The move of a hub to another process.

    def hold(self) -> Deferred[None]:
        """Ask the other side to send nothing of its own accord until `goOn`; the Deferred fires when all before that has come."""
        return self.request(_HOLD)

    def goOn(self) -> None:
        """End that."""
        self.send(_GO_ON)

    def _hold(self) -> None:
        if self._held is None:
            self._held = []

    def _release(self) -> None:
        held, self._held = self._held or [], None
        self.unread = max(self.unread - sum(map(len, held)), 0)
        for each in held:
            self.sendFrame(each)

    @property
    def isQuiet(self) -> bool:
        """Whether nothing is on its way in either direction: no request without its answer, and no byte that is not read."""
        waits = self._requests or self._asked or self._postponed or self._came or self._joined or self._fields
        return not (waits or self.unread or self._isPaused or self._isReading)

    def pause(self) -> None:
        """Neither read nor write until `resume`: another process may use the stream now."""
        self._isMoving, self._held = True, []
        self.transport.pauseProducing()

    def resume(self) -> None:
        """End that: what was sent meanwhile goes now."""
        held, self._isMoving, self._held = self._held or [], False, None
        if self.isUp:
            self.transport.resumeProducing()
            for each in held:
                self.sendFrame(each)

    # What the transport does.

    def connectionMade(self) -> None:
        """Begin; called by the transport."""
        self.isUp = True
        self.heard = self.turns.seconds()
        self._writeSome = getattr(self.transport, "writeSomeData", None)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]  # Twisted gives a default that nobody needs
        """End, and fail what waits for answers; called by the transport."""
        self.isUp = False
        self._isLost = True
        self._came, self._cameSize, self._wanted = [], 0, sys.maxsize
        self._waiting.clear()
        self._joined, self._fields, self._held = [], {}, None
        self._postponed.clear()
        self.unread = 0
        calls, self._lost = self._lost, []
        requests, self._requests = self._requests, {}
        for call in calls:
            try:
                call()
            except Exception:
                self._log.failure("the end of the link to {name} was not handled", name=self.name, event="hub.broken")
        for later in requests.values():
            later.errback(self._unavailable())

    # Reading.

    def dataReceived(self, data: bytes) -> None:
        """Handle the frames that are complete; called by the transport."""
        self.heard = self.turns.seconds()
        if self._came or self._isReading or self._isPaused:
            self._came.append(data)
            self._cameSize += len(data)
            if self._cameSize < self._wanted or self._isReading or self._isPaused:
                return
            data = self._taken()
        self._read(data)

    def _goOn(self) -> None:
        self._isPaused = False
        if self.isUp and not self._isReading:
            self._read(self._taken())
        if self.isUp and not self._isPaused:
            self.transport.resumeProducing()

    def _taken(self) -> bytes:
        came, self._came, self._cameSize = self._came, [], 0
        return came[0] if len(came) == 1 else b"".join(came)

    def _read(self, data: bytes) -> None:
        turns = self.turns
        begun = turns.begin()
        self._isReading = True
        try:
            self._handleAll(data)
            while self._cameSize >= self._wanted and self.isUp and not self._isPaused:
                self._handleAll(self._taken())  # it has come while a handler ran the reactor
        finally:
            self._isReading = False
            if begun:
                turns.end()
            if self._joined or self._fields:
                self._flush()

    def _handleAll(self, data: bytes) -> None:
        """Handle the frames in `data`, and keep what is not whole or has to wait for the next turn."""
        at, end, turns, handlers = 0, len(data), self.turns, self._handlers
        while True:
            begin = at + _HEAD
            if begin > end:
                self._wanted = _HEAD
                break
            size = _SIZE(data, at)[0]
            if size > self.largest:
                self.drop(f"it sent a frame of {size} bytes, and {self.largest} are allowed")
                return
            after = begin + size
            if after > end:
                self._wanted = _HEAD + size
                break
            if at and turns.isOver(0):
                self._wanted = _HEAD
                self._isPaused = True
                break
            at = after
            try:
                frame = _decode(data[begin:after] if size < LARGE else memoryview(data)[begin:after])
                handler, least, most, isAsked = handlers[frame[0]]
            except (msgspec.MsgspecError, LookupError, TypeError, RecursionError):
                self.drop("it sent something that is not a frame of this version")
                return
            if not least <= len(frame) <= most:
                self.drop(f"it sent a frame of another version, with {len(frame) - 1} fields: {frame[0]}")
                return
            turns.spend(1 + size // STEP_BYTES)
            if isAsked:
                isLarge = self._large.get(frame[0])
                if isLarge is None or not isLarge(*frame[2:]):
                    self._ask(handler, frame)
                elif self._postponed or self._isBusy():
                    self._postponed[frame[1]] = handler, frame
                else:
                    self._askLarge(handler, frame)
            else:
                try:
                    handler(*frame[1:])
                except Exception:
                    self._log.failure(
                        "a frame of {name} was not handled: {kind}", name=self.name, kind=frame[0], event="hub.broken"
                    )
            if not self.isUp:
                return
        if at < end:
            self._came.insert(0, data[at:])
            self._cameSize += end - at
        if self._isPaused:
            self.transport.pauseProducing()
            turns.later(self._goOn)

    # Requests.

    def _ask(self, handler: Callable[..., Any], frame: tuple[Any, ...]) -> None:
        seq = frame[1]
        try:
            answer = handler(*frame[2:])
        except Exception:
            self._refuse(Failure(), seq)
            return
        if isinstance(answer, Deferred):
            self._asked += 1
            answer.addBoth(self._noLongerAsked).addCallback(self._reply, seq).addErrback(self._refuse, seq)
        else:
            try:
                self._reply(answer, seq)
            except Exception:
                self._refuse(Failure(), seq)

    def _noLongerAsked(self, answer: Any) -> Any:
        self._asked -= 1
        return answer

    def _isBusy(self) -> bool:
        """Return whether a large answer had to wait here: much is unread, and another one is part of it."""
        return self.unread > BUSY and self._end > self._written - self.unread

    def _askLarge(self, handler: Callable[..., Any], frame: tuple[Any, ...]) -> None:
        self._ask(handler, frame)
        self._end = self._written + self._joinedSize

    def _askSome(self) -> None:
        """Answer what was postponed, as far as the other side reads and the turn has time."""
        self._isCalled = False
        while self._postponed and not self._isBusy():
            if self.turns.isOver(0):
                self._isCalled = True
                self.turns.later(self._askSome)
                break
            self.turns.spend(1)
            self._askLarge(*self._postponed.popitem(last=False)[1])

    def _reply(self, answer: Any, seq: int) -> None:
        if self.isUp:
            self.send(_ANSWER, seq, answer)

    def _refuse(self, failure: Failure, seq: int) -> None:
        if not self.isUp:
            return
        error = failure.value
        if isinstance(error, ChannelError):
            self.send(_REFUSAL, seq, error.code, error.message, error.channel)
        else:
            self._log.failure("a request of {name} was not answered", failure, name=self.name, event="hub.broken")
            self.send(_REFUSAL, seq, "internal-error", "The server has failed; its log says why.", None)

    def _answered(self, seq: int, answer: Any) -> None:
        later = self._requests.pop(seq, None)
        if later is not None:
            later.callback(answer)

    def _refused(self, seq: int, code: str, message: str, channel: str | None) -> None:
        later = self._requests.pop(seq, None)
        if later is not None:
            error = ChannelError(code, message)
            error.channel = channel
            later.errback(error)

    def _forget(self, seq: int, later: Deferred[Any]) -> None:
        if self._requests.pop(seq, None) is not None:
            self.send(_CANCEL, seq)

    def _cancelled(self, seq: int) -> None:
        self._postponed.pop(seq, None)

    def _unavailable(self) -> ChannelError:
        return ChannelError("unavailable", "A part of the server is being replaced: try again.")

    # Writing.

    def _flush(self) -> None:
        """Write what was sent while frames were handled."""
        if self._fields and not self._isReading:
            fields, self._fields = self._fields, {}
            self._joined += [frameOf(kind, *some) for kind, some in fields.items()]
        if self._joined:
            joined, self._joined, self._joinedSize = self._joined, [], 0
            self._write(joined[0] if len(joined) == 1 else b"".join(joined))

    def _write(self, data: bytes) -> None:
        if not self.isUp:
            return
        self._written += len(data)
        if not self._isProducing and self._writeSome is not None:
            taken = self._writeSome(data)
            if taken == len(data):
                return
            if not isinstance(taken, int) or taken < 0:
                return  # it is broken, which the transport notices when it reads
            data = data[taken:]
        elif self.unread > self.mostUnread:
            self.drop(f"it leaves {self.unread} bytes unread")
            return
        self._waiting.append(data)
        self.unread += len(data)
        if not self._isProducing:
            self._isProducing = True
            self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """Give the transport what it may take next; called by it."""
        self.unread -= self._sliced
        self._sliced = 0
        waiting, size = self._waiting, 0
        some: list[bytes | memoryview] = []
        while waiting and size < SLICE:
            data = waiting.popleft()
            if size + len(data) > SLICE:
                view = memoryview(data)  # not copied for each slice
                waiting.appendleft(view[SLICE - size :])
                data = view[: SLICE - size]
            some.append(data)
            size += len(data)
        if some:
            self._sliced = size
            self.transport.write(b"".join(some))
        else:
            self._isProducing = False
            self.transport.unregisterProducer()
        if self._postponed and not self._isCalled and not self._isBusy():
            self._isCalled = True
            self.turns.later(self._askSome)

    def stopProducing(self) -> None:
        """Do nothing: the end comes with `connectionLost`; called by the transport."""


def _lengths(handler: Callable[..., object], before: int) -> tuple[int, int]:
    """Return how long a frame is at least and at most that has as many fields as a handler takes, and some `before` them."""
    given = 0
    if isinstance(handler, partial) and not handler.keywords:
        given = len(handler.args)
        handler = handler.func
    if isinstance(handler, MethodType):
        least, most = _parametersOf(handler.__func__)
        given += 1
    else:
        least, most = _parametersOf.__wrapped__(handler)  # a function of its own for each link is not kept
    return before + max(least - given, 0), before + most - given


@functools.cache
def _parametersOf(function: Callable[..., object]) -> tuple[int, int]:
    """Return how many positional arguments a function takes at least and at most."""
    least = most = 0
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 0, sys.maxsize  # a function in C that does not say
    for each in parameters:
        if each.kind is each.VAR_POSITIONAL:
            most = sys.maxsize
        elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            least += each.default is each.empty
            most += 1
    return least, most
