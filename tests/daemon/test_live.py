"""The real process: what a reactor in memory cannot show of the daemon's own part."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.live.nursery import BIN, run
from tests.live.support import COMMAND, PATIENCE, PORTS, TWIST, TWISTD, curl, environment, running, starting, until, writeService
from twisted_ws.daemon.listening.addresses import isDualStack

TWISTD_DAEMON = (str(BIN / "twistd"), "wsservice")


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose name leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="ws-") as place:
        yield Path(place)


def _run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return run(command, PATIENCE, cwd=directory, env=environment(directory), text=True)


def test_bothFamilies(tmp_path: Path) -> None:
    """A port without an interface answers over IPv4, and over IPv6 if the machine has it."""
    with running(tmp_path) as server:
        for host in ("127.0.0.1", "::1") if isDualStack() else ("127.0.0.1",):
            with socket.create_connection((host, server.port("ws")), PATIENCE) as client:
                client.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(99).startswith(b"HTTP/1.1 404 ")


def test_aReactorThatStandsStill(tmp_path: Path) -> None:
    """If a handler blocks the reactor, the log has its line, and systemd gets beats again once it goes on."""
    os.mkfifo(tmp_path / "gate")
    writeService(
        tmp_path,
        "class Blocks:\n    def onTextMessage(self, caller, text):\n        return open('gate').read()  # blocked here\n",
    )
    (tmp_path / "ws.toml").write_text("[limits]\nreactorTurn = 2\n")
    arguments = ("--config", "ws.toml", "--service", "/ws=rooms:Blocks")
    with running(tmp_path, *arguments, more={"WATCHDOG_USEC": "400000"}) as server, server.client() as client:
        server.waitForState("WATCHDOG=1", 2)
        client.send("x")
        server.waitFor("The reactor has been stuck for 2 s")
        server.waitFor("# blocked here")
        (tmp_path / "gate").write_text("and on")
        assert client.recv() == "and on"
        server.waitForState("WATCHDOG=1", server.states.count("WATCHDOG=1") + 1)


@pytest.mark.parametrize("command", [TWISTD, COMMAND], ids=["twistd", "twisted-ws"])
def test_aFullDisk(tmp_path: Path, short: Path, command: tuple[str, ...]) -> None:
    """When the log cannot be written, the server goes on, and says so once on standard error."""
    line = shlex.join([*command, "--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s"])
    with starting(tmp_path, ["sh", "-c", f"exec {line} >/dev/full"]) as server:
        server.waitForState("READY=1")
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(f"{short}/s")
                client.sendall(b"nonsense\r\n\r\n")
                assert client.recv(99).startswith(b"HTTP/1.1 400 ")
        server.stop()
        lost = [line for line in server.lines if line.startswith("twisted_ws:")]
        assert lost == ["twisted_ws: the log cannot be written (No space left on device); lines are lost from now on"]
        assert "Traceback" not in server.output


@pytest.mark.parametrize("command", [TWISTD, COMMAND, TWIST], ids=["twistd", "twisted-ws", "twist"])
def test_whatAServicePrintsIsALine(tmp_path: Path, command: tuple[str, ...]) -> None:
    """With --log-format json, even what a service prints is a line of JSON, under each runner."""
    writeService(tmp_path, "class Prints:\n    def onOpen(self, caller):\n        print('hello from a service')\n")
    arguments = [*command, *PORTS, "--service", "/ws=rooms:Prints", "--log-format", "json"]
    with starting(tmp_path, arguments) as server:
        server.waitFor("WebSocket on")
        server.waitForState("READY=1")
        with server.client():
            server.waitFor("hello from a service")
        server.stop()
        messages = [json.loads(line)["message"] for line in server.lines]
    assert "hello from a service" in messages


def test_aUnixSocketOfAnother(tmp_path: Path, short: Path) -> None:
    """A daemon whose Unix socket is held by another process says so before it detaches, and leaves that process alone."""
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s")
    with running(tmp_path, ports=listen) as server:
        for command in (TWISTD_DAEMON, COMMAND):
            done = _run(tmp_path, *command, *listen)
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
            assert f"Process {server.process.pid} is listening on {short}/s" in done.stderr
        assert server.process.poll() is None
        assert (short / "s").is_socket()
    assert list(short.iterdir()) == []


def test_aUnixSocketThatWasLeftBehind(tmp_path: Path, short: Path) -> None:
    """The socket file of a killed server is no obstacle to the next."""
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s")
    with starting(tmp_path, [*TWISTD, *listen]) as server:
        server.waitForState("READY=1")
        server.signal(signal.SIGKILL)
        server.waitForEnd()
    assert (short / "s").is_socket()
    with running(tmp_path, ports=listen):
        assert (short / "s").is_socket()


def test_aMistakeInATac(tmp_path: Path) -> None:
    """A mistake in the settings of a .tac file is reported without a traceback, with exit code 1, and nothing is left behind."""
    (tmp_path / "it.tac").write_text(
        "from twisted.application.service import Application\n"
        "from twisted_ws.daemon import Mount, Settings, makeService\n"
        "application = Application('it')\n"
        "makeService(Settings(services=(Mount('/ws', 'dmo'),))).setServiceParent(application)\n"
    )
    done = _run(tmp_path, str(BIN / "twistd"), "-ny", "it.tac")
    assert done.returncode == 1
    assert done.stderr.startswith("twisted_ws: --service /ws=dmo: There is no installed service dmo: did you mean demo?")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "twistd.pid").exists()


def test_pathsOutliveAChangeOfDirectory(tmp_path: Path) -> None:
    """Relative paths are relative to the directory it was started in, even at a reload after twistd --rundir."""
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    (tmp_path / "keys").chmod(0o600)
    (tmp_path / "elsewhere").mkdir()
    command = [TWISTD[0], "--pidfile=", "-n", "--rundir", "elsewhere", "wsservice"]
    with running(tmp_path, "--api-key-file", "keys", command=command) as server:
        (tmp_path / "keys").write_text("# no key any more\n")
        server.signal(signal.SIGHUP)
        server.waitFor(f"The old API keys stay in use: the API key file {tmp_path}/keys has no key")


def _lockOfALivingProcess(place: Path, process: int) -> None:
    """Leave what a server leaves that was killed, under the number of a process that lives."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{place}/s")
    (place / "s.lock").symlink_to(str(process))


