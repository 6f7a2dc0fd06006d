from __future__ import annotations

import io
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.service import Application, MultiService
from twisted.logger import ILogObserver, Logger, capturedLogs, formatEvent

from tests.daemon.support import PortsReactor
from twisted_ws.daemon import logs, process
from twisted_ws.daemon.process import ProcessDaemon
from twisted_ws.daemon.settings import Settings
from twisted_ws.errors import ConfigurationError


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """The handlers that were set, which the test process itself does not get."""
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(process.signal, "signal", handlers.__setitem__)
    return handlers


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What systemd was told."""
    told: list[str] = []
    monkeypatch.setattr(process, "notify", told.append)
    return told


@pytest.fixture(autouse=True)
def descriptors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The descriptor limits that were set, in place of those of the test process."""
    wanted: list[tuple[int, int]] = []
    monkeypatch.setattr(process.resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(process.resource, "setrlimit", lambda which, limits: wanted.append(limits))
    return wanted


# Descriptors.


def test_raisesTheDescriptorLimit(descriptors: list[tuple[int, int]]) -> None:
    """The limit of descriptors is raised as far as allowed, before the first port opens, and the log says so."""
    with capturedLogs() as events:
        ProcessDaemon(Settings(), reactor=PortsReactor())
    assert descriptors == [(4096, 4096)]
    assert "4096 descriptors are allowed (raised from 1024)" in map(formatEvent, events)


def test_leavesTheDescriptorLimit(monkeypatch: pytest.MonkeyPatch, descriptors: list[tuple[int, int]]) -> None:
    """If it is raised already, or the system refuses, nothing is logged."""

    def refuse(which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        raise ValueError("not so many")

    with capturedLogs() as events:
        with monkeypatch.context() as patch:
            patch.setattr(process.resource, "setrlimit", refuse)
            ProcessDaemon(Settings(), reactor=PortsReactor())
        monkeypatch.setattr(process.resource, "getrlimit", lambda which: (4096, 4096))
        ProcessDaemon(Settings(), reactor=PortsReactor())
    assert descriptors == []
    assert not [event for event in events if "descriptors" in event["log_format"]]


# Ports.


def test_listensEarly(tmp_path: Path) -> None:
    """All ports but Unix sockets listen before the runner detaches; Unix sockets follow at the privileged start."""
    reactor = PortsReactor()
    daemon = ProcessDaemon(Settings(listen=(f"unix:{tmp_path}/s",)), reactor=reactor)
    daemon.listenEarly()
    assert reactor.open == [8081, 8080]
    daemon.privilegedStartService()
    assert reactor.open == [8081, 8080, f"{tmp_path}/s"]


def test_refusesEarly() -> None:
    """A taken port, or a Unix socket that cannot be made, is refused before that, and nothing is left listening."""
    for settings in (Settings(), Settings(port="1", listen=("unix:/nowhere/s",))):
        reactor = PortsReactor(8080)
        with pytest.raises(ConfigurationError):
            ProcessDaemon(settings, reactor=reactor).listenEarly()
        assert reactor.open == []


@pytest.mark.parametrize("runner", [{"nodaemon": True}, {"nodaemon": False, "statusPipe": 5}])
def test_refusesLate(tmp_path: Path, runner: dict[str, Any]) -> None:
    """What goes wrong later is raised as well; a daemon also logs it, because its standard error is gone."""
    reactor = PortsReactor(0)
    daemon = ProcessDaemon(Settings(listen=(f"unix:{tmp_path}/s",)), runner, reactor)
    daemon.listenEarly()
    with capturedLogs() as events, pytest.raises(ConfigurationError) as caught:
        daemon.privilegedStartService()
    told = [formatEvent(event) for event in events if event["log_level"].name == "critical"]
    assert told == ([str(caught.value)] if "statusPipe" in runner else [])
    assert reactor.open == []


# The log.


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The log files that were opened; they are closed at the end."""
    files: list[Any] = []

    def openLogFile(path: str, *owner: int) -> Any:
        files.append(logs.openLogFile(path, *owner))
        return files[-1]

    monkeypatch.setattr(process, "openLogFile", openLogFile)
    yield files
    for file in files:
        file.close()


def _observer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logFormat: str, **runner: Any) -> Any:
    monkeypatch.chdir(tmp_path)
    application = Application("test")
    options = {"logfile": None, "logger": None, "syslog": False, "nodaemon": True, **runner}
    ProcessDaemon(Settings(logFormat=logFormat), options, PortsReactor()).setServiceParent(application)
    return application.getComponent(ILogObserver, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("logFormat", ["text", "json"])
def test_logsToStandardOutput(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logFormat: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under twistd in the foreground, the log is on standard output, in the requested format."""
    for logfile in (None, "-"):
        Logger(observer=_observer(tmp_path, monkeypatch, logFormat, logfile=logfile)).info("hello")
        line = capsys.readouterr().out
        assert "hello" in line
        assert line.startswith("{") is (logFormat == "json")


def test_logsToAFile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: dict[int, Any], opened: list[Any]) -> None:
    """A daemon logs to twistd.log or to the given file, which SIGUSR1 rotates."""
    Logger(observer=_observer(tmp_path, monkeypatch, "text", nodaemon=False)).info("one")
    assert "one" in (tmp_path / "twistd.log").read_text()
    observer = _observer(tmp_path, monkeypatch, "text", nodaemon=True, logfile="it.log")
    rotated: list[Any] = []
    monkeypatch.setattr(PortsReactor, "callFromThread", lambda self, call: rotated.append(call()), raising=False)
    Logger(observer=observer).info("two")
    signals[signal.SIGUSR1](signal.SIGUSR1, None)
    Logger(observer=observer).info("three")
    assert len(rotated) == 1
    assert "two" in (tmp_path / "it.log.1").read_text()
    assert "three" in (tmp_path / "it.log").read_text()
    assert [file.path for file in opened] == [str(tmp_path / name) for name in ("twistd.log", "it.log")]


def test_aDaemonHasNoStandardOutput(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon cannot log to standard output, and says so in one line."""
    with pytest.raises(ConfigurationError, match="no standard output"):
        _observer(tmp_path, monkeypatch, "text", nodaemon=False, logfile="-")


@pytest.mark.parametrize("runner", [{"logger": object()}, {"syslog": True}])
def test_leavesAnotherLog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: dict[str, Any]) -> None:
    """The options --logger and --syslog of twistd take precedence."""
    assert _observer(tmp_path, monkeypatch, "json", **runner) is None


def test_logsUnderTwist() -> None:
    """Under twist, --log-format json replaces twist's own formats."""
    for logFormat in ("text", "json"):
        runner: dict[str, Any] = {"fileLogObserverFactory": None}
        ProcessDaemon(Settings(logFormat=logFormat), runner, PortsReactor()).setServiceParent(Application("test"))
        factory = runner["fileLogObserverFactory"]
        if logFormat == "text":
            assert factory is None
        else:
            file = io.StringIO()
            Logger(observer=factory(file)).info("hello")
            assert '"message":"hello"' in file.getvalue()


def test_leavesTheLogOfAProgram() -> None:
    """In a .tac file, or below another service, the log is left alone."""
    application = Application("test")
    ProcessDaemon(Settings(logFormat="json"), None, PortsReactor()).setServiceParent(application)
    assert application.getComponent(ILogObserver, None) is None  # type: ignore[attr-defined]
    runner = {"logfile": None, "logger": None, "nodaemon": True}
    parent = MultiService()  # type: ignore[no-untyped-call]
    ProcessDaemon(Settings(), runner, PortsReactor()).setServiceParent(parent)
    assert len(parent.services) == 1


# Signals and systemd.


def test_aLife(monkeypatch: pytest.MonkeyPatch, signals: dict[int, Any], states: list[str]) -> None:
    """It is ready once the reactor runs, reloads at SIGHUP, and after a stop the next signal ends it at once."""
    reactor = PortsReactor()
    monkeypatch.setattr(PortsReactor, "callFromThread", lambda self, call: call(), raising=False)
    daemon = ProcessDaemon(Settings(), reactor=reactor)
    daemon.startService()
    assert (states, set(signals.values())) == ([], {signal.SIG_IGN})
    reactor.run()  # type: ignore[no-untyped-call]
    assert (states, set(signals)) == (["READY=1"], {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})
    with capturedLogs() as events:
        signals[signal.SIGHUP](signal.SIGHUP, None)
    assert formatEvent(events[-1]) == "reloaded"
    assert states[1:] == ["RELOADING=1", "READY=1"]
    ended: list[Any] = []
    daemon.stopService().addCallback(ended.append)
    assert states[3:] == ["STOPPING=1"]
    assert ended == [None]
    assert signals[signal.SIGHUP] == signal.SIG_IGN
    assert reactor.open == []
    assert not reactor.getDelayedCalls()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_endsAtOnce(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], signals: dict[int, Any], number: int
) -> None:
    """A signal after the one that stops it ends the process with the status that a shell gives for it, and a line."""
    ended: list[int] = []
    monkeypatch.setattr(process.os, "_exit", ended.append)
    daemon = ProcessDaemon(Settings(), reactor=PortsReactor())
    daemon.startService()
    assert number not in signals  # the runner's own handler stops it
    daemon.stopService()
    signals[number](number, None)
    assert ended == [128 + number]
    assert "ended at once" in capfd.readouterr().err
