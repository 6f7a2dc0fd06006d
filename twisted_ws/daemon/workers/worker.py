"""A worker: a process that accepts connections and has the services, while the supervisor has all that there is once.

``python -m twisted_ws.daemon.workers SLOT REACTOR`` with the descriptors of `twisted_ws.daemon.workers.spawning`; only a
supervisor starts it. With ``--trial REACTOR DESCRIPTOR``, it makes the services of the orders on its standard input, and says on
that descriptor whether they can be made.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import LoopingCall
from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from twisted.python.reflect import namedModule
from zope.interface import implementer

from twisted_ws import __version__
from twisted_ws.daemon.clock import countMonotonicTime
from twisted_ws.daemon.handover.giving import Giving
from twisted_ws.daemon.handover.stream import HandStream
from twisted_ws.daemon.handover.taking import Taking
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.loading.engines import MEMORY
from twisted_ws.daemon.logs import setLevels
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.watchdog import Watchdog
from twisted_ws.daemon.workers.lifeline import Lifeline
from twisted_ws.daemon.workers.orders import Orders, restoreEnvironment
from twisted_ws.daemon.workers.pipe import PipeObserver
from twisted_ws.daemon.workers.sockets import InheritingReactor
from twisted_ws.daemon.workers.spawning import HAND, LINK, LOG, SOCKETS, SUPERVISORS, connect, receive
from twisted_ws.engines.hub.addresses import AddressShare
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.rates import RateShare
from twisted_ws.engines.hub.worker import HubEngine
from twisted_ws.errors import ConfigurationError, ServiceError
from twisted_ws.metrics.reports import report
from twisted_ws.server.handover.arrival import RESTART
from twisted_ws.server.server import FAREWELL, WebSocketServer
from twisted_ws.wire.loop.turns import Turns
from twisted_ws.wire.tls.server import ServerTLS
from twisted_ws.wire.websocket.runtime import Runtime

if TYPE_CHECKING:
    from twisted_ws.metrics.scrape import Scrape

_log = Logger()

# Seconds between two attempts to write what the pipe of the log has not taken.
FLUSH = 1.0
# The same for callers that could not be given to another worker to answer their Close, at least.
LAST = 5.0
# The same for the supervisor to take note of the last figures.
COUNTED = 1.0


class WorkerDaemon(Daemon):
    """What a worker runs: the services and the WebSocket ports, without sockets of its own.

    Args:
        orders: what the supervisor has told it.
        slot: which of the sockets are its own, from 0.
        link: the link to the supervisor; None for a trial, which does not listen.
        reactor: the reactor.

    Raises:
        ConfigurationError: a service cannot be made, or a file cannot be used.
    """

    log: PipeObserver | None = None

    def __init__(self, orders: Orders, slot: int, link: Link | None, reactor: Any) -> None:
        self._orders = orders
        self._slot = slot
        self._link = link
        self._sockets: list[list[int]] = [[SOCKETS + each for each in row] for row in orders.sockets]
        self._made: list[tuple[ListenAddress, IProtocolFactory, bool]] = []
        self._covers: dict[int, list[Listener]] = {}
        self._watchesExpiry = slot == 0
        self._givings: set[Giving] = set()
        self._takings: set[Taking] = set()
        self._until = 0.0  # when those have to leave that cannot be given to another worker; 0: not yet
        self._number = slot + 1
        super().__init__(orders.settings, reactor)
        assert self._pages is not None  # it has ports for WebSocket
        self._pages.broadcastURL = orders.broadcastURL
        # What has stuck is named in the log before the supervisor kills it.
        stuck = min(orders.settings.limits.reactorTurn, max(orders.settings.limits.workerSilence - 1, 1))
        Watchdog(self._reactor, stuck).setServiceParent(self)  # type: ignore[no-untyped-call]

    def _makeServer(self, **options: Any) -> WebSocketServer:
        if self._link is None:
            options["engine"] = None
        elif self.settings.engine == MEMORY:
            options["engine"] = self._makeEngine
        server = super()._makeServer(**options)
        server.node.worker = self._slot + 1
        limit = self.settings.limits.maxConnectionsPerIp
        if self._link is not None:
            self._link.turns = server.runtime.turns
            if limit:
                AddressShare(self._link, server.gate, limit, self._orders.workers)
            RateShare(self._link, server.rates, server.identities.failures, self._orders.workers, self._reactor.callLater)
        return server

    def _engineFailed(self, failure: Failure) -> None:
        """Say nothing: the supervisor is told why this worker cannot start (`Work`)."""

    def _makeEngine(self, runtime: Runtime) -> HubEngine:
        assert self._link is not None  # only a trial has none
        return HubEngine(self._link, self.settings.limits, runtime.wheel)

    def _makeTLS(self) -> ServerTLS | None:
        return None if self.settings.tlsPort == "off" else super()._makeTLS()

    def _warnOfPlainPorts(self, plain: list[ListenAddress], secure: list[ListenAddress]) -> None:
        """Say nothing: the supervisor has."""

    def _needsKey(self) -> bool:
        return self._orders.needsKey

    def _listener(self, place: ListenAddress, factory: IProtocolFactory, secure: bool) -> Listener:
        number = len(self._made)
        self._made.append((place, factory, secure))
        return self._adopting(number, self._slot)

    def _adopting(self, number: int, slot: int) -> Listener:
        """Return what accepts on a socket of a slot."""
        place, factory, secure = self._made[number]
        row = self._sockets[number] if self._sockets else [-1]
        reactor, self._reactor = self._reactor, InheritingReactor(self._reactor, row[slot % len(row)])
        try:
            return super()._listener(place, factory, secure)
        finally:
            self._reactor = reactor

    def _tell(self, listener: Listener) -> None:
        """Say nothing: the supervisor has."""

    def reloadWith(self, channelRules: Mapping[str, Any], authenticators: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Reload, with the rules and authenticators that the supervisor has read; return what is wrong, in lines for the log."""
        self._again = lambda: replace(self.settings, channelRules=channelRules, authenticators=authenticators)
        return self.reloadAll()

    def report(self) -> bytes:
        """Return the metrics of this worker, for the supervisor."""
        return report(self.source())

    def _makeScrape(self) -> Scrape | None:
        return None

    def cover(self, slot: int) -> None:
        """Accept what comes for a slot that has no worker now, too."""
        if self.server.isStopping or slot in self._covers:
            return
        self._covers[slot] = more = []
        for number, row in enumerate(self._sockets):
            if len(row) > 1:  # the others are everybody's
                listener = self._adopting(number, slot)
                more.append(listener)
                listener.listen()

    def uncover(self, slot: int) -> None:
        """Stop that: the slot has a worker again."""
        self._stopListening(self._covers.pop(slot, []))

    def drain(self) -> Deferred[Any]:
        """Stop accepting, and return a Deferred that fires when all callers have left; those on their way come back first."""
        self._stopAccepting()
        self._stopListening(self._webSocketListeners)
        self.server.farewell = FAREWELL
        settled = [each.stop() for each in self._givings] + [each.stop() for each in self._takings]
        return DeferredList(settled).addCallback(lambda _: maybeDeferred(self.stopService))

    def give(self, stream: HandStream) -> Deferred[bool]:
        """Stop accepting, and give the open connections to the process at the other end of a stream.

        Returns:
            A Deferred of whether that process was there to the end; all that has not gone is still here.
        """
        self._stopAccepting()
        self._stopListening(self._webSocketListeners)
        self._endKeptConnections()
        self.server.farewell = RESTART
        limit = self.server.limits.drainTimeout
        self._until = self._until or self._reactor.seconds() + limit
        return Deferred.fromCoroutine(self._give(Giving(self.server, stream)))

    def giveSome(self, stream: HandStream, share: float) -> Deferred[int]:
        """Give a part of the callers to the process at the other end of a stream, and go on; return how many, later."""
        giving = Giving(self.server, stream, share=share)
        return Deferred.fromCoroutine(self._run(giving, self._reactor.seconds())).addCallback(lambda _: giving.given)

    async def _run(self, giving: Giving, until: float) -> bool:
        self._givings.add(giving)
        try:
            return await giving.run(until)
        finally:
            self._givings.discard(giving)

    def failures(self) -> tuple[int, int]:
        """Return how many handlers have raised so far, and how many callers there are."""
        return sum(self.server.counts.handlerErrors.rows.values()), len(self.server.callers)

    async def _give(self, giving: Giving) -> bool:
        whole = await self._run(giving, self._until)
        reasons = [f"{count} ({why})" for why, count in Counter(giving.refused.values()).items()]
        text = "connections that go on in the new worker: {count}" + ("; that do not: {reason}" if reasons else "")
        _log.info(text, count=giving.given, reason=", ".join(reasons), event="handover.done")
        return whole

    def take(self, stream: HandStream) -> None:
        """Take the open connections of the process at the other end of a stream."""
        taking = Taking(self.server, stream)
        self._takings.add(taking)
        taking.done.addBoth(lambda _: self._takings.discard(taking))

    @property
    def patience(self) -> float:
        """The seconds that are left to give callers to another worker."""
        return max(self._until - float(self._reactor.seconds()), 0.0)

    @property
    def mayWait(self) -> bool:
        """Whether there are callers, and time to give them."""
        return bool(self.server.callers) and self.patience > 0

    def leave(self) -> Deferred[Any]:
        """Ask the callers that could not be given to leave, and return a Deferred that fires when they have."""
        return self.server.stop(max(self.patience, LAST)).addCallback(lambda _: maybeDeferred(self.stopService))

    def _stopAccepting(self) -> None:
        for slot in tuple(self._covers):
            self.uncover(slot)
        # What is still open here would keep ports taken whose supervisor is gone.
        for each in {each for row in self._sockets for each in row}:
            with suppress(OSError):
                os.close(each)
        self._sockets = []


