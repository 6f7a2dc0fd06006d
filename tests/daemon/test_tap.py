from __future__ import annotations

import sys
from typing import Any

import pytest
from twisted.application.service import IServiceMaker

from twisted.plugins import wsservice_plugin
from twisted_ws.daemon import Mount, Settings, makeService, tap
from twisted_ws.daemon.workers import starting
from twisted_ws.errors import ConfigurationError


class _Daemon:
    def __init__(self, settings: Settings, runner: Any, again: Any = None) -> None:
        self.settings, self.runner, self.early = settings, runner, False

    def listenEarly(self) -> None:
        self.early = True


@pytest.fixture(autouse=True)
def daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that opens nothing, and an excepthook that is put back."""
    monkeypatch.setattr(starting, "ProcessDaemon", _Daemon)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_plugin() -> None:
    """The plugin leads twistd to the options and to makeService."""
    maker = wsservice_plugin.wsservice
    assert IServiceMaker.providedBy(maker)
    assert maker.tapname == "wsservice"
    assert maker.options is tap.Options
    assert maker.makeService is tap.makeService


def test_ofOptions() -> None:
    """From options, it makes a daemon with their settings and the runner's options, which listens already."""
    options = tap.Options()
    options.parseOptions(["--port", "5"])  # type: ignore[no-untyped-call]
    for parent in ({"nodaemon": True}, None):
        options.parent = parent
        made = makeService(options)
        assert (made.settings, made.runner, made.early) == (Settings(port="5"), parent, True)


def test_ofSettings() -> None:
    """From settings in a .tac file, it makes the same daemon without a runner."""
    settings = Settings(services=(Mount("/a", "demo"),))
    made = makeService(settings)
    assert made.settings is settings
    assert (made.runner, made.early) == (None, True)


def test_aMistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's mistake is one line, with which the process ends, whoever called."""

    def fails(self: _Daemon) -> None:
        raise ConfigurationError("The port is taken.")

    options = tap.Options()
    options.parseOptions(["--port", "x"])  # type: ignore[no-untyped-call]
    with pytest.raises(SystemExit, match=r"^twisted_ws: --port must be "):
        makeService(options)
    monkeypatch.setattr(_Daemon, "listenEarly", fails)
    with pytest.raises(SystemExit) as ended:
        makeService(Settings())
    assert ended.value.code == "twisted_ws: The port is taken."


def test_aLateMistake(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A mistake that shows only later is one line on standard error, too; Ctrl-C is silent, and the rest has its traceback."""
    shown: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, traceback: shown.append(error))
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    makeService(Settings())
    sys.excepthook(ConfigurationError, ConfigurationError("The port is taken."), None)
    assert capfd.readouterr().err == "twisted_ws: The port is taken.\n"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capfd.readouterr().err == ""
    bug = ValueError("a bug")
    sys.excepthook(ValueError, bug, None)
    assert shown == [bug]
