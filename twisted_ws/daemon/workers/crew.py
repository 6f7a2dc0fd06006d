"""The workers of a supervisor: which slot has which, who is replaced, who is asked to leave.

Nothing here knows processes: `launch` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from twisted_ws import __version__
from twisted_ws.daemon.workers.policy import PING, Pulse, Restarts, cover, isWorse
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.limits import Limits

# Seconds beyond `Limits.drainTimeout` after which a worker that was asked to leave is killed: publications may take five.
GRACE = 10.0
# The share of its callers that the first worker of a rolling reload gives to the next one before it gives the others, and the
# seconds in which both are looked at: if the new code fails, the old one goes on.
FIRST = 0.01
OBSERVED = 2.0
# Seconds for a process to end whose link has.
LAST = 5.0


class RollFailed(ConfigurationError):
    """Workers could not be replaced, or not all of them.

    Attributes:
        replaced: how many were.
    """

    def __init__(self, why: str, replaced: int = 0, of: int = 0) -> None:
        super().__init__(f"{why} {replaced} of {of} workers were replaced." if replaced else why)
        self.replaced = replaced


class Process(Protocol):
    """A process that runs a worker.

    Attributes:
        pid: its number.
        hand: what it is sent descriptors by; None if it has ended.
    """

    pid: int | None
    hand: Any

    def kill(self) -> None:
        """End it at once; do nothing if it has ended."""

    def streams(self) -> dict[int, int]:
        """Return the descriptors of what it writes to, by their numbers there, for another supervisor."""

    def pause(self) -> bytes:
        """Read none of them until `resume`, and return the beginning of a line of the log that has come."""

    def resume(self) -> None:
        """End that."""

    def show(self) -> None:
        """Pass on what it writes to its standard streams, because it works; before, that is an account of why it cannot start."""


class Line(Protocol):
    """What a supervisor needs of `twisted_ws.engines.hub.link.Link`."""

    heard: float
    whyDropped: str | None

    def handle(self, kind: str, handler: Callable[..., object]) -> None:
        """Take frames of a kind."""

    def answer(self, kind: str, handler: Callable[..., Any]) -> None:
        """Answer requests of a kind."""

    def send(self, kind: str, *fields: Any) -> None:
        """Send a frame."""

    def request(self, kind: str, *fields: Any) -> Deferred[Any]:
        """Send a request."""

    def onLost(self, call: Callable[[], object]) -> None:
        """Call this at the end."""

    def drop(self, why: str) -> None:
        """End it."""


class Stage(Enum):
    """How far a worker is.

    - STARTING: it was started, and does not listen yet.
    - READY: it accepts connections.
    - LEAVING: it was asked to leave, or its link has ended.
    - ENDED: its process is gone.
    """

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    ENDED = "ended"


class Worker:
    """One worker, from its start to its end.

    Args:
        slot: the slot that it fills, from 0.
        pulse: whether it still works.

    Attributes:
        slot: as given.
        pulse: as given.
        stage: see `Stage`.
        since: when it began to listen; None if it has not.
        full: why it takes no more connections; "" if it does.
        failure: why it cannot start, in one line, if it said so.
        started: fires with None when it listens, or with the reason why it does not.
        ended: fires with None when its process is gone.
        heard: when something came from it, as of the last ping (`Line.heard`).
        isLinked: whether its link is up, or will be.
        hasOrders: whether it was told what to run.
        isGiving: whether it was asked to give its connections to another one.
        deadline: the call that kills it if it does not do what it is to do.
    """

    line: Line
    process: Process

    def __init__(self, slot: int, pulse: Pulse) -> None:
        self.slot = slot
        self.pulse = pulse
        self.stage = Stage.STARTING
        self.since: float | None = None
        self.full = ""
        self.failure = ""
        self.started: Deferred[str | None] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.heard = 0.0
        self.isLinked = True
        self.hasOrders = False
        self.isGiving = False
        self.deadline: Any = None

    @property
    def name(self) -> str:
        """What the log calls it; people count from 1."""
        return f"worker {self.slot + 1}"


class _Slot:
    """One slot.

    Attributes:
        current: the worker that accepts its connections.
        next: the worker that is being started to become `current`.
        restarts: when the next one may start.
        timer: the call that starts it.
        settled: whether its first worker has started, or has failed to.
        waits: whether it was decided that its next worker has to wait; another one accepts for it until that one listens.
    """

    def __init__(self) -> None:
        self.current: Worker | None = None
        self.next: Worker | None = None
        self.restarts = Restarts()
        self.timer: Any = None
        self.settled = False
        self.waits = False


class Crew:
    """The workers of a supervisor.

    Args:
        count: how many slots there are.
        limits: all limits.
        clock: the reactor, for its time.
        launch: starts the process of a worker, and sets its `line` and `process`; raises OSError if it cannot.
        orders: returns what a worker is told at its start.
        join: joins an old worker and a new one by a stream for connections; returns whether that could be done. None: they are
            not handed over.

    Attributes:
        workers: all whose process has not ended.
    """

    _log = Logger()

    def __init__(
        self,
        count: int,
        limits: Limits,
        clock: Any,
        launch: Callable[[Worker], None],
        orders: Callable[[], bytes],
        join: Callable[[Worker, Worker], bool] | None = None,
    ) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._limits = limits
        self._clock = clock
        self._launch = launch
        self._orders = orders
        self._join = join
        self._covers: dict[int, int] = {}
        self._failure = ""  # the last one that was said, and at the start the first one
        self._first: Deferred[None] | None = None
        self._isStopping = False
        self._isRolling = False
        self._isHeld = False  # whether another supervisor may take over at any moment
        self._isFirst = False  # whether the worker that starts is the first with new code
        self._loop = LoopingCall(self._ask)
        self._loop.clock = clock
        self.workers: list[Worker] = []

    # What the supervisor asks.

    @property
    def ready(self) -> list[Worker]:
        """The workers that accept connections, by slot."""
        return [slot.current for slot in self._slots if slot.current is not None]

    def readiness(self) -> str | None:
        """Return why no worker takes new traffic, None if one does."""
        reasons = [worker.full for worker in self.ready]
        return None if "" in reasons else reasons[0] if reasons else "starting"

    def start(self) -> Deferred[None]:
        """Start a worker for each slot.

        Returns:
            A Deferred that fires when each slot's first worker has started or failed to; it fails with `ConfigurationError` if
            none has started.
        """
        first: Deferred[None] = Deferred()
        self._first = first
        self._loop.start(PING, now=False)
        for slot in range(len(self._slots)):
            self._begin(slot)
        return first

    def stop(self) -> Deferred[None]:
        """Ask all workers to leave, and return a Deferred that fires when all have ended."""
        self._isStopping = True
        for slot in self._slots:
            self._cancel(slot)
        ends = [worker.ended for worker in self.workers]
        for worker in tuple(self.workers):
            if worker.stage is Stage.STARTING:
                self._kill(worker)
            else:
                self._dismiss(worker)
        return DeferredList([_watched(end) for end in ends]).addCallback(self._stopped)

    def _stopped(self, result: object) -> None:
        if self._loop.running:
            self._loop.stop()

    def killAll(self) -> None:
        """End all workers at once; may be called by a signal handler."""
        for worker in tuple(self.workers):
            worker.process.kill()

    def reload(
        self,
        channelRules: Mapping[str, Any],
        logLevels: Sequence[Sequence[str]] = (),
        authenticators: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Deferred[list[str]]:
        """Let all workers read certificates again, and give them rules, the levels of the log, and the tables of authenticators.

        Return a Deferred of what is wrong, each text once.

        One that has had its orders takes these after them, and one that is leaving still has connections.
        """
        told = channelRules, logLevels, authenticators or {}
        asked = [worker.line.request("worker.reload", *told) for worker in self.workers if worker.hasOrders]
        return DeferredList(asked, consumeErrors=True).addCallback(_errors)

    async def roll(self) -> None:
        """Replace one worker after the other: each leaves when the next of its slot listens.

        Raises:
            RollFailed: a new worker cannot start; those that have not been replaced stay.
        """
        if self._isRolling:
            raise RollFailed("Workers are being replaced already: wait until that has ended.")
        self._isRolling = True
        try:
            for number, slot in enumerate(self._slots):
                if self._isStopping:
                    raise RollFailed("The server is stopping.")
                old = slot.current
                self._isFirst = number == 0
                self._cancel(slot)
                if slot.next is not None:  # it may have the old services
                    await _watched(slot.next.started)
                failure = await _watched(self._begin(number).started)
                if failure:
                    raise RollFailed(failure, number, len(self._slots))
                if old is not None:
                    await _watched(old.ended)
        finally:
            self._isRolling = self._isFirst = False

    # The move to another supervisor.

    @property
    def isHeld(self) -> bool:
        """Whether it is between `hold` and `goOn`."""
        return self._isHeld

    def refuseMove(self) -> None:
        """Do nothing if another supervisor can take over.

        Raises:
            RollFailed: workers are being started or replaced, or leave.
        """
        if self._isStopping:
            raise RollFailed("The server is stopping.")
        if self._isRolling or self._first is not None:
            raise RollFailed("Workers are being started or replaced: wait until that has ended.")

    def hold(self) -> list[Worker]:
        """Begin nothing until `goOn`, because another supervisor may take over, and return the workers that it would take.

        Raises:
            RollFailed: see `refuseMove`.
        """
        self.refuseMove()
        self._isRolling = self._isHeld = True
        for slot in self._slots:
            self._cancel(slot)
        if self._loop.running:
            self._loop.stop()
        for each in tuple(self.workers):
            if each.stage is Stage.STARTING:
                self._kill(each)  # it would be in the middle of that
        return [each for each in self.workers if each.stage in (Stage.READY, Stage.LEAVING) and each.isLinked]

    def goOn(self) -> None:
        """Go on after `hold`."""
        self._isRolling = self._isHeld = False
        if self._isStopping:
            return
        self._loop.start(PING, now=False)
        for number, slot in enumerate(self._slots):
            if slot.current is None and slot.next is None and slot.timer is None:
                self._begin(number)

    def adopt(self, workers: Sequence[Worker]) -> None:
        """Go on with the workers of another supervisor, in place of `start`; slots without one get a new one.

        Args:
            workers: each with its line and process; its stage is READY or LEAVING.
        """
        now = self._clock.seconds()
        for worker in workers:
            worker.since, worker.hasOrders, worker.heard = now, True, worker.line.heard
            worker.started.callback(None)
            self.workers.append(worker)
            worker.line.onLost(partial(self._unlinked, worker))
            if worker.stage is Stage.READY:
                self._slots[worker.slot].current = worker
            else:
                worker.deadline = self._clock.callLater(self._limits.drainTimeout + GRACE, self._kill, worker)
        for slot in self._slots:
            slot.settled = True
        self.goOn()

    # The life of a worker.

    def _begin(self, number: int) -> Worker:
        slot = self._slots[number]
        slot.next = worker = Worker(number, Pulse(self._limits.workerSilence))
        try:
            self._launch(worker)
        except OSError as error:
            worker.failure = f"Workers cannot be started: {error.strerror or error}."
            self._end(worker, "")
            return worker
        self.workers.append(worker)
        line = worker.line
        line.answer("worker.hello", lambda version: self._greet(worker, version))
        line.handle("worker.ready", lambda: self._ready(worker))
        line.handle("worker.failed", lambda text: self._failed(worker, text))
        line.onLost(lambda: self._unlinked(worker))
        worker.deadline = self._clock.callLater(self._limits.workerStart, self._late, worker)
        return worker

    def _greet(self, worker: Worker, version: str) -> bytes:
        worker.process.show()
        if version != __version__:
            self._failed(worker, f"twisted_ws {version} is installed now, and {__version__} runs: restart the server.")
            self._kill(worker)
        worker.hasOrders = True
        return self._orders()

    def _failed(self, worker: Worker, text: str) -> None:
        worker.failure = worker.failure or text

    def _late(self, worker: Worker) -> None:
        worker.deadline = None
        self._failed(worker, f"A worker was not ready after {self._limits.workerStart:g} s, and was killed.")
        self._kill(worker)

    def _ready(self, worker: Worker) -> None:
        if worker.stage is not Stage.STARTING:
            return
        self._stopDeadline(worker)
        worker.stage, worker.since = Stage.READY, self._clock.seconds()
        slot = self._slots[worker.slot]
        if slot.current is not None and self._isFirst and worker is slot.next and not self._isStopping:
            tried = Deferred.fromCoroutine(self._try(slot.current, worker))
            tried.addErrback(lambda failure: self._log.failure("a new worker was not tried", failure, event="handover.broken"))
            return
        self._accept(worker)

    async def _try(self, old: Worker, new: Worker) -> None:
        """Let a worker with new code serve a few connections first; if it fails at that, they go back to the old one."""
        try:
            why = await self._lookAt(old, new)
        except ChannelError:  # one of the two has died
            why = None
        slot = self._slots[new.slot]
        if new.stage is not Stage.READY:
            new.started.callback("The new worker died with its first connections.")
        elif why is None or old.stage is not Stage.READY or self._isStopping:
            self._accept(new)
        else:
            slot.next = None
            self._relieve(new, old)
            new.started.callback(why)

    async def _lookAt(self, old: Worker, new: Worker) -> str | None:
        """Return in what way new code fails, None if it does not."""
        if self._join is None or not self._join(old, new):
            return None
        new.line.send("worker.take")
        given = await old.line.request("worker.giveSome", FIRST)
        if not given:
            return None
        before, _ = await old.line.request("worker.failures")
        observed: Deferred[None] = Deferred()
        self._clock.callLater(OBSERVED, observed.callback, None)
        await observed
        after, others = await old.line.request("worker.failures")
        failures, callers = await new.line.request("worker.failures")
        callers = max(callers, given)  # those for which it fails are closed
        if not isWorse((failures, callers), (after - before, others)):
            return None
        errors = f"{failures} errors for {callers} connections in {OBSERVED:g} s, {after - before} for {others} with the old ones"
        return f"The new services fail ({errors}); the log has the errors."

    def _accept(self, worker: Worker) -> None:
        """Let a worker take the place of the one before."""
        slot = self._slots[worker.slot]
        old, slot.current, slot.next, slot.waits = slot.current, worker, None, False
        if self._first is None:
            self._failure = ""
        if self._isStopping:
            self._dismiss(worker)
        elif old is not None:
            self._relieve(old, worker)
        elif slot.settled:
            self._log.info("{name} listens again", name=worker.name, event="worker.ready")
        for each in self.workers:
            if each.slot == worker.slot and each.stage is Stage.LEAVING and each is not old:
                self._relieve(each, worker)  # the one that it gave its connections to has died
        worker.started.callback(None)
        for other, by in self._covers.items():
            if by == worker.slot:
                worker.line.send("worker.cover", other)
        self._arrange()
        self._settle(slot)

    def _settle(self, slot: _Slot) -> None:
        """Note that the first worker of a slot has started or failed to."""
        slot.settled = True
        if self._first is None or not all(each.settled for each in self._slots):
            return
        first, self._first = self._first, None
        count, most = len(self.ready), len(self._slots)
        if self._isStopping:
            first.callback(None)
        elif not count:
            first.errback(ConfigurationError(self._failure))
        else:
            if self._failure:
                self._log.critical("{reason} It is tried again.", reason=self._failure, event="worker.failed")
            of = "" if count == most else f" of {most}"
            self._log.info(
                "{count}{of} {what}",
                count=count,
                of=of,
                what="worker listens" if most == 1 else "workers listen",
                event="worker.ready",
            )
            first.callback(None)

    def _relieve(self, old: Worker, new: Worker) -> None:
        """Ask a worker to leave, and to give its open connections to another one."""
        if self._join is None or self._isStopping or not (old.isLinked and self._join(old, new)):
            self._dismiss(old)
            return
        new.line.send("worker.take")
        old.line.send("worker.give")
        old.isGiving = True
        self._leaving(old)

    def _dismiss(self, worker: Worker) -> None:
        """Ask a worker to leave; one that is giving its connections to another stops doing so."""
        if worker.stage is Stage.ENDED or (worker.stage is Stage.LEAVING and not worker.isGiving):
            return
        worker.line.send("worker.drain")
        self._leaving(worker, isAnew=worker.isGiving)
        worker.isGiving = False

    def _leaving(self, worker: Worker, isAnew: bool = False) -> None:
        if worker.stage is Stage.LEAVING and not isAnew:
            return
        worker.stage = Stage.LEAVING
        self._stopDeadline(worker)
        worker.deadline = self._clock.callLater(self._limits.drainTimeout + GRACE, self._kill, worker)

    def _unlinked(self, worker: Worker) -> None:
        """Note that the link of a worker has ended: it takes no more connections, and has to end."""
        worker.isLinked = False
        if worker.stage is Stage.ENDED:
            return
        if worker.line.whyDropped is not None:
            self._kill(worker)
            return
        self._stopDeadline(worker)
        worker.deadline = self._clock.callLater(LAST, self._kill, worker)

    def _kill(self, worker: Worker) -> None:
        self._stopDeadline(worker)
        worker.process.kill()

    def _stopDeadline(self, worker: Worker) -> None:
        if worker.deadline is not None and worker.deadline.active():
            worker.deadline.cancel()
        worker.deadline = None

    def processEnded(self, worker: Worker, how: str) -> None:
        """Note that the process of a worker is gone; `how` says how it ended, such as "was ended by SIGKILL"."""
        self._stopDeadline(worker)
        self.workers.remove(worker)
        self._end(worker, how)

    def _end(self, worker: Worker, how: str) -> None:
        slot = self._slots[worker.slot]
        stage, worker.stage = worker.stage, Stage.ENDED
        now = self._clock.seconds()
        isMissed = worker in (slot.current, slot.next)
        if worker is slot.current:
            slot.current = None
        if worker is slot.next:
            slot.next = None
        if stage is Stage.STARTING:
            self._tellFailure(worker, worker.failure or f"A worker cannot start: it {how}.")
        if isMissed and not self._isStopping and slot.current is None and slot.next is None:
            wait = slot.restarts.ended(now, None if worker.since is None else now - worker.since)
            if worker.since is not None:
                self._log.error(
                    "{name} {reason}: its connections are lost, and a new one starts {when}",
                    name=worker.name,
                    reason=how,
                    when=f"in {wait:g} s" if wait else "now",
                    event="worker.ended",
                )
            slot.waits = slot.waits or bool(wait)
            if not self._isHeld:
                slot.timer = self._clock.callLater(wait, self._again, worker.slot)
        self._arrange()
        if not worker.ended.called:
            worker.ended.callback(None)

    def _tellFailure(self, worker: Worker, failure: str) -> None:
        """Say once why workers cannot start."""
        if self._first is not None:
            self._failure = self._failure or failure
        elif failure != self._failure and not self._isStopping and not self._isRolling:
            self._log.critical("{reason} It is tried again.", reason=failure, event="worker.failed")
            self._failure = failure
        worker.started.callback(failure)
        self._settle(self._slots[worker.slot])

    def _again(self, number: int) -> None:
        self._slots[number].timer = None
        self._begin(number)

    def _cancel(self, slot: _Slot) -> None:
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None

    def _arrange(self) -> None:
        """Let workers accept for the slots that have to wait for theirs."""
        empty = [number for number, slot in enumerate(self._slots) if slot.waits and slot.current is None]
        ready = [worker.slot for worker in self.ready]
        covers = cover(empty, ready, self._covers)
        for slot, by in self._covers.items():
            if covers.get(slot) != by and (worker := self._slots[by].current) is not None:
                worker.line.send("worker.uncover", slot)
        for slot, by in covers.items():
            if self._covers.get(slot) != by and (worker := self._slots[by].current) is not None:
                worker.line.send("worker.cover", slot)
        self._covers = covers

    # Whether they live.

    def _ask(self) -> None:
        for worker in tuple(self.workers):
            if worker.stage is Stage.STARTING or not worker.isLinked:
                continue
            if worker.line.heard != worker.heard:
                worker.heard = worker.line.heard
                worker.pulse.answered()
            if worker.pulse.ask():
                worker.line.request("worker.ping").addCallbacks(_answered, lambda failure: None, (worker,))
            else:
                silence = self._limits.workerSilence
                self._log.error(
                    "{name} has not answered for {duration:g} s: it is killed",
                    name=worker.name,
                    duration=silence,
                    event="worker.stuck",
                )
                self._kill(worker)


def _answered(full: str, worker: Worker) -> None:
    worker.full = full
    worker.pulse.answered()


def _errors(results: Iterable[tuple[bool, Any]]) -> list[str]:
    """Return what workers say is wrong; one that ends meanwhile says nothing, and its successor reads all anew."""
    found: dict[str, None] = {}
    for success, errors in results:
        if success:
            found.update(dict.fromkeys(errors))
    return list(found)


def _watched(of: Deferred[Any]) -> Deferred[Any]:
    """Return a Deferred that fires as `of` does, for one more who waits."""
    waiter: Deferred[Any] = Deferred()

    def fire(result: Any) -> Any:
        waiter.callback(result)
        return result

    of.addCallback(fire)
    return waiter
