"""What the engine in memory keeps over a restart: a file that is written at a stop, and read at the next start.

The file: a line with its name and version; records (`twisted_ws.engines.snapshot`) in msgpack, each after its length in 4 bytes;
the BLAKE2b of all that. While a process works it has a single record that says so, so that a process that was killed leaves
nothing that a later one could take for the end of the numbering: it would give ids out again.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from stat import S_ISREG
from typing import IO, Any

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.engines.snapshot import Channel, Head, Kept, Living, Record
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable

VERSION = 1

_NAME = b"twisted-ws history "
_HEAD = _NAME + b"%d\n" % VERSION
_LONGEST_HEAD = 32
_DIGEST = 32  # bytes
_LENGTH = struct.Struct(">I")
# What is encoded in one turn of the reactor: a few milliseconds' worth.
BLOCK = 256 * 1024  # bytes
RECORDS = 1000
# Bytes that are read at once to check the whole.
_READ = 1 << 20


class InUse(msgspec.Struct, tag=99, array_like=True):
    """Says instead of anything else that a process works with the file: its number."""

    process: int


class Unreadable(Exception):
    """A file has no history in it; the text says why."""


_encode = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(Record | Living | InUse).decode


def blocksOf(records: Iterable[Record | Living | InUse]) -> Iterator[bytearray]:
    """Yield the bytes of a file, in blocks that are made in a few milliseconds each."""
    digest = blake2b(_HEAD, digest_size=_DIGEST)
    block, count = bytearray(_HEAD), 0
    begun = len(_HEAD)  # what of the block is in the digest already

    for record in records:
        at = len(block)
        _encode(record, block, at + _LENGTH.size)
        _LENGTH.pack_into(block, at, len(block) - at - _LENGTH.size)
        count += 1
        if len(block) >= BLOCK or count >= RECORDS:
            digest.update(memoryview(block)[begun:])
            yield block
            block, count, begun = bytearray(), 0, 0
    digest.update(memoryview(block)[begun:])
    block += digest.digest()
    yield block


def recordsOf(file: IO[bytes]) -> Iterator[Record | Living | InUse]:
    """Yield the records of a file one after the other, after a look at all of it.

    Raises:
        Unreadable: it is not such a file, has another version, or is damaged.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.readline(_LONGEST_HEAD)
    if not head.startswith(_NAME):
        raise Unreadable("it has no history" if size else "it is empty")
    if head != _HEAD:
        raise Unreadable(f"it is of version {printable(head[len(_NAME) :].strip())}, and this is version {VERSION}")
    end = size - _DIGEST
    digest, left = blake2b(head, digest_size=_DIGEST), end - len(head)
    while left > 0 and (data := file.read(min(left, _READ))):
        digest.update(data)
        left -= len(data)
    if left or file.read() != digest.digest():
        raise Unreadable("it is damaged")
    at = file.seek(len(head))
    while at < end:
        data = file.read(_LENGTH.size)
        (length,) = _LENGTH.unpack(data)
        at += _LENGTH.size + length
        if at > end:
            raise Unreadable("it is damaged")
        try:
            yield _decode(file.read(length))
        except msgspec.MsgspecError as error:
            raise Unreadable(f"it is damaged: {error}") from None


