"""What a supervisor does that another one takes the place of; whole servers are in tests/daemon/test_upgrade_live.py."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.daemon.succession.messages import STREAM, Instructions
from twisted_ws.daemon.succession.offer import COME, SETTLED, START, Offer
from twisted_ws.daemon.workers.crew import Stage
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits


class Connection:
    """One to the broadcast site."""

    isBusy = isHeld = False

    def hold(self) -> None:
        """Note it."""
        self.isHeld = True

    def turnAway(self) -> None:
        """Do nothing: no request has begun."""


class Standing:
    """A supervisor, of which all is there that an offer holds, up to its workers: these are being replaced."""

    settings = SimpleNamespace(limits=Limits(workerStart=60, upgradeHold=8))

    def __init__(self) -> None:
        self.reactor = Clock()
        self.server: Any = self
        self.gate = self
        self.crew = self
        self.essentials = [Connection()]

    def holdPorts(self) -> None:
        """Accept what the reactor has found in this turn, as it does with a port that stops reading."""
        self.reactor.callLater(0, self.essentials.append, Connection())

    def stopOutbox(self) -> Deferred[None]:
        """Do nothing."""
        return succeed(None)

    def hold(self) -> list[Any]:
        """Refuse."""
        raise ConfigurationError("not now")

    def instructions(self) -> None:
        """Find no more descriptors."""
        raise OSError(errno.EMFILE, "Too many open files")

    isHeld = False

    def releasePorts(self) -> None:
        """Note it."""
        self.isReleased = True


def test_acceptedInTheSameTurn() -> None:
    """A connection that is accepted in the turn in which ports are held is held like those that were there before."""
    supervisor: Any = Standing()
    held = Deferred.fromCoroutine(Offer(supervisor, -1)._hold())
    supervisor.reactor.pump([0, 0, 0])
    with pytest.raises(ConfigurationError, match="not now"):
        held.result.raiseException()  # type: ignore[union-attr]
    assert [each.isHeld for each in supervisor.essentials] == [True, True]
    held.addErrback(lambda failure: None)


def test_whatTheSystemRefuses() -> None:
    """If the system has no descriptor left, or no room for what is given, one line says so, and the old supervisor goes on."""
    supervisor: Any = Standing()
    over = Deferred.fromCoroutine(Offer(supervisor, -1).run())
    with pytest.raises(ConfigurationError, match="The system refuses what an upgrade needs: Too many open files"):
        over.result.raiseException()  # type: ignore[union-attr]
    assert supervisor.isReleased
    over.addErrback(lambda failure: None)


# Seconds for which publications may wait, here.
HOLD = Standing.settings.limits.upgradeHold
LATE = f"The new one did not take over within {HOLD:g} s: raise upgradeHold if channels keep a lot."

# A successor that hangs: what runs here is the old supervisor's part, on a clock, with real streams.


class Machine(Clock):
    """A reactor of which the test says when it reads and writes; a process that it starts is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()
        self.addReader, self.removeReader = self.readers.add, self.readers.discard
        self.addWriter, self.removeWriter = self.writers.add, self.writers.discard
        self.signals: list[str] = []

    def spawnProcess(self, process: Any, *program: Any, childFDs: dict[int, Any], **options: Any) -> None:
        """Note the successor's end of the stream."""
        self.process = process
        self.theirs = os.dup(childFDs[STREAM])
        process.transport = SimpleNamespace(pid=1, signalProcess=self.signals.append)
        process.connectionMade()

    def turn(self) -> None:
        """Do what is due, and let descriptors be read and written that are ready."""
        self.advance(0)
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for each in readable:
            each.doRead()
        for each in writable:
            each.doWrite()

    def wait(self, seconds: float, step: float = 0.25) -> None:
        """Let so many seconds pass."""
        for _ in range(round(seconds / step)):
            self.advance(step)
            self.turn()


class Worker:
    """One that works, and its link and process."""

    slot, pid, stage = 0, 1, Stage.READY
    isLinked = isUp = isQuiet = True
    isAnswering = True  # to what a link asks it

    def __init__(self) -> None:
        self.line: Any = self
        self.process: Any = self
        self.transport: Any = self
        self.hand = None
        self.isHeld = self.isPaused = False
        self.resumed = 0

    def hold(self) -> Deferred[None]:
        """Answer at once, or never."""
        self.isHeld = True
        return succeed(None) if self.isAnswering else Deferred()

    def goOn(self) -> None:
        """End that."""
        self.isHeld = False

    def pause(self) -> bytes:
        """Note it."""
        self.isPaused = True
        return b""

    def resume(self) -> None:
        """End that."""
        self.isPaused = False

    def streams(self) -> dict[int, int]:
        """It has none."""
        return {}

    def fileno(self) -> int:
        """Return a descriptor that can be sent."""
        return 0


class Request(Connection):
    """A connection to the broadcast site on which a request is being answered."""

    def goOn(self) -> None:
        """End the hold."""
        self.isHeld = False

    def moving(self) -> None:
        """Stay."""