@implementer(ILogFilterPredicate)
class Repeats:
    """Keeps out of the log what every worker says of its certificate and its settings, but for the first one; and of its ports.

    It does so while it is used as a context.

    Args:
        isFirst: whether this is the first worker.
    """

    def __init__(self, isFirst: bool) -> None:
        self._isFirst = isFirst
        self._holds = False

    def __enter__(self) -> None:
        self._holds = True

    def __exit__(self, *error: object) -> None:
        self._holds = False

    def __call__(self, event: LogEvent) -> Any:
        """Say what is to become of an event."""
        namespace = str(event.get("log_namespace", ""))
        isRepeated = namespace == "log_legacy" or (namespace.startswith("twisted_ws.") and not self._isFirst)
        if self._holds and isRepeated and event.get("log_level", LogLevel.info) < LogLevel.error:
            return PredicateResult.no
        # That a port was closed and the reactor has stopped: here it says nothing.
        if namespace == "twisted.internet.base" or (namespace == "log_legacy" and formatEvent(event).endswith(" Closed)")):
            return PredicateResult.no
        return PredicateResult.maybe


class Work:
    """The life of a worker: it greets, listens, answers, and leaves when it is told to or when its supervisor is gone.

    Args:
        slot: its slot, from 0.
        reactor: the reactor.
        repeats: what the first worker has said as well.
        lifeline: what ends the process with its supervisor until it listens.
        pipe: its log.
        levels: from which levels on that is written.
    """

    def __init__(
        self,
        slot: int,
        reactor: Any,
        repeats: Repeats,
        lifeline: Lifeline,
        pipe: PipeObserver,
        levels: LogLevelFilterPredicate,
    ) -> None:
        self._pipe = pipe
        self._levels = levels
        self._lifeline = lifeline
        self._slot = slot
        self._reactor = reactor
        self._repeats = repeats
        self._daemon: WorkerDaemon | None = None
        self._isLeaving = False
        self.exitCode = 0
        self.link = link = Link(Turns(reactor), "the supervisor")
        link.handle("worker.drain", self._leave)
        link.handle("worker.give", self._give)
        link.handle("worker.take", self._take)
        link.handle("worker.cover", lambda slot: self._covers(True, slot))
        link.handle("worker.uncover", lambda slot: self._covers(False, slot))
        link.answer("worker.giveSome", self._giveSome)
        link.answer("worker.failures", lambda: (0, 0) if self._daemon is None else self._daemon.failures())
        link.answer("worker.ping", self._pong)
        link.answer("worker.reload", self._reload)
        link.answer("worker.metrics", self._report, lambda: True)
        link.onLost(self._unlinked)

    def begin(self) -> None:
        """Greet the supervisor, which answers with orders."""
        connect(self._reactor, LINK, self.link)
        self.link.request("worker.hello", __version__).addCallback(self._start).addErrback(self._fail)

    def _start(self, orders: bytes) -> Any:
        make = partial(WorkerDaemon, slot=self._slot, link=self.link)
        decoded = Orders.decode(orders)
        setLevels(self._levels, decoded.settings.logLevels)
        self._pipe.users = decoded.settings.logUsers
        with self._repeats:
            self._daemon = daemon = prepare(decoded, make, self._reactor)
        daemon.log = self._pipe
        return daemon.server.started().addCallback(self._listen, daemon)

    def _listen(self, result: None, daemon: WorkerDaemon) -> None:
        self._lifeline.letGo()
        if self._isLeaving:
            return
        with self._repeats:
            daemon.startService()
        gc.collect()
        gc.freeze()  # as in a process of its own
        self.link.send("worker.ready")

    def _fail(self, failure: Any) -> None:
        self._lifeline.letGo()
        if self._isLeaving:
            return
        self.exitCode = 1
        self.link.send("worker.failed", explain(failure.value))
        self._isLeaving = True
        self.link.close()

    def _covers(self, begins: bool, slot: int) -> None:
        if self._daemon is not None:
            (self._daemon.cover if begins else self._daemon.uncover)(slot)

    def _pong(self) -> str:
        return (self._daemon and self._daemon.server.readiness()) or ""

    def _reload(
        self, channelRules: Mapping[str, Any], logLevels: Sequence[Sequence[str]], authenticators: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        setLevels(self._levels, tuple((namespace, level) for namespace, level in logLevels))
        if self._daemon is None:
            return []
        with self._repeats:
            return self._daemon.reloadWith(channelRules, authenticators)

    def _report(self) -> bytes:
        return b"" if self._daemon is None else self._daemon.report()

    def _leave(self) -> None:
        self._lifeline.letGo()
        if self._isLeaving:
            return
        self._isLeaving = True
        if self._daemon is None:
            self._end()
        else:
            self._daemon.drain().addErrback(self._notInOrder).addCallback(self._end)

    def _give(self) -> None:
        """Give the open connections to the next worker of the slot, and leave."""
        connection = receive(HAND)
        if self._daemon is None or connection is None:
            self._leave()
        elif self._isLeaving:
            connection.close()
        else:
            stream = HandStream(connection, self._reactor)
            self._daemon.give(stream).addCallbacks(self._given, self._notGiven)

    def _giveSome(self, share: float) -> int | Deferred[int]:
        """Give some of the open connections to the next worker of the slot, and go on."""
        connection = receive(HAND)
        if connection is None:
            return 0
        if self._daemon is None or self._isLeaving:
            connection.close()
            return 0
        return self._daemon.giveSome(HandStream(connection, self._reactor), share)

    def _given(self, whole: bool) -> None:
        assert self._daemon is not None
        if self._isLeaving:
            return
        if not whole and self._daemon.mayWait:
            # The worker that took them has died, and another one comes.
            self._reactor.callLater(self._daemon.patience, self._given, True)
            return
        self._isLeaving = True
        self._daemon.leave().addErrback(self._notInOrder).addCallback(self._end)

    def _notInOrder(self, failure: Any) -> None:
        _log.failure("the worker did not stop cleanly", failure, event="worker.failed")

    def _notGiven(self, failure: Any) -> None:
        _log.failure("connections were not handed over", failure, event="handover.broken")
        self._leave()

    def _take(self) -> None:
        connection = receive(HAND)
        if self._daemon is not None and connection is not None and not self._isLeaving:
            self._daemon.take(HandStream(connection, self._reactor))
        elif connection is not None:
            connection.close()

    def _unlinked(self) -> None:
        if self._daemon is None or self.exitCode:
            self._end()
        elif not self._isLeaving:
            _log.error("the supervisor is gone: callers are asked to leave", event="worker.orphaned")
            self._leave()

    def _end(self, result: object = None) -> None:
        """End, when the supervisor knows what was counted here."""
        if self._daemon is None or not self.link.isUp:
            self._stop()
            return
        told = self.link.request("worker.counted", self._daemon.report())
        told.addTimeout(COUNTED, self._reactor).addErrback(lambda failure: None).addBoth(self._stop)

    def _stop(self, result: object = None) -> None:
        if self._reactor.running:
            self._reactor.stop()
        else:
            self._reactor.callWhenRunning(self._reactor.stop)


def prepare(orders: Orders, make: Any, reactor: Any) -> Any:
    """Return what `make` makes of orders, in the directory and with the modules of the supervisor's start."""
    here = os.getcwd()
    with suppress(OSError):
        os.chdir(orders.directory)  # relative paths of services are as they are without workers
    try:
        return make(orders, reactor=reactor)
    finally:
        with suppress(OSError):
            os.chdir(here)


def explain(error: BaseException) -> str:
    """Return one line that says why a worker cannot start."""
    if isinstance(error, (ConfigurationError, ServiceError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"A worker cannot start: {type(error).__name__}: {error}{place}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a worker until its supervisor tells it to leave.

    Returns:
        0 after a drain, 1 if it could not start.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    restoreEnvironment()
    if given[0] == "--trial":
        _install(given[1])
        _trial(int(given[2]))
    slot, reactorModule = given
    lifeline = Lifeline(LINK)
    for each in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else map(str, range(SOCKETS)):
        if int(each) >= LINK:
            with suppress(OSError):
                os.set_inheritable(int(each), False)  # services start processes, too
    _install(reactorModule)
    from twisted.internet import reactor

    countMonotonicTime(reactor)
    repeats = Repeats(slot == "1")
    pipe = PipeObserver(LOG)
    levels = LogLevelFilterPredicate(LogLevel.info)
    globalLogBeginner.beginLoggingTo([FilteringLogObserver(pipe, [levels, repeats])])
    work = Work(int(slot) - 1, reactor, repeats, lifeline, pipe, levels)
    LoopingCall(pipe.flush).start(FLUSH, now=False)
    reactor.callWhenRunning(_ignoreSignals)
    reactor.callWhenRunning(work.begin)
    reactor.run()
    pipe.flush()
    return work.exitCode


def _install(reactorModule: str) -> None:
    """Install the reactor that the supervisor has: services may need that one."""
    install = getattr(namedModule(reactorModule), "install", None)
    if install is not None:
        install()


def _ignoreSignals() -> None:
    """Leave signals to the supervisor; they were blocked until now."""
    for number in SUPERVISORS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISORS)


def _trial(answer: int) -> NoReturn:
    """Make a worker that never listens, and write on a descriptor what is wrong, or null."""
    os.set_inheritable(answer, False)
    Lifeline(answer)  # services may take for ever, and whoever waits for that be killed
    wrong = None
    try:
        orders = Orders.decode(sys.stdin.buffer.read())
        from twisted.internet import reactor

        prepare(orders, partial(WorkerDaemon, slot=0, link=None), reactor)
    except Exception as error:
        wrong = explain(error)
    os.write(answer, msgspec.json.encode(wrong))
    os._exit(0)  # whatever the services have started
