"""What becomes of a server's first process after an upgrade: it keeps its number for whoever started, watches or signals it.

``python -I -S keeper.py STREAM CHILD [PIDFILE]`` with the descriptor of the stream to the supervisor and the number of that
process. Signals go on to it, what it says for systemd goes on to systemd, and when it ends, so does this one, in the same way. At
the next upgrade it says which process is the supervisor from then on.

It needs nothing but the standard library, so it is small, and no version of anything matters to it.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

# What goes on to the supervisor.
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# What the supervisor says ends with this byte.
END = b"\0"
# The words before the number of the next supervisor, and before what is for systemd.
NEXT = b"next "
NOTIFY = b"notify "
# Orphans become the children of the process that sets this (prctl(2)).
_SET_CHILD_SUBREAPER = 36
# Milliseconds between two looks at a supervisor that has closed its stream.
AGAIN = 100


class Keeper:
    """Stands for a supervisor.

    Args:
        stream: leads to it, and to the one after it.
        child: the number of its process.
    """

    def __init__(self, stream: socket.socket, child: int) -> None:
        stream.setblocking(False)
        self.child = child
        self._stream = stream
        self._came = b""
        self.isOver = False

    def listen(self) -> None:
        """Handle what the supervisor has said."""
        while not self.isOver and self._stream.fileno() != -1:
            try:
                data = self._stream.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self.isOver = not data
            *words, self._came = (self._came + data).split(END)
            for word in words:
                if word.startswith(NEXT):
                    self.child = int(word[len(NEXT) :])
                elif word.startswith(NOTIFY):
                    _tell(word[len(NOTIFY) :])

    def reap(self) -> int | None:
        """Take note of processes that have ended; return how the supervisor has (as of `os.waitpid`), None if it lives."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                # It is not our child where orphans go elsewhere; the end of the stream is its end.
                return 0 if self.isOver else None
            if not process:
                return 0 if self.isOver and not _lives(self.child) else None
            self.listen()  # it may have named its successor last
            if process == self.child:
                return status

    def forward(self, number: int) -> None:
        """Pass a signal on."""
        self.listen()
        with suppress(OSError):
            os.kill(self.child, number)

    def run(self) -> int:
        """Work until the supervisor ends, and return how it ended."""
        woken, waking = os.pipe()
        for each in (woken, waking):
            os.set_blocking(each, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        for each in (*SIGNALS, signal.SIGCHLD):
            signal.signal(each, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._stream, select.POLLIN)
        while True:
            self.listen()
            status = self.reap()
            if status is not None:
                return status
            if self.isOver and self._stream.fileno() != -1:
                poll.unregister(self._stream)
                self._stream.close()
            for descriptor, _ in poll.poll(AGAIN if self.isOver else None):
                if descriptor == woken:
                    for number in os.read(woken, 512):
                        if number != signal.SIGCHLD:
                            self.forward(number)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _tell(state: bytes) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state)


def _end(status: int) -> NoReturn:
    """End as a process has, by the same signal or with the same code."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        os._exit(128 + number)  # the first process of a container is not ended by that
    os._exit(os.waitstatus_to_exitcode(status))


def keep(descriptor: int, child: int, pidfile: str = "") -> NoReturn:
    """Keep the number of this process, until the supervisor has ended.

    Args:
        descriptor: the stream to the supervisor; all others are closed but the standard streams.
        child: the number of its process.
        pidfile: removed at the end; "" for none.
    """
    for each in map(int, os.listdir("/proc/self/fd")):
        if each > 2 and each != descriptor:
            with suppress(OSError):
                os.close(each)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    status = Keeper(socket.socket(fileno=descriptor), child).run()
    if pidfile:
        with suppress(OSError):
            os.unlink(pidfile)  # as twistd does
    _end(status)


if __name__ == "__main__":
    keep(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
