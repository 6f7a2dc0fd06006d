"""Messages out: one to this peer, or one that goes to many; the sending half of a connection."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from twisted_ws.caller import BINARY, TEXT, encodeMessage
from twisted_ws.errors import ConnectionClosed
from twisted_ws.wire.deflate import compressedFrame
from twisted_ws.wire.framing import FIN, OutgoingMessage, frame
from twisted_ws.wire.inbound import FIRST_CONTROL, Inbound
from twisted_ws.wire.lane import LaneServer
from twisted_ws.wire.outbox import Outbox, failedWrite
from twisted_ws.wire.phase import Phase

__all__ = ["Outbound"]

FIN_TEXT = FIN | TEXT
FIN_BINARY = FIN | BINARY


class Outbound(Inbound):
    """The sending half of a connection; `twisted_ws.wire.protocol.WebSocketConnection` is the whole."""

    _outbox: Outbox

    def _endedWith(self) -> tuple[int, str]:
        """Return the code and reason of the connection's end."""
        raise NotImplementedError

    def writeFrame(self, opcode: int, payload: bytes) -> Deferred[None]:
        """Send one whole message or control frame (see `twisted_ws.caller.Link`)."""
        if self.phase is not Phase.OPEN:
            return failedWrite(ConnectionClosed(*self._endedWith()))
        if opcode >= FIRST_CONTROL:
            waiter: Deferred[None] = Deferred()
            self._outbox.written += 1
            self._outbox.control(frame(opcode, payload), waiter)
            return waiter
        self._lastData = self.wire.wheel.now
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
        if self.phase is not Phase.OPEN:
            return
        outbox = self._outbox
        if self._lane is None or outbox.size or self._perMessageCompress is not None:
            opcode, payload = encodeMessage(message)
            self.send(OutgoingMessage(opcode, payload))
            self._pauseForReplies()
            return
        self._lastData = self.wire.wheel.now
        outbox.written += 1
        rest = self._lane.sendFrame(self._lane.handle, FIN_TEXT if message.__class__ is str else FIN_BINARY, message)
        if rest is not None:
            outbox.noteRest(rest)
            outbox.goOn()
            self._pauseForReplies()

    def readyLane(self) -> LaneServer | None:
        """Return the transport to send a frame to at once, None where it has to go by `send`; see `twisted_ws.wire.fanout`."""
        outbox = self._outbox
        if self._lane is None or outbox.size or self.phase is not Phase.OPEN or self._perMessageCompress is not None:
            return None
        self._lastData = self.wire.wheel.now
        outbox.written += 1
        return self._lane

    def noteRest(self, rest: bytes) -> None:
        """Note the rest of a frame of which the kernel has taken the beginning; calls nobody. `goOn` follows."""
        self._outbox.noteRest(rest)

    def goOn(self) -> None:
        """Go on with what was noted."""
        self._outbox.goOn()

    def send(self, message: OutgoingMessage) -> bool:
        """Send a message that goes to many; say whether this connection took it."""
        if self.phase is not Phase.OPEN:
            return False
        self._lastData = self.wire.wheel.now
        deflate = self._perMessageCompress
        if deflate is None:
            self._outbox.send(message.plain)
        else:
            # Without context takeover, peers with the same window can be sent the same bytes.
            bits = deflate.server_max_window_bits
            if bits not in message.deflated:
                message.deflated[bits] = compressedFrame(deflate, message.opcode, message.payload)
            self._outbox.send(message.deflated[bits])
        return self.phase is Phase.OPEN

    def isOpen(self) -> bool:
        """Say whether messages can be written."""
        return self.phase is Phase.OPEN

    def bufferedAmount(self) -> int:
        """Return how many bytes wait to be handed to the kernel."""
        return self._outbox.size

    def activity(self) -> int:
        """Return a number that grows with each frame the service writes."""
        return self._outbox.written

    # Who does not read its replies is not read from.

    def _pauseForReplies(self) -> None:
        if self._outbox.size > self.wire.limits.replyBuffer:
            self._pause(self._FOR_REPLIES)

    def outboxEased(self) -> None:
        """Read again what the peer sends."""
        self._resume(self._FOR_REPLIES)
