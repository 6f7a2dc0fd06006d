"""Messages out: one to this peer, or one that goes to many; the sending half of a connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from twisted_ws.errors import ConnectionClosed
from twisted_ws.frames import FIN, OutgoingMessage, frame
from twisted_ws.message import BINARY, TEXT, encodeMessage
from twisted_ws.wire.loop.wheel import Wheel
from twisted_ws.wire.websocket.deflate import compressedFrame
from twisted_ws.wire.websocket.events import Events
from twisted_ws.wire.websocket.fanout import FanOuts
from twisted_ws.wire.websocket.inbound import FIRST_CONTROL, Inbound
from twisted_ws.wire.websocket.outbox import Outbox, failedWrite
from twisted_ws.wire.websocket.states import Phase

__all__ = ["Outbound"]

FIN_TEXT = FIN | TEXT
FIN_BINARY = FIN | BINARY


class Outbound(Inbound):
    """The sending half of a connection; `twisted_ws.wire.websocket.connection.WebSocketConnection` is the whole."""

    _wheel: Wheel
    _fanOuts: FanOuts
    _events: Events
    _outbox: Outbox
    _whenEased: Callable[[], None] | None = None  # called when the kernel has taken some of what waited
    _makeRoom: Callable[[], None] | None = None  # called when too much waits

    def _endedWith(self) -> tuple[int, str]:
        """Return the code and reason of the connection's end."""
        raise NotImplementedError

    def writeFrame(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send one whole message or control frame (see `twisted_ws.connection.Connection`)."""
        if self._fanOuts.pending:
            self._catchUp()
        if self.phase is not Phase.OPEN:
            return failedWrite(ConnectionClosed(*self._endedWith()))
        if opcode >= FIRST_CONTROL:
            waiter: Deferred[None] = Deferred()
            self._outbox.written += 1
            self._outbox.control(frame(opcode, payload), waiter)
            return waiter
        self.sender.lastData = self.wire.wheel.now
        deflate = self._perMessageCompress
        waiter = self._outbox.message(frame(opcode, payload) if deflate is None else compressedFrame(deflate, opcode, payload))
        self._pauseForReplies()
        if waiter.called and self.wire.handedAtOnce():
            # Whoever awaits one write after the other would never let the reactor turn while the kernel takes them all.
            later: Deferred[None] = Deferred()
            self.wire.reactor.callLater(0, later.callback, None)
            return later
        return waiter

    def reply(self, message: str | bytes) -> None:
        """Send a message without a Deferred: the way of what handlers return.

        Raises:
            ValueError: text with a lone surrogate.
        """
        if self._fanOuts.pending:
            self._catchUp()
        begun = self.sender.send(FIN_TEXT if message.__class__ is str else FIN_BINARY, message, self._wheel.now)
        if begun is None:
            return
        if begun:
            self._outbox.goOn()
        elif self.phase is Phase.OPEN:
            self.send(OutgoingMessage(*encodeMessage(message)))
        self._pauseForReplies()

    def _catchUp(self) -> None:
        """Send first what is on its way to this one, with others, since before now."""
        if self.phase is Phase.OPEN:
            self._fanOuts.catchUp(self._events.caller)

    def goOn(self) -> None:
        """Go on with a frame that the sender has begun."""
        self._outbox.goOn()

    def hold(self, goOn: Callable[[], None] | None, makeRoom: Callable[[], None] | None = None) -> None:
        """Let no frame of a `fanOut` go straight out, for others wait elsewhere that must go first.

        Args:
            goOn: called when there may be room for them; None: nothing waits there any more.
            makeRoom: called when all that waits is too much: drops some of these, or fails the connection.
        """
        self._whenEased, self._makeRoom = goOn, makeRoom
        self._outbox.hold(goOn is not None)

    def send(self, message: OutgoingMessage) -> bool:
        """Send a message that goes to many; say whether this connection took it."""
        if self.phase is not Phase.OPEN:
            return False
        self.sender.lastData = self.wire.wheel.now
        self._outbox.send(self._framed(message))
        return self.phase is Phase.OPEN

    def sendAll(self, messages: Sequence[OutgoingMessage]) -> bool:
        """Send some of them in one piece, as `send`."""
        if self.phase is not Phase.OPEN:
            return False
        self.sender.lastData = self.wire.wheel.now
        self._outbox.written += len(messages) - 1
        self._outbox.send(b"".join([self._framed(each) for each in messages]))
        return self.phase is Phase.OPEN

    def _framed(self, message: OutgoingMessage) -> bytes:
        deflate = self._perMessageCompress
        if deflate is None:
            return message.plain
        # Without context takeover, peers with the same window can be sent the same bytes.
        bits = deflate.server_max_window_bits
        if bits not in message.deflated:
            message.deflated[bits] = compressedFrame(deflate, message.opcode, message.payload)
        return message.deflated[bits]

    def waiting(self) -> int:
        """Return how many bytes wait behind the frame that is on its way, with what they are charged."""
        return self._outbox.waiting()

    def keep(self, by: int) -> None:
        """Count so many bytes more that are held for this peer elsewhere, or fewer."""
        self._outbox.keep(by)

    def isOpen(self) -> bool:
        """Say whether messages can be written."""
        return self.phase is Phase.OPEN

    def bufferedAmount(self) -> int:
        """Return how many bytes wait to be handed to the kernel."""
        return self._outbox.size - self._outbox.charges

    def activity(self) -> int:
        """Return a number that grows with each frame the service writes."""
        return self._outbox.written + int(self.sender.written)

    # Who does not read its replies is not read from.

    def _pauseForReplies(self) -> None:
        if self._outbox.size > self.wire.limits.replyBuffer:
            self._outbox.isAwaited = True
            self._pause(self._FOR_REPLIES)
            if self._outbox.size < self.wire.limits.replyBuffer:
                self._resume(self._FOR_REPLIES)  # what waited has gone before it was noted that this waits for it

    def outboxEased(self) -> None:
        """Read again what the peer sends."""
        self._resume(self._FOR_REPLIES)
        if self._whenEased is not None:
            self._whenEased()
