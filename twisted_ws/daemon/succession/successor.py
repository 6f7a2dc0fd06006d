"""The supervisor that takes the place of another one.

It makes all that a supervisor makes at its start, on the ports that the old one has, and tries out a worker. Then it says that it
is ready, gets what the old one has, says that it has it, and works when the old one has stopped. Whatever goes wrong before that
ends it, and leaves the old one as it was.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from zope.interface import implementer

from twisted_ws import __version__
from twisted_ws.access.publishers.sessions import Moving
from twisted_ws.daemon import systemd
from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.options import ServiceOptions
from twisted_ws.daemon.settings import Settings
from twisted_ws.daemon.succession.messages import (
    ERRORS,
    INSTRUCTIONS,
    KEEPER,
    OUTPUT,
    STREAM,
    Adopted,
    HubState,
    Instructions,
    Place,
    decode,
)
from twisted_ws.daemon.workers.crew import Stage, Worker
from twisted_ws.daemon.workers.policy import Pulse
from twisted_ws.daemon.workers.sockets import HeldPort, HoldingReactor, InheritedHoldingReactor, SucceedingReactor
from twisted_ws.daemon.workers.spawning import SUPERVISORS
from twisted_ws.daemon.workers.supervisor import Supervisor
from twisted_ws.daemon.workers.worker import _install as installReactor
from twisted_ws.engines.historyfile import HistoryFile, recordsOf
from twisted_ws.engines.snapshot import Here, Leaving, Watched
from twisted_ws.errors import ConfigurationError, ServiceError
from twisted_ws.web.http.connection import HttpConnection

# Seconds in which a second SIGTERM is taken for the first one: some send it to all processes of a server, and one of these passes
# it on.
ONCE = 1.0


class Successor(Supervisor):
    """A supervisor that takes the place of another one.

    Args:
        settings: what to run.
        instructions: what the old one has said.
        stream: leads to it.
        options: what the settings come from.
        reactor: the reactor.

    Raises:
        ConfigurationError: see `Supervisor`; or a setting was changed that cannot be.
    """

    def __init__(
        self, settings: Settings, instructions: Instructions, stream: HandStream, options: ServiceOptions, reactor: Any
    ) -> None:
        self._instructions = instructions
        self._places = {(each.option, each.where, each.interface): each for each in instructions.places}
        self._stream = stream
        self._asker: socket.socket | None = None
        self._adopted: list[Worker] = []
        self._said: list[Any] = []  # what each of them has told the hub of itself
        self._requests: list[tuple[tuple[str, ...], bytes, int]] = []
        self._stopping = 0.0
        self._asked: set[str] = set()
        super().__init__(settings, None, reactor, options.settings, options.given)
        self.program = instructions.program
        changed = [name for name, value in self.fixed().items() if value != instructions.fixed[name]]
        if changed:
            raise ConfigurationError(f"A change of {', '.join(changed)} takes effect only after a restart.")

    _process = property(lambda self: self._instructions.process)
    _endsBySignal = property(lambda self: self._instructions.endsBySignal)

    # What it is made of.

    def _inherited(self, place: ListenAddress) -> Place | None:
        return self._places.get((place.option, place.where, place.interface))

    def _holding(self, place: ListenAddress) -> HoldingReactor:
        found = self._inherited(place)
        return super()._holding(place) if found is None else InheritedHoldingReactor(self._reactor, found.descriptors)

    def _listener(self, place: ListenAddress, factory: Any, secure: bool) -> Listener:
        found = self._inherited(place)
        if found is None:
            return super()._listener(place, factory, secure)
        reactor, self._reactor = self._reactor, SucceedingReactor(self._reactor, found.descriptors[0])
        try:
            return super()._listener(place, factory, secure)
        finally:
            self._reactor = reactor

    def _makeHistory(self) -> HistoryFile | None:
        path = self.settings.historyFile
        if path is None or self._memory() is None:
            return None
        return HistoryFile(path, self._reactor, lock=self._instructions.lock if self._hasHistory else None)

    @property
    def _hasHistory(self) -> bool:
        """Whether the old one works with the same history file."""
        path = self.settings.historyFile
        return path is not None and os.path.abspath(path) == self._instructions.historyFile

    def _beginHistory(self) -> None:
        """Do nothing: one that is new has begun, and the other says since the start of the old one that it is in use.

        Nothing may fail that late, such as a write to a full disk.
        """

    # Until it has everything.

    def noteSignals(self) -> None:
        """Note those that ask for what can be done only when the old one is gone."""
        signal.signal(signal.SIGHUP, lambda number, frame: self._asked.add("reload"))
        signal.signal(signal.SIGUSR1, lambda number, frame: self._asked.add("reopen"))

    def prepare(self) -> None:
        """Listen, accept nothing, and try out a worker.

        Raises:
            ConfigurationError: it could not work; one line.
        """
        self.listen()
        for each in self._broadcastListeners:
            if each.port is not None:
                each.port.stopReading()
        self._tryOrStop()
        if self._history is not None and not self._hasHistory:
            self._history.begin()
        self._file = self._openLog(self._instructions.logFile) if self._instructions.logFile else sys.stdout
        self._stream.received = self._received
        self._stream.ended = _endNow

    def tellReady(self) -> None:
        """Tell the old one that it can give what it has, when the engine is there; called when the reactor runs."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISORS)
        gc.collect()
        hold = self.settings.limits.upgradeHold
        self.server.started().addCallbacks(lambda _: self._stream.send("ready", hold), lambda failure: self._cannot(failure))

    def _engineFailed(self, failure: Failure) -> None:
        self._cannot(failure)

    def _cannot(self, failure: Failure) -> None:
        fail(self._stream, failure.value)

    def _received(self, frame: list[Any], descriptors: list[int]) -> None:
        kind, *fields = frame
        try:
            if kind == "worker":
                self._adopt(msgspec.msgpack.decode(fields[0], type=Adopted), descriptors)
            elif kind == "logins":
                self._credentials.arrive(fields[0], msgspec.convert(fields[1], list[Moving]))
            elif kind == "counted":
                self._takeCounted(*fields)
            elif kind == "request":
                self._requests.append((tuple(fields[0]), fields[1], descriptors[0]))
            elif kind == "state":
                self._inherit(msgspec.msgpack.decode(fields[0], type=HubState), *descriptors)
                self._stream.send("have")
            elif kind == "go":
                self._stream.ended = _nothing
                self._stream.close()
                self._asked.update(*fields)
                self._begins()
        except Exception as error:
            if kind == "go":  # the old one is gone: whoever watches the server starts it anew
                self._log.failure("the new supervisor has failed", event="upgrade.broken")
                self.exitCode = 1
                self._reactor.stop()
            else:
                fail(self._stream, error)

    def _adopt(self, adopted: Adopted, descriptors: list[int]) -> None:
        worker = Worker(adopted.slot, Pulse(self.settings.limits.workerSilence))
        worker.stage = Stage.READY if adopted.isReady else Stage.LEAVING
        connection, *rest = descriptors
        hand = rest.pop(0) if adopted.hasHand else None
        streams = dict(zip(adopted.streams, rest, strict=True))
        self._launcher.adopt(worker, adopted.process, connection, streams, hand, adopted.begun)
        self._adopted.append(worker)
        self._said.append(adopted.said)

    def _takeCounted(self, place: str, number: int | None, said: bytes) -> None:
        assert self._scrape is not None
        self._scrape.past.arrive(place, None if number is None else self._adopted[number], said)

    def _inherit(self, state: HubState, records: int, asker: int) -> None:
        self._asker = socket.socket(fileno=asker)
        links: list[Any] = [each.line for each in self._adopted]
        with os.fdopen(records, "rb") as file:
            file.seek(0)
            living: list[Any] = []
            found = _without(recordsOf(file), living)
            if self._engine is not None and self._hub is not None and state.number is not None:
                self._engine.restore(found)
                self._hub.arrive(state.number, list(zip(links, self._said, strict=True)), living)
        for each in links:
            self._addresses.adopt(each, state.addresses)
            self._rates.adopt(each)

    # From then on.

    def _begins(self) -> None:
        """Begin to work: the old one has stopped."""
        for ours, theirs in ((OUTPUT, 1), (ERRORS, 2)):
            os.dup2(ours, theirs)
            os.close(ours)
        globalLogBeginner.beginLoggingTo([self.log.observer(self._file)])
        with suppress(OSError):
            os.chdir(self._instructions.directory)
        self._reactor.addReader(_Keeping(self._reactor))
        self._reactor.addSystemEventTrigger("before", "shutdown", self.stopService)
        if self._instructions.control != -1:
            self._control.inherit(self._instructions.control)
            os.close(self._instructions.control)
        self._closeOthers()
        self.startService()
        for each in self._broadcastListeners:
            if each.port is not None:
                each.port.startReading()
        for place, data, descriptor in self._requests:
            self._serve(place, data, descriptor)

    def _closeOthers(self) -> None:
        """Close what nothing here listens on by itself: a port that the settings no longer name would take clients in vain."""
        held = {each.place for each in self._webSocketListeners if isinstance(each.port, HeldPort)}
        kept = {(each.option, each.where, each.interface) for each in held}
        for place in self._instructions.places:
            if (place.option, place.where, place.interface) not in kept:
                for each in place.descriptors:
                    os.close(each)  # ports that go on have duplicates

    def _collect(self) -> None:
        """Collect nothing, because all wait for this one: that was done when it was ready, and what has come since will stay."""
        gc.freeze()

    def _run(self) -> None:
        """Take the workers, and replace them."""
        self._orders = self._encode(self._running, self._table()[0])
        for worker in self._adopted:
            process: Any = worker.process
            line: Any = worker.line
            line.resume()
            line.goOn()
            process.begin()
        self.crew.adopt(self._adopted)
        if "reopen" in self._asked:
            self.reopen()
        if "reload" in self._asked:  # what was read at the start may have changed since
            self.reload()
        self._log.info(
            "twisted_ws {version} has taken over from {before}; workers that go on until they are replaced: {count}",
            version=__version__,
            before=self._instructions.before,
            count=len(self._adopted),
            event="upgrade.done",
        )
        Deferred.fromCoroutine(self._replace()).addErrback(
            lambda failure: self._log.failure("the workers were not replaced", failure, event="upgrade.broken")
        )

    async def _replace(self) -> None:
        wrong: list[str] = []
        try:
            await self.crew.roll()
        except ConfigurationError as error:
            wrong.append(f"The new server works, but not all of its workers are new: {error}")
            self._log.error("{reason}", reason=wrong[0], event="reload.failed")
        else:
            self._log.info("workers that have the new services: {count}", count=self.count, event="reload.done")
        self._tellReady()
        asker, self._asker = self._asker, None
        if asker is not None:
            with suppress(OSError):
                asker.send(msgspec.json.encode({"wrong": wrong}) + b"\n")
            asker.close()

    def _serve(self, place: tuple[str, ...], data: bytes, descriptor: int) -> None:
        """Go on with a connection to the broadcast site between two requests."""
        try:
            for each in self._broadcastListeners:
                if (each.place.option, each.place.where, each.place.interface) == place and not each.secure:
                    with socket.socket(fileno=os.dup(descriptor)) as found:
                        family = found.family
                    connection = self._reactor.adoptStreamConnection(descriptor, family, each.factory).protocol
                    if isinstance(connection, HttpConnection):  # else the gate has refused it
                        connection.arrive(data)
                    break
        except OSError:  # the client has gone meanwhile
            pass
        finally:
            os.close(descriptor)

    def stopService(self) -> Any:
        """See `Supervisor.stopService`."""
        self._stopping = time.monotonic()
        return super().stopService()

    def _endNow(self, number: int, frame: object) -> None:
        if time.monotonic() - self._stopping > ONCE:
            super()._endNow(number, frame)


