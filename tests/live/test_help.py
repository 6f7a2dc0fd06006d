from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.support import COMMAND, PATIENCE, PORTS, TWISTD, environment, running
from twisted_ws import __version__
from twisted_ws.wire.speedups import which

# Runs a command in this process as its script would, then prints what it has loaded.
_RUN = """
import sys
try:
    sys.argv = {argv!r}
    {run}
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", *sys.modules)
"""
_TWISTD = "from twisted.scripts.twistd import run; run()"
_COMMAND = "from twisted_ws.__main__ import main; main()"


@pytest.mark.parametrize(
    ("run", "argv", "wanted"),
    [
        (_TWISTD, ["twistd", "--help"], "wsservice"),
        (_TWISTD, ["twistd", "wsservice", "--help"], "--broadcast-tls-port"),
        (_TWISTD, ["twistd", "wsservice", "--version"], f"twisted_ws {__version__} ({which()})"),
        (_COMMAND, ["twisted-ws", "--help"], "--key-store-password-file"),
        (_COMMAND, ["twisted-ws", "--version"], f"twisted_ws {__version__} ({which()})"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_helpLoadsNeitherReactorNorAutobahn(tmp_path: Path, run: str, argv: list[str], wanted: str) -> None:
    """Help and version are there without the reactor, which could only be chosen before, and without what is slow to load."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(run=run, argv=argv)],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, _, loaded = done.stdout.rpartition("LOADED")
    assert wanted in shown
    found = {name for name in loaded.split() if name == "twisted.internet.reactor" or name.partition(".")[0] == "autobahn"}
    assert not found


def test_helpServicesListsTheInstalledOnes(tmp_path: Path) -> None:
    """--help-services names the demo service, its target and what it does."""
    done = subprocess.run(
        [sys.executable, "-m", "twisted_ws", "--help-services"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert "twisted_ws.services.demo:Demo" in done.stdout
    assert "Keep every caller" in done.stdout


@pytest.mark.parametrize("command", [TWISTD, COMMAND], ids=["twistd", "twisted-ws"])
@pytest.mark.parametrize("choice", ["0", "1"])
def test_theStartSaysWhetherItIsCompiled(tmp_path: Path, command: tuple[str, ...], choice: str) -> None:
    """The first lines of the log have the version, and "compiled" or why not."""
    with running(tmp_path, command=command, ports=PORTS, more={"TWISTED_WS_SPEEDUPS": choice}) as server:
        line = server.waitFor(f"twisted_ws {__version__}, ")
    wanted = "pure Python: the environment has TWISTED_WS_SPEEDUPS=0. Everything works" if choice == "0" else which()
    assert wanted in line
    assert server.output.count(f"twisted_ws {__version__}, ") == 1
