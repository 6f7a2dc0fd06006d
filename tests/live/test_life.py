from __future__ import annotations

import grp
import json
import os
import pwd
import select
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, unix_connect

from tests.live.support import (
    BIN,
    COMMAND,
    PATIENCE,
    PORTS,
    TWIST,
    TWISTD,
    curl,
    environment,
    running,
    starting,
    writeService,
)
from tests.ports import freePort

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef"
_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def _closed(client: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as raised:
        client.recv(PATIENCE)
    assert raised.value.rcvd is not None, "the connection ended without a Close frame"
    return int(raised.value.rcvd.code)


def _mute(port: int) -> socket.socket:
    """Return a connection whose handshake is done, and that answers nothing from then on."""
    client = socket.create_connection(("localhost", port))
    client.settimeout(PATIENCE)
    client.sendall(_HANDSHAKE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(4096)
    assert head.startswith(b"HTTP/1.1 101 ")
    return client


def _certificate(directory: Path) -> str:
    made = trustme.CA().issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(directory / "both.pem")
    (directory / "both.pem").chmod(0o600)
    return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode()).hex()


def _shown(client: ClientConnection) -> str:
    assert isinstance(client.socket, ssl.SSLSocket)
    certificate = client.socket.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate.hex()


# The end.


@pytest.mark.parametrize(
    ("command", "status"),
    [(TWISTD, -signal.SIGTERM), (COMMAND, 0), (TWIST, -signal.SIGTERM)],
    ids=["twistd", "twisted-ws", "twist"],
)
def test_sigtermDrains(tmp_path: Path, command: tuple[str, ...], status: int) -> None:
    """SIGTERM closes every client with 1001 and ends the process, whatever runs it; twistd dies by the signal, as always."""
    with running(tmp_path, command=command) as server, server.client() as one, server.client() as two:
        server.signal(signal.SIGTERM)
        assert [_closed(one), _closed(two)] == [1001, 1001]
        assert server.waitForEnd() == status
        server.waitForState("STOPPING=1")


def test_aClientThatDoesNotAnswerHoldsTheDrainUntilItsDeadline(tmp_path: Path) -> None:
    """While one client keeps silent, readyz says draining and nobody is let in; at the deadline it is dropped."""
    with running(tmp_path, "--drain-timeout", "2") as server, _mute(server.port("ws")) as mute:
        server.signal(signal.SIGTERM)
        server.waitFor("1 caller is asked to leave")
        answer = server.curl("--write-out", "%{http_code}", path="/readyz")
        assert "draining" in answer
        assert answer.endswith("503")
        assert server.curl("-d", "late", "--write-out", "%{http_code}").endswith("503")
        assert server.curl("--write-out", "%{http_code}", path="/healthz").endswith("200")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("localhost", server.port("ws")))
        assert mute.recv(4096)[:4] == b"\x88\x0e\x03\xe9"
        with pytest.raises(ConnectionResetError):
            mute.recv(4096)
        server.waitForEnd()


_UNDECIDED = """
from twisted.internet.defer import Deferred


class Slow:
    async def onUpgrade(self, request):
        print("undecided", flush=True)
        await Deferred()
"""


def test_sigtermAnswersHandshakesThatAreNotDecided(tmp_path: Path) -> None:
    """Who waits for the decision of a service when SIGTERM comes gets 503 and Retry-After, though there is no caller."""
    writeService(tmp_path, _UNDECIDED)
    with (
        running(tmp_path, "--service", "/ws=rooms:Slow") as server,
        socket.create_connection(("localhost", server.port("ws"))) as client,
    ):
        client.settimeout(PATIENCE)
        client.sendall(_HANDSHAKE)
        server.waitFor("undecided")
        server.signal(signal.SIGTERM)
        with client.makefile("rb") as answer:
            head, _, _ = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in head
        client.close()
        server.waitForEnd()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_theSecondSignalEndsAtOnce(tmp_path: Path, number: int) -> None:
    """Whoever asks a second time, as by Ctrl-C, does not wait for the end of the drain."""
    with running(tmp_path, "--drain-timeout", "1000") as server, _mute(server.port("ws")):
        server.signal(number)
        server.waitFor("asked to leave")
        server.signal(number)
        assert server.waitForEnd() == 128 + number
        server.waitFor("ended at once")


# SIGHUP.


