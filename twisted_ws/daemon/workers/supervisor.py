"""The daemon with workers: it has the ports, the engine, the broadcast site and the log, and workers have the connections."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws import __version__
from twisted_ws.access.publishers.sessions import Moving
from twisted_ws.daemon import systemd
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.loading.authenticators import ISSUERS, changed, makeAuthenticators, requireChains
from twisted_ws.daemon.loading.engines import engineMaker
from twisted_ws.daemon.process import ProcessDaemon, _endAtOnce, _exitWithError
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import KEYS, Settings
from twisted_ws.daemon.succession.keeper import END, NEXT
from twisted_ws.daemon.succession.messages import FIRST, HUB, KEPT, VERSION, Instructions, Place
from twisted_ws.daemon.succession.offer import Offer, become
from twisted_ws.daemon.systemd import notify
from twisted_ws.daemon.workers.control import ControlSocket
from twisted_ws.daemon.workers.cores import cores
from twisted_ws.daemon.workers.crew import Crew, RollFailed, Stage, Worker
from twisted_ws.daemon.workers.orders import Orders, settingsFor
from twisted_ws.daemon.workers.sockets import HeldPort, HeldUnixPort, HoldingReactor, InheritedHeldUnixPort
from twisted_ws.daemon.workers.spawning import SUPERVISORS, Launcher
from twisted_ws.daemon.workers.trial import tryOut
from twisted_ws.engines.hub.addresses import AddressCounts
from twisted_ws.engines.hub.hub import Hub
from twisted_ws.engines.hub.link import Link
from twisted_ws.engines.hub.rates import RateCounts
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ConfigurationError
from twisted_ws.metrics.collector import Collector
from twisted_ws.metrics.declared import Source
from twisted_ws.metrics.scrape import Asked, Scrape
from twisted_ws.server.identities import GUEST_NAME
from twisted_ws.server.server import WebSocketServer
from twisted_ws.wire.tls.server import ServerTLS
from twisted_ws.wire.websocket.runtime import Runtime

# What is bound or made once, at the start of the supervisor.
FIXED = (
    "port",
    "tlsPort",
    "listen",
    "interface",
    "broadcastPort",
    "broadcastTlsPort",
    "broadcastInterface",
    "metricsPort",
    "stateDirectory",
    "engine",
    "enginePasswordFile",
    "outbox",
    "outboxPasswordFile",
    "historyFile",
    "apiKeyFile",
    "admin",
    "logFormat",
    "logUsers",
    "tracing",
    "workers",
)

# The limits that hold there for all workers together. With another limit than the supervisor's, a worker would have its
# connections refused, or itself killed.
FIXED_LIMITS = (
    "maxConnectionsPerIp",
    "maxMessageSize",
    "backlog",
    "channels",
    "channelsPerAddress",
    "historyMessages",
    "historyAge",
    "historyBytes",
    "historyTotal",
    "idempotencyAge",
    "idempotencyKeys",
    "claims",
    "revocations",
    "presenceDelay",
    "drainTimeout",
    "workerSilence",
    "workerStart",
)

_FIXED_NAMES = {key.name for key in KEYS if key.field in (*FIXED, *FIXED_LIMITS)} | {f"limits.{name}" for name in FIXED_LIMITS}

# What the broadcast site has from the supervisor's start, while new workers have it as it is now; with TLS there, these too.
AT_BROADCAST_SITE = ("allowedHosts", "trustedProxies")
AT_BROADCAST_TLS = ("certificate", "privateKey", "chain", "keyStore", "keyStorePasswordFile", "clientCA", "tlsMinimum")


def oldAtBroadcastSite(new: Settings, old: Settings) -> list[str]:
    """Return the keys whose change new workers know, and the broadcast site of a supervisor that began with `old` does not."""
    names = set(AT_BROADCAST_SITE) if (old.broadcastPort, old.broadcastTlsPort) != ("off", "off") else set()
    if old.broadcastTlsPort != "off":
        names.update(AT_BROADCAST_TLS)
    return [key.name for key in KEYS if key.field in names and getattr(new, key.field) != getattr(old, key.field)]


class SupervisorServer(WebSocketServer):
    """The server of a supervisor, which has no callers of its own.

    Attributes:
        crew: the workers.
        isEnding: whether they are asked to leave.
    """

    crew: Crew
    isEnding = False

    @property
    def isStopping(self) -> bool:
        """Whether what is published now would reach nobody who stays."""
        return self.isEnding or super().isStopping

    def readiness(self) -> str | None:
        """Return why no worker takes new traffic, None if one does."""
        return super().readiness() or self.crew.readiness()


class HeldListener(Listener):
    """A WebSocket port of all workers.

    Attributes:
        port: what holds its sockets.
    """

    port: HeldPort | HeldUnixPort | InheritedHeldUnixPort | None

    def sockets(self) -> list[int]:
        """Return the descriptors of its sockets."""
        assert self.port is not None  # it listens
        return self.port.descriptors()

    def listen(self) -> bool:
        """Bind and listen.

        Raises:
            ConfigurationError: it cannot, or this kind of endpoint makes its sockets in its own way.
        """
        begins = super().listen()
        if begins and not isinstance(self.port, (HeldPort, HeldUnixPort, InheritedHeldUnixPort)):
            raise ConfigurationError(
                f"--{self.place.option} {self.place.where} cannot be shared by workers: give a port, unix: or systemd:, or leave "
                "out --workers."
            )
        return begins

    def _started(self, port: IListeningPort) -> None:
        self.port = port  # type: ignore[assignment]  # `listen` looks


class Supervisor(ProcessDaemon):
    """A daemon whose connections are served by workers.

    SIGHUP reloads here and in all workers; the control socket can replace them one by one.

    Args:
        settings: what to run.
        runner: the options of twistd or twist; None under another runner.
        reactor: the reactor; None for the global one.
        again: see `Daemon`.
        given: the arguments that the settings come from; None: from none, so no other process can be started like this one.

    Attributes:
        crew: the workers.
        program: the path of the program that was started.
        directory: where it was started.
        reactor: the reactor.
        exitCode: 1 if no worker could start.

    Raises:
        ConfigurationError: see `ProcessDaemon`.
    """

    _log = Logger()
    _authenticatorTypes = ISSUERS
    server: SupervisorServer

    def __init__(
        self,
        settings: Settings,
        runner: MutableMapping[str, Any] | None = None,
        reactor: Any = None,
        again: Callable[[], Settings] | None = None,
        given: Sequence[str] | None = None,
    ) -> None:
        self._given = given
        self.program = os.path.join(os.getcwd(), sys.argv[0])
        self._offer: Offer | None = None
        self._keeper: tuple[socket.socket, ...] = ()
        self.count = settings.workers or cores()
        self.directory = os.getcwd()
        self._wasTried = False
        self.exitCode = 0
        self._orders = b""
        super().__init__(settings, runner, reactor, again)
        self.reactor = self._reactor
        self._launcher = launcher = Launcher(self._reactor, self._makeLink, self._ended, self._descriptors)
        self.crew = Crew(self.count, settings.limits, self._reactor, launcher.launch, lambda: self._orders, launcher.join)
        self.server.crew = self.crew
        self._control = ControlSocket(settings.stateDirectory, self._reactor, self._reloadBySocket, self._upgradeBySocket)

    # What it is made of.

    def _makeServer(self, **options: Any) -> WebSocketServer:
        settings = self.settings
        _, issuers = makeAuthenticators(settings, self._reactor, ISSUERS)
        return SupervisorServer(
            limits=settings.limits,
            allowedOrigins=settings.allowedOrigins,
            allowedHosts=settings.allowedHosts,
            trustedProxies=settings.trustedProxies,
            authenticators=issuers,
            channelRules=settings.channelRules,
            engine=self._makeHub,
            reactor=self._reactor,
            **options,
        )

    def _makeHub(self, runtime: Runtime) -> Any:
        limits, wheel = self.settings.limits, runtime.wheel
        self._addresses = AddressCounts(limits.maxConnectionsPerIp, self.count, wheel, runtime.turns)
        self._rates = RateCounts()
        self._hub: Hub | None = None
        self._engine: MemoryEngine | None = None
        elsewhere = engineMaker(self.settings)
        if elsewhere is not None:
            return elsewhere(runtime)  # each worker has one, too
        self._engine = MemoryEngine(limits, wheel, wheel.seconds)
        self._hub = hub = Hub(self._engine, limits, wheel, runtime.turns)
        return hub

    def _memory(self) -> MemoryEngine | None:
        return self._engine

    def _mount(self) -> None:
        """Mount nothing: services are the workers'."""

    def _makeTLS(self) -> ServerTLS | None:
        if self.settings.broadcastTlsPort == "off" and self.settings.tlsPort != "off":
            return None  # the workers read it
        return super()._makeTLS()

    def _makeWebSocketListeners(self) -> list[Listener]:
        plain, secure = self._webSocketPlaces()
        self._warnOfPlainPorts(plain, secure)
        backlog = self.settings.limits.backlog
        factory: Any = _Workers()
        return [
            HeldListener(place, factory, place in secure, self.server, self._holding(place), backlog) for place in plain + secure
        ]

    def _holding(self, place: ListenAddress) -> HoldingReactor:
        """Return what binds and holds the sockets of a place."""
        return HoldingReactor(self._reactor, self.count)

    def _makeLink(self, worker: Worker) -> Link:
        link = Link(self.server.runtime.turns, worker.name)
        if self._hub is not None:
            self._hub.attach(link)
        self._addresses.attach(link)
        self._rates.attach(link)
        link.answer("worker.counted", lambda said: self._counted(worker, said))
        return link

    def _counted(self, worker: Worker, said: bytes) -> None:
        """Note what a worker says of its metrics before it ends."""
        assert self._scrape is not None
        self._scrape.past.saw(_place(worker), worker, said)

    def _ended(self, worker: Worker, how: str) -> None:
        assert self._scrape is not None
        self._scrape.past.ended(_place(worker), worker)
        self.crew.processEnded(worker, how)

    # Metrics: one look shows all workers.

    def _makeScrape(self) -> Scrape:
        return Scrape(Collector(self.server, self.source), self._askWorkers)

    def _askWorkers(self) -> Asked:
        """Ask all that have connections; those that are leaving come first."""
        leaving = [each for each in self.crew.workers if each.stage is Stage.LEAVING and each.isLinked]
        return {(_place(each), each): each.line.request("worker.metrics") for each in (*leaving, *self.crew.ready)}

    def source(self) -> Source:
        """Return what metrics are read from, as it is now."""
        return replace(super().source(), workers={"ready": len(self.crew.ready), "wanted": self.count})

    # What workers get.

    def _held(self) -> list[Any]:
        return [listener.port for listener in self._webSocketListeners if listener.port is not None]

    def _table(self) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
        """Return which socket is whose (`Orders.sockets`), and the descriptors of all."""
        rows, descriptors = [], []
        for port in self._held():
            row = []
            for slot in range(self.count):
                descriptor = port.descriptor(slot)
                if descriptor not in descriptors:
                    descriptors.append(descriptor)
                row.append(descriptors.index(descriptor))
            rows.append(tuple(dict.fromkeys(row)))
        return tuple(rows), descriptors

    def _descriptors(self) -> list[int]:
        return self._table()[1]

    def _encode(self, settings: Settings, sockets: tuple[tuple[int, ...], ...] = ()) -> bytes:
        return Orders(
            settingsFor(settings, self.count),
            self.count,
            self.directory,
            self.broadcastURL,
            self._credentials.requiresCredentials,
            sockets,
        ).encode()

    def _try(self) -> None:
        """Make the services once, in a process as the workers will be, while there is a terminal for what is wrong.

        Raises:
            ConfigurationError: workers could not start; one line.
        """
        if not self._wasTried:
            self._wasTried = True
            which = self._reactor.__class__.__module__
            tryOut(self._encode(self.settings), which, *self._owner(), timeout=self.settings.limits.workerStart)

    # Start and stop.

    def listenEarly(self) -> None:
        """Listen, and try out whether workers will be able to start."""
        super().listenEarly()
        self._tryOrStop()

    def privilegedStartService(self) -> None:
        """Listen, while the process may still be root."""
        super().privilegedStartService()
        with self._telling():
            self._tryOrStop()
        self._control.listen(*self._owner())

    def _tryOrStop(self) -> None:
        try:
            self._try()
        except ConfigurationError:
            self._stopListening(self._listeners)
            raise

    def _run(self) -> None:
        """Start the workers, and tell systemd when they listen."""
        self._orders = self._encode(self._running, self._table()[0])
        self.crew.start().addCallbacks(lambda result: self._tellReady(), self._failed)

    def _failed(self, failure: Failure) -> None:
        """End with exit code 1, because there is no worker that works."""
        failure.trap(ConfigurationError)
        self._log.critical("{reason}", reason=str(failure.value), event="worker.failed")
        self.exitCode = 1
        # twistd ends with 0 whenever its reactor has stopped; its pid file is gone by then.
        atexit.register(_exitWithError)
        if self._reactor.running:
            self._reactor.stop()

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Let all workers drain, then stop here; another SIGINT or SIGTERM ends all processes."""
        self._beginToStop(self._endNow)
        self.server.isEnding = True
        if self._offer is not None:
            self._offer.abort("The server is stopping.")
        yield self._control.stop()
        yield self._stopListening(self._webSocketListeners)
        yield self._stopOutbox()
        yield self.crew.stop()
        yield Daemon.stopService(self)

    def _endNow(self, number: int, frame: object) -> None:
        self.crew.killAll()
        _endAtOnce(number, frame)

    # Reload.

    def reload(self) -> None:
        """Reload certificates, keys, passwords and rules here and in all workers, and notify systemd."""
        if self._offer is None or self._offer.note("reload"):
            self._reloadEverywhere()

    def reopen(self) -> None:
        """Open the log and the audit log anew, in the next supervisor too if one is about to take over."""
        if self._offer is not None:
            self._offer.note("reopen")
        super().reopen()

    def _reloadEverywhere(self) -> Deferred[list[str]]:
        notify("RELOADING=1")
        here = self.reloadAll()

        def told(there: list[str]) -> list[str]:
            wrong = list(dict.fromkeys(here + there))
            self._tellReloaded(wrong)
            notify("READY=1")
            return wrong

        running = self._running
        return self.crew.reload(running.channelRules, running.logLevels, running.authenticators).addCallback(told)

    def _take(self, settings: Settings) -> Sequence[str]:
        # The workers would find the same mistakes: nothing changes in any if there is one, nor in those that come later.
        requireChains(self._running, changed(self._running, settings, self._reactor))
        names = super()._take(settings)
        self._running = replace(self._running, logLevels=settings.logLevels)
        if self._orders:
            self._orders = self._encode(self._running, self._table()[0])
        return names

    def _whenAnew(self, name: str) -> str:
        """Return when a setting takes effect: what the workers have, with new ones."""
        return super()._whenAnew(name) if name in _FIXED_NAMES else "with twisted-ws reload --services"

    def _warnOfAsking(self) -> None:
        """Say nothing: the workers do."""

    async def _reloadBySocket(self, services: bool) -> list[str]:
        """Do what ``twisted-ws reload`` asks for, and return what is wrong."""
        if self._offer is not None:
            return [_UPGRADING]
        if not services:
            return await self._reloadEverywhere()
        try:
            await self._roll()
        except ConfigurationError as error:
            self._log.error("The old services stay: {reason}", reason=str(error), event="reload.failed")
            return [str(error)]
        self._log.info("workers that have the new services: {count}", count=self.count, event="reload.done")
        return []

    async def _roll(self) -> None:
        new = self._running if self._again is None else self._again()
        fixed, old = [key for key in KEYS if key.field in FIXED], self.settings
        changed = [key.name for key in fixed if getattr(new, key.field) != getattr(old, key.field)]
        changed += [f"limits.{name}" for name in FIXED_LIMITS if getattr(new.limits, name) != getattr(old.limits, name)]
        if changed:
            raise ConfigurationError(f"A change of {', '.join(changed)} takes effect only after a restart.")
        # Whoever makes tickets makes those that the new workers take.
        _, issuers = makeAuthenticators(new, self._reactor, ISSUERS)
        others = [name for name in self.server.identities.authenticators if name != GUEST_NAME]
        replaceIssuers = self.server.identities.replace(others, issuers)
        before, self._orders = self._orders, self._encode(new, self._table()[0])
        try:
            await self.crew.roll()
        except RollFailed as error:
            if not error.replaced:
                self._orders = before
            raise
        self._running = new
        replaceIssuers()
        self.server.setChannelRules(new.channelRules)
        self._takeLevels(new)
        stays = oldAtBroadcastSite(new, old)
        if stays:
            self._log.warn(
                "The workers have the new {names}; the broadcast site keeps the old until a restart.",
                names=", ".join(stays),
                event="reload.incomplete",
            )

    # The move to another supervisor (`twisted_ws.daemon.succession.offer.Offer`).

    async def _upgradeBySocket(self, asker: int) -> list[str]:
        """Give everything to a new supervisor, as ``twisted-ws upgrade`` asks; if that fails, return what is wrong."""
        if self._offer is not None:
            return [_UPGRADING]
        try:
            self._refuseUpgrade()  # before anything is started
        except ConfigurationError as error:
            return [str(error)]
        notify("RELOADING=1")
        self._offer = offer = Offer(self, asker)
        try:
            await offer.run()
        except ConfigurationError as error:
            self._log.error("The old server goes on: {reason}", reason=str(error), event="upgrade.failed")
            return [f"The old server goes on: {error}"]
        finally:
            self._offer = None
            notify("READY=1")
        return []

    def _refuseUpgrade(self) -> None:
        if self.server.isEnding:
            raise ConfigurationError("The server is stopping.")
        self.crew.refuseMove()

    def instructions(self) -> tuple[Instructions, list[int]]:
        """Return what a new supervisor is told, and the descriptors that it gets.

        Raises:
            ConfigurationError: it could not be started like this one.
        """
        runner = self._runner
        if self._given is None or "fileLogObserverFactory" in runner:
            raise ConfigurationError("Only a server that was started with twistd or twisted-ws can be upgraded: restart it.")
        if runner.get("logger") or runner.get("syslog"):
            raise ConfigurationError("A server that was started with --logger or --syslog cannot be upgraded: restart it.")
        descriptors: list[int] = []
        places = [
            Place(each.place.option, each.place.where, each.place.interface, _numbered(descriptors, each.sockets()))
            for each in self._listeners
            if each.port is not None
        ]
        control = [] if self._control.port is None else _numbered(descriptors, [self._control.port.fileno()])
        lock = [] if self._history is None else _numbered(descriptors, [self._history.lock])
        instructions = Instructions(
            version=VERSION,
            hub=HUB,
            kept=KEPT,
            program=self.program,
            arguments=list(self._given),
            directory=os.getcwd(),
            logFile=self._logPath,
            endsBySignal=self._endsBySignal,
            reactor=self._reactor.__class__.__module__,
            process=self._process,
            before=__version__,
            places=places,
            control=control[0] if control else -1,
            historyFile="" if self._history is None else self._history.path,
            lock=lock[0] if lock else -1,
            fixed=self.fixed(),
        )
        return instructions, descriptors

    _process = property(lambda self: os.getpid())
    _endsBySignal = property(lambda self: bool(self._runner))

    def fixed(self) -> dict[str, str]:
        """Return the settings that a new supervisor must have, too."""
        settings = self.settings
        return {"workers": str(self.count), "engine": settings.engine, "state-directory": settings.stateDirectory or ""}

    def keeperEnds(self) -> tuple[int, int]:
        """Return the descriptors of the stream between the process that keeps our number and the supervisor; -1 for a far one."""
        if systemd.keeper is not None:
            return -1, systemd.keeper.fileno()
        for each in self._keeper:
            each.close()
        self._keeper = socket.socketpair()
        return self._keeper[0].fileno(), self._keeper[1].fileno()

    def becomeKeeper(self, child: int) -> NoReturn:
        """End what this process is: it keeps its number for the new supervisor, or ends if another one does."""
        if systemd.keeper is not None:
            systemd.keeper.send(NEXT + str(child).encode() + END)
            for number in signal.sigpending() & {*SUPERVISORS}:
                with suppress(OSError):
                    os.kill(child, number)
            os._exit(0)
        pidfile = self._runner.get("pidfile") or ""
        become(self._keeper[0].fileno(), child, self.program, os.path.abspath(pidfile) if pidfile else "")

    def holdPorts(self) -> None:
        """Accept nothing here; what comes waits."""
        for port in self._ours():
            port.stopReading()

    def releasePorts(self) -> None:
        """End that."""
        for port in self._ours():
            port.startReading()

    def _ours(self) -> list[Any]:
        ports = [each.port for each in self._broadcastListeners] + [self._control.port]
        return [each for each in ports if each is not None]

    def stopOutbox(self) -> Deferred[Any]:
        """Publish no more from the outbox."""
        return self._stopOutbox()

    def startOutbox(self) -> None:
        """End that."""
        if self.outbox is not None and self.running and not self.server.isEnding:
            self.outbox.startService()

    @property
    def isQuiet(self) -> bool:
        """Whether no message is on its way to a worker."""
        return self._hub is None or self._hub.isQuiet

    def standing(self, links: Sequence[Link]) -> tuple[int | None, list[Any]]:
        """Return what the hub says of itself and of workers (see `Hub.standing`)."""
        return (None, [None] * len(links)) if self._hub is None else self._hub.standing(links)

    def records(self, links: Sequence[Link]) -> Iterator[Any]:
        """Yield what engine and hub keep; nothing may be published until `thaw`."""
        if self._hub is not None and self._engine is not None:
            yield from self._engine.records()
            yield from self._hub.moving(links)

    def counted(self, workers: Sequence[Worker]) -> Iterator[tuple[str, int | None, bytes]]:
        """Yield reports of what was counted, each with its place and the number of its worker if that goes on."""
        assert self._scrape is not None
        numbers: dict[Any, int] = {each: number for number, each in enumerate(workers)}
        for place, worker, said in self._scrape.moving():
            yield place, numbers.get(worker), said

    def logins(self) -> tuple[bytes, list[Moving]]:
        """Return who is logged in (see `Credentials.moving`)."""
        return self._credentials.moving()

    def thaw(self) -> None:
        """Go on after `records`."""
        if self._engine is not None:
            self._engine.thaw()

    def addresses(self) -> list[Any]:
        """Return the addresses that workers report."""
        return self._addresses.known()

    def placed(self, connections: Iterable[Any]) -> Iterator[tuple[list[str], Any]]:
        """Yield the plain ports by which connections to the broadcast site have come, and these."""
        ports = {id(each.factory): each.place for each in self._broadcastListeners if not each.secure}
        for each in connections:
            place = ports.get(id(each.site))
            if place is not None:
                yield [place.option, place.where, place.interface], each


_UPGRADING = "The server is being upgraded: wait until that has ended."


def _numbered(descriptors: list[int], more: Sequence[int]) -> list[int]:
    """Add descriptors to all that are passed on, and return the numbers that they will have."""
    first = FIRST + len(descriptors)
    descriptors += more
    return list(range(first, first + len(more)))


def _place(worker: Worker) -> str:
    """Return the number of a worker, as metrics have it."""
    return str(worker.slot + 1)


class _Workers(Factory):
    """The factory of a port that accepts nothing; its name is in the log."""

    noisy = False