class Working(Standing):
    """A supervisor that works, with one worker, as an offer sees it."""

    program, directory = "twistd", None
    isQuiet = isPublishing = True
    kept = 100  # what the engine keeps

    def __init__(self) -> None:
        super().__init__()
        self.reactor: Any = Machine()
        self.workers = [Worker()]
        self.essentials: list[Any] = [Request()]
        self.isAccepting = True
        self.reloads: list[bool] = []

    def instructions(self) -> Any:
        """Return some."""
        return Instructions(1, 1, 1, "", [], "", "", False, "", 1, "", [], -1, "", -1, {}), []

    def keeperEnds(self) -> tuple[int, int]:
        """Return descriptors."""
        return 0, 0

    def holdPorts(self) -> None:
        """Note it."""
        self.isAccepting = False

    def releasePorts(self) -> None:
        """End that."""
        self.isAccepting = True

    def stopOutbox(self) -> Deferred[None]:
        """Note it."""
        self.isPublishing = False
        return succeed(None)

    def startOutbox(self) -> None:
        """End that."""
        self.isPublishing = True

    def hold(self) -> list[Any]:
        """Give the workers."""
        self.isHeld = True
        return self.workers

    def goOn(self) -> None:
        """End that."""
        self.isHeld = False

    def reload(self) -> None:
        """Note that it was done, and whether all worked by then."""
        self.reloads.append(self.works)

    def standing(self, links: Sequence[Any]) -> tuple[int | None, list[Any]]:
        """Return what there is to say."""
        return 1, [None for _ in links]

    def placed(self, connections: Any) -> Iterator[Any]:
        """Give no connection of the broadcast site on."""
        return iter(())

    def records(self, links: Any) -> Iterator[Any]:
        """Yield some, and be frozen until `thaw`."""
        self.isFrozen = True
        return iter(range(self.kept))

    def logins(self) -> tuple[bytes, list[Any]]:
        """Return that nobody is logged in."""
        return b"", []

    def counted(self, workers: Sequence[Any]) -> Iterator[tuple[str, int | None, bytes]]:
        """Yield what a worker has counted."""
        yield "1", 0, b""

    def thaw(self) -> None:
        """End that."""
        self.isFrozen = False

    def addresses(self) -> list[Any]:
        """Return none."""
        return []

    isFrozen = False

    @property
    def works(self) -> bool:
        """Whether nothing is held."""
        (worker,), (request,) = self.workers, self.essentials
        held = worker.isHeld or worker.isPaused or request.isHeld or self.isHeld or self.isFrozen
        return self.isAccepting and self.isPublishing and not held


class World:
    """A supervisor that is offering its work, and what the successor has been sent."""

    def __init__(self) -> None:
        self.supervisor = Working()
        self.machine: Machine = self.supervisor.reactor
        self.came: list[str] = []
        self.left: list[bool] = []
        self.why: list[str] = []
        self.offer = Offer(self.supervisor, 0)  # type: ignore[arg-type]
        self.offer._leave = self._leave  # type: ignore[method-assign]
        Deferred.fromCoroutine(self.offer.run()).addErrback(lambda failure: self.why.append(str(failure.value)))
        self.stream = HandStream(socket.socket(fileno=self.machine.theirs), self.machine)
        self.stream.received = self._received

    def _leave(self) -> None:
        self.left.append(True)
        assert self.offer._stream is not None
        self.offer._stream.close()  # as the end of the process does

    def _received(self, frame: list[Any], descriptors: list[int]) -> None:
        self.came.append(frame[0])
        for each in descriptors:
            os.close(each)

    def say(self, *frame: Any) -> None:
        """Send something as the successor."""
        self.stream.send(*frame)
        self.machine.turn()

    def until(self, kind: str) -> None:
        """Let the offer go on until it has sent something; what time that takes is of no interest."""
        for _ in range(1000):
            if kind in self.came:
                return
            self.machine.advance(0.001)
            self.machine.turn()
        raise AssertionError(self.came)

    def close(self) -> None:
        """Close the successor's end, as the kernel does when it was killed."""
        self.stream.close()
        self.machine.turn()