@implementer(IReadDescriptor)
class _Keeping:
    """Ends the server when the process that keeps its number is gone."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def fileno(self) -> int:
        """Return the descriptor of the stream to it."""
        return KEEPER

    def doRead(self) -> None:
        """Note its end: it never says anything."""
        self._reactor.removeReader(self)
        systemd.keeper = None
        self._reactor.stop()

    def logPrefix(self) -> str:
        """Return what the reactor calls this in its log."""
        return "keeper"

    def connectionLost(self, reason: Failure) -> None:
        """End, because the reactor does."""


def _without(records: Iterator[Any], living: list[Any]) -> Iterator[Any]:
    """Yield what an engine keeps, and put what only living processes have into a list."""
    for each in records:
        if isinstance(each, (Watched, Here, Leaving)):
            living.append(each)
        else:
            yield each


def explain(error: BaseException) -> str:
    """Return one line that says why a supervisor cannot take over."""
    if isinstance(error, (ConfigurationError, ServiceError, UsageError)):
        return str(error)
    if isinstance(error, SystemExit):
        return str(error.code)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}."


def fail(stream: HandStream, error: BaseException | None) -> NoReturn:
    """Say why this process cannot take over, and end it."""
    stream.send("failed", explain(error or RuntimeError()))
    _endNow()


def _endNow() -> NoReturn:
    os._exit(1)  # without a word to any peer


def _nothing() -> None:
    """Do nothing."""


def main() -> int:
    """Take over from the supervisor that has started this process, and run until a signal ends it.

    Returns:
        0 after a drain, 1 if the server failed.
    """
    with os.fdopen(INSTRUCTIONS, "rb") as file:
        file.seek(0)
        text = file.read()
    for each in map(int, os.listdir("/proc/self/fd")):
        if each >= STREAM:
            with suppress(OSError):
                os.set_inheritable(each, False)
    with suppress(OSError):
        os.setsid()  # a terminal's signals come by the process that keeps the number
    reactorModule, wrong = "twisted.internet.epollreactor", None
    try:
        instructions = decode(text)
        reactorModule = instructions.reactor
    except ValueError as error:
        wrong = ConfigurationError(str(error))
    installReactor(reactorModule)
    from twisted.internet import reactor

    stream = HandStream(socket.socket(fileno=STREAM), reactor)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    systemd.keeper = socket.socket(fileno=KEEPER)
    systemd.keeper.setblocking(False)
    try:
        if wrong is not None:
            raise wrong
        options = ServiceOptions()
        options.parseOptions(instructions.arguments)
        successor = Successor(options.settings(), instructions, stream, options, reactor)
        successor.noteSignals()
        successor.prepare()
    except BaseException as error:
        fail(stream, error)
    reactor.callWhenRunning(successor.tellReady)
    reactor.run()
    ending = getattr(reactor, "_exitSignal", None)
    if ending and instructions.endsBySignal and not successor.exitCode:
        signal.signal(ending, signal.SIG_DFL)
        os.kill(os.getpid(), ending)
    return successor.exitCode
