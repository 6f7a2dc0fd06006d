"""The daemon as a Twisted service: the server and its ports, from start to stop."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.cred.checkers import FilePasswordDB
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks, succeed
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger, globalLogPublisher
from twisted.python.failure import Failure

from twisted_ws.access.publishers.audit import AuditLog
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.daemon.expiry import ExpiryWatch
from twisted_ws.daemon.inforce import certificateOf, inForce
from twisted_ws.daemon.lines import lineOf
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.loading.authenticators import changed, makeAuthenticators
from twisted_ws.daemon.loading.engines import engineMaker
from twisted_ws.daemon.loading.outbox import makeOutbox
from twisted_ws.daemon.loading.targets import loadInterceptor, loadService
from twisted_ws.daemon.settings import Mount, Settings, changes
from twisted_ws.daemon.telemetry import Telemetry
from twisted_ws.engines.historyfile import HistoryFile
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ConfigurationError, ServiceError
from twisted_ws.exposure import warnIfExposed
from twisted_ws.inspection.answers import answerInspection
from twisted_ws.inspection.inspector import Inspector
from twisted_ws.inspection.log import answerLog
from twisted_ws.inspection.settings import Certificate, answerCertificates
from twisted_ws.metrics.declared import Source
from twisted_ws.metrics.process import look
from twisted_ws.metrics.pulse import Pulse
from twisted_ws.server.server import WebSocketServer
from twisted_ws.telemetry.records import RecentRecords
from twisted_ws.web.admin.resource import AdminResource
from twisted_ws.web.api.broadcast import broadcastSite
from twisted_ws.web.api.metrics import metricsSite
from twisted_ws.web.folder import PageFile, readFolder
from twisted_ws.web.http.site import HttpSite
from twisted_ws.web.pages import PagesResource, pagesSite
from twisted_ws.wire.door.origins import AllowedHosts, AllowedOrigins
from twisted_ws.wire.door.proxies import TrustedProxies
from twisted_ws.wire.tls.certificates import readPassword
from twisted_ws.wire.tls.server import ServerTLS, TLSSettings
from twisted_ws.wire.tls.transport import peerCertificate

if TYPE_CHECKING:
    from twisted_ws.metrics.scrape import Scrape


class Daemon(MultiService):
    """Everything that ``twistd wsservice`` runs, except its process: signals, log and process limits are not touched.

    Args:
        settings: what to run.
        reactor: the reactor; None for the global one.
        again: returns the settings as they are now in the configuration file; None: they stay.

    Attributes:
        server: the server.
        settings: the settings it was made with.
        broadcastURL: where to POST a broadcast, as the demo page shows it; "" while it does not listen.
        recent: the last warnings and errors of the log.
        outbox: publishes what is in the outbox; None if there is none, and in workers.

    Raises:
        ConfigurationError: the settings are invalid; one line.
    """

    _log = Logger()
    _authenticatorTypes: Collection[str] | None = None  # those that this process has; None: all
    # Whether the log is told when the certificate expires soon.
    _watchesExpiry = True
    _metricsListener: Listener | None = None
    # The number of the worker that this is, 0 for none.
    _number = 0

    def __init__(self, settings: Settings, reactor: Any = None, again: Callable[[], Settings] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self._again = again
        self._running = settings  # what is in use now
        self._reactor = reactor
        self.recent = RecentRecords(settings.logUsers)
        _checkPasswordFiles(settings.checkers)
        _checkNames(settings)
        self.server = self._makeServer()
        answerInspection(self.server)
        self.server.started().addErrback(self._engineFailed)
        self._history = self._makeHistory()  # before a service can publish anything
        self._mount()
        self._credentials = self._makeCredentials()
        self._audit = self._makeAudit()
        self._tls = self._makeTLS()
        self._scrape = self._makeScrape()
        self.server.node.expires = self._expires
        answerCertificates(self.server, self._certificates)
        self._pages: PagesResource | None = None
        self._site: HttpSite | None = None
        self.broadcastURL = ""
        self._broadcastListeners = self._makeBroadcastListeners()
        self._webSocketListeners = self._makeWebSocketListeners()
        self._refuseOverlaps()
        if settings.tracing:
            Telemetry(reactor, self._number).setServiceParent(self)  # type: ignore[no-untyped-call]
        # The broadcast site first: the demo page shows where it is.
        for listener in self._listeners:
            listener.setServiceParent(self)  # type: ignore[no-untyped-call]
        self.outbox = self._makeOutbox()
        if self.outbox is not None:
            self.outbox.setServiceParent(self)
        Pulse(self.server).setServiceParent(self)  # type: ignore[no-untyped-call]
        if self._tls is not None and self._watchesExpiry:
            ExpiryWatch(self._tls, reactor).setServiceParent(self)  # type: ignore[no-untyped-call]

    @property
    def _listeners(self) -> list[Listener]:
        return self._broadcastListeners + self._webSocketListeners

    def _engineFailed(self, failure: Failure) -> None:
        """Learn that the engine cannot start."""
        if failure.check(ConfigurationError):
            self._log.critical("{reason}", reason=str(failure.value), event="engine.failed")
        else:
            self._log.failure("the engine failed", failure, event="engine.failed")

    # What it is made of: with workers, the supervisor and each worker have a part of it.

    def _makeServer(self, **options: Any) -> WebSocketServer:
        """Return the server, with more `options`."""
        settings = self.settings
        authenticate, authenticators = makeAuthenticators(settings, self._reactor)
        options = {"engine": engineMaker(settings), **options}
        return WebSocketServer(
            limits=settings.limits,
            allowedOrigins=settings.allowedOrigins,
            allowedHosts=settings.allowedHosts,
            compression=settings.compression,
            trustedProxies=settings.trustedProxies,
            authenticate=authenticate,
            authenticators=authenticators,
            channelRules=settings.channelRules,
            interceptors=[loadInterceptor(each) for each in settings.interceptors],
            reactor=self._reactor,
            **options,
        )

    def _mount(self) -> None:
        """Mount the services."""
        for mount in self.settings.services:
            self._mountOne(mount)
        for path in self.server.channelRules.restricted:
            self._log.info(
                '{path}: clients may subscribe to what their credentials grant, and publish to nothing, unless [channels."*"] '
                "or a narrower table says otherwise",
                path=path,
                event="channel.guarded",
            )
        self._warnOfAsking()

    def _mountOne(self, mount: Mount) -> None:
        try:
            service = loadService(mount.target, mount.options)
            self.server.mount(
                mount.path,
                service,
                authenticate=mount.authenticate,
                scopes=mount.scopes,
                interceptors=[loadInterceptor(each) for each in mount.interceptors],
            )
        except ServiceError:
            raise  # its text names the service
        except ConfigurationError as error:
            raise ConfigurationError(f"{mount}: {error}") from None

    def _warnOfAsking(self) -> None:
        """Say that there is nobody who could be asked."""
        pattern = self.server.channelRules.unanswered
        if pattern is not None:
            self._log.warn(
                'channels."{pattern}" says ask, but no authenticator of a service of channels has a channels-url: it is refused',
                pattern=pattern,
                event="channel.unanswered",
            )

    def _memory(self) -> MemoryEngine | None:
        """Return the engine in memory, None if another process has the engine."""
        engine = self.server.engine
        return engine if isinstance(engine, MemoryEngine) else None

    def _makeHistory(self) -> HistoryFile | None:
        """Return the file that keeps the history; what was in it is in the engine then."""
        engine = self._memory()
        if self.settings.historyFile is None or engine is None:
            return None
        history = HistoryFile(self.settings.historyFile, self._reactor)
        history.load(engine)
        return history

    def _makeCredentials(self) -> Credentials:
        settings = self.settings
        return Credentials(settings.checkers, settings.apiKeyFile, settings.limits, self._reactor)

    def _makeAudit(self) -> AuditLog | None:
        path = self.settings.auditLog
        return None if path is None else AuditLog(path, self._reactor)

    def _makeOutbox(self) -> Any:
        return makeOutbox(self.settings, self.server, self._reactor)

    def _makeTLS(self) -> ServerTLS | None:
        settings = self.settings
        if settings.keyStorePasswordFile and not settings.keyStore:
            raise ConfigurationError("--key-store-password-file needs a key store: give --key-store too.")
        if settings.tlsPort != "off" or settings.broadcastTlsPort != "off":
            return ServerTLS(self._tlsSettings(), limits=settings.limits)
        if settings.certificate or settings.keyStore or settings.clientCA:
            raise ConfigurationError("There is a certificate, but no port for it: give --tls-port or --broadcast-tls-port.")
        return None

    def _tlsSettings(self) -> TLSSettings:
        settings = self.settings
        return TLSSettings(
            certificate=settings.certificate,
            privateKey=settings.privateKey,
            chain=settings.chain,
            keyStore=settings.keyStore,
            keyStorePassword=readPassword(settings.keyStorePasswordFile) if settings.keyStore else None,
            clientCA=settings.clientCA,
            minimum=settings.tlsMinimum,
            stateDirectory=settings.stateDirectory,
        )

    def _webSocketPlaces(self) -> tuple[list[ListenAddress], list[ListenAddress]]:
        """Return where to listen for WebSocket, and where with TLS."""
        settings = self.settings
        plain = [ListenAddress("listen", where) for where in settings.listen]
        if settings.port != "off":
            plain.append(ListenAddress("port", settings.port, settings.interface))
        secure = [ListenAddress("tls-port", settings.tlsPort, settings.interface)] if settings.tlsPort != "off" else []
        if not plain and not secure:
            raise ConfigurationError("There is no port for WebSocket: --port and --tls-port are off, and there is no --listen.")
        return plain, secure

    def _warnOfPlainPorts(self, plain: list[ListenAddress], secure: list[ListenAddress]) -> None:
        if plain and secure and self.settings.clientCA:
            self._log.warn(
                "--client-ca applies to TLS ports only: clients without a certificate still get in through --{option}.",
                option=plain[-1].option,
                event="port.plain",
            )

    def _makeWebSocketListeners(self) -> list[Listener]:
        plain, secure = self._webSocketPlaces()
        self._warnOfPlainPorts(plain, secure)
        pages = pagesSite(self.server, needsKey=self._needsKey(), hsts=not plain, folder=self._readFolder())
        self._pages, self._site = pages.resource, pages
        factory = self.server.factory(pages, peerCertificate if self.settings.clientCA else None)
        return [self._listener(place, factory, place in secure) for place in plain + secure]

    def _readFolder(self) -> dict[bytes, PageFile] | None:
        return None if self.settings.pages is None else readFolder(self.settings.pages)

    def _needsKey(self) -> bool:
        """Return whether the broadcast site needs an API key or a password."""
        return self._credentials.requiresCredentials

    def _makeInspector(self) -> Inspector:
        """Return what knows, for the broadcast site, what only this process has."""
        return Inspector(self.server, lambda: inForce(self._running), self._lineOf, answerLog(self.server, self.recent))

    async def _lineOf(self, key: Sequence[str]) -> int | None:
        """Return the line of the configuration file that says something; found in a thread, because a large file takes time."""

        def find() -> int | None:
            try:
                return lineOf(Path(self.settings.file).read_text(encoding="utf-8"), *key)
            except (OSError, UnicodeDecodeError, ValueError):
                return None  # it is another one now

        if not self.settings.file:
            return None
        return await deferToThreadPool(self._reactor, self._reactor.getThreadPool(), find)

    def _certificates(self) -> list[Certificate]:
        return [] if self._tls is None else [certificateOf(self._tls.certificate)]

    def _expires(self) -> float | None:
        return None if self._tls is None else self._tls.certificate.not_valid_after_utc.timestamp()

    def _makeBroadcastListeners(self) -> list[Listener]:
        settings = self.settings
        if settings.broadcastPort == settings.broadcastTlsPort == settings.metricsPort == "off":
            return []
        admin = AdminResource(self.server, self._credentials, self._audit) if settings.admin else None
        factory = broadcastSite(self.server, self._credentials, self._audit, admin, self._makeInspector(), self._scrape)
        listeners = []
        for option, where in (("broadcast-port", settings.broadcastPort), ("broadcast-tls-port", settings.broadcastTlsPort)):
            if where == "off":
                continue
            place = ListenAddress(option, where, settings.broadcastInterface)
            if not self._credentials.requiresCredentials and not place.isLoopback():
                raise ConfigurationError(
                    f"Other machines could reach the broadcast site (--{option}), and anybody there could send to all callers: "
                    "give --api-key-file or --auth, or --broadcast-interface 127.0.0.1."
                )
            listeners.append(self._listener(place, factory, option == "broadcast-tls-port"))
        if settings.metricsPort != "off" and self._scrape is not None:
            # Loopback, unless an endpoint says otherwise: whoever reaches it can read.
            place = ListenAddress("metrics-port", settings.metricsPort, "127.0.0.1")
            self._metricsListener = self._listener(place, metricsSite(self.server, self._scrape), False)
            listeners.append(self._metricsListener)
        return listeners

    def _makeScrape(self) -> Scrape | None:
        """Return what looks at all metrics, for ``/metrics``; None if this process has none."""
        # A worker does not need prometheus_client, which takes a tenth of a second and some megabytes.
        from twisted_ws.metrics.collector import Collector
        from twisted_ws.metrics.scrape import Scrape

        return Scrape(Collector(self.server, self.source))

    def source(self) -> Source:
        """Return what metrics are read from, as it is now."""
        tls = self._tls
        return Source(
            self.server,
            look(),
            audit=None if self._audit is None else self._audit.lost,
            logs=self._linesLost(),
            certificate=None if tls is None else tls.expires,
            handshakes=None if tls is None else tls.handshakes,
            outbox=self.outbox,
        )

    def _linesLost(self) -> int | None:
        """Return how many lines of the log are lost; None if another program writes it."""
        return None

    def _listener(self, place: ListenAddress, factory: IProtocolFactory, secure: bool) -> Listener:
        if secure:
            assert self._tls is not None  # _makeTLS made it for this port
            factory = self._tls.wrap(factory, self._reactor)
        return Listener(place, factory, secure, self.server, self._reactor, self.settings.limits.backlog)

    def _refuseOverlaps(self) -> None:
        for one, other in combinations([listener.place for listener in self._listeners], 2):
            if one.overlaps(other):
                raise ConfigurationError(f"--{one.option} and --{other.option} both use port {one.where}: change one of them.")

    # Start and stop.

    def listen(self, listeners: Iterable[Listener] | None = None) -> None:
        """Listen on all ports that do not listen yet; if one fails, on none.

        Raises:
            ConfigurationError: cannot listen on a port; one line.
        """
        try:
            for listener in self._listeners if listeners is None else listeners:
                if listener.listen():
                    self._tell(listener)
        except ConfigurationError:
            self._stopListening(self._listeners)
            raise

    def _tell(self, listener: Listener) -> None:
        """Report where a port is: in the log, and for the broadcast site on the demo page."""
        notes = ["PROXY protocol"] if listener.place.kind == "haproxy" else []
        if listener.isOnAllAddresses():
            notes.append("on all addresses")
        how = f" ({', '.join(notes)})" if notes else ""
        if listener in self._webSocketListeners:
            self._log.info(
                "WebSocket on {url}{how}", url=listener.url("wss" if listener.secure else "ws"), how=how, event="port.open"
            )
            return
        url = listener.url("https" if listener.secure else "http")
        if listener is self._metricsListener:
            self._log.info(
                "Metrics on {url}{how}", url=f"{url}/metrics" if url.startswith("http") else url, how=how, event="port.open"
            )
            return
        if url.startswith("http"):  # not a Unix socket
            url += "/broadcaster/broadcast"
            self.broadcastURL = self.broadcastURL or url
            if self._pages is not None:
                self._pages.broadcastURL = self.broadcastURL
        self._log.info("Broadcast site on {url}{how}", url=url, how=how, event="port.open")

    def privilegedStartService(self) -> None:
        """Listen, while the process may still be root."""
        self.listen()
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """Run; listen now if the runner has no privileged start."""
        self.listen()
        if not self._isLogged():
            globalLogPublisher.addObserver(self.recent)
        self._beginHistory()
        super().startService()  # type: ignore[no-untyped-call]

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Drain: stop accepting, close every caller with 1001, then end the rest; the health check says so until the end."""
        self._endKeptConnections()
        yield self._stopListening(self._webSocketListeners)
        yield self._stopOutbox()
        count = len(self.server.callers)
        if count:
            who = "1 caller is" if count == 1 else f"{count} callers are"
            self._log.info("stopping: {who} asked to leave", count=count, who=who, event="server.stopping")
        yield self.server.stop()
        if self._history is not None:
            yield Deferred.fromCoroutine(self._save(self._history))
        yield self._stopListening(self._broadcastListeners)
        if self._audit is not None:
            self._audit.close()
        globalLogPublisher.removeObserver(self.recent)  # nothing happens if it is not there
        yield super().stopService()  # type: ignore[no-untyped-call]

    def _isLogged(self) -> bool:
        """Return whether the log hands its events to `recent`."""
        return False

    def _beginHistory(self) -> None:
        if self._history is not None:
            self._history.begin()

    def _endKeptConnections(self) -> None:
        """Let each answer over HTTP on the WebSocket ports end its connection: the next request is for another process."""
        if self._site is not None:
            self._site.keepAlive = False

    def _stopOutbox(self) -> Deferred[Any]:
        """Publish no more from the outbox: nobody that stays would get it."""
        return succeed(None) if self.outbox is None else self.outbox.stopService()

    async def _save(self, history: HistoryFile) -> None:
        engine = self._memory()
        assert engine is not None  # it is what the file was made for
        await history.save(engine)
        history.close()

    @staticmethod
    def _stopListening(listeners: list[Listener]) -> Deferred[Any]:
        return DeferredList([listener.stopService() for listener in listeners], consumeErrors=True)

    def reopen(self) -> None:
        """Open files anew that somebody may have moved away."""
        if self._audit is not None:
            self._audit.reopen()

    def reload(self) -> None:
        """Reload certificates, keys, passwords and rules without dropping a connection; if that fails, the old ones stay."""
        self._tellReloaded(self.reloadAll())

    def reloadAll(self) -> list[str]:
        """Do the same and return what is wrong, in lines for the log."""
        wrong = []
        for stays, again in (
            ("certificate stays", self._reloadTLS),
            ("API keys stay", self._credentials.reload),
            ("rules and authenticators stay", self._reloadSettings),
        ):
            try:
                again()
            except ConfigurationError as error:
                wrong.append(f"The old {stays} in use: {error}")
        return wrong + self.server.identities.reload()

    def _reloadSettings(self) -> None:
        """Let the rules for channels, the authenticators and the levels of the log hold that are in the configuration file now.

        Raises:
            ConfigurationError: there is a mistake in the file, and the old ones stay, all of them.
        """
        if self._again is not None:
            new, old = self._again(), self._running
            taken = [f"authenticators.{name}" for name in self._take(new)]
            if self._takeLevels(new):
                taken.append("log-level")
            waiting: dict[str, list[str]] = {}
            for name in changes(old, new):
                if name in taken:
                    continue
                waiting.setdefault(self._whenAnew(name), []).append(name)
            for when, names in waiting.items():
                self._log.warn(
                    "A change of {names} takes effect only {when}.", names=", ".join(names), when=when, event="reload.incomplete"
                )

    def _whenAnew(self, name: str) -> str:
        """Return when a setting that a reload does not reach takes effect, for the log."""
        return "after a restart"

    def _take(self, settings: Settings) -> Sequence[str]:
        """Let other rules and authenticators decide; return the tables of the latter that are others now.

        Raises:
            ConfigurationError: one of them is wrong, and all that there are stay.
        """
        found = changed(self._running, settings, self._reactor, self._authenticatorTypes)
        replaceThem = self.server.identities.replace(found.removed, found.made)
        self.server.setChannelRules(settings.channelRules)
        replaceThem()
        self._running = replace(self._running, channelRules=settings.channelRules, authenticators=found.tables)
        self._warnOfAsking()
        return found.names

    def _takeLevels(self, settings: Settings) -> bool:
        """Log from these levels on; return whether the log is ours."""
        return False

    def _tellReloaded(self, wrong: Iterable[str]) -> None:
        whole = True
        for each in wrong:
            whole = False
            self._log.error("{reason}", reason=each, event="reload.failed")
        if whole:
            self._log.info("reloaded", event="reload.done")

    def _reloadTLS(self) -> None:
        if self._tls is not None:
            self._tls.reload(self._tlsSettings())


def _checkNames(settings: Settings) -> None:
    # The server checks them too, but does not know the options.
    for option, kind, names in (
        ("allowed-origin", AllowedOrigins, settings.allowedOrigins),
        ("allowed-host", AllowedHosts, settings.allowedHosts),
        ("trusted-proxy", TrustedProxies, settings.trustedProxies),
    ):
        try:
            kind(names)
        except ValueError as error:
            raise ConfigurationError(f"--{option}: {error}.") from None


def _checkPasswordFiles(checkers: Iterable[Any]) -> None:
    # Twisted opens the file of --auth file:PATH only at the first login.
    for checker in checkers:
        if isinstance(checker, FilePasswordDB):
            try:
                # A pipe instead of a file must not block the start.
                with open(checker.filename, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
                    mode = os.fstat(file.fileno()).st_mode
            except OSError as error:
                raise ConfigurationError(
                    f"The password file {checker.filename} (--auth) cannot be read: {error.strerror}."
                ) from None
            if not stat.S_ISREG(mode):
                raise ConfigurationError(f"The password file {checker.filename} (--auth) is not a regular file.")
            warnIfExposed(checker.filename, mode)
