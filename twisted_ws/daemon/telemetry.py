"""OpenTelemetry in the daemon: where spans go, begun in the process that makes them, and ended without waiting for anybody."""

from __future__ import annotations

import logging
import os
import threading
from importlib.util import find_spec
from typing import Any

from twisted.application.service import Service
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws import __version__
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import Throttle, printable
from twisted_ws.telemetry import tracing

# The part of the traces that begin here which is recorded. Those that a client has begun are recorded if the client says so.
RATIO = 0.01
# Seconds that a stop waits until the last spans are sent.
FLUSH = 5.0
# The names of the library's own log, and seconds between two of its lines about one place that reach ours.
_LIBRARY = "opentelemetry"
QUIET = 60.0


def checkInstalled() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        ConfigurationError: they are missing.
    """
    try:
        isThere = find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:  # not even the package above it
        isThere = None
    if not isThere:
        raise ConfigurationError("--tracing needs OpenTelemetry: pip install 'twisted-ws[otel]'.")


class Telemetry(Service):
    """Sends spans by OTLP over HTTP, from its start to its stop, as the variables ``OTEL_*`` say.

    A thread of its own sends them, in batches. What it cannot send soon enough is dropped: nobody waits for a collector.

    Args:
        reactor: the reactor.
        worker: the number of the worker that this process is; 0: it is none.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    _log = Logger()

    def __init__(self, reactor: Any, worker: int = 0) -> None:
        checkInstalled()
        self._reactor = reactor
        self._worker = worker
        self._provider: Any = None
        self._bridge: _Bridge | None = None

    def startService(self) -> None:
        """Begin. A provider that was begun before twistd left the terminal would have lost its thread."""
        super().startService()  # type: ignore[no-untyped-call]
        provider = makeProvider(self._worker)
        if provider is None:
            return
        share(provider)
        self._provider = provider
        self._bridge = _Bridge(self._log, self._reactor)
        tracing.begin(provider.get_tracer("twisted_ws", __version__))
        self._log.info("tracing: spans go to {url}", url=printable(_endpoint()), event="tracing.ready")

    def stopService(self) -> Deferred[None] | None:
        """End; return a Deferred that fires when the last spans are sent, or after `FLUSH` seconds without them."""
        super().stopService()  # type: ignore[no-untyped-call]
        provider, self._provider = self._provider, None
        if provider is None:
            return None
        tracing.end()
        sent: Deferred[None] = Deferred()

        def flush() -> None:
            try:
                provider.shutdown()
            finally:
                self._reactor.callFromThread(lambda: None if sent.called else sent.callback(None))

        # Not of the reactor's pool, whose threads the process would wait for.
        threading.Thread(target=flush, name="twisted_ws tracing", daemon=True).start()
        return sent.addTimeout(FLUSH, self._reactor).addErrback(self._notSent).addBoth(self._unbridge)

    def _notSent(self, failure: Any) -> None:
        failure.trap(defer.TimeoutError)
        self._log.warn("tracing: the last spans were not sent within {duration:g} s", duration=FLUSH, event="tracing.failed")

    def _unbridge(self, result: None) -> None:
        bridge, self._bridge = self._bridge, None
        if bridge is not None:
            bridge.close()


def makeProvider(worker: int = 0) -> Any:
    """Return a provider of tracers as the environment describes it; None if it says that there is to be none.

    Args:
        worker: see `Telemetry`.
    """
    environment = os.environ
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    ours: dict[str, Any] = {"service.version": __version__, **({"twisted_ws.worker": worker} if worker else {})}
    resource = Resource(ours).merge(Resource.create())  # what the environment says counts
    if not environment.get("OTEL_SERVICE_NAME") and "service.name=" not in environment.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        resource = resource.merge(Resource({"service.name": "twisted_ws"}))  # not the library's unknown_service
    # None: what the environment says.
    sampler = None if environment.get("OTEL_TRACES_SAMPLER") else ParentBased(TraceIdRatioBased(RATIO))
    provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def share(provider: Any) -> None:
    """Let spans that services make go the same way, unless the program has a provider of its own."""
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)


def _endpoint() -> str:
    """Return where spans go, for the log."""
    environment = os.environ
    traces = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    where = traces or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").rstrip("/") + "/v1/traces"
    return where.rpartition("@")[2] if "@" in where else where  # a password may stand before it


class _Bridge(logging.Handler):
    """Brings what the library logs into our log, seldom, and from the reactor's thread."""

    def __init__(self, log: Logger, reactor: Any) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._reactor = reactor
        self._throttle = Throttle(reactor.seconds, 1, QUIET)
        self._library = logging.getLogger(_LIBRARY)
        self._library.addHandler(self)
        self._propagated, self._library.propagate = self._library.propagate, False

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line of the library."""
        self._reactor.callFromThread(self._tell, record.name, record.getMessage())

    def _tell(self, place: str, message: str) -> None:
        if turn := self._throttle.allows(place):
            self._log.warn("tracing: {reason}", reason=printable(message), event="tracing.failed", suppressed=turn - 1)

    def close(self) -> None:
        """Leave the library alone."""
        self._library.removeHandler(self)
        self._library.propagate = self._propagated
        super().close()
