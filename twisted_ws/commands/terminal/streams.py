"""Standard input and output, whatever they are: each has a thread, because epoll refuses files, and a pipe may block.

Both threads are daemons: the process can end while one waits for a terminal or for the reader of our output.
"""

from __future__ import annotations

import os
import select
import threading
from typing import Any

from twisted.internet.defer import Deferred

from twisted_ws.errors import ConfigurationError

# Bytes of one read.
BLOCK = 64 * 1024
# Bytes of a line; a longer one is an error.
LONGEST_LINE = 8 * 1024 * 1024
# Bytes that may wait for the reader of our output before reading from the server stops.
WAITING = 1024 * 1024


def occupy() -> None:
    """Open /dev/null in place of closed standard streams, before a socket gets their numbers.

    Standard output carries data: if it is closed, writing to it must fail.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # This is the lowest free number: those below it are open by now.
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)


class Input:
    """Blocks of bytes from a file descriptor, read one ahead.

    Args:
        reactor: the reactor.
        descriptor: a file, a pipe, a terminal, or anything else readable.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor
        self._wanted = threading.Semaphore(0)
        self._waiting: Deferred[bytes] | None = None
        self._begun = False

    def read(self) -> Deferred[bytes]:
        """Return a Deferred for the next block, ``b""`` at the end; only one may wait at a time."""
        self._wanted.release()
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._work, name="stdin", daemon=True).start()
        result: Deferred[bytes] = Deferred()
        self._waiting = result
        return result

    def _work(self) -> None:
        while self._wanted.acquire():
            try:
                block = self._block()
            except OSError:
                block = b""  # the terminal is gone, say: there will be no more
            self._reactor.callFromThread(self._came, block)
            if not block:
                return

    def _block(self) -> bytes:
        while True:
            try:
                return os.read(self._descriptor, BLOCK)
            except BlockingIOError:
                # Another process that shares the terminal or pipe has made it non-blocking: this is not the end.
                select.select((self._descriptor,), (), ())

    def _came(self, block: bytes) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(block)


class Lines:
    """Splits blocks into lines."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._size = 0

    def feed(self, block: bytes) -> list[bytes]:
        """Return the lines that are complete now, without their ends; for ``b""``, a last line without an end.

        Raises:
            ConfigurationError: a line is longer than `LONGEST_LINE`.
        """
        *ended, rest = block.split(b"\n") if block else (*filter(None, (b"".join(self._rest),)), b"")
        if ended and block:
            ended[0] = b"".join((*self._rest, ended[0]))
        if ended:
            self._rest.clear()
            self._size = 0
        if rest:
            self._rest.append(rest)
            self._size += len(rest)
        if self._size > LONGEST_LINE:
            raise ConfigurationError(f"A line on standard input has more than {LONGEST_LINE} bytes: use --binary to send blocks.")
        return [line.removesuffix(b"\r") for line in ended]


class Output:
    """Writes bytes to a file descriptor, in order and at once, without ever blocking the reactor.

    Args:
        reactor: the reactor.
        descriptor: a file, a pipe or a terminal.

    Attributes:
        broken: fires with the error when writing fails.
    """

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self.broken: Deferred[OSError] = Deferred()
        self._reactor = reactor
        self._descriptor = descriptor
        self._pieces: list[bytes] = []
        self._size = 0  # bytes that are not written yet
        self._isBroken = False
        self._news = threading.Condition()
        self._waiters: list[tuple[int, Deferred[None]]] = []
        self._thread: threading.Thread | None = None

    @property
    def isFull(self) -> bool:
        """Whether so much waits that no more should be written."""
        return self._size >= WAITING

    def write(self, data: bytes) -> None:
        """Write; do nothing once writing has failed."""
        with self._news:
            if self._isBroken or not data:
                return
            self._pieces.append(data)
            self._size += len(data)
            self._news.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="stdout", daemon=True)
            self._thread.start()

    def room(self) -> Deferred[None]:
        """Return a Deferred that fires when at most half of what may wait does."""
        return self._below(WAITING // 2)

    def drained(self) -> Deferred[None]:
        """Return a Deferred that fires when everything is written, or `broken` has fired."""
        return self._below(0)

    def _below(self, most: int) -> Deferred[None]:
        below: Deferred[None] = Deferred()
        with self._news:
            if self._size > most or (self._isBroken and not self.broken.called):
                self._waiters.append((most, below))
                return below
        below.callback(None)
        return below

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._pieces)
                data, self._pieces = b"".join(self._pieces), []
            try:
                self._writeAll(data)
            except OSError as error:
                with self._news:
                    self._isBroken = True
                    self._pieces.clear()
                    self._size = 0
                self._reactor.callFromThread(self._broke, error)
                return

    def _writeAll(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(self._descriptor, rest[:BLOCK])
            except BlockingIOError:
                # Another process that shares the terminal has made it non-blocking.
                select.select((), (self._descriptor,), ())
                continue
            rest = rest[written:]
            with self._news:
                self._size -= written
                if any(self._size <= most for most, _ in self._waiters):
                    self._reactor.callFromThread(self._ease)

    def _broke(self, error: OSError) -> None:
        # First the reason, so that code waiting for `drained` can tell that not everything was written.
        self.broken.callback(error)
        self._ease()

    def _ease(self) -> None:
        with self._news:
            ready = [each for each in self._waiters if self._size <= each[0]]
            self._waiters = [each for each in self._waiters if self._size > each[0]]
        for _, below in ready:
            if not below.called:
                below.callback(None)
