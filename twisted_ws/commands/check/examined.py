"""The daemon as it would be: made of the same parts, on a reactor that does nothing, and never started."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from stat import S_ISREG
from typing import Any, TypeVar

from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from twisted_ws.access.publishers.audit import AuditLog
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.commands.check import concerns
from twisted_ws.commands.check.findings import Port, Publisher, Report, Rule, ServiceFound
from twisted_ws.commands.check.restraint import Restraint
from twisted_ws.daemon.listening.addresses import ListenAddress
from twisted_ws.daemon.listening.listeners import Listener
from twisted_ws.daemon.loading.authenticators import makeAuthenticators
from twisted_ws.daemon.loading.engines import engineMaker
from twisted_ws.daemon.loading.targets import loadInterceptor
from twisted_ws.daemon.service import Daemon
from twisted_ws.daemon.settings import Mount, Settings
from twisted_ws.dispatch.examination import examine
from twisted_ws.engines.historyfile import HistoryFile
from twisted_ws.engines.memory import MemoryEngine
from twisted_ws.errors import ConfigurationError
from twisted_ws.server.server import WebSocketServer
from twisted_ws.wire.tls.selfsigned import stateDirectory
from twisted_ws.wire.tls.server import ServerTLS
from twisted_ws.wire.websocket.runtime import Runtime

T = TypeVar("T")

# What a log line about the certificate has; `concerns` says the same, earlier.
_OF_CERTIFICATES = "fingerprint"


def examined(settings: Settings, report: Report) -> WebSocketServer | None:
    """Make everything that the settings name, start nothing, and note what is wrong and what would be there.

    Returns:
        The server, which was never started; None if it could not be made.

    Args:
        settings: the settings.
        report: gets what is found.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        namespace = str(event.get("log_namespace", ""))
        level = event.get("log_level", LogLevel.info)
        if level >= LogLevel.warn and namespace.startswith("twisted_ws.") and _OF_CERTIFICATES not in event:
            report.warn(str(event.get("event", "log")), formatEvent(event))

    globalLogPublisher.addObserver(observe)
    try:
        threads = {*threading.enumerate()}
        with Restraint() as restraint:
            daemon = None
            try:
                daemon = _Examined(settings, report, restraint)
            except ConfigurationError as error:
                report.wrong("configuration", str(error))
        for each in restraint.refused:
            report.warn(
                "withheld", f"what is loaded tried to {each} before the server runs, which this command prevents: do that later"
            )
        for thread in {*threading.enumerate()} - threads:
            report.warn("thread", f"what is loaded has started the thread {thread.name} before the server runs: do that later")
        if daemon is not None:
            daemon.describe()
        return None if daemon is None else daemon.server
    finally:
        globalLogPublisher.removeObserver(observe)


