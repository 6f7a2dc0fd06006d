"""How supervisors and workers begin and end, as real processes; each test has its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.daemon.test_live import SOCKET_OF_SYSTEMD
from tests.daemon.workers.support import ASK, SERVICE, ended, isGone, oneEach, state, workers
from tests.live.nursery import BIN, PLAIN, run
from tests.live.support import COMMAND, PATIENCE, PORTS, TWISTD, environment, running, starting, until, writeService
from tests.ports import freePort


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have supervisors start their workers as they do without tests."""
    monkeypatch.setenv(PLAIN, "1")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose name leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        yield Path(directory)


def test_workersThatAreStuck(tmp_path: Path) -> None:
    """A worker that is stopped and one in an endless loop are killed and replaced; who waits in their backlog is not reset."""
    writeService(tmp_path, SERVICE)
    with running(tmp_path, "--workers", "2", "--service", "/room=rooms:Room") as server, ExitStack() as stack:
        clients = oneEach(server, stack)
        stopped, spinning = clients
        os.kill(stopped, signal.SIGSTOP)
        clients[spinning].send("spin")
        until(lambda: (tmp_path / "spins").exists() and state(stopped)[0] == "T")
        waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port("ws")), PATIENCE)) for _ in range(200)]
        for each in waiting:
            each.sendall(ASK)
        assert [each.recv(99)[:12] for each in waiting] == [b"HTTP/1.1 404"] * 200
        server.waitFor("has not answered for 3 s: it is killed", 2)
        # What was stuck is said, for somebody to mend.
        server.waitFor("The reactor has been stuck for 2 s")
        server.waitFor("while True")


@pytest.mark.usefixtures("plain")
def test_aStop(tmp_path: Path) -> None:
    """At SIGTERM all callers get 1001, the exit code is that of one process, and nothing is left behind."""
    with starting(
        tmp_path, [*COMMAND, *PORTS, "--workers", "2", "--state-directory", "other", "--history-file", "kept"]
    ) as server:
        server.waitFor("2 workers listen")
        server.waitForState("READY=1")
        children = workers(server)
        server.curl("--data", "x", path="/channels/news")
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(4)]
            server.signal(signal.SIGTERM)
            assert [ended(client) for client in clients] == [1001] * 4
        assert server.waitForEnd() == 0
        assert not [each for each in children if os.path.exists(f"/proc/{each}")]
        assert [each for each in os.listdir(tmp_path / "other") if each.startswith("control")] == []
        assert "Traceback" not in server.output
        server.waitFor("kept: written for the next start; messages: 1")


WAITS = """
from twisted.internet.defer import Deferred
class Waits:
    def onTextMessage(self, caller, text):
        pass
    async def onClose(self, caller, code, reason):
        await Deferred()
"""


def test_aSecondSignal(tmp_path: Path) -> None:
    """A second SIGTERM ends all processes at once, whatever workers wait for."""
    writeService(tmp_path, WAITS)
    with starting(tmp_path, [*COMMAND, *PORTS, "--workers", "1", "--service", "/ws=rooms:Waits"]) as server:
        server.waitForState("READY=1")
        (worker,) = workers(server)
        with server.client("/ws") as client:
            server.signal(signal.SIGTERM)
            assert ended(client) == 1001
            assert json.loads(server.curl(path="/readyz"))["error"] == "unavailable"
            server.signal(signal.SIGTERM)
        assert server.waitForEnd() == 143
        until(partial(isGone, worker))


@pytest.mark.usefixtures("plain")
def test_aSupervisorThatIsKilled(tmp_path: Path) -> None:
    """When the supervisor is killed, its workers let their callers go, and end; the next server finds the port free."""
    port = freePort()
    command = [*COMMAND, "--port", str(port), "--broadcast-port", "off", "--workers", "1"]
    with starting(tmp_path, command) as server:
        server.waitForState("READY=1")
        (worker,) = workers(server)
        with server.client() as client:
            server.signal(signal.SIGKILL)
            assert ended(client) == 1001
        until(partial(isGone, worker))
    with starting(tmp_path, command) as server:
        server.waitFor("1 worker listens")
        done = run(command, PATIENCE, cwd=tmp_path, text=True)
        assert done.returncode == 1
        assert done.stderr.startswith(f"twisted_ws: Another process is listening on port {port}:")