class HistoryFile:
    """The file of one engine, for one process at a time.

    In order: `load`, `begin`, and `save` when the engine has stopped.

    Args:
        path: its path.
        reactor: the reactor.
        inThread: calls a function in a thread, and returns a Deferred of its result; None: in the reactor's pool.
        lock: the descriptor of its lock, which another process has had until now; None: nobody has it.

    Raises:
        ConfigurationError: it cannot be there, or another process works with it; one line.
    """

    _log = Logger()

    def __init__(
        self, path: str, reactor: Any, inThread: Callable[..., Deferred[Any]] | None = None, lock: int | None = None
    ) -> None:
        self.path = os.path.abspath(path)
        self._reactor = reactor
        self._inThread = inThread or self._callInThread
        if lock is not None:
            self._lock = os.fdopen(lock, "ab")
            return
        if os.path.isdir(self.path):
            raise ConfigurationError(f"The history file {self.path} is a directory.")
        try:
            # Open for as long as this process works with the file: the kernel frees it when that ends, in whatever way.
            self._lock = open(f"{self.path}.lock", "ab", opener=_private)  # noqa: SIM115
        except OSError as error:
            raise self._cannot(error, "be written") from None
        status = os.fstat(self._lock.fileno())
        if not S_ISREG(status.st_mode) or status.st_nlink != 1:  # root would give away what somebody has put there
            self._lock.close()
            raise ConfigurationError(f"The history file {self.path} cannot be written: {self.path}.lock is not its own.")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigurationError(f"The history file {self.path} is used by another process: give each its own.") from None

    @property
    def lock(self) -> int:
        """The descriptor of the lock, for a process that takes over."""
        return self._lock.fileno()

    def give(self, user: int, group: int) -> None:
        """Let a user and group write it, -1 for one that stays; for a process that changes to them."""
        os.fchown(self._lock.fileno(), user, group)

    def load(self, engine: MemoryEngine) -> None:
        """Give a new engine what the last process kept. What cannot be read is said and set aside; the epoch is a new one then.

        Raises:
            ConfigurationError: the file cannot be opened; one line.
        """
        try:
            with open(self.path, "rb", opener=_waitForNobody) as file:
                if not S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise ConfigurationError(f"The history file {self.path} is not a regular file.")
                records = recordsOf(file)
                first = next(records, None)
                if isinstance(first, InUse):
                    self._log.warn(
                        "{file}: process {process} ended without writing the history, which is lost: a new epoch begins",
                        file=self.path,
                        process=first.process,
                        event="history.lost",
                    )
                    return
                self._restore(engine, first, records)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot(error, "be read") from None
        except (Unreadable, ValueError) as error:
            aside = f"{self.path}.broken"
            self._log.error(
                "The history file {file} cannot be read: {reason}. It was renamed to {aside}; a new epoch begins.",
                file=self.path,
                reason=str(error) or type(error).__name__,
                aside=aside,
                event="history.lost",
            )
            try:
                os.replace(self.path, aside)
            except OSError as failed:
                raise self._cannot(failed, "be renamed") from None

    def _restore(self, engine: MemoryEngine, first: Record | Living | InUse | None, rest: Iterator[Any]) -> None:
        if not isinstance(first, Head):
            raise Unreadable("it has no head")
        count = _Count((first,), rest)
        engine.restore(count)
        self._log.info(
            "{file}: the numbering goes on; messages restored: {messages}, in channels: {channels}",
            file=self.path,
            messages=count.messages,
            channels=count.channels,
            event="history.read",
        )

    def begin(self) -> None:
        """Note that this process works with the file.

        Raises:
            ConfigurationError: it cannot be written; one line.
        """
        try:
            file = self._create()
            for block in blocksOf([InUse(os.getpid())]):
                file.write(block)
            self._finish(file)
        except OSError as error:
            raise self._cannot(error, "be written") from None

    async def save(self, engine: MemoryEngine) -> None:
        """Write what a stopped engine keeps, in slices between turns of the reactor; if that fails, the log says so."""
        count = _Count(engine.records())
        try:
            file = self._create()
            try:
                for block in blocksOf(count):
                    await self._inThread(file.write, block)
                await self._inThread(self._finish, file)
            except BaseException:
                with suppress(OSError):  # it tries once more to write
                    file.close()
                with suppress(FileNotFoundError):
                    os.unlink(file.name)
                raise
        except OSError as error:
            self._log.error("The history is lost: {reason}", reason=str(self._cannot(error, "be written")), event="history.lost")
            return
        self._log.info(
            "{file}: written for the next start; messages: {messages}, in channels: {channels}",
            file=self.path,
            messages=count.messages,
            channels=count.channels,
            event="history.written",
        )

    def close(self) -> None:
        """Let other processes work with the file."""
        self._lock.close()

    def _create(self) -> IO[bytes]:
        """Return a new file beside it, in place of one that was not finished."""
        path = f"{self.path}.new"
        with suppress(FileNotFoundError):
            os.unlink(path)
        return open(path, "xb", opener=_private)

    def _finish(self, file: IO[bytes]) -> None:
        """Put a new file in the place of the old one, so that there is always a whole one."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.replace(file.name, self.path)
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _callInThread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        if not self._reactor.running:
            return maybeDeferred(call, *arguments)  # there is nobody to serve meanwhile
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call, *arguments)

    def _cannot(self, error: OSError, what: str) -> ConfigurationError:
        return ConfigurationError(f"The history file {self.path} cannot {what}: {error.strerror}.")


class _Count:
    """Records on their way, counted."""

    def __init__(self, *parts: Iterable[Any]) -> None:
        self._parts = parts
        self.channels = self.messages = 0

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts:
            for record in part:
                if isinstance(record, Kept):
                    self.messages += 1
                elif isinstance(record, Channel):
                    self.channels += 1
                yield record


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)  # a FIFO has no reader


def _waitForNobody(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO has no writer