class _Still:
    """An authenticator that is never started."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        if name in ("start", "stop"):
            raise AttributeError(name)
        return getattr(self._real, name)


class _Examined(Daemon):
    """The daemon, part by part; what is wrong with one part does not hide what is wrong with the next.

    Args:
        settings: the settings.
        report: gets what is found.
        restraint: holds back what the parts do too early.
    """

    _watchesExpiry = False

    def __init__(self, settings: Settings, report: Report, restraint: Restraint) -> None:
        self._report = report
        self._restraint = restraint
        self._mounted: list[Mount] = []
        self._daysOf: tuple[str, float, bool] | None = None
        super().__init__(settings, MemoryReactorClock())

    def _tried(self, make: Callable[[], T], otherwise: T) -> T:
        try:
            return make()
        except ConfigurationError as error:
            self._report.wrong("configuration", str(error))
            return otherwise

    # What it is made of.

    def _makeServer(self, **options: Any) -> WebSocketServer:
        settings = self.settings
        authenticate, authenticators = makeAuthenticators(settings, self._reactor)
        return WebSocketServer(
            limits=settings.limits,
            allowedOrigins=settings.allowedOrigins,
            allowedHosts=settings.allowedHosts,
            compression=settings.compression,
            trustedProxies=settings.trustedProxies,
            authenticate=authenticate,
            authenticators={name: _Still(each) for name, each in authenticators.items()},
            channelRules=settings.channelRules,
            interceptors=[loadInterceptor(each) for each in settings.interceptors],
            engine=self._makeEngine,
            reactor=self._reactor,
            **options,
        )

    def _makeEngine(self, runtime: Runtime) -> MemoryEngine:
        """Make the engine that is wanted, so that its mistakes are found, and work with one that needs nobody."""

        def make() -> None:
            maker = engineMaker(self.settings)
            if maker is not None:
                maker(runtime)

        self._tried(make, None)
        return MemoryEngine(runtime.limits, runtime.wheel, runtime.wheel.seconds)

    def _mountOne(self, mount: Mount) -> None:
        before = self._restraint.count
        try:
            super()._mountOne(mount)
        except ConfigurationError as error:
            if self._restraint.count > before:  # at the start, nobody would hold it back
                self._report.warn("not-checked", f"{mount}: it is not checked any further: {error}")
            else:
                self._report.wrong("service", str(error))
        else:
            self._mounted.append(mount)

    def _makeHistory(self) -> HistoryFile | None:
        path = self.settings.historyFile
        if path is not None:
            self._tried(lambda: _requireWritable(path, "history file"), None)
        return None

    def _makeAudit(self) -> AuditLog | None:
        path = self.settings.auditLog
        if path is not None:
            self._tried(lambda: _requireWritable(path, "audit log"), None)
        return None

    def _makeCredentials(self) -> Credentials:
        limits = self.settings.limits
        return self._tried(super()._makeCredentials, Credentials((), None, limits, self._reactor))

    def _makeTLS(self) -> ServerTLS | None:
        settings = self.settings
        if settings.certificate or settings.keyStore or settings.privateKey or settings.chain:
            tls = self._tried(super()._makeTLS, None)
            if tls is not None:
                begins = tls.certificate.not_valid_before_utc <= datetime.now(UTC)
                self._daysOf = tls.settings.keyStore or tls.settings.certificate or "", tls.daysLeft(), begins
            return tls
        if settings.tlsPort != "off" or settings.broadcastTlsPort != "off":
            self._report.certificate = "self-signed, for localhost"
            directory = settings.stateDirectory or self._tried(stateDirectory, "")
            if directory:
                self._tried(lambda: _requireWritable(os.path.join(directory, "self-signed.pem"), "certificate", True), None)
        return None

    def _makeWebSocketListeners(self) -> list[Listener]:
        return self._tried(super()._makeWebSocketListeners, [])

    def _readFolder(self) -> Any:
        return self._tried(super()._readFolder, None)

    def _makeOutbox(self) -> Any:
        return self._tried(super()._makeOutbox, None)

    def _refuseOverlaps(self) -> None:
        self._tried(super()._refuseOverlaps, None)

    def _makeBroadcastListeners(self) -> list[Listener]:
        if self._report.errors and self.settings.apiKeyFile is not None and not self._credentials.requiresCredentials:
            return []  # the mistake is in the keys, not in that there are none
        return self._tried(super()._makeBroadcastListeners, [])

    def _listener(self, place: ListenAddress, factory: IProtocolFactory, secure: bool) -> Listener:
        place.examinePath()
        if self.settings.workers is not None and place.kind not in ("", "tcp", "tcp4", "tcp6", "unix", "systemd", "haproxy"):
            raise ConfigurationError(
                f"--{place.option} {place.where} cannot be shared by workers: give a port, unix: or systemd:."
            )
        with self._restraint.quietly():  # it looks whether IPv6 is there, and Twisted caches its plugins
            return Listener(place, factory, secure, self.server, self._reactor, self.settings.limits.backlog)

    # What is said of it.

    def describe(self) -> None:
        """Note what would be there, and what deserves a second look."""
        report, settings = self._report, self.settings
        report.workers = settings.workers
        for site, listeners in ("broadcast", self._broadcastListeners), ("websocket", self._webSocketListeners):
            for each in listeners:
                place = each.place
                kind = "metrics" if place.option == "metrics-port" else site
                report.listens.append(Port(place.option, kind, place.where, place.interface, each.secure, not place.isLoopback()))
        for mount in self._mounted:
            names = settings.authenticate or None if mount.authenticate is None else mount.authenticate
            decides = _decides(self.server.services[mount.path])
            kinds = None if names is None else [name.partition(":")[0] for name in names]
            report.services.append(ServiceFound(mount.path, mount.target, kinds, list(mount.scopes), decides))
        for pattern, table in settings.channelRules.items():
            words = {action: _list(table[action]) for action in ("subscribe", "publish", "presence") if action in table}
            report.channels.append(Rule(pattern, **words))
        keys = [] if self._credentials.keys is None else [*self._credentials.keys]
        report.publishers += [Publisher(holder.name, line, str(holder.scopes), not counts) for line, holder, counts in keys]
        report.passwords = len(settings.checkers)
        if self._daysOf is not None:
            report.certificate = f"{self._daysOf[0]}, {self._daysOf[1]:.0f} days left"
        for finding in self._concerns(keys):
            report.warn(finding.code, finding.text)

    def _concerns(self, keys: Any) -> Any:
        report, settings = self._report, self.settings
        yield from concerns.ofListening(report.listens, report.services, settings)
        yield from concerns.ofCookies(settings)
        yield from concerns.ofKeys(keys)
        if self._daysOf is not None:
            yield from concerns.ofCertificate(*self._daysOf)
        elif report.certificate:
            yield from concerns.ofSelfSigned(report.listens)
        yield from concerns.ofProxies(settings)
        yield from concerns.ofDescriptors(settings, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _decides(service: object) -> bool:
    """Return whether a service has its own way of refusing clients; ours only look at the channels that a URL names."""
    method = getattr(service, "onUpgrade", None)
    return "onUpgrade" in examine(service).events and not str(getattr(method, "__module__", "")).startswith("twisted_ws.")


def _list(words: Any) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _requireWritable(path: str, what: str, mayMakeDirectory: bool = False) -> None:
    """Refuse a path where a file cannot be written, without a try.

    Raises:
        ConfigurationError: it cannot.
    """
    directory = os.path.dirname(os.path.abspath(path))
    while mayMakeDirectory and not os.path.exists(directory):
        directory = os.path.dirname(directory)
    why = ""
    try:
        if os.path.lexists(path) and not S_ISREG(os.stat(path).st_mode):
            why = "it is not a regular file"
        elif not os.path.isdir(directory):
            why = "there is no such directory"
        elif not os.access(path if os.path.exists(path) else directory, os.W_OK):
            why = "this user may not write there"
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise ConfigurationError(f"The {what} {path} cannot be written: {why}.")
