"""The bytes of a message, in Python: what `twisted_ws.wire.speedups` has where the compiled part is missing.

A common frame is one whole frame with FIN, no RSV bit, opcode text or binary, a mask, its length encoded in the fewest bytes and
within the limit, and valid UTF-8 where it is text (RFC 6455 section 5.2). Everything else is Autobahn's to judge.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from OpenSSL import SSL

from twisted_ws.frames import frame

__all__ = [
    "BEGUN",
    "NOT_THIS_WAY",
    "WHOLE",
    "PollSet",
    "Sender",
    "acceptOne",
    "isOnLoopback",
    "plainHead",
    "readSome",
    "sendMany",
    "split",
    "tlsAllow",
    "tlsCount",
    "tlsHandle",
    "tlsReadSome",
    "tlsWriteSome",
]

_TEXT = 0x81
_BINARY = 0x82
_READ_SIZE = 64 * 1024
_RECORD = 16 * 1024  # the most that one record of TLS carries (RFC 8446 section 5.1)
_MESSAGES_AT_ONCE = 64
_EVENTS_AT_ONCE = 64

WANT_READ = -2  # OpenSSL's SSL_ERROR_WANT_READ, as `tlsWriteSome` has it
TOO_MANY = 1000  # none of OpenSSL's errors, but ours (see `tlsAllow`)
BROKEN = -1  # SSL_ERROR_SSL, which stands for all others

# Bits of epoll.
_IN = getattr(select, "EPOLLIN", 0x001)
_GONE = getattr(select, "EPOLLERR", 0x008) | getattr(select, "EPOLLHUP", 0x010)


def acceptOne(listening: socket.socket) -> tuple[int, Any]:
    """Accept one connection, and return its non-blocking descriptor and the peer's address, as Python has it.

    Raises:
        OSError: none waits (BlockingIOError), or it failed.
    """
    accepted, address = listening.accept()
    accepted.setblocking(False)
    return accepted.detach(), address


def isOnLoopback(fd: int) -> bool:
    """Say whether the peer of an accepted TCP connection has connected to a loopback address: 127.0.0.0/8 or ::1.

    Raises:
        OSError: `fd` is no socket.
    """
    accepted = socket.socket(fileno=fd)
    try:
        host: str = accepted.getsockname()[0]
    finally:
        accepted.detach()
    return host == "::1" or host.removeprefix("::ffff:").startswith("127.")


# Method, target, headers, Host, the headers' values by name; and the Sec-WebSocket-Key of a handshake in which nothing is out of
# the ordinary either, before its origin, subprotocols and extensions are looked at (`twisted_ws.wire.door.handshake.decide`).
PlainHead = tuple[str, str, tuple[tuple[str, str], ...], str, dict[str, list[str]], str | None]


def plainHead(data: bytes) -> PlainHead | None:
    """Return what is in a head in which nothing is out of the ordinary.

    That is an HTTP/1.1 request for a path, with one Host, of which every byte is as `wire.door.head` wants it; that module
    has the words for the others.

    Returns:
        None where it is not plain; here none is.
    """
    return None


def split(data: bytes, maximum: int) -> tuple[list[str | bytes], int]:
    """Return the messages of the common frames at the head of `data`, and how many bytes those frames have."""
    return _take(data, maximum, len(data))


def _take(data: bytes, maximum: int, most: int) -> tuple[list[str | bytes], int]:
    messages: list[str | bytes] = []
    position, end = 0, len(data)
    while end - position >= 6 and len(messages) < most:
        first, second = data[position], data[position + 1]
        if first not in (_TEXT, _BINARY) or second < 0x80:
            break
        size, start = second & 0x7F, position + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            if size < 126:
                break
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if size < 65536:
                break
        start += 4
        if size > maximum or end - start < size:
            break
        payload = _unmask(data[start : start + size], data[start - 4 : start]) if size else b""
        if first == _TEXT:
            try:
                messages.append(payload.decode())
            except UnicodeDecodeError:
                break
        else:
            messages.append(payload)
        position = start + size
    return messages, position


def _unmask(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def readSome(fileno: int) -> bytes | None:
    """Read a non-blocking socket once: what came, b"" at the end of the stream, None when nothing is there.

    Raises:
        OSError: the connection is broken.
    """
    try:
        return os.read(fileno, _READ_SIZE)
    except (BlockingIOError, InterruptedError):
        return None


class Sender:
    """What is needed to send a frame straight out on one connection.

    Anything may run in the middle of a call here: the garbage collector and a finaliser that writes to this very connection, or
    another thread while the kernel copies. So what went is noted here before anything else can happen, and whoever comes
    meanwhile finds `begun`.

    Attributes:
        handle: the socket's descriptor, or what `tlsHandle` returned.
        secure: which of the two.
        open: whether the connection takes messages, and without compression.
        waiting: whether bytes wait that must go first.
        begun: whether a frame was begun, and its rest has to go before anything else.
        lastData: when a frame last went this way, or another way, or came (the caller's clock).
        written: how many did.
    """

    __slots__ = ("_frame", "_sent", "begun", "handle", "lastData", "open", "secure", "waiting", "written")

    def __init__(self) -> None:
        self.handle: Any = 0
        self.secure = self.open = self.waiting = self.begun = False
        self.lastData = 0.0
        self.written = 0
        self._frame: bytes | None = None  # that was begun; None: none was, or it is being sent
        self._sent = 0  # bytes of it that went; negative: nobody knows

    def send(self, first: int, payload: str | bytes, now: float) -> bool | None:
        """Send one frame, if frames can go this way now.

        A broken connection takes nothing here: the error shows again when the rest is written by the transport.

        Args:
            first: the first byte of the frame.
            payload: a str is sent as its UTF-8.
            now: the present time.

        Returns:
            None when the kernel took all; True when it did not, or others wait by now: the outbox has to go on; False when
            nothing was done.

        Raises:
            OverflowError: the first byte is none.
            UnicodeEncodeError: a str with a lone surrogate.
        """
        if not 0 <= first <= 0xFF:
            raise OverflowError("the first byte is no byte")
        return self.take(frame(first & 0x0F, payload.encode() if isinstance(payload, str) else payload, first & 0x70), now)

    def take(self, data: bytes, now: float) -> bool | None:
        """Do the same with a whole frame."""
        size = len(data)
        if not self.open or self.waiting or self.begun:
            return False
        self.written += 1
        self.begun = True
        self.lastData = now
        sent = -1
        try:
            if self.secure:
                sent = max(tlsWriteSome(self.handle, data), 0)
            else:
                try:
                    sent = os.write(self.handle, data)
                except OSError:
                    sent = 0
        finally:
            if sent == size:
                self.begun = False
            else:
                self._frame, self._sent = data, sent
        return True if self.begun or self.waiting else None

    def rest(self) -> bytes | None:
        """Return what the kernel did not take of the frame that was begun; None without one, or while it is being sent.

        Raises:
            OSError: nobody knows, because sending failed in the middle: the connection is of no use any more.
        """
        if self._sent < 0:
            raise OSError(errno.EIO, "nobody knows how much was sent")
        return None if self._frame is None else self._frame[self._sent :]

    def restNoted(self) -> None:
        """Forget that frame: who sends its rest keeps it."""
        self._frame, self.begun = None, False


# What `sendMany` says of each.
WHOLE, BEGUN, NOT_THIS_WAY = 0, 1, 2


def sendMany(senders: Sequence[Sender], data: bytes, now: float) -> bytes | bytearray | None:
    """Send the same frame to many.

    Returns:
        None when all took it whole; else a byte for each: `WHOLE`; `BEGUN`, its outbox has to go on; or `NOT_THIS_WAY`.
    """
    outcomes, isBehind = bytearray(len(senders)), False
    for index, sender in enumerate(senders):
        try:
            taken = sender.take(data, now)
        except Exception:
            taken = bool(sender.begun)  # its outbox finds that nobody knows how much of it went; the others get theirs
        if taken is not None:
            isBehind = True
            outcomes[index] = BEGUN if taken else NOT_THIS_WAY
    return outcomes if isBehind else None


# The same by TLS, on an OpenSSL connection that has the socket.


def tlsHandle(connection: SSL.Connection) -> SSL.Connection:
    """Return what the functions below take for a connection."""
    return connection


class _Messages:
    """How many messages of TLS itself one read may still have; None: nobody counts."""

    most = 0
    left: int | None = None


def tlsAllow(context: SSL.Context, most: int) -> None:
    """Bound the messages of TLS itself, as new keys and alerts, that one read takes: OpenSSL takes all that have come.

    One more, and the connection is of no use any more: who reads it is told `TOO_MANY`.

    Args:
        context: whose connections are counted, while they are read.
        most: for all contexts of the process; the last call decides.
    """
    _Messages.most = most
    context.set_info_callback(_countMessage)


def tlsCount(on: bool) -> bool:
    """Begin or end a read of a connection of such a context that is not `tlsReadSome`.

    Returns:
        Whether there were too many in the one that ends here.
    """
    tooMany = _Messages.left is not None and _Messages.left < 0
    _Messages.left = _Messages.most if on else None
    return tooMany


def _countMessage(connection: SSL.Connection, where: int, value: int) -> None:
    if _Messages.left is not None and where & (SSL.SSL_CB_LOOP | SSL.SSL_CB_ALERT):
        _Messages.left -= 1
        if _Messages.left < 0:
            connection.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)


def tlsReadSome(connection: SSL.Connection) -> bytes | int | None:
    """Read as `readSome` does, all that has come: whole records, so that nothing stays in OpenSSL, of which no poll tells.

    Returns:
        As `readSome`; b"" when the peer has ended TLS; an int: `TOO_MANY`, or OpenSSL's error, from the compiled part. An
        error or the end after bytes that are returned comes with the next call, of which no poll tells (see `tlsHasEnded`).

    Raises:
        SSL.Error: anything else; also `SSL.WantWriteError`.
    """
    pieces: list[bytes] = []
    size, tooMany = 0, False
    tlsCount(True)
    try:
        while size <= _READ_SIZE - _RECORD:
            pieces.append(connection.recv(_RECORD))
            size += len(pieces[-1])
    except SSL.WantReadError:
        if not pieces:
            return None
    except SSL.ZeroReturnError:
        pass
    except SSL.Error:
        if not pieces:
            raise
    finally:
        tooMany = tlsCount(False)
    return TOO_MANY if tooMany else b"".join(pieces)


def tlsHasEnded(connection: SSL.Connection) -> bool:
    """Say whether the peer has ended TLS, or broken it."""
    return bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def tlsWriteSome(connection: SSL.Connection, data: bytes | memoryview) -> int:
    """Send what the socket takes and return how many bytes that were.

    Returns:
        0 when the socket is full: what did not go must come again, first, and at least as much of it (SSL_write); a negative
        number, `WANT_READ` or another, when none went for another reason.
    """
    sent, view = 0, memoryview(data)
    try:
        while sent < len(view):
            sent += connection.send(view[sent:])
    except SSL.WantWriteError:
        pass
    except SSL.WantReadError:
        return sent or WANT_READ
    except SSL.Error:
        return sent or BROKEN
    return sent


# Many sockets.

# Who reads, by what, the largest message, and who takes each.
_Lane = tuple[Sender, int, Callable[[str | bytes], Any]]


class _Entry:
    """What a `PollSet` knows of one descriptor."""

    __slots__ = ("events", "lane", "transport", "watch")

    def __init__(self) -> None:
        self.transport: Any = None  # whose it is
        self.events = 0  # none: it is not polled
        self.watch = object()  # another one for each registration: a descriptor may be another's by the time an event comes
        self.lane: _Lane | None = None


class PollSet:
    """Sockets behind one epoll set; the messages of those that have a lane are delivered straight away.

    Args:
        ready: called as ``ready(transport, events, came)`` for all that is not the lane's. `came` says what was read already.
            None: nothing; bytes: these, b"" for the end of the stream; a list: messages for a lane that the one before them has
            detached; an int or an SSL.Error: what went wrong, as errno or as OpenSSL's error.

    Attributes:
        failed: the transport that was being served when `serve` raised.
    """

    def __init__(self, ready: Callable[[Any, int, Any], object]) -> None:
        self._ready = ready
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}  # of those that are polled or have a lane
        self._polled: set[int] = set()  # now or before
        self._asked: set[int] = set()  # now
        self._happened: list[tuple[int, object, int]] = []  # what the kernel has told of and was not served, the next one last
        self._serving = False
        self._delivered = 0  # messages since `serve` was called, or what counts as so many
        self.failed: Any = None

    def __len__(self) -> int:
        return len(self._asked)

    def fileno(self) -> int:
        """Return the descriptor of the set, which is readable when one of its sockets is ready."""
        return self._epoll.fileno()

    def transports(self) -> list[Any]:
        """Return those that are polled."""
        # A list of all first: to make a tuple of them may run a finaliser after it has begun to count.
        return [entry.transport for entry in [*self._entries.values()] if entry.events]

    def ask(self, fd: int, transport: Any, wanted: int, unwanted: int) -> None:
        """Change the events (bits of epoll) for which `transport` is polled.

        One that lost its descriptor to another without a word has nothing more to say of it.

        Raises:
            OSError: it cannot be polled; never for `unwanted` alone.
            OverflowError: `wanted` or `unwanted` is no set of bits of epoll.
        """
        if not (0 <= wanted < 1 << 31 and 0 <= unwanted < 1 << 31):
            raise OverflowError("no bits of epoll")
        entry = self._entries.get(fd) or _Entry()
        known = entry.transport is transport
        before = entry.events if known else 0
        events = (before | wanted) & ~unwanted
        if events == before:
            return
        if not events:
            with suppress(OSError):  # closed already, and the kernel has forgotten it
                self._epoll.unregister(fd)
            entry.events = 0
            self._forgetUnused(fd, entry)
            return
        if before:
            try:
                self._epoll.modify(fd, events)
            except OSError:
                if wanted:
                    raise
        else:
            # All that is needed is made before the kernel knows of it: it would tell for ever of what nobody asks for here.
            former = entry.lane, entry.transport  # kept until all is said: with them somebody may go who asks, too
            watch = object()
            self._polled.add(fd)
            self._asked.add(fd)
            self._entries[fd] = entry
            try:
                try:
                    self._epoll.register(fd, events)
                except FileExistsError:
                    self._epoll.modify(fd, events)
            except BaseException:
                self._forgetUnused(fd, entry)
                raise
            if not known:
                # Another one's descriptor was closed, and it never said so. A lane of it is not the next one's.
                entry.transport = transport
                entry.lane = None
            entry.watch = watch
            entry.events = events
            del former
            return
        entry.events = events

    def _forgetUnused(self, fd: int, entry: _Entry) -> None:
        if not entry.events and self._entries.get(fd, entry) is entry:
            self._asked.discard(fd)
            if entry.lane is None:
                self._entries.pop(fd, None)

    def asked(self, fd: int) -> int:
        """Return the events for which a descriptor is polled."""
        entry = self._entries.get(fd)
        return 0 if entry is None else entry.events

    def attach(self, fd: int, transport: Any, sender: Sender, maximum: int, deliver: Callable[[str | bytes], Any]) -> None:
        """Give a descriptor a lane, in the place of the one it has, until `transport` detaches it or another one asks.

        Args:
            fd: one that was polled, now or before.
            transport: whose it is.
            sender: of the same connection; its `lastData` becomes the time of each read that has messages.
            maximum: bytes of the largest message.
            deliver: called with each message.

        Raises:
            ValueError: `fd` was never polled, or it is another one's.
        """
        if fd not in self._polled:
            raise ValueError("never asked for")
        entry = self._entries.get(fd) or _Entry()
        if entry.transport is not None and entry.transport is not transport:
            raise ValueError("asked for by another")
        lane = (sender, maximum, deliver)
        if entry.lane != lane:
            entry.transport, entry.lane = transport, lane
            self._entries[fd] = entry

    def detach(self, fd: int, transport: Any) -> None:
        """Take away the lane of `transport`, if it has one; messages that were read with it go to `ready`."""
        entry = self._entries.get(fd)
        if entry is not None and entry.transport is transport:
            entry.lane = None
            self._forgetUnused(fd, entry)

    def lookUp(self) -> None:
        """Have `serve` return after the present event: it takes as long as very many others."""
        self._delivered = _MESSAGES_AT_ONCE

    def serve(self, maximum: int, now: float) -> int:
        """Serve what is ready, at most `maximum` events, and return how many that was; the next call goes on behind them.

        Of one connection at most 64 messages are delivered; `ready` has the rest, if more have come. With as many of all together
        it is time to look up, too: then `maximum` is returned, for there may be more. Called by somebody who is
        being served, it serves nothing.

        Raises:
            Exception: what `deliver` or `ready` raised; see `failed`. What was ready besides is ready the next time too.
        """
        if self._serving:
            return 0  # who is being served now would be read again before what came is delivered
        self._serving = True
        try:
            return self._serveAll(maximum, now)
        finally:
            self._serving = False

    def _serveAll(self, maximum: int, now: float) -> int:
        entries, served = self._entries, 0
        self._delivered = 0
        while served < maximum:
            if not self._happened:
                # All of them come before anybody is asked again: those that have more are behind the others.
                told = reversed(self._epoll.poll(0, _EVENTS_AT_ONCE))
                self._happened = [(fd, (entry := entries.get(fd)) and entry.watch, events) for fd, events in told]
                if not self._happened:
                    break
            while self._happened and served < maximum:
                fd, watch, events = self._happened.pop()
                served += 1
                entry = entries.get(fd)
                if entry is None or entry.watch is not watch:
                    continue  # gone, by another one's event
                transport, lane = entry.transport, entry.lane
                wanted = events & (entry.events | _GONE)
                if not entry.events or not wanted:
                    continue  # not wanted any more
                try:
                    if wanted == _IN and lane is not None:
                        self._delivered += self._serveLane(entry, transport, lane, now)
                    else:
                        self._ready(transport, wanted, None)
                except BaseException:
                    self.failed = transport
                    raise
                if self._delivered >= _MESSAGES_AT_ONCE:
                    return maximum
        return served

    def _serveLane(self, entry: _Entry, transport: Any, lane: _Lane, now: float) -> int:
        """Serve a connection that has a lane; return how many messages had come."""
        sender, maximum, _ = lane
        came: Any
        try:
            came = (tlsReadSome if sender.secure else readSome)(sender.handle)
        except OSError as error:
            came = error.errno
        except SSL.Error as error:
            came = error
        if came is None:
            return 0
        messages, taken = _take(came, maximum, _MESSAGES_AT_ONCE) if isinstance(came, bytes) else ([], 0)
        if not messages:
            self._ready(transport, _IN, came)
        else:
            self._deliverAll(entry, lane, messages, came[taken:], now)
        if sender.secure and came.__class__ is bytes and came and tlsHasEnded(sender.handle):
            self._ready(transport, _IN, None)
        return len(messages)

    def _deliverAll(self, entry: _Entry, lane: _Lane, messages: list[str | bytes], rest: bytes, now: float) -> None:
        sender, _, deliver = lane
        transport = entry.transport
        sender.lastData = now
        for number, message in enumerate(messages):
            if number and entry.lane is not lane:
                self._ready(transport, _IN, messages[number:])
                break
            deliver(message)
        if rest:
            self._ready(transport, _IN, rest)