@pytest.mark.usefixtures("plain")
def test_daemonized(place: Path, tmp_path: Path) -> None:
    """As a daemon of twistd it works in the background, and the log of all processes is one file."""
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", f"unix:{place}/d")
    writeService(tmp_path, "print('a line of a module')\n" + SERVICE)
    twistd = (TWISTD[0], "--pidfile", "pid", "--logfile", "log", "wsservice", "--workers", "2", "--service", "/room=rooms:Room")
    done = run([*twistd, *listen], PATIENCE, cwd=tmp_path, env=environment(tmp_path), text=True)
    assert (done.returncode, done.stderr) == (0, "")
    process = int((tmp_path / "pid").read_text())
    try:
        log = tmp_path / "log"
        until(lambda: "2 workers listen" in log.read_text())
        assert log.read_text().count("worker 1: a line of a module") == 1
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{place}/d")
            client.sendall(ASK)
            assert client.recv(99).startswith(b"HTTP/1.1 404 ")
    finally:
        os.kill(process, signal.SIGTERM)
        until(partial(isGone, process))
    assert not (tmp_path / "pid").exists()


@pytest.mark.usefixtures("plain")
def test_aTacWithASocketOfSystemd(place: Path, tmp_path: Path) -> None:
    """A .tac file may ask for workers, which share a socket of systemd."""
    (tmp_path / "it.tac").write_text(
        "from twisted.application.service import Application\n"
        "from twisted_ws.daemon import Settings, makeService\n"
        "application = Application('it')\n"
        "where = ('systemd:domain=UNIX:name=ws',)\n"
        "makeService(Settings(port='off', listen=where, broadcastPort='off', workers=2)).setServiceParent(application)\n"
    )
    command = [sys.executable, "-c", SOCKET_OF_SYSTEMD, f"{place}/t", str(BIN / "twistd"), "--pidfile=", "-ny", "it.tac"]
    with starting(tmp_path, command) as server:
        server.waitForState("READY=1")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{place}/t")
            client.sendall(ASK)
            assert client.recv(99).startswith(b"HTTP/1.1 404 ")
        server.stop()
        assert "Traceback" not in server.output
    assert (place / "t").is_socket()


def _fails(directory: Path, *command: str) -> str:
    done = run(command, PATIENCE, cwd=directory, env=environment(directory), text=True)
    assert done.returncode == 1, done
    assert done.stdout == ""
    return str(done.stderr)


def test_whatCannotStartIsSaidAtOnce(tmp_path: Path) -> None:
    """A service that cannot be made is one line on the terminal and exit code 1, before a daemon leaves the terminal."""
    writeService(tmp_path, "import no_such_module\n")
    options = ("--workers", "2", "--port", "0", "--broadcast-port", "off", "--service", "/ws=rooms:Room")
    wrong = "twisted_ws: --service /ws=rooms:Room: The service rooms:Room cannot be imported: ModuleNotFoundError: "
    for command in (COMMAND, (TWISTD[0], "wsservice")):
        said = _fails(tmp_path, *command, *options)
        assert said.startswith(wrong)
        assert said.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) in (["rooms.py"], ["__pycache__", "rooms.py"])


ONLY_ONCE = """
import json
import os
class Once:
    def __init__(self):
        os.mkdir('tried')
    def onTextMessage(self, caller, text):
        pass
"""


@pytest.mark.parametrize("command", [TWISTD, COMMAND], ids=["twistd", "twisted-ws"])
def test_noWorkerStarts(tmp_path: Path, command: tuple[str, ...]) -> None:
    """If workers fail only when they really start, that is one line, and the exit code is 1."""
    writeService(tmp_path, ONLY_ONCE)
    with starting(tmp_path, [*command, *PORTS, "--workers", "2", "--service", "/ws=rooms:Once"]) as server:
        assert server.waitForEnd() == 1
        lines = [line for line in server.lines if "FileExistsError" in line]
        assert len(lines) == 1, server.output
        assert "Traceback" not in server.output
    assert "READY=1" not in server.states


@pytest.mark.usefixtures("plain")
def test_anInterpreterThatTheUserCannotRead(tmp_path: Path) -> None:
    """Where the user of --uid cannot run Python, the start is refused in one line."""
    if os.geteuid() != 0:
        pytest.fail("run as root: only root can become somebody else")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    (hidden / "python").symlink_to(sys.executable)
    program = (
        "import sys; sys.executable = sys.argv.pop(1); from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
    )
    said = _fails(
        tmp_path, sys.executable, "-c", program, f"{hidden}/python", "--uid", "65534", "wsservice", *PORTS, "--workers", "1"
    )
    assert said.startswith(f"twisted_ws: Workers cannot start: the user nobody cannot run {hidden}/python with twisted_ws")
    assert said.count("\n") == 1
