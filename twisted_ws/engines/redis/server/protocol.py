"""One connection to a server, as commands and replies (RESP2). It never reconnects, and knows nothing of what is asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.python.failure import Failure

from twisted_ws.logs import printable

# Seconds of one turn of the reactor that replies and messages may take: the connection is not read meanwhile.
TURN = 0.01
# Replies between two looks at the clock.
LOOK = 4
# Bytes that may wait for the rest of a reply, on top of the largest message; pages of a history are about 1 MiB.
PARTIAL = 8 * 1024 * 1024

# What answers a command: the reply, `hiredis.ReplyError` for an error, `Lost` if there will be none.
Answered = Callable[[Any], None]


class Lost(Exception):
    """The connection ended; whether a command that was not answered was executed is unknown."""


def _spoken(first: bytes) -> str:
    """Return what somebody speaks instead, as the end of a sentence."""
    if first.startswith(b"HTTP/") or first.lstrip()[:9].lower() in (b"<!doctype", b"<html>"):
        return ", but HTTP"
    if first[:2] in (b"\x15\x03", b"\x16\x03"):
        return ", but TLS"
    return f", but answers {printable(first[:40].decode(errors='replace'))!r}"


class Growing(Interface):
    """A command that grows until it is sent."""

    def pack(self) -> tuple[bytes, int]:
        """Return the command as it is now, and for how many it stands: it grows no more."""

    def answered(self, reply: Any) -> None:
        """Take what answers a command."""


class RedisProtocol(Protocol):
    """One connection.

    Args:
        reactor: the reactor.
        largest: bytes of the largest message that may come.

    Attributes:
        onPush: called with each message once `push` was called.
        onLost: called once with the reason when the connection has ended.
        made: fires when the connection is made.
        error: what ended the connection, if it was not we.
        ended: why the connection has ended; None if it has not.
        growing: the last command, while it may grow.
        waiting: how many commands wait for their replies; what makes one grow counts that here.
        bytes: the size of these commands.
        taken: how many replies and messages have been handled.
    """

    def __init__(self, reactor: Any, largest: int) -> None:
        self.onPush: Callable[[list[Any]], None] | None = None
        self.onLost: Callable[[str], None] | None = None
        self.made: Deferred[RedisProtocol] = Deferred()
        self.error: BaseException | None = None
        self.bytes = 0
        self.taken = 0
        self.ended: str | None = None
        self.growing: Growing | None = None
        self.waiting = 0
        self._reactor = reactor
        self._most = PARTIAL + 2 * largest
        self._reader = hiredis.Reader()
        self._partial = 0
        self._first = b""  # what came first
        self._out: list[bytes] = []
        self._asked: deque[tuple[Answered, int, int]] = deque()
        self._later: Any = None  # the rest of what came, in a later turn
        self._writeSome: Callable[[bytes], Any] | None = None
        self._unwritten: list[bytes] = []
        self._isProducing = False
        self._isPushing = False
        self._isDraining = False

    def send(self, command: tuple[bytes | str | int, ...], answered: Answered) -> None:
        """Send a command; all of one turn of the reactor are written at its end."""
        self.sendPacked(hiredis.pack_command(command), answered)  # type: ignore[arg-type]

    def sendPacked(self, packed: bytes, answered: Answered) -> None:
        """Send a command that was packed."""
        if self.ended is not None:
            answered(Lost(self.ended))
            return
        if self.growing is not None:
            self.close()
        self.waiting += 1
        self._append(packed, answered, 1)

    def grow(self, command: Growing) -> None:
        """Send a command that may grow: until the next one is sent, or for the rest of this turn of the reactor."""
        self.close()
        self.growing = command
        self._write(b"")

    def close(self) -> None:
        """Let the last command grow no more."""
        command, self.growing = self.growing, None
        if command is not None:
            packed, count = command.pack()
            self._append(packed, command.answered, count)

    def _append(self, packed: bytes, answered: Answered, count: int) -> None:
        self._asked.append((answered, len(packed), count))
        self.bytes += len(packed)
        self._write(packed)

    def ask(self, *command: bytes | str | int) -> Deferred[Any]:
        """Send a command and return a Deferred of the reply, which fails with `hiredis.ReplyError` or `Lost`."""
        later: Deferred[Any] = Deferred(lambda _: None)

        def answered(reply: Any) -> None:
            if later.called:
                return  # it was cancelled
            if isinstance(reply, Exception):
                later.errback(Failure(reply))
            else:
                later.callback(reply)

        self.send(command, answered)
        return later

    def provoke(self) -> None:
        """Send what ends a request of HTTP, if nothing has come at all: such a server may be waiting for it. Redis ignores it."""
        if not self._first and self.ended is None and self.transport is not None:
            self.transport.write(b"\r\n\r\n")

    def push(self, *command: bytes | str) -> None:
        """Send a command of pub/sub, whose confirmations are messages; from the first one on, all that comes is."""
        self._isPushing = True
        if self.ended is None:
            self.close()
            self._write(hiredis.pack_command(command))  # type: ignore[arg-type]

    def _write(self, packed: bytes) -> None:
        out = self._out
        out.append(packed)
        if len(out) == 1:
            self._reactor.callLater(0, self._flush)

    def _flush(self) -> None:
        self.close()
        out, self._out = self._out, []
        if self.ended is not None or self.transport is None:
            return
        data = b"".join(out)
        if self._writeSome is None:
            self.transport.write(data)
            return
        if not self._isProducing:
            # Now, and not in the next turn, when the transport has asked whether it may.
            taken = self._writeSome(data)
            if taken == len(data) or taken.__class__ is not int or taken < 0:
                return  # all, or it is broken, which the transport notices when it reads
            data = data[taken:]
        self._unwritten.append(data)
        if not self._isProducing:
            self._isProducing = True
            self.transport.registerProducer(self, False)  # type: ignore[attr-defined]

    def resumeProducing(self) -> None:
        """Give the transport what the kernel did not take; called by it."""
        assert self.transport is not None
        unwritten, self._unwritten = self._unwritten, []
        if unwritten:
            self.transport.write(b"".join(unwritten))
        else:
            self._isProducing = False
            self.transport.unregisterProducer()  # type: ignore[attr-defined]

    def stopProducing(self) -> None:
        """Do nothing: the connection has ended; called by the transport."""

    def connectionMade(self) -> None:
        """Begin."""
        if isinstance(self.transport, Connection):  # with TLS, what is written is not yet what is sent
            self._writeSome = self.transport.writeSomeData
        self.made.callback(self)

    def drop(self, why: str) -> None:
        """End the connection at once."""
        self._end(why)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Learn that it has ended."""
        if self.ended is None:
            self.error = reason.value
        if isinstance(reason.value, ConnectionDone):
            self._end("it has closed the connection")
        elif isinstance(reason.value, ConnectionLost):
            self._end("the connection was broken off")
        else:
            self._end(printable(reason.getErrorMessage(), 160))

    def _end(self, why: str) -> None:
        if self.ended is not None:
            return
        self.ended = why
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self.close()
        self._out.clear()
        asked, self._asked = self._asked, deque()
        self.bytes = self.waiting = 0
        lost = Lost(why)
        for answered, _, _ in asked:
            answered(lost)
        if self.onLost is not None:
            self.onLost(why)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes as they come."""
        if self.ended is not None:
            return
        if not self._first:
            self._first = data[:100]
        self._partial += len(data)
        if self._partial > self._most:
            self.drop(f"it sent more than {self._most} bytes at once")
            return
        self._reader.feed(data)
        if self._later is None and not self._isDraining:
            self._drain(len(data))

    def _goOn(self) -> None:
        self._later = None
        self._drain(0)
        if self._later is None and self.ended is None:
            # What is read then is for the next turn.
            self._later = self._reactor.callLater(0, self._resume)

    def _resume(self) -> None:
        self._later = None
        if self.transport is not None:
            self.transport.resumeProducing()  # type: ignore[attr-defined]

    def _drain(self, size: int) -> None:
        """Handle what is whole, for at most about `TURN`."""
        seconds, gets = self._reactor.seconds, self._reader.gets
        until, left = seconds() + TURN, LOOK
        self._isDraining = True
        try:
            while self.ended is None:
                reply = gets()
                if reply is False:
                    return
                self._partial = size
                self.taken += 1
                if self._asked:
                    answered, length, count = self._asked.popleft()
                    self.bytes -= length
                    self.waiting -= count
                    answered(reply)
                    left -= count
                elif self._isPushing and reply.__class__ is list and self.onPush is not None:
                    self.onPush(reply)
                    left -= 1
                else:
                    self.drop(str(reply) if isinstance(reply, hiredis.ReplyError) else "it sent a reply to nothing")
                if left <= 0:
                    left = LOOK
                    if seconds() > until:
                        self._rest()
                        return
        except hiredis.ProtocolError:
            self.drop(f"it does not speak the protocol of Redis{_spoken(self._first)}")
        finally:
            self._isDraining = False

    def _rest(self) -> None:
        if self.ended is None:
            self._later = self._reactor.callLater(0, self._goOn)
            if self.transport is not None:
                self.transport.pauseProducing()  # type: ignore[attr-defined]
