"""What a supervisor does to be replaced: it starts its successor, hands everything on, and carries on if the successor fails.

Until the new one says that it has everything, nothing is lost: the old one has stopped to read and write for a moment, and goes
on. From then on, only the new one uses what both have. The descriptors of the old one end with its process image, so no socket is
shut down for the other.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.daemon.succession import keeper
from twisted_ws.daemon.succession.messages import (
    ERRORS,
    FIRST,
    INSTRUCTIONS,
    KEEPER,
    OUTPUT,
    STREAM,
    Adopted,
    HubState,
    command,
    encode,
    interpreter,
)
from twisted_ws.daemon.workers.crew import Stage, Worker
from twisted_ws.daemon.workers.spawning import KEPT, LINGER, SUPERVISORS, howEnded
from twisted_ws.engines.historyfile import blocksOf
from twisted_ws.errors import ChannelError, ConfigurationError

if TYPE_CHECKING:
    from twisted_ws.daemon.workers.supervisor import Supervisor

# Seconds beyond `Limits.workerStart`, which its trial of a worker may take, for a new supervisor to be ready.
START = 30.0
# The shares of `Limits.upgradeHold` after which requests have come whole or are turned away, and after which they are answered
# and nothing is on its way to workers; the rest is for what goes over. A hub that waits for a worker answers after 2.5 s.
COME = 0.25
SETTLED = 0.7
# Seconds between two looks whether they have.
LOOK = 0.005


class Offer:
    """Hands a supervisor's work to a new one, of the code and with the settings that there are now.

    Args:
        supervisor: the old one.
        asker: the connection that is told how it ended; the new supervisor tells it.
    """

    _log = Logger()

    def __init__(self, supervisor: Supervisor, asker: int) -> None:
        self._supervisor = supervisor
        self._asker = asker
        self._reactor: Any = supervisor.reactor
        self._waiter: Deferred[list[Any]] | None = None
        self._wanted = ""
        self._why: str | None = None
        self._stream: HandStream | None = None
        self._process: _SuccessorProcess | None = None
        self._links: list[Any] = []
        self._held: list[Any] = []
        self._workers: list[Worker] = []
        self._outboxStopped = self._isHolding = self._isFrozen = self._isDeaf = False
        self._asked: set[str] = set()
        # Seconds for which publications may wait, and since when they do.
        self._patience = supervisor.settings.limits.upgradeHold
        self._began = 0.0

    async def run(self) -> None:
        """Hand over: this process then becomes another program, or ends.

        Raises:
            ConfigurationError: it could not be done, and all is as it was; one line.
        """
        try:
            await self._start()
            await self._hold()
            await self._give()
            await self._deafen()
        except BaseException as error:
            await self._goOn()
            if isinstance(error, ConfigurationError):
                raise
            if isinstance(error, ChannelError):
                raise ConfigurationError(f"The workers do not answer: {error.message}") from None
            if isinstance(error, OSError):  # no more descriptors, or no room for what is given
                raise ConfigurationError(f"The system refuses what an upgrade needs: {error.strerror}.") from None
            raise
        self._leave()

    def abort(self, why: str) -> None:
        """Give up: the server stops."""
        self._fail(why)

    def note(self, what: str) -> bool:
        """Note that the new supervisor has to do something again, because files may have changed since it has read them.

        Args:
            what: "reload" or "reopen".

        Returns:
            Whether the old one may reload now; otherwise it does so if the new one fails.
        """
        self._asked.add(what)
        return not self._isHolding

    # The new process.

    async def _start(self) -> None:
        supervisor = self._supervisor
        if not hasattr(os, "pidfd_open") or not hasattr(os, "memfd_create"):
            raise ConfigurationError("An upgrade of the whole server needs Linux: restart it.")
        instructions, descriptors = supervisor.instructions()
        ours, theirs = socket.socketpair()
        memory = _memoryFile("instructions")
        os.write(memory, encode(instructions))
        self._process = process = _SuccessorProcess(self._fail, self._reactor)
        passed: dict[int, int | str] = {0: os.open(os.devnull, os.O_RDONLY), 1: "r", 2: "r"}
        passed |= {STREAM: theirs.fileno(), INSTRUCTIONS: memory, KEEPER: supervisor.keeperEnds()[1], OUTPUT: 1, ERRORS: 2}
        passed.update(enumerate(descriptors, FIRST))
        program = command(supervisor.program)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS)
        try:
            self._reactor.spawnProcess(process, program[0], program, dict(os.environ), path=supervisor.directory, childFDs=passed)
        except OSError as error:
            ours.close()
            raise ConfigurationError(f"{program[0]} cannot be started: {error.strerror}.") from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            os.close(memory)
            os.close(int(passed[0]))
        self._stream = stream = HandStream(ours, self._reactor)
        stream.received = self._received
        seconds = supervisor.settings.limits.workerStart + START
        said = await self._expect("ready", seconds, f"The new one was not ready within {seconds:g} s.")
        if said:  # by its settings
            self._patience = float(said[0])

    def _received(self, frame: list[Any], descriptors: list[int]) -> None:
        kind, *fields = frame
        if kind == "failed":
            self._fail(fields[0])
        elif kind == self._wanted and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.callback(fields)

    def _fail(self, why: str) -> None:
        self._why = self._why or why
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.errback(ConfigurationError(why))

    async def _expect(self, kind: str, seconds: float, late: str) -> list[Any]:
        if self._why is not None:
            raise ConfigurationError(self._why)
        self._wanted = kind
        waiter: Deferred[list[Any]] = Deferred()
        self._waiter = waiter
        timer = self._reactor.callLater(seconds, self._fail, late)
        try:
            return await waiter
        finally:
            if timer.active():
                timer.cancel()

    # What stops for a moment.

    async def _hold(self) -> None:
        supervisor = self._supervisor
        self._outboxStopped = True
        await supervisor.stopOutbox()  # it takes its time, and nobody else waits
        self._began, self._isHolding = self._reactor.seconds(), True
        supervisor.holdPorts()
        await self._pause()  # what the reactor has found ready in this turn may still be accepted
        self._held = [each for each in supervisor.server.gate.essentials if hasattr(each, "hold")]
        for each in self._held:
            each.hold()
        await self._until(COME, lambda: not any(each.isBusy for each in self._held))
        for each in self._held:
            each.turnAway()  # or it would publish what the new supervisor does not know
        if not await self._until(SETTLED, lambda: not any(each.isBusy for each in self._held)):
            raise ConfigurationError("Requests that have begun were not answered in time: try again later.")
        self._workers = supervisor.crew.hold()
        links: list[Any] = [each.line for each in self._workers]
        self._links = links
        asked = DeferredList([each.hold() for each in links], consumeErrors=True)
        await self._patiently(asked)
        if not await self._until(SETTLED, lambda: supervisor.isQuiet and all(each.isQuiet for each in links if each.isUp)):
            raise ConfigurationError("A worker is still busy: try again later.")
        for each in links:
            if each.isUp:
                each.pause()

    @property
    def _late(self) -> str:
        return f"The new one did not take over within {self._patience:g} s: raise upgradeHold if channels keep a lot."

    def _left(self, share: float = 1.0) -> float:
        """Return the seconds until this share of the time has passed for which publications may wait."""
        return max(self._began + share * self._patience - float(self._reactor.seconds()), 0.0)

    async def _until(self, share: float, holds: Callable[[], bool]) -> bool:
        """Wait until something holds, at most for this share of the time; return whether it does."""
        while not holds():
            if self._why is not None:
                raise ConfigurationError(self._why)
            if not self._left(share):
                return False
            await self._pause(LOOK)
        return True

    def _pause(self, seconds: float = 0) -> Deferred[None]:
        pause: Deferred[None] = Deferred()
        self._reactor.callLater(seconds, pause.callback, None)
        return pause

    async def _patiently(self, asked: Deferred[Any]) -> None:
        """Wait for workers, but not for long.

        Nothing is cancelled: a late answer belongs to this process, and must not be taken for another one by the next.
        """
        waiter: Deferred[None] = Deferred()
        asked.addCallback(lambda _: None if waiter.called else waiter.callback(None))
        waiter.addTimeout(self._left(SETTLED), self._reactor)
        try:
            await waiter
        except defer.TimeoutError:
            raise ConfigurationError("A worker does not answer: try again later.") from None

    # What goes over.

    async def _give(self) -> None:
        supervisor, stream = self._supervisor, self._stream
        assert stream is not None
        workers = [each for each in self._workers if each.isLinked and each.line.isUp]  # type: ignore[attr-defined]
        links: list[Any] = [each.line for each in workers]
        number, said = supervisor.standing(links)
        for worker, info in zip(workers, said, strict=True):
            process, line = worker.process, worker.line
            begun, streams, hand = process.pause(), process.streams(), process.hand
            assert process.pid is not None
            hands = () if hand is None else (hand.fileno(),)
            adopted = Adopted(worker.slot, process.pid, worker.stage is Stage.READY, info, begun, hand is not None, list(streams))
            descriptors = (line.transport.fileno(), *hands, *streams.values())  # type: ignore[attr-defined]
            stream.send("worker", msgspec.msgpack.encode(adopted), descriptors=descriptors)
        stream.send("logins", *supervisor.logins())
        for counted in supervisor.counted(workers):
            stream.send("counted", *counted)
            await self._pause()
        for place, each in supervisor.placed(self._held):
            moving = each.moving()
            if moving is not None:
                stream.send("request", place, moving[1], descriptors=(moving[0],))
        records = _memoryFile("records")
        try:
            file = os.fdopen(os.dup(records), "wb")
            self._isFrozen = True
            await self._write(file, supervisor.records(links))
            file.close()
            state = HubState(number, supervisor.addresses())
            stream.send("state", msgspec.msgpack.encode(state), descriptors=(records, self._asker))
            await self._expect("have", self._left(), self._late)
        finally:
            os.close(records)

    async def _write(self, file: IO[bytes], records: Iterator[Any]) -> None:
        for block in blocksOf(records):
            file.write(block)
            await self._pause()
            if not self._left():
                raise ConfigurationError(self._late)
            if self._why is not None:
                raise ConfigurationError(self._why)

    async def _deafen(self) -> None:
        """Leave signals to the process that comes next, and do what those before have asked for."""
        self._isDeaf = True
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SUPERVISORS, signal.SIGCHLD))
        await self._pause()
        if self._why is not None:
            raise ConfigurationError(self._why)

    def _leave(self) -> None:
        """Give up everything, and become the keeper of this process's number; or end, if there is a keeper already."""
        supervisor, stream, successor = self._supervisor, self._stream, self._process
        assert stream is not None
        assert successor is not None
        assert successor.pid is not None
        for worker in supervisor.crew.workers:
            if worker not in self._workers:
                worker.process.kill()
        stream.send("go", sorted(self._asked))
        supervisor.becomeKeeper(successor.pid)

    async def _goOn(self) -> None:
        """Undo what was done: the old supervisor carries on."""
        supervisor = self._supervisor
        if self._isDeaf:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SUPERVISORS, signal.SIGCHLD))
        if self._process is not None:
            self._process.end()
        if self._stream is not None:
            self._stream.close()
        for worker in self._workers:
            worker.process.resume()
        for each in self._links:
            if each.isUp:
                each.resume()
                each.goOn()
        if self._isFrozen:
            supervisor.thaw()
        if self._workers or supervisor.crew.isHeld:
            supervisor.crew.goOn()
        if self._outboxStopped:
            supervisor.startOutbox()
        for each in self._held:
            each.goOn()
        supervisor.releasePorts()
        held, self._isHolding = self._isHolding, False
        if held and "reload" in self._asked:
            supervisor.reload()


