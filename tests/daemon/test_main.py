from __future__ import annotations

import runpy
import sys
from typing import Any

import pytest
from twisted.internet import reactor as globalReactor

from twisted import logger
from twisted_ws.daemon import main as module
from twisted_ws.daemon.logs import DaemonLog
from twisted_ws.daemon.main import main
from twisted_ws.daemon.settings import Settings
from twisted_ws.daemon.workers import starting
from twisted_ws.errors import ConfigurationError

order: list[Any] = []


class _Daemon:
    fails = ""
    exitCode = 0
    log = DaemonLog()

    def __init__(self, settings: Settings, runner: None, again: object = None) -> None:
        order.append(settings)

    def privilegedStartService(self) -> None:
        order.append("listen")
        if self.fails:
            raise ConfigurationError(self.fails)

    def startService(self) -> None:
        order.append("start")

    def stopService(self) -> None:
        """Be what the reactor calls at its end."""


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that would take the process is written down instead."""
    order.clear()
    monkeypatch.setattr(starting, "ProcessDaemon", _Daemon)
    monkeypatch.setattr(globalReactor, "run", lambda: order.append("run"))
    monkeypatch.setattr(globalReactor, "addSystemEventTrigger", lambda *trigger: order.append(trigger[:2]))
    monkeypatch.setattr(logger.globalLogBeginner, "beginLoggingTo", lambda observers: order.append("log"))


def test_runs() -> None:
    """It listens, then logs, then runs until the reactor ends, and its status is 0."""
    assert main(["--port", "5"]) == 0
    assert order == [Settings(port="5"), "listen", "log", "start", ("before", "shutdown"), "run"]


def test_mistakes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake is one line on standard error, with status 2 for an unknown option and 1 for everything else."""
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    assert main(["--prot"]) == 2
    assert capsys.readouterr().err == "twisted-ws: there is no option --prot: did you mean --port? (see twisted-ws --help)\n"
    assert main(["--port", "x"]) == 1
    assert capsys.readouterr().err.startswith("twisted_ws: --port must be ")
    monkeypatch.setattr(_Daemon, "fails", "The port is taken.")
    assert main([]) == 1
    assert capsys.readouterr().err == "twisted_ws: The port is taken.\n"
    assert order == [Settings(), "listen"]


def test_asAModule(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python -m twisted_ws is the same, and its help names the command."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/__main__.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("twisted_ws", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: twisted-ws [options]")
    assert module.main is main
