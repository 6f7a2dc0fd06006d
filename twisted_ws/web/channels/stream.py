"""An HTTP answer without an end: its bytes go out as they come, and what waits is bounded.

After its head, such an answer has the outbox of a WebSocket connection (`wire.websocket.outbox`), which counts, bounds and drops
what the peer does not take; an event for many streams goes straight to their sockets (`twisted_ws.wire.websocket.fanout`).

The answer is chunked (RFC 9112 section 7.1): many clients pass on nothing of an answer without chunks before they have a page of
it. An event is one chunk, so that all streams get the same bytes. HTTP/1.0 has no chunks, and gets the bare events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.channels.subscribers.formats import LARGE
from twisted_ws.errors import ChannelError, ConnectionClosed, SlowConsumer
from twisted_ws.frames import OutgoingMessage
from twisted_ws.logs import peerName, printable
from twisted_ws.message import TEXT
from twisted_ws.wire.lane.transport import LaneServer
from twisted_ws.wire.loop.transports import hasVanished
from twisted_ws.wire.websocket import moving
from twisted_ws.wire.websocket.outbox import SLICE, Outbox

if TYPE_CHECKING:
    from twisted_ws.channels.channels import Channels
    from twisted_ws.errors import WebSocketError
    from twisted_ws.limits import Limits
    from twisted_ws.message import Publication

HEARTBEAT = b":\n\n"
LAST_CHUNK = b"0\r\n\r\n"
# The seconds over which the clients of a server that stops are spread, so that they do not all reconnect at once.
SPREAD = 5

# Not Python's shared generator: if a program seeded that in each of its processes, all clients would reconnect at once.
uniform = SystemRandom().uniform


def returnDelay(limits: Limits) -> float:
    """Return the seconds after which one client of a server that stops should reconnect."""
    return limits.reconnectDelay + uniform(0, SPREAD)


def chunk(data: bytes) -> bytes:
    """Return a chunk of an answer; `data` must not be empty, because that would be the last chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_log = Logger()


class ServerSentEvent(OutgoingMessage):
    """One event for many streams, encoded once.

    Args:
        parts: the event's bytes.
        publication: what it is made of.

    Attributes:
        payload: the event; a large one is a view of its chunk, not a copy.
        publication: what it is made of.
    """

    __slots__ = ("publication",)

    def __init__(self, parts: Sequence[bytes], publication: Publication) -> None:
        self.opcode = TEXT
        if len(publication.payload) < LARGE:
            self.payload = b"".join(parts)
            self.plain = chunk(self.payload)
        else:
            self._join(parts)
        self.publication = publication

    def _join(self, parts: Sequence[bytes]) -> None:
        """Join a large event, once."""
        head = b"%x\r\n" % sum(map(len, parts))
        self.plain = b"".join((head, *parts, b"\r\n"))
        self.payload = memoryview(self.plain)[len(head) : -2]  # type: ignore[assignment]  # which is only ever joined