def test_aUnixSocketFromAnotherLife(tmp_path: Path, short: Path) -> None:
    """A lock of a killed server does not count if another process has its number now, as in a restarted container."""
    _lockOfALivingProcess(short, os.getpid())
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s")
    with running(tmp_path, ports=listen) as server:
        assert os.readlink(short / "s.lock") == str(server.process.pid)


def test_aUnixSocketOfOurOwnNumber(tmp_path: Path, short: Path) -> None:
    """Nor does it count if the number is the server's own, whether or not a socket file is left."""
    program = "import os, sys\nos.symlink(str(os.getpid()), sys.argv[1] + '/s.lock')\nos.execv(sys.argv[2], sys.argv[2:])"
    command = [*TWISTD, "--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s"]
    with starting(tmp_path, [sys.executable, "-c", program, str(short), *command]) as server:
        server.waitForState("READY=1")
        server.stop()


SOCKET_OF_SYSTEMD = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o620)
listening.listen()
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="ws")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_aSocketFileOfSystemd(tmp_path: Path, short: Path) -> None:
    """A socket file made by systemd keeps its mode, and remains for the next start."""
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", "systemd:domain=UNIX:name=ws")
    with starting(tmp_path, [sys.executable, "-c", SOCKET_OF_SYSTEMD, f"{short}/s", *TWISTD, *listen]) as server:
        server.waitForState("READY=1")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{short}/s")
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(99).startswith(b"HTTP/1.1 400 ")
        assert stat.S_IMODE((short / "s").stat().st_mode) == 0o620
        server.stop()
    assert (short / "s").is_socket()


def test_whatBelongsToTheUser(tmp_path: Path, short: Path) -> None:
    """With --uid, the Unix socket and the log belong to that user, and SIGUSR1 rotates the log."""
    uid = 65534 if os.geteuid() == 0 else os.geteuid()  # only root can become somebody else
    short.chmod(0o777)
    command = [TWISTD[0], "--pidfile=", "-n", "--logfile", f"{short}/log", "--uid", str(uid), "wsservice"]
    listen = ("--port", "off", "--broadcast-port", "off", "--listen", f"unix:{short}/s")
    with running(tmp_path, command=command, ports=listen) as server:
        assert (short / "s").stat().st_uid == (short / "log").stat().st_uid == uid
        assert stat.S_IMODE((short / "log").stat().st_mode) == 0o640
        server.signal(signal.SIGUSR1)
        until((short / "log.1").exists)
        assert (short / "log.1").stat().st_uid == uid
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(f"{short}/s")
            client.sendall(b"nonsense\r\n\r\n")
            assert client.recv(99)
        assert (short / "log").stat().st_uid == uid
    assert list(short.glob("s*")) == []


@pytest.mark.parametrize("command", [TWISTD, COMMAND, TWIST], ids=["twistd", "twisted-ws", "twist"])
def test_signalsForALogFile(tmp_path: Path, command: tuple[str, ...]) -> None:
    """SIGUSR1 and SIGUSR2, which rotate log files, do not end a server without one."""
    with running(tmp_path, command=command) as server:
        server.signal(signal.SIGUSR1)
        server.signal(signal.SIGUSR2)
        assert server.curl("--data", "x") == "OK"


@pytest.mark.parametrize("logFormat", ["text", "json"])
def test_anEncodingThatLacksACharacter(tmp_path: Path, logFormat: str) -> None:
    """The log is UTF-8, whatever the encoding of standard output is."""
    writeService(tmp_path, "class Prints:\n    def onOpen(self, caller):\n        print('from Łódź to here')\n")
    arguments = ("--service", "/ws=rooms:Prints", "--log-format", logFormat)
    with running(tmp_path, *arguments, more={"PYTHONIOENCODING": "ascii"}) as server, server.client():
        server.waitFor("from Łódź to here")


@pytest.mark.parametrize("more", [(), ("--workers", "1")], ids=["one process", "workers"])
def test_endpointsWithTLSOfTheirOwn(tmp_path: Path, more: tuple[str, ...]) -> None:
    """The endpoints ssl: and tls: serve clients that offer protocols by ALPN, as browsers and curl do."""
    issued = trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    (tmp_path / "names").mkdir()
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "names/localhost.pem")
    listen = (
        "--port",
        "off",
        "--broadcast-port",
        "off",
        "--listen",
        "ssl:0:privateKey=key:certKey=cert",
        "--listen",
        "tls:names:0",
    )
    with running(tmp_path, *more, ports=listen) as server:
        lines = [server.waitFor("WebSocket on wss://localhost:", number) for number in (1, 2)]
        for url in re.findall("wss://localhost:[0-9]+", " ".join(lines)):
            assert (
                curl("--insecure", "--write-out", "%{http_code}", "--output", "/dev/null", url.replace("wss", "https")) == "200"
            )
