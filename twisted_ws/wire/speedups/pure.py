"""The bytes of a message, in Python: what `twisted_ws.wire.speedups` uses if the compiled part is missing.

An ordinary frame is a whole frame with FIN, no RSV bit, opcode text or binary, a mask, its length encoded in the fewest bytes and
within the limit, and valid UTF-8 if it is text (RFC 6455 section 5.2). Everything else is for Autobahn to judge.
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

_TEXT = 0x81
_BINARY = 0x82
_READ_SIZE = 64 * 1024
_RECORD = 16 * 1024  # the most that one record of TLS carries (RFC 8446 section 5.1)
_MESSAGES_AT_ONCE = 64
_EVENTS_AT_ONCE = 64

WANT_READ = -2  # OpenSSL's SSL_ERROR_WANT_READ, as `tlsWriteSome` returns it
TOO_MANY = 1000  # not an error of OpenSSL, but ours (see `tlsAllow`)
BROKEN = -1  # SSL_ERROR_SSL, which stands for all other errors

# Bits of epoll.
_IN = getattr(select, "EPOLLIN", 0x001)
_GONE = getattr(select, "EPOLLERR", 0x008) | getattr(select, "EPOLLHUP", 0x010)


def acceptOne(listening: socket.socket) -> tuple[int, Any]:
    """Accept one connection; return its non-blocking descriptor, and the peer's address as Python represents it.

    Raises:
        OSError: none waits (BlockingIOError), or accepting failed.
    """
    accepted, address = listening.accept()
    accepted.setblocking(False)
    return accepted.detach(), address


def isOnLoopback(fd: int) -> bool:
    """Return whether the peer of an accepted TCP connection has connected to a loopback address: 127.0.0.0/8 or ::1.

    Raises:
        OSError: `fd` is not a socket.
    """
    accepted = socket.socket(fileno=fd)
    try:
        host: str = accepted.getsockname()[0]
    finally:
        accepted.detach()
    return host == "::1" or host.removeprefix("::ffff:").startswith("127.")


# Method, target, headers, Host, the headers' values by name; and the Sec-WebSocket-Key of a handshake that is ordinary, too,
# apart from its origin, subprotocols and extensions (see `twisted_ws.wire.door.handshake.decide`).
PlainHead = tuple[str, str, tuple[tuple[str, str], ...], str, dict[str, list[str]], str | None]


def plainHead(data: bytes) -> PlainHead | None:
    """Return the contents of a plain head, one in which nothing is out of the ordinary.

    That is an HTTP/1.1 request for a path, with one Host, in which `wire.door.head` would accept every byte; that module says
    what is wrong with others.

    Returns:
        None if it is not plain; here, always.
    """
    return None


def split(data: bytes, maximum: int) -> tuple[list[str | bytes], int]:
    """Return the messages in the ordinary frames at the start of `data`, and how many bytes those frames have."""
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
    """Read a non-blocking socket once; return what came, b"" at the end of the stream, None if there is nothing.

    Raises:
        OSError: the connection is broken.
    """
    try:
        return os.read(fileno, _READ_SIZE)
    except (BlockingIOError, InterruptedError):
        return None


class Sender:
    """Sends frames directly on one connection.

    Anything may run in the middle of a call here: the garbage collector and a finaliser that writes to this same connection, or
    another thread while the kernel copies. So what was sent is noted here before anything else can happen, and whatever runs
    meanwhile finds `begun` set.

    Attributes:
        handle: the socket's descriptor, or what `tlsHandle` returned.
        secure: whether it is the latter.
        open: whether the connection takes messages, uncompressed.
        waiting: whether bytes wait that must be sent first.
        begun: whether a frame was begun, whose rest must be sent before anything else.
        lastData: when a frame was last sent, this way or another, or received (the caller's clock).
        written: how many frames were sent this way.
    """

    __slots__ = ("_frame", "_sent", "begun", "handle", "lastData", "open", "secure", "waiting", "written")

    def __init__(self) -> None:
        self.handle: Any = 0
        self.secure = self.open = self.waiting = self.begun = False
        self.lastData = 0.0
        self.written = 0
        self._frame: bytes | None = None  # the one that was begun; None: none was, or it is being sent
        self._sent = 0  # bytes of it that were sent; negative: unknown

    def send(self, first: int, payload: str | bytes, now: float) -> bool | None:
        """Send one frame, if frames can be sent this way now.

        A broken connection takes nothing here: the error occurs again when the transport writes the rest.

        Args:
            first: the first byte of the frame.
            payload: a str is sent as UTF-8.
            now: the current time.

        Returns:
            None if the kernel took everything; True if it did not, or if others wait by now, so that the outbox must go on; False
            if nothing was done.

        Raises:
            OverflowError: `first` is not a byte.
            UnicodeEncodeError: a str with a lone surrogate.
        """
        if not 0 <= first <= 0xFF:
            raise OverflowError("the first byte is not a byte")
        return self.take(frame(first & 0x0F, payload.encode() if isinstance(payload, str) else payload, first & 0xF0), now)

    def take(self, data: bytes, now: float) -> bool | None:
        """Do as `send` does, with a complete frame."""
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
        """Return the part of the frame that was begun that the kernel did not take; None without one, or while it is being sent.

        Raises:
            OSError: it is unknown, because sending failed in the middle: the connection is of no further use.
        """
        if self._sent < 0:
            raise OSError(errno.EIO, "nobody knows how much was sent")
        return None if self._frame is None else self._frame[self._sent :]

    def restNoted(self) -> None:
        """Forget that frame: the caller keeps the rest, and sends it."""
        self._frame, self.begun = None, False


# What `sendMany` returns for each.
WHOLE, BEGUN, NOT_THIS_WAY = 0, 1, 2


def sendMany(senders: Sequence[Sender], data: bytes, now: float) -> bytes | bytearray | None:
    """Send the same frame to many.

    Returns:
        None if each took all of it; else a byte for each: `WHOLE`; `BEGUN`, if its outbox must go on; or `NOT_THIS_WAY`.
    """
    outcomes, isBehind = bytearray(len(senders)), False
    for index, sender in enumerate(senders):
        try:
            taken = sender.take(data, now)
        except Exception:
            taken = bool(sender.begun)  # its outbox finds out that it is unknown how much was sent; the others get theirs
        if taken is not None:
            isBehind = True
            outcomes[index] = BEGUN if taken else NOT_THIS_WAY
    return outcomes if isBehind else None


# The same with TLS, on an OpenSSL connection that has the socket.


def tlsHandle(connection: SSL.Connection) -> SSL.Connection:
    """Return a connection as the functions below take it."""
    return connection


class _Messages:
    """How many messages of TLS itself one read may still have; None: they are not counted."""

    most = 0
    left: int | None = None


def tlsAllow(context: SSL.Context, most: int) -> None:
    """Bound the messages of TLS itself, such as new keys and alerts, that one read takes: OpenSSL takes all that have come.

    With one more, the connection is of no further use, and reading it returns `TOO_MANY`.

    Args:
        context: messages on its connections are counted while they are read.
        most: the bound for all contexts of the process; the last call decides.
    """
    _Messages.most = most
    context.set_info_callback(_countMessage)


def tlsCount(on: bool) -> bool:
    """Begin or end a read, other than `tlsReadSome`, on a connection of such a context.

    Returns:
        Whether there were too many messages in the read that ends here.
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
    """Read all that has come, as `readSome` does: whole records, so that nothing stays in OpenSSL, where no poll shows it.

    Returns:
        The same as `readSome`; b"" if the peer has ended TLS; an int: `TOO_MANY`, or, from the compiled part, OpenSSL's error. An
        error or the end that follows the returned bytes comes with the next call, and no poll shows it (see `tlsHasEnded`).

    Raises:
        SSL.Error: anything else, including `SSL.WantWriteError`.
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
    """Return whether the peer has ended TLS, or broken it."""
    return bool(connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN)


def tlsWriteSome(connection: SSL.Connection, data: bytes | memoryview) -> int:
    """Send what the socket takes, and return how many bytes that is.

    Returns:
        0 if the socket is full: what was not sent must be passed again, first, and at least as much of it (SSL_write). A negative
        number, `WANT_READ` or another, if nothing was sent for another reason.
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

# What reads, the largest message, and what is called with each.
_Lane = tuple[Sender, int, Callable[[str | bytes], Any]]


class _Entry:
    """What a `PollSet` knows of one descriptor."""

    __slots__ = ("events", "lane", "transport", "watch")

    def __init__(self) -> None:
        self.transport: Any = None  # the owner
        self.events = 0  # 0: it is not polled
        self.watch = object()  # a new one for each registration: a descriptor may have another owner by the time an event comes
        self.lane: _Lane | None = None


class PollSet:
    """Sockets behind one epoll set; messages for those that have a lane are delivered directly.

    Args:
        ready: called as ``ready(transport, events, came)`` for everything that the lane does not take. `came` is what was read
            already. None: nothing; bytes: these, b"" for the end of the stream; a list: messages for a lane that was detached by
            the message before them; an int or an SSL.Error: what went wrong, as errno or as OpenSSL's error.

    Attributes:
        failed: the transport that was being served when `serve` raised.
        messages: how many messages have come in ordinary frames.
        frameBytes: the size of those frames.
    """

    def __init__(self, ready: Callable[[Any, int, Any], object]) -> None:
        self._ready = ready
        self._epoll = select.epoll()
        self._entries: dict[int, _Entry] = {}  # of those that are polled or have a lane
        self._polled: set[int] = set()  # those polled now or before
        self._asked: set[int] = set()  # those polled now
        self._happened: list[tuple[int, object, int]] = []  # events from the kernel that are not served yet, the next one last
        self._serving = False
        self._delivered = 0  # messages since `serve` was called, or what counts as as many
        self.failed: Any = None
        self.messages = self.frameBytes = 0

    def __len__(self) -> int:
        return len(self._asked)

    def fileno(self) -> int:
        """Return the descriptor of the set, which is readable when one of its sockets is ready."""
        return self._epoll.fileno()

    def transports(self) -> list[Any]:
        """Return the transports that are polled."""
        # Copied to a list first: building a tuple may run a finaliser after it has begun to count.
        return [entry.transport for entry in [*self._entries.values()] if entry.events]

    def ask(self, fd: int, transport: Any, wanted: int, unwanted: int) -> None:
        """Change the events (bits of epoll) for which `transport` is polled.

        A transport that has lost its descriptor to another no longer has any say about it.

        Raises:
            OSError: it cannot be polled; never for `unwanted` alone.
            OverflowError: `wanted` or `unwanted` is not a set of bits of epoll.
        """
        if not (0 <= wanted < 1 << 31 and 0 <= unwanted < 1 << 31):
            raise OverflowError("not bits of epoll")
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
            # Everything is allocated before the kernel knows the descriptor, or it would report events that nothing here takes.
            former = entry.lane, entry.transport  # kept until the end: their finalisers may call this, too
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
                # The former owner closed the descriptor without detaching. Its lane does not pass to the new owner.
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
        """Give a descriptor a lane, in place of any it has, until `transport` detaches it or another transport asks for `fd`.

        Args:
            fd: a descriptor that is polled, or was before.
            transport: its owner.
            sender: the same connection's; its `lastData` becomes the time of each read that has messages.
            maximum: bytes of the largest message.
            deliver: called with each message.

        Raises:
            ValueError: `fd` was never polled, or belongs to another transport.
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
        """Take the lane from `transport`, if it has one; messages that were read for it go to `ready`."""
        entry = self._entries.get(fd)
        if entry is not None and entry.transport is transport:
            entry.lane = None
            self._forgetUnused(fd, entry)

    def lookUp(self) -> None:
        """Make `serve` return after the current event, which takes as long as many others."""
        self._delivered = _MESSAGES_AT_ONCE

    def serve(self, maximum: int, now: float) -> int:
        """Serve what is ready, at most `maximum` events, and return how many that was; the next call goes on after them.

        At most 64 messages of one connection are delivered; `ready` gets the rest, if more have come. After as many messages in
        total, it is time to look up, too: then `maximum` is returned, because there may be more. Within itself, it serves
        nothing.

        Raises:
            Exception: raised by `deliver` or `ready`; see `failed`. What else was ready is ready the next time, too.
        """
        if self._serving:
            return 0  # the connection being served would be read again before what came is delivered
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
                # All are served before the kernel is asked again: connections that have more come after the others.
                told = reversed(self._epoll.poll(0, _EVENTS_AT_ONCE))
                self._happened = [(fd, (entry := entries.get(fd)) and entry.watch, events) for fd, events in told]
                if not self._happened:
                    break
            while self._happened and served < maximum:
                fd, watch, events = self._happened.pop()
                served += 1
                entry = entries.get(fd)
                if entry is None or entry.watch is not watch:
                    continue  # gone, through another event
                transport, lane = entry.transport, entry.lane
                wanted = events & (entry.events | _GONE)
                if not entry.events or not wanted:
                    continue  # no longer wanted
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
            self.messages += len(messages)
            self.frameBytes += taken
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