@pytest.fixture
def world() -> Iterator[World]:
    """A supervisor that has started its successor, and waits for it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    world = World()
    yield world
    world.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # whoever leaves hears none


def failed(world: World, why: str) -> bool:
    """Return whether the offer has ended with this reason, the successor was killed, and the supervisor works."""
    assert world.why == [why]
    assert world.left == []
    return world.machine.signals == ["KILL"] and world.supervisor.works and not world.machine.getDelayedCalls()


def test_itTakesOver(world: World) -> None:
    """A successor that says that it is ready, and then that it has everything, is left with it."""
    assert world.supervisor.works  # while it starts
    world.say("ready")
    world.until("state")
    assert world.came == ["worker", "logins", "counted", "state"]
    assert not world.supervisor.works
    world.say("have")
    world.machine.turn()
    assert (world.left, world.why) == ([True], [])


def test_silentAtItsStart(world: World) -> None:
    """A successor that starts and says nothing is waited for as long as a worker may take and its own start, while all works."""
    seconds = world.supervisor.settings.limits.workerStart + START
    world.machine.wait(seconds - 1)
    assert (world.why, world.supervisor.works) == ([], True)
    world.machine.wait(1)
    assert failed(world, f"The new one was not ready within {seconds:g} s.")


def test_silentWithEverything(world: World) -> None:
    """One that does not say that it has everything is waited for so long, and then what was held goes on."""
    world.say("ready")
    world.until("state")
    world.machine.wait(HOLD - 1)
    assert world.why == []
    world.machine.wait(1)
    assert failed(world, LATE)
    world.say("have")
    assert world.left == []  # it is too late for that


def test_readsNoMore(world: World) -> None:
    """One that stops reading when it was ready is waited for in the same way, though the kernel takes nothing more for it."""
    world.machine.removeReader(world.stream)
    worker = world.supervisor.workers[0]
    worker.isHeld = False
    world.supervisor.addresses = lambda: ["x" * 1000] * 10_000  # type: ignore[method-assign]
    world.say("ready")
    world.machine.wait(1)
    assert world.machine.writers  # the kernel is full
    assert not world.supervisor.works
    world.machine.wait(HOLD)
    assert failed(world, LATE)


def test_aWorkerThatDoesNotAnswer(world: World) -> None:
    """A worker that hangs when the successor is ready ends the upgrade after some seconds, and the successor with it."""
    world.supervisor.workers[0].isAnswering = False
    world.say("ready")
    world.machine.wait(SETTLED * HOLD - 1)
    assert world.why == []
    world.machine.wait(1.5)
    assert failed(world, "A worker does not answer: try again later.")


def test_aWorkerThatDoesNotComeToRest(world: World) -> None:
    """So does one from which an answer does not come that was asked for before."""
    world.supervisor.workers[0].isQuiet = False
    world.say("ready")
    world.machine.wait(SETTLED * HOLD + 1)
    assert failed(world, "A worker is still busy: try again later.")


def test_aRequestThatIsNotAnswered(world: World) -> None:
    """So does a request to the broadcast site whose answer takes too long, or whose client does not read it."""
    world.supervisor.essentials[0].isBusy = True
    world.say("ready")
    world.machine.wait(SETTLED * HOLD + 1)
    assert failed(world, "Requests that have begun were not answered in time: try again later.")


def test_itEnds(world: World) -> None:
    """A successor that ends is not waited for: the reason is how, with the last line that it has printed."""
    world.machine.process.childDataReceived(2, b"Traceback\nMemoryError\n")
    world.machine.process.processExited(Failure(ProcessTerminated(1)))
    world.machine.wait(1)
    assert world.why == ["The new one has ended with exit code 1: MemoryError"]
    assert (world.machine.signals, world.supervisor.works) == ([], True)  # its number may be another's


def test_theServerStops(world: World) -> None:
    """If the server stops meanwhile, the successor is not waited for."""
    world.offer.abort("The server is stopping.")
    world.machine.turn()
    assert failed(world, "The server is stopping.")


def test_allTogether(world: World) -> None:
    """However the time is spent, publications wait no longer than `upgradeHold`: for requests, workers and the successor."""
    (request,), (worker,) = world.supervisor.essentials, world.supervisor.workers
    request.isBusy, worker.isQuiet = True, False
    world.say("ready")
    world.machine.wait(COME * HOLD + 0.5)
    request.isBusy = False
    world.machine.wait(SETTLED * HOLD - COME * HOLD - 1)
    assert not world.supervisor.works
    worker.isQuiet = True
    world.until("state")
    began = world.machine.seconds()
    world.machine.wait(HOLD - began - 0.5)
    assert (world.why, world.supervisor.works) == ([], False)
    world.machine.wait(1)
    assert failed(world, LATE)


def test_itsOwnPatience(world: World) -> None:
    """How long publications may wait is what the new supervisor's settings say, so the upgrade itself can change it."""
    world.say("ready", 2.0)
    world.machine.wait(2.5)
    assert failed(world, LATE.replace("8 s", "2 s"))


def test_reloadMeanwhile(world: World) -> None:
    """A reload that is asked for while all works is done at once, and by the successor, which may have read the files before."""
    assert world.offer.note("reload")
    world.offer.note("reopen")
    world.say("ready")
    world.until("state")
    world.say("have")
    world.machine.turn()
    assert world.left == [True]
    assert world.offer._asked == {"reload", "reopen"}


def test_reloadWhileAllIsHeld(world: World) -> None:
    """One that is asked for while publications wait is done by whoever serves then: here the old one, once it does."""
    world.say("ready")
    world.until("state")
    assert not world.offer.note("reload")
    world.machine.wait(HOLD)
    assert failed(world, LATE)
    assert world.supervisor.reloads == [True]


def test_stoppedAtTheEnd(world: World) -> None:
    """A stop that is asked for just when the successor has everything is done by the old one, and the successor ends."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    world.say("ready")
    world.until("state")
    world.say("have")
    world.offer.abort("The server is stopping.")
    world.machine.turn()
    assert failed(world, "The server is stopping.")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