class _SuccessorProcess(ProcessProtocol):
    """The process of the new supervisor."""

    transport: Any

    def __init__(self, failed: Callable[[str], object], reactor: Any) -> None:
        self._failed = failed
        self._reactor = reactor
        self._printed = b""
        self.pid: int | None = None

    def connectionMade(self) -> None:
        """Note its number."""
        self.pid = self.transport.pid

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """Keep what it says, until it is known whether it can start."""
        self._printed = (self._printed + data)[-KEPT:]

    def processExited(self, reason: Failure) -> None:
        """Say how it has ended, once its last output has arrived; processes that it has started may keep its streams open."""
        self.pid = None
        self._reactor.callLater(LINGER, self._tell, reason)

    def _tell(self, reason: Failure) -> None:
        last = self._printed.decode("utf-8", "replace").strip().rpartition("\n")[2]
        how = howEnded(reason.value)
        self._failed(f"The new one {how}: {last}" if last else f"The new one {how}.")

    def end(self) -> None:
        """End it at once; do nothing if it has ended."""
        if self.pid is not None:
            self.transport.signalProcess("KILL")


def _memoryFile(name: str) -> int:
    """Return a file in memory."""
    return os.memfd_create(f"twisted-ws {name}", os.MFD_CLOEXEC)


KEEPER_PROGRAM = str(Path(keeper.__file__).resolve())


def become(stream: int, child: int, program: str, pidfile: str) -> NoReturn:
    """Be the keeper from now on; this does not return.

    Args:
        stream: the descriptor of the stream to the supervisor.
        child: the number of its process.
        program: the path of the program that was started.
        pidfile: that of twistd; "" for none.
    """
    arguments = [str(stream), str(child), *([pidfile] if pidfile else [])]
    os.set_inheritable(stream, True)
    python = interpreter(program)
    if os.access(KEEPER_PROGRAM, os.R_OK):
        with suppress(OSError):  # it has been removed
            os.execv(python, [python, "-I", "-S", KEEPER_PROGRAM, *arguments])
    keeper.keep(stream, child, pidfile)