def test_aNewCertificateIsTakenWithoutDroppingAConnection(tmp_path: Path) -> None:
    """After SIGHUP a new client sees the new certificate, and the old connection goes on; a broken file changes nothing."""
    first = _certificate(tmp_path)
    with (
        running(tmp_path, "--tls-port", "0", "--certificate", "both.pem", "--private-key", "both.pem") as server,
        server.client(secure=True) as old,
    ):
        assert _shown(old) == first
        second = _certificate(tmp_path)
        server.signal(signal.SIGHUP)
        server.waitForState("READY=1", 2)
        with server.client(secure=True) as new:
            assert _shown(new) == second
        (tmp_path / "both.pem").write_text("half a file")
        server.signal(signal.SIGHUP)
        server.waitForState("READY=1", 3)
        server.waitFor("stays in use: The certificate")
        with server.client(secure=True) as new:
            assert _shown(new) == second
        old.send("still here")
        assert old.recv() == "Echo: still here"


def test_newKeysAreTakenAndBrokenOnesAreNot(tmp_path: Path) -> None:
    """After SIGHUP the new API key counts and the old one does not; a file without a key keeps those that were there."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}-one\n")
    keys.chmod(0o600)

    def publish(key: str) -> str:
        return server.curl("-d", "x", "-H", f"Authorization: Bearer {KEY}-{key}", "--write-out", " %{http_code}")[-3:]

    with running(tmp_path, "--api-key-file", "keys") as server:
        assert [publish("one"), publish("two")] == ["200", "401"]
        keys.write_text(f"{KEY}-two\n")
        server.signal(signal.SIGHUP)
        server.waitForState("READY=1", 2)
        assert [publish("one"), publish("two")] == ["401", "200"]
        keys.write_text("")
        server.signal(signal.SIGHUP)
        server.waitForState("READY=1", 3)
        server.waitFor("has no key")
        assert publish("two") == "200"
        assert KEY not in server.output


# twistd's own ways.


def test_aDaemonStartsAndStops(tmp_path: Path) -> None:
    """A daemon listens when it leaves the terminal, its pid file says who it is, and SIGTERM ends it and removes that."""
    port, broadcast = freePort(), freePort()
    arguments = ["--port", str(port), "--broadcast-port", str(broadcast), "--log-format", "json"]
    place = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(place))
        told.settimeout(PATIENCE)
        command = [str(BIN / "twistd"), "--pidfile=it.pid", "--logfile=it.log", "wsservice", *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment(tmp_path, NOTIFY_SOCKET=str(place)), check=True, timeout=PATIENCE)
        pid = int((tmp_path / "it.pid").read_text())
        watched = os.pidfd_open(pid)
        try:
            assert told.recv(99) == b"READY=1"
            assert curl("-d", "Hello!", f"http://localhost:{broadcast}/broadcaster/broadcast") == "OK"
            again = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False)
            assert again.returncode != 0
        finally:
            os.kill(pid, signal.SIGTERM)
        assert told.recv(99) == b"STOPPING=1"
        assert select.select([watched], [], [], PATIENCE)[0]
        os.close(watched)
    assert not (tmp_path / "it.pid").exists()
    assert stat.S_IMODE((tmp_path / "it.log").stat().st_mode) & 0o027 == 0
    lines = [json.loads(line) for line in (tmp_path / "it.log").read_text().splitlines()]
    assert f"WebSocket on ws://localhost:{port} (on all addresses)" in [line["message"] for line in lines]
    assert {line["level"] for line in lines} == {"info"}


@pytest.mark.parametrize("command", [TWISTD, COMMAND], ids=["twistd", "twisted-ws"])
def test_theLogAsJSONIsOneObjectALine(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Every line of --log-format json parses, the traceback of a handler that failed included."""
    source = "class Fails:\n    def onTextMessage(self, caller, text):\n        raise ValueError('two\\nlines')\n"
    writeService(tmp_path, source)
    with starting(tmp_path, [*command, *PORTS, "--log-format", "json", "--service", "/ws=rooms:Fails"]) as server:
        server.waitForState("READY=1")
        with server.client() as client:
            client.send("x")
            assert _closed(client) == 1011
        server.stop()
        lines = [json.loads(line) for line in server.lines if not line.startswith("ended")]
    failed = [line for line in lines if "traceback" in line]
    assert len(failed) == 1
    assert "ValueError: two\nlines" in failed[0]["traceback"]
    assert all(line["time"].endswith("+00:00") for line in lines)