class EventStream:
    """The writing end of one event stream; to its subscriber, a connection (`twisted_ws.connection.Connection`).

    It takes over the HTTP connection at once. Until `open`, its request can still be answered otherwise, after `giveUp` or when
    it is refused.

    Args:
        request: what it answers, an `HttpRequest`; or what stands for it where the stream goes on after its head.
        channels: whose limits and clock it has.
        whenGone: called once when nothing can be written any more.

    Attributes:
        sender: see `twisted_ws.wire.websocket.fanout`; only a stream that is `chunked` can be sent to like that.
        chunked: whether its bytes go out in chunks.
        prefix: makes what precedes a `ServerSentEvent` on this stream alone; None for nothing.
        subscriber: whoever writes to it.
        refusal: what its request has to be answered with, because the stream was refused before it began; else None.
    """

    wheelSlot: int | None = None
    subscriber: Any = None

    def __init__(self, request: Any, channels: Channels, whenGone: Callable[[], None]) -> None:
        self._request: Any = request
        self._connection: Any = request.channel
        self._channels = channels
        self._whenGone: Callable[[], None] | None = whenGone
        self._goOn: Callable[[], None] | None = None
        self._makeRoom: Callable[[], None] | None = None
        self._ending = False
        self._isBegun = False
        self.refusal: ChannelError | None = None
        self._pingAt = 0.0
        self._reminder: tuple[float, Callable[[], None]] | None = None
        self.prefix: Callable[[Publication], bytes] | None = None
        self.chunked = request.clientproto != b"HTTP/1.0"
        limits = channels.limits
        transport = self._connection.lend()
        self._lane: LaneServer | None = transport if isinstance(transport, LaneServer) and transport.sender is not None else None
        self._outbox = Outbox(self, transport, channels.wheel, channels.backlog, limits.maxSendBuffer, limits.replyBuffer)
        self.sender: Any = self._outbox.sender
        request.notifyFinish().addBoth(self._finished)

    def open(self) -> None:
        """Write the head of the answer, and begin the stream."""
        request, connection = self._request, self._connection
        connection.persistent = False
        if self.chunked:
            request.say("Transfer-Encoding", "chunked")
        self._isBegun = True
        request.writeHead()
        self._openLane()
        now = self._channels.seconds()
        self._pingAt = now + self._channels.limits.pingInterval
        self._wait(now)

    def giveUp(self) -> None:
        """Give the connection back, with nothing written, unless the peer has left."""
        if not self._ending:
            self._ending, self._whenGone = True, None
            self._outbox.release()
            self._connection.reclaim()

    def refuse(self, error: ChannelError) -> None:
        """Give up, before `open`, and have the request answered with an error.

        The work on the request (`answerLater`) is cancelled where it waits for an engine; it raises `refusal`.
        """
        if not self._ending:
            self.refusal = error
            self.giveUp()
            if self._request.whenGone is not None:
                self._request.whenGone()

    # Hand-over to another process.

    @property
    def transport(self) -> Any:
        """The transport of its connection."""
        return self._connection.transport

    @property
    def isIdle(self) -> bool:
        """Whether it has begun, nothing is being written at this moment, and the peer has sent nothing that waits."""
        return self._isBegun and not self._ending and not self._outbox.isWriting and not getattr(self._connection, "_input", b"")

    def depart(self) -> tuple[bytes, float, str, Any]:
        """Forget the stream without a word to its peer.

        Returns:
            The bytes that the kernel has not taken, the seconds until the next heartbeat, the address that the gate counted, and
            the socket (see `twisted_ws.wire.websocket.moving.depart`).
        """
        transport: Any = self._connection.transport
        ping = self._pingAt - self._channels.seconds()
        self._ending, self._whenGone = True, None
        self._channels.wheel.drop(self)
        unsent, protocol = moving.unsentOf(transport), transport.protocol
        left = moving.release(transport)
        outbox = self._outbox.depart(unsent, ConnectionClosed())
        admittedAs: str = getattr(protocol, "admittedAs", "")
        protocol.connectionLost(Failure(ConnectionDone()))  # as far as this process is concerned
        return outbox, ping, admittedAs, left

    def arrive(self, data: bytes, ping: float) -> None:
        """Go on with what another process has left, in place of `open`."""
        self._isBegun = True
        now = self._channels.seconds()
        self._pingAt = now + ping
        self._outbox.arrive(data)
        self._openLane()
        if not self._ending:
            self._wait(now)

    # Connection.

    def isOpen(self) -> bool:
        """Return whether events can be written."""
        return not self._ending

    def bufferedAmount(self) -> int:
        """Return the number of bytes that wait to be handed to the kernel."""
        return self._outbox.size

    def sendText(self, payload: bytes) -> bool:
        """Write an event for this stream alone; return whether the stream took it."""
        if self._ending:
            return False
        self._write(payload)
        return not self._ending

    def send(self, message: OutgoingMessage) -> bool:
        """Write a `ServerSentEvent`, or the payload of any other message as it is; return whether it was accepted."""
        return self.sendAll((message,))

    def sendAll(self, messages: Sequence[OutgoingMessage]) -> bool:
        """Do so with several in one piece."""
        if self._ending:
            return False
        self._write(b"".join([self._event(each) for each in messages]))
        return not self._ending

    def _event(self, message: OutgoingMessage) -> bytes:
        if self.prefix is not None and isinstance(message, ServerSentEvent):
            return self.prefix(message.publication) + message.payload
        return message.payload

    def waiting(self) -> int:
        """See `twisted_ws.connection.Connection`."""
        return self._outbox.waiting()

    def keep(self, by: int) -> None:
        """See `twisted_ws.connection.Connection`."""
        self._outbox.keep(by)

    def _write(self, events: bytes) -> None:
        self._outbox.send(chunk(events) if self.chunked else events)

    def hold(self, goOn: Callable[[], None] | None, makeRoom: Callable[[], None] | None = None) -> None:
        """See `twisted_ws.connection.Connection`."""
        self._goOn, self._makeRoom = goOn, makeRoom
        self._outbox.hold(goOn is not None)

    def goOn(self) -> None:
        """See `twisted_ws.wire.websocket.fanout`."""
        self._outbox.goOn()

    def fail(self, error: WebSocketError) -> None:
        """End because the peer is too slow; the event that has begun is finished, and the peer comes back for the others.

        Before `open`, refuse the stream.
        """
        if self._ending:
            return
        if not self._isBegun:
            self._tell(error)
            self.refuse(ChannelError("unavailable", "The client would get too many messages before its stream could begin."))
            return
        self._ending = True
        if isinstance(error, SlowConsumer):
            self._channels.counts.slow.add("sse")
        self._tell(error)
        self._outbox.clear(ConnectionClosed())
        self._close()

    def _tell(self, why: object) -> None:
        self._connection.site.throttle.info(
            _log,
            "event stream failed",
            "{peer}: the event stream ends: {reason}",
            path=printable(self._request.path),
            peer=peerName(self._request.peerAddress),
            reason=printable(why),
            event="stream.failed",
        )

    # OutboxOwner.

    def outboxOverflowed(self, atOnce: bool) -> None:
        """Make room, or end, because too much waits."""
        if self._makeRoom is not None and not atOnce:
            self._makeRoom()
            return
        self.fail(SlowConsumer(f"{self._outbox.size} bytes wait for it"))
        if atOnce and self._outbox.size > SLICE:
            # A large event has begun, and its memory is needed now.
            self._outbox.abandon(ConnectionClosed())
            self._connection.drop()

    def outboxDrained(self) -> None:
        """Go on, or finish: the kernel has everything."""
        if self._ending:
            self._finish()
        else:
            self._openLane()

    def outboxEased(self) -> None:
        """Go on: there is room again."""
        if self._goOn is not None:
            self._goOn()

    # The end.

    def end(self, last: bytes = b"") -> None:
        """Write the `last` bytes, and close when the peer has taken them."""
        if self._ending:
            return
        if last:
            self._write(last)
        self._ending = True
        self._close()

    def _close(self) -> None:
        if self.chunked:
            self._outbox.last(LAST_CHUNK)
        self.sender.open = False
        self._gone()
        self._outbox.isAwaited = True
        if not self._outbox.size and not self._outbox.busy:
            self._finish()
        else:
            self._wait(self._channels.seconds())

    def stop(self, timeout: float) -> Deferred[None]:
        """End because the server stops, with a hint when to reconnect (see `twisted_ws.wire.websocket.runtime.OpenResponse`)."""
        lost: Deferred[None] = self._connection.whenLost(timeout)
        self.end(b"retry: %d\n\n" % round(1000 * returnDelay(self._channels.limits)))
        return lost

    def deadlineReached(self, now: float) -> None:
        """Drop a peer that takes nothing or has vanished, or send a heartbeat; called by the wheel."""
        try:
            self._judge(now)
        except Exception:
            self._connection.drop()  # it would no longer have a deadline
            _log.failure("an event stream failed inside the server", event="stream.broken")

    def _judge(self, now: float) -> None:
        limits = self._channels.limits
        waits, interval = self._outbox.size > 0, limits.pingInterval
        if waits and now >= self._outbox.progressAt + limits.writeDeadline:
            self._tell(f"it has taken none of the bytes that wait for {limits.writeDeadline:g} seconds")
            self._connection.drop()
            return
        # A client does not answer a heartbeat, but its machine acknowledges it: in the time that a WebSocket has for its pong.
        if interval and hasVanished(self._connection.transport, limits.pingTimeout):
            self._tell(f"its machine has acknowledged nothing for {limits.pingTimeout:g} seconds")
            self._connection.drop()
            return
        if interval and now >= self._pingAt:
            self._pingAt = now + interval
            # Behind other bytes, it would tell the peer nothing.
            if not waits and not self._ending:
                self._write(HEARTBEAT)
        reminder = self._reminder
        if reminder is not None and reminder[0] <= now and not self._ending:
            self._reminder = None
            reminder[1]()
            if self._ending:
                return  # the rest has a deadline of its own
        self._wait(now)

    def _wait(self, now: float) -> None:
        limits = self._channels.limits
        due = (self._outbox.progressAt if self._outbox.size else now) + limits.writeDeadline
        if limits.pingInterval and not self._ending:
            judged = self._pingAt - limits.pingInterval + limits.pingTimeout
            due = min(due, self._pingAt, judged if judged > now else due)
        if self._reminder is not None and not self._ending:
            due = min(due, self._reminder[0])
        self._channels.wheel.set(self, due)

    def remind(self, at: float | None, call: Callable[[], None] | None = None) -> None:
        """See `twisted_ws.connection.Connection`; nothing is called before `open`."""
        self._reminder = None if at is None or call is None else (at, call)
        if self._isBegun and not self._ending:
            self._wait(self._channels.seconds())

    def _openLane(self) -> None:
        # Only when nothing of earlier answers, or of the head, is left in the transport.
        if self._lane is not None:
            if self._lane.isDrained():
                self.sender.open = True
            else:
                self._outbox.isAwaited = True

    def _gone(self) -> None:
        whenGone, self._whenGone = self._whenGone, None
        if whenGone is not None:
            whenGone()

    def _finish(self) -> None:
        """Close: everything is written."""
        self._channels.wheel.drop(self)
        self._outbox.release()
        self._connection.reclaim()
        self._request.finish()

    def _finished(self, result: object) -> None:
        """The answer has ended, or the peer has left."""
        self.subscriber = None
        self._ending = True
        self.sender.open = False
        self._channels.wheel.drop(self)
        self._outbox.end(ConnectionClosed())
        self._gone()
        self.prefix = self._goOn = self._makeRoom = self._reminder = None  # so that no collector is needed to free it
