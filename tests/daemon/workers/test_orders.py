from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from typing import Any

import pytest

from twisted_ws.daemon.settings import Mount, Settings
from twisted_ws.daemon.workers.orders import Orders, command, environment, restoreEnvironment, settingsFor, share
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits


def test_there_and_back() -> None:
    """What a supervisor tells a worker arrives as it was, with options of any type that TOML has."""
    options = {"since": date(2026, 11, 30), "rooms": [1, 2.5, {"a": True}], "secret": "s"}
    orders = Orders(Settings(services=(Mount("/ws", "m:S", options),)), 2, "/srv", "http://x/", True, ((0, 1), (2,)))
    assert Orders.decode(orders.encode()) == orders


def test_optionsThatStay() -> None:
    """An option that cannot leave the process, as a .tac file may have one, is named."""
    orders = Orders(Settings(services=(Mount("/ws", "m:S", {"lock": lambda: None}),)), 2, "/srv")
    with pytest.raises(ConfigurationError, match="--workers: the option lock of the service m:S cannot be passed on: "):
        orders.encode()


def test_share() -> None:
    """What each process counts is divided and rounded up, 0 stays 0, and all else is as it was."""
    whole = Limits(maxConnections=10, maxSendBufferTotal=7, maxConnectionsPerIp=5)
    part = share(whole, 4)
    assert (part.maxConnections, part.maxSendBufferTotal, part.maxConnectionsPerIp) == (3, 2, 5)
    assert share(Limits(), 4).maxConnections == 0
    assert share(Limits(), 4).maxMessageSize == Limits().maxMessageSize


def test_whatAWorkerIsNotTold() -> None:
    """A worker gets no keys and passwords of publishers, and no ports of the broadcast site."""
    settings = Settings(broadcastTlsPort="8444", apiKeyFile="/keys", checkers=(object(),), workers=4)
    told = settingsFor(settings, 4)
    assert (told.broadcastPort, told.broadcastTlsPort, told.apiKeyFile, told.checkers) == ("off", "off", None, ())
    assert told.workers is None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What systemd says to the supervisor is not for workers, and theirs is restored for the processes that services start."""
    for name, value in {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "5", "LISTEN_FDS": "1", "KEPT": "yes"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    made = environment()
    assert not made.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"}
    assert made["KEPT"] == "yes"
    for before in (None, "/somewhere"):
        made = environment() if before is None else made
        if before is not None:
            monkeypatch.setenv("PYTHONPATH", before)
            made = environment()
        for name in ("PYTHONPATH", "TWISTED_WS_PYTHONPATH"):
            monkeypatch.delenv(name, raising=False)
            if name in made:
                monkeypatch.setenv(name, made[name])
        restoreEnvironment()
        assert (os.environ.get("PYTHONPATH"), "TWISTED_WS_PYTHONPATH" in os.environ) == (before, False)


def test_modulesAreFound(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker finds modules where the supervisor does, in whatever directory it is started."""
    (tmp_path / "only_here.py").write_text("print('found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert command("1")[-2:] == ["twisted_ws.daemon.workers", "1"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import only_here"], env=environment(), cwd="/", capture_output=True, check=True
    )
    assert done.stdout == b"found\n"
