from __future__ import annotations

import importlib.util
import logging
import subprocess
import sys
import threading
from typing import Any

import pytest
from opentelemetry.sdk.trace import sampling
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from twisted_ws.daemon import telemetry
from twisted_ws.daemon.telemetry import FLUSH, QUIET, Telemetry, makeProvider
from twisted_ws.errors import ConfigurationError
from twisted_ws.telemetry import tracing


class Reactor(Clock):
    """A clock that takes calls of other threads at once."""

    def callFromThread(self, call: Any, *arguments: Any) -> None:
        call(*arguments)


class Provider:
    """A provider of tracers whose collector does not answer until it is told to."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.ended = threading.Event()

    def get_tracer(self, *about: str) -> object:
        return object()

    def shutdown(self) -> None:
        self.released.wait(30)
        self.ended.set()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Provider()
    monkeypatch.setattr(telemetry, "makeProvider", lambda worker: made)
    monkeypatch.setattr(telemetry, "share", lambda provider: None)  # once in the life of a process
    yield made
    made.released.set()
    tracing.end()


def test_notLoaded() -> None:
    """Whoever does not trace does not load OpenTelemetry."""
    code = (
        "import sys, twisted_ws.daemon.workers.supervisor as _; print([n for n in sys.modules if n.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Without its packages, the operator is told in one line what to install."""
    found = importlib.util.find_spec

    def find(name: str) -> Any:
        if name == missing:
            return None
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(name)
        return found(name)

    monkeypatch.setattr(telemetry, "find_spec", find)
    with pytest.raises(ConfigurationError, match="twisted-ws\\[otel\\]"):
        Telemetry(Clock())


def test_stopIsBounded(provider: Provider) -> None:
    """A stop waits for the collector in a thread, and not longer than the bound; then it says that spans are lost."""
    reactor = Reactor()
    service = Telemetry(reactor)
    service.startService()
    assert tracing.tracer is not None
    with capturedLogs() as events:
        stopped = service.stopService()
        assert stopped is not None
        assert tracing.tracer is None
        reactor.advance(FLUSH - 0.1)
        assert not stopped.called
        reactor.advance(0.1)
        assert stopped.called
    assert [event["event"] for event in events] == ["tracing.failed"]
    provider.released.set()
    assert provider.ended.wait(30)  # what comes late changes nothing


def test_libraryLog(provider: Provider) -> None:
    """What the library logs is in the log, once a minute for each place, with the count of what was left out."""
    reactor = Reactor()
    service = Telemetry(reactor)
    service.startService()
    library = logging.getLogger("opentelemetry.somewhere")
    with capturedLogs() as events:
        for _ in range(50):
            library.error("cannot send to %s\x1b", "there")
        reactor.advance(QUIET)
        library.error("again")
    assert [(formatEvent(event), event["suppressed"]) for event in events] == [
        ("tracing: cannot send to there\\x1b", 0),
        ("tracing: again", 49),
    ]
    provider.released.set()
    service.stopService()
    reactor.advance(FLUSH)
    assert logging.getLogger("opentelemetry").propagate


@pytest.mark.parametrize(
    ("environment", "name", "sampler"),
    [
        ({}, "twisted_ws", "ParentBased{root:TraceIdRatioBased{0.01}"),
        ({"OTEL_SERVICE_NAME": "push"}, "push", "ParentBased{root:TraceIdRatioBased{0.01}"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,b=c"}, "a", "ParentBased{root:TraceIdRatioBased{0.01}"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "twisted_ws", "AlwaysOnSampler"),
    ],
)
def test_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str, sampler: str) -> None:
    """What the environment says of the service and of sampling counts; else it is twisted_ws, and one trace in a hundred."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    provider = makeProvider(3)
    try:
        assert provider.resource.attributes["service.name"] == name
        assert provider.resource.attributes["twisted_ws.worker"] == 3
        assert isinstance(provider.sampler, sampling.Sampler)
        assert provider.sampler.get_description().startswith(sampler)
    finally:
        provider.shutdown()


@pytest.mark.parametrize("environment", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_off(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """The environment can say that there are no traces."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert makeProvider() is None
    service = Telemetry(Clock())
    service.startService()
    assert tracing.tracer is None
    assert service.stopService() is None
