"""The daemon as a Twisted service: the server, its ports, their start and their end."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Generator
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger

from twisted_ws.access.credentials import Credentials
from twisted_ws.daemon.listeners import Listener, endpointFor, isLoopback
from twisted_ws.daemon.notify import Heart, notify
from twisted_ws.daemon.settings import Settings
from twisted_ws.daemon.targets import loadService
from twisted_ws.errors import ConfigurationError
from twisted_ws.server import WebSocketServer
from twisted_ws.web.broadcast import broadcastSite
from twisted_ws.web.pages import PagesResource, pagesSite
from twisted_ws.wire.certificates import readPassword
from twisted_ws.wire.tls import ServerTLS, TLSSettings, peerCertificate

__all__ = ["Daemon"]


class Daemon(MultiService):
    """Everything that ``twistd wsservice`` runs. A `.tac` file may use it as well: ``Daemon(Settings(port="8080"))``.

    Args:
        settings: what to run.
        reactor: the reactor; None for the global one.
        ownsProcess: whether it may set signal handlers (SIGHUP reloads, a second SIGINT or SIGTERM ends at once) and limits of
            the process.

    Attributes:
        server: the server.
        settings: what it was made with.

    Raises:
        ConfigurationError: the settings cannot be used; one line.
    """

    _log = Logger()

    def __init__(self, settings: Settings, reactor: Any = None, ownsProcess: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if reactor is None:
            from twisted.internet import reactor
        self.settings = settings
        self._reactor = reactor
        self._ownsProcess = ownsProcess
        self.server = WebSocketServer(
            limits=settings.limits,
            allowedOrigins=settings.allowedOrigins,
            compression=settings.compression,
            trustedProxies=settings.trustedProxies,
            reactor=reactor,
        )
        for mount in settings.services:
            self.server.mount(mount.path, loadService(mount.target, mount.options))
        self._credentials = Credentials(settings.checkers, settings.apiKeyFile, settings.limits, reactor)
        self._tls = self._makeTLS()
        self._pages: PagesResource | None = None
        self._broadcastListeners = self._listenForBroadcasts()
        self._webSocketListeners = self._listenForWebSockets()
        if not self._webSocketListeners:
            raise ConfigurationError("There is no port for WebSocket: --port and --tls-port are off, and there is no --listen.")
        Heart(reactor).setServiceParent(self)  # type: ignore[no-untyped-call]
        # The broadcast site first: the demo page shows where it is.
        for listener in [*self._broadcastListeners, *self._webSocketListeners]:
            listener.setServiceParent(self)  # type: ignore[no-untyped-call]

    def _makeTLS(self) -> ServerTLS | None:
        settings = self.settings
        if settings.tlsPort == settings.broadcastTlsPort == "off":
            given = [name for name in ("certificate", "keyStore", "clientCA") if getattr(settings, name)]
            if given:
                raise ConfigurationError("There is a certificate, but no port for it: give --tls-port or --broadcast-tls-port.")
            return None
        return ServerTLS(self._tlsSettings())

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

    def _listenForWebSockets(self) -> list[Listener]:
        settings = self.settings
        pages = pagesSite(self.server, needsKey=self._credentials.requiresCredentials, reactor=self._reactor)
        self._pages = pages.resource
        verified = peerCertificate if settings.clientCA else None
        factory = self.server.factory(pages, verified)
        listeners = [self._listener("listen", where, "", factory, False, "WebSocket") for where in settings.listen]
        if settings.port != "off":
            listeners.append(self._listener("port", settings.port, settings.interface, factory, False, "WebSocket"))
        if settings.tlsPort != "off":
            listeners.append(self._listener("tls-port", settings.tlsPort, settings.interface, factory, True, "WebSocket"))
        return listeners

    def _listenForBroadcasts(self) -> list[Listener]:
        settings = self.settings
        factory = broadcastSite(self.server, self._credentials, self._reactor)
        listeners = []
        for option, where, secure in (
            ("broadcast-port", settings.broadcastPort, False),
            ("broadcast-tls-port", settings.broadcastTlsPort, True),
        ):
            if where == "off":
                continue
            if not self._credentials.requiresCredentials and not isLoopback(where, settings.broadcastInterface):
                raise ConfigurationError(
                    f"Other machines could reach the broadcast site (--{option}), and anybody there could send to all callers: "
                    "give --api-key-file or --auth, or --broadcast-interface 127.0.0.1."
                )
            listeners.append(self._listener(option, where, settings.broadcastInterface, factory, secure, "Broadcast site"))
        return listeners

    def _listener(self, option: str, where: str, interface: str, factory: IProtocolFactory, secure: bool, what: str) -> Listener:
        endpoint = endpointFor(self._reactor, where, interface, option)
        if secure:
            assert self._tls is not None
            factory = self._tls.wrap(factory, self._reactor)

        def listening(port: Any) -> None:
            if what == "WebSocket":
                self.server.adopt(port)
            address = port.getHost()
            number = getattr(address, "port", None)
            if number is None:
                self._log.info("{what} on {address}", what=what, address=f"unix:{getattr(address, 'name', b'')!r}")
                return
            host = address.host if address.host not in ("::", "0.0.0.0") else "localhost"
            host = f"[{host}]" if ":" in host else host
            if what == "WebSocket":
                url = f"{'wss' if secure else 'ws'}://{host}:{number}"
            else:
                host = "localhost" if host == "127.0.0.1" else host
                url = f"{'https' if secure else 'http'}://{host}:{number}/broadcaster/broadcast"
                if self._pages is not None and (not secure or not self._pages.broadcastURL):
                    self._pages.broadcastURL = url
            self._log.info("{what} on {url}", what=what, url=url)

        return Listener(endpoint, factory, self.server.gate, option, listening)

    # Start and stop.

    def privilegedStartService(self) -> None:
        """Listen on all ports, or on none."""
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]
        except ConfigurationError:
            self._stopListening(self._broadcastListeners + self._webSocketListeners)
            raise

    def startService(self) -> None:
        """Run: every port listens, the process may have given up root."""
        if self._ownsProcess:
            self._raiseDescriptorLimit()
        try:
            super().startService()  # type: ignore[no-untyped-call]
        except ConfigurationError:
            self._stopListening(self._broadcastListeners + self._webSocketListeners)
            raise
        if self._ownsProcess:
            self._reactor.callWhenRunning(self._takeSignals)
        self._reactor.callWhenRunning(notify, "READY=1")

    @inlineCallbacks
    def stopService(self) -> Generator[Deferred[Any], Any, None]:
        """Drain: accept no more, close every caller with 1001, then end the rest; health says so until the end."""
        notify("STOPPING=1")
        if self._ownsProcess:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, _endAtOnce)
        yield self._stopListening(self._webSocketListeners)
        count = len(self.server.callers)
        if count:
            self._log.info("stopping: {count} callers are asked to leave", count=count)
        yield self.server.stop()
        yield self._stopListening(self._broadcastListeners)
        yield super().stopService()  # type: ignore[no-untyped-call]

    @staticmethod
    def _stopListening(listeners: list[Listener]) -> Deferred[Any]:
        return DeferredList([listener.stopService() for listener in listeners], consumeErrors=True)

    def _takeSignals(self) -> None:
        signal.signal(signal.SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reload))

    def reload(self) -> None:
        """Read certificates, keys and passwords anew, without dropping a connection; what is wrong stays as it was (SIGHUP)."""
        notify("RELOADING=1")
        for what, again in (("certificate", self._reloadTLS), ("API keys", self._credentials.reload)):
            try:
                again()
            except ConfigurationError as error:
                self._log.error("The old {what} stay in use: {error}", what=what, error=str(error))
        self._log.info("reloaded")
        notify("READY=1")

    def _reloadTLS(self) -> None:
        if self._tls is not None:
            self._tls.reload(self._tlsSettings())

    def _raiseDescriptorLimit(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            except (OSError, ValueError):
                return  # a system that has a lower limit of its own: the gate keeps to what there is
            self._log.info("{count} descriptors are allowed (raised from {soft})", count=hard, soft=soft)


def _endAtOnce(number: int, frame: object) -> None:
    """End the process now: whoever sends the signal a second time does not want to wait for the drain."""
    sys.__stderr__ and sys.__stderr__.write("ended at once, without a drain\n")
    os._exit(128 + number)
