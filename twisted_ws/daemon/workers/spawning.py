"""The processes of workers: how they are started, what they inherit, and how their end is told."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from twisted_ws.daemon.workers.crew import Worker
from twisted_ws.daemon.workers.orders import command, environment
from twisted_ws.daemon.workers.pipe import Certificates, PipeReader
from twisted_ws.engines.hub.link import Link
from twisted_ws.limits import KIB

# What a worker has: standard streams, its link, its log, what it gets descriptors by, and from here on its sockets.
LINK = 3
LOG = 4
HAND = 5
SOCKETS = 6
# Signals that the supervisor acts on. A terminal and systemd send them to workers as well.
SUPERVISORS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Bytes of what a worker writes to its standard streams that are kept until it is known whether it can start.
KEPT = 16 * KIB
# Lines that came together and are events of the log each; more of them are one, because an event takes some 50 us.
LINES = 50
# Bytes of one read of what a worker writes that another supervisor has started.
READ = 64 * KIB
# Seconds for which the standard streams of a process that has ended are waited for.
LINGER = 0.5


class WorkerProcess(ProcessProtocol):
    """The process of a worker, for `twisted_ws.daemon.workers.crew.Crew`.

    Args:
        worker: the worker.
        ended: called with it and with how it has ended.
        reactor: the reactor.
        certificates: what workers have said of them.
    """

    transport: Any

    def __init__(
        self, worker: Worker, ended: Callable[[Worker, str], None], reactor: Any, certificates: Certificates | None = None
    ) -> None:
        self._reactor = reactor
        self._timer: Any = None
        self.pid: int | None = None
        self.hand: socket.socket | None = None  # what it is sent descriptors by
        self._worker = worker
        self._ended = ended
        self._log = PipeReader(worker.slot + 1, certificates=certificates)
        self._printed: bytes | None = b""

    def connectionMade(self) -> None:
        """Note its number."""
        self.pid = self.transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Log what it says."""
        if childFD == LOG:
            self._log.dataReceived(data)
        elif self._printed is None:
            self._print(data)
        else:
            self._printed = (self._printed + data)[-KEPT:]

    def _print(self, data: bytes) -> None:
        lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
        if len(lines) > LINES:
            lines[LINES:] = ["\n".join(lines[LINES:])]
        for line in lines:
            self._log.say(line, time=time.time())

    def show(self) -> None:
        """Log what it writes to its standard streams, from the beginning on."""
        printed, self._printed = self._printed, None
        self._print(printed or b"")

    def kill(self) -> None:
        """End it at once."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except OSError:
                pass

    def streams(self) -> dict[int, int]:
        """Return the descriptors of what it writes to, by their numbers there, for another supervisor."""
        return {number: pipe.fileno() for number, pipe in self.transport.pipes.items() if pipe.fileno() != -1}

    def pause(self) -> bytes:
        """Read nothing until `resume`, and return the beginning of a line of the log that has come."""
        for pipe in self.transport.pipes.values():
            pipe.stopReading()
        return self._log.begun

    def resume(self) -> None:
        """End that."""
        for pipe in self.transport.pipes.values():
            pipe.startReading()

    def processExited(self, reason: Failure) -> None:
        """Note how it has ended; what it wrote last comes now, unless processes that it has started keep its streams open."""
        self.pid = None
        hand, self.hand = self.hand, None
        if hand is not None:
            hand.close()
        self._timer = self._reactor.callLater(LINGER, self._tell, howEnded(reason.value))

    def processEnded(self, reason: Failure) -> None:
        """Tell how it has ended."""
        if self._timer is None or self._timer.active():
            self._tell(howEnded(reason.value))

    def _tell(self, how: str) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        last = (self._printed or b"").decode("utf-8", "replace").strip().rpartition("\n")[2]
        self._ended(self._worker, f"{how}: {last}" if last else how)


class AdoptedProcess:
    """The process of a worker that another supervisor has started.

    Args:
        worker: the worker.
        pid: its number.
        streams: see `WorkerProcess.streams`.
        hand: what it is sent descriptors by; None if that is not there.
        begun: what `WorkerProcess.pause` has returned.
        ended: called with the worker and with how it has ended.
        reactor: the reactor.
        certificates: what workers have said of them.

    Raises:
        OSError: there are no descriptors left.
    """

    def __init__(
        self,
        worker: Worker,
        pid: int,
        streams: Mapping[int, int],
        hand: socket.socket | None,
        begun: bytes,
        ended: Callable[[Worker, str], None],
        reactor: Any,
        certificates: Certificates,
    ) -> None:
        self.pid: int | None = pid
        self.hand: socket.socket | None = hand
        self._worker = worker
        self._ended = ended
        self._reactor = reactor
        self._log = PipeReader(worker.slot + 1, certificates=certificates)
        self._log.begun = begun
        try:
            self._process: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._process = None  # it has ended, and its number may be another's soon
        self._streams = {number: _Readable(each, partial(self._came, number), reactor) for number, each in streams.items()}

    def begin(self) -> None:
        """Read what it says, and notice its end."""
        self.resume()
        if self._process is None:
            self._reactor.callLater(0, self._tell)
        else:
            self._reactor.addReader(_Readable(self._process, self._hasEnded, self._reactor))

    def streams(self) -> dict[int, int]:
        """See `WorkerProcess.streams`."""
        return {number: each.fileno() for number, each in self._streams.items()}

    def pause(self) -> bytes:
        """See `WorkerProcess.pause`."""
        for each in self._streams.values():
            self._reactor.removeReader(each)
        return self._log.begun

    def resume(self) -> None:
        """End that."""
        for each in self._streams.values():
            self._reactor.addReader(each)

    def _came(self, number: int, stream: _Readable) -> None:
        try:
            data = os.read(stream.fileno(), READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            stream.close()
            del self._streams[number]
        elif number == LOG:
            self._log.dataReceived(data)
        else:
            for line in data.decode("utf-8", "replace").splitlines()[:LINES]:
                if line.strip():
                    self._log.say(line, time=time.time())

    def _hasEnded(self, process: _Readable) -> None:
        self._process = None
        process.close()
        self._reactor.callLater(0, self._tell)  # what it wrote last is read first

    def _tell(self) -> None:
        self.pid = None
        hand, self.hand = self.hand, None
        if hand is not None:
            hand.close()
        self._ended(self._worker, "has ended")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(OSError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def show(self) -> None:
        """Do nothing: all is shown."""


@implementer(IReadDescriptor)
class _Readable:
    """A descriptor that can be read now and then, for the reactor."""

    def __init__(self, descriptor: int, readable: Callable[[_Readable], object], reactor: Any) -> None:
        self._descriptor = descriptor
        self._readable = readable
        self._reactor = reactor

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def doRead(self) -> None:
        """Have it read."""
        self._readable(self)

    def close(self) -> None:
        """Close it."""
        self._reactor.removeReader(self)
        os.close(self._descriptor)

    def logPrefix(self) -> str:
        """Return what the reactor calls this in its log."""
        return "worker"

    def connectionLost(self, reason: Failure) -> None:
        """End, because the reactor does."""


def howEnded(error: BaseException | None) -> str:
    """Return how a process has ended, for a log: "was ended by SIGKILL"."""
    number = getattr(error, "signal", None)
    if number is not None:
        try:
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"was ended by signal {number}"
    return "has ended" if isinstance(error, ProcessDone) else f"has ended with exit code {getattr(error, 'exitCode', None)}"


class Launcher:
    """Starts the processes of workers.

    Args:
        reactor: the reactor.
        makeLink: makes the link to one.
        ended: see `WorkerProcess`.
        sockets: returns the descriptors of all sockets, in the order in which workers have them from `SOCKETS` on.
    """

    def __init__(
        self,
        reactor: Any,
        makeLink: Callable[[Worker], Link],
        ended: Callable[[Worker, str], None],
        sockets: Callable[[], Sequence[int]],
    ) -> None:
        self._reactor = reactor
        self._makeLink = makeLink
        self._ended = ended
        self._sockets = sockets
        self._certificates = Certificates()

    def launch(self, worker: Worker) -> None:
        """Start the process of a worker.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair()
        hand, theirHand = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        nothing = os.open(os.devnull, os.O_RDONLY)
        try:
            worker.line = link = self._makeLink(worker)
            worker.process = process = WorkerProcess(worker, self._ended, self._reactor, self._certificates)
            descriptors: dict[int, int | str] = {0: nothing, 1: "r", 2: "r", LINK: theirs.fileno(), LOG: "r"}
            descriptors[HAND] = theirHand.fileno()
            descriptors.update(enumerate(self._sockets(), SOCKETS))
            program = command(str(worker.slot + 1), self._reactor.__class__.__module__)
            ours.setblocking(False)
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, _LinkFactory(link))
            # Until it can ignore them: what was sent while it starts must not end it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS)
            try:
                self._reactor.spawnProcess(process, program[0], program, environment(), childFDs=descriptors)
                process.hand = hand
            except BaseException:
                link.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        finally:
            for each in (ours, theirs, theirHand, *(() if worker.process.hand is hand else (hand,))):
                each.close()
            os.close(nothing)

    def adopt(
        self, worker: Worker, pid: int, connection: int, streams: Mapping[int, int], hand: int | None, begun: bytes
    ) -> None:
        """Set `line` and `process` of a worker that another supervisor has started; nothing is read until `release`.

        Args:
            worker: the worker.
            pid: its number.
            connection: the stream of its link.
            streams: see `AdoptedProcess`.
            hand: what it is sent descriptors by.
            begun: see `AdoptedProcess`.
        """
        worker.line = link = self._makeLink(worker)
        socketOfHand = None if hand is None else socket.socket(fileno=hand)
        adopted = (worker, pid, streams, socketOfHand, begun, self._ended, self._reactor, self._certificates)
        worker.process = AdoptedProcess(*adopted)
        connect(self._reactor, connection, link)
        link.pause()

    def join(self, old: Worker, new: Worker) -> bool:
        """Give both workers an end of one stream, over which connections go; return whether that could be done."""
        hands = [each.process.hand for each in (old, new)]
        ends = socket.socketpair()
        try:
            for hand, end in zip(hands, ends, strict=True):
                if hand is None:
                    return False
                socket.send_fds(hand, [b"+"], [end.fileno()], socket.MSG_DONTWAIT)
        except OSError:
            return False  # what one has got ends with the other end
        finally:
            for end in ends:
                end.close()
        return True


class _LinkFactory(Factory):
    """Gives a connection that is there already to a link."""

    noisy = False

    def __init__(self, link: Link) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> Any:
        """Return the link."""
        return self._link


def receive(descriptor: int) -> socket.socket | None:
    """Return the stream that `Launcher.join` has sent, which must have come; None if it has not."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as hand:
            _, found, _, _ = socket.recv_fds(hand, 1, 1, socket.MSG_DONTWAIT)
    except OSError:
        return None
    if not found:
        return None
    os.set_inheritable(found[0], False)
    return socket.socket(fileno=found[0])


def connect(reactor: Any, descriptor: int, link: Link) -> None:
    """Let a link speak over an inherited stream, and close our descriptor of it."""
    os.set_blocking(descriptor, False)
    reactor.adoptStreamConnection(descriptor, socket.AF_UNIX, _LinkFactory(link))
    os.close(descriptor)