@pytest.mark.parametrize("user", ["nobody"])
def test_rootGivesUpItsRights(tmp_path: Path, user: str) -> None:
    """With --uid and --gid the ports are bound as root and served as somebody else; who starts as somebody else stays that."""
    options: list[str] = []
    owner = os.getuid()
    if owner == 0:
        account = pwd.getpwnam(user)
        owner = account.pw_uid
        options = ["--uid", str(owner), "--gid", str(account.pw_gid)]
        assert grp.getgrgid(account.pw_gid)
    command = [TWISTD[0], "--pidfile=", *options, *TWISTD[2:]]
    with running(tmp_path, command=command) as server:
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{owner}\t{owner}\t{owner}" in status
        assert server.curl("-d", "x") == "OK"


def test_theExampleTacRuns(tmp_path: Path) -> None:
    """The .tac file of the examples starts the same server; here with free ports."""
    source = (ROOT / "examples/wsservice.tac").read_text()
    assert 'Settings(port="8080")' in source
    (tmp_path / "it.tac").write_text(source.replace('port="8080"', 'port="0", broadcastPort="0"'))
    with running(tmp_path, command=[TWISTD[0], "--pidfile=", "-ny", "it.tac"], ports=()) as server, server.client() as client:
        assert server.curl("-d", "from a tac") == "OK"
        assert client.recv() == "from a tac"


def test_twoServersLiveInOneDirectory(tmp_path: Path) -> None:
    """Two servers share a directory and its self-signed certificate, and only their own clients get their broadcasts."""
    with (
        running(tmp_path, "--tls-port", "0") as one,
        running(tmp_path, "--tls-port", "0") as two,
        one.client(secure=True) as first,
        two.client(secure=True) as second,
    ):
        assert _shown(first) == _shown(second)
        assert one.curl("-d", "one") == two.curl("-d", "two") == "OK"
        assert [first.recv(), second.recv()] == ["one", "two"]


# Where it listens.


def test_aUnixSocketIsForUserAndGroup(tmp_path: Path) -> None:
    """A unix: endpoint answers, its socket has mode 0660, and it is gone after the end."""
    path = tmp_path / "s"
    with running(tmp_path, "--listen", f"unix:{path}", ports=("--port", "off", "--broadcast-port", "off")) as server:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with unix_connect(str(path), "ws://localhost/ws") as client:
            client.send("x")
            assert client.recv() == "Echo: x"
        server.stop()
    assert not path.exists()


_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="ws", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemdHandsOverItsSocket(tmp_path: Path) -> None:
    """A socket that systemd listens on is served, also by its name."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        command = [sys.executable, "-c", _ACTIVATE, str(listening.fileno()), *TWISTD]
        ports = ("--listen", "systemd:domain=INET:name=ws", "--port", "off", "--broadcast-port", "off")
        with running(tmp_path, command=command, ports=ports, pass_fds=[listening.fileno()]) as server:
            assert server.port("ws") == port
            with server.client() as client:
                client.send("x")
                assert client.recv() == "Echo: x"


def test_acceptingPausesBeforeDescriptorsRunOut(tmp_path: Path) -> None:
    """Near the limit of descriptors the next client waits, nobody who is there is hurt, and it is served when another leaves."""
    with running(tmp_path, descriptors=128) as server:
        # The server says that it pauses in the turn in which it accepts the last, so whoever is answered was let in.
        clients = [_mute(server.port("ws"))]
        while server.curl("--write-out", "%{http_code}", path="/readyz").endswith("200"):
            clients.append(_mute(server.port("ws")))
        server.waitFor("accepting pauses")
        waiting = socket.create_connection(("localhost", server.port("ws")))
        waiting.settimeout(PATIENCE)
        waiting.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for each in clients:
            each.close()
        assert waiting.recv(99).startswith(b"HTTP/1.1 404 ")
        waiting.close()


def test_forked() -> None:
    """Processes that are forked before there is a server in them have ids of their own."""
    script = "import os, twisted_ws.caller as ids\nif os.fork(): os.wait()\nprint(next(ids.nodeIds), next(ids.connectionIds))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE)
    first, second = map(str.split, done.stdout.splitlines())
    assert first[0] != second[0]
    assert [first[1], second[1]] == [f"{first[0]}.1", f"{second[0]}.1"]
