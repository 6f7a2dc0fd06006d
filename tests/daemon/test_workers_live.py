"""A supervisor and its workers as real processes: what a clock and processes that are played cannot show."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.daemon.test_live import SOCKET_OF_SYSTEMD
from tests.live.nursery import BIN, run
from tests.live.support import (
    COMMAND,
    PATIENCE,
    PORTS,
    TWISTD,
    Running,
    environment,
    running,
    starting,
    until,
    writeService,
)

SERVICE = """
import os
class Room:
    def onTextMessage(self, caller, text):
        if text == 'who':
            return f'{os.getpid()} VERSION'
        if text == 'spin':
            open('spins', 'w').close()
            while True:
                pass
"""
ASK = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory whose name leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Running]:
    """One server with two workers and all kinds of ports, for the tests that leave it as they found it."""
    writeService(place, SERVICE.replace("VERSION", "old"))
    config = (
        'workers = 2\nstate-directory = "state"\n[limits]\nworkerSilence = 60\n[services]\n"/room" = {target = "rooms:Room"}\n'
    )
    (place / "ws.toml").write_text(
        config + '"/channels" = {target = "channels"}\n"/channels/{channel}" = {target = "channels"}\n'
    )
    listen = ("--config", "ws.toml", "--tls-port", "0", "--listen", f"unix:{place}/s")
    with running(place, *listen) as server:
        yield server


def state(process: int) -> list[str]:
    """Return the state of a process and its parent (see proc(5))."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]


def workers(server: Running) -> list[int]:
    """Return the numbers of its workers."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = state(int(number))
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == server.process.pid and b"twisted_ws.daemon.workers.worker" in words and fields[0] != "Z":
            found.append(int(number))
    return found


def whose(client: ClientConnection) -> int:
    """Return which worker a client of the room is connected to."""
    client.send("who")
    return int(str(client.recv(PATIENCE)).split()[0])


def oneEach(server: Running, stack: ExitStack) -> dict[int, ClientConnection]:
    """Return a client of the room at each worker."""
    found: dict[int, ClientConnection] = {}
    expected = set(workers(server))
    while set(found) != expected:
        client = stack.enter_context(server.client("/room"))
        found[whose(client)] = client
    return found


def ended(client: ClientConnection) -> int:
    """Return the code with which a client's connection has ended, once it has."""
    try:
        while True:
            client.recv(PATIENCE)
    except ConnectionClosed:
        return client.protocol.close_code or 0


def reload(place: Path, *arguments: str) -> tuple[int, str]:
    """Run ``twisted-ws reload``, and return its exit code and what it says."""
    command = [*COMMAND, "reload", "--state-directory", str(place / "state"), *arguments]
    done = run(command, PATIENCE, cwd=place, env=environment(place), text=True)
    return done.returncode, done.stderr


def test_oneLine(server: Running) -> None:
    """One line says how many listen, after that systemd hears that it is ready, once; and each port is said once."""
    server.waitFor("2 workers listen")
    assert server.states.count("READY=1") == 1
    assert [sum(f"WebSocket on {kind}" in line for line in server.lines) for kind in ("ws:", "wss:", "unix:")] == [1, 1, 1]


def test_everybodyIsReached(server: Running) -> None:
    """Callers at both workers get what is broadcast and published, and the publisher their exact number."""
    with ExitStack() as stack:
        rooms = oneEach(server, stack)
        assert server.curl("--data", "to all") == "OK"
        assert [client.recv(PATIENCE) for client in rooms.values()] == ["to all"] * 2
        listeners = [stack.enter_context(server.client("/channels/news")) for _ in range(8)]
        answer = json.loads(server.curl("--data", "news", path="/channels/news"))
        assert answer["recipients"] == 8
        assert [client.recv(PATIENCE) for client in listeners] == ["news"] * 8
        nodes = json.loads(server.curl(path="/api/nodes"))["nodes"]
        assert len({node["id"] for node in nodes}) == 2
        assert sum(node["connections"] for node in nodes) >= len(rooms) + len(listeners)
        assert json.loads(server.curl(path="/readyz")) == {"status": "ready"}


def test_allPorts(server: Running, place: Path) -> None:
    """TLS ports and Unix sockets are served by workers, too."""
    with server.client("/room", secure=True) as client:
        assert whose(client) in workers(server)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{place}/s")
        client.sendall(ASK)
        assert client.recv(99).startswith(b"HTTP/1.1 404 ")


def test_whatWorkersInherit(server: Running, place: Path) -> None:
    """A worker has the listening sockets, its pipes and its link, and nothing else of the supervisor: no file, no other port."""

    def descriptors(process: int) -> list[str]:
        return [os.readlink(f"/proc/{process}/fd/{each}") for each in os.listdir(f"/proc/{process}/fd")]

    table = [
        line.split() for line in Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    ]
    listening = {f"socket:[{fields[9]}]" for fields in table if fields[3] == "0A"}
    supervisors = {each for each in descriptors(server.process.pid) if each in listening}
    for process in workers(server):
        own = descriptors(process)
        assert {each.partition(":")[0] for each in own} <= {"/dev/null", "pipe", "socket", "anon_inode"}, own
        shared = supervisors & set(own)
        # Both slots of two ports, but not the port of the broadcast site.
        assert (len(shared), len(supervisors)) == (4, 5)


def test_control(server: Running, place: Path) -> None:
    """The control socket is the owner's alone, and a reload through it answers what is wrong with which exit code."""
    path = place / "state" / f"control.{server.process.pid}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert reload(place) == (0, "")
    server.waitFor("reloaded")
    certificate = place / "state" / "self-signed.pem"
    kept = certificate.read_bytes()
    (place / "state").rename(place / "hidden")
    (place / "state").write_text("not a directory")
    server.signal(signal.SIGHUP)
    line = server.waitFor("The old certificate stays in use")
    server.waitForState("READY=1", 3)
    assert sum("The old certificate stays in use" in each for each in server.lines) == 1, line
    (place / "state").unlink()
    (place / "hidden").rename(place / "state")
    assert certificate.read_bytes() == kept


def test_newServices(server: Running, place: Path) -> None:
    """A roll brings new code while history and idempotency keys stay; code that is broken changes nothing."""
    headers = ("--header", "Idempotency-Key: once")
    published = json.loads(server.curl("--data", "kept", *headers, path="/channels/rolled"))
    first = json.loads(server.curl(path="/api/channels/rolled/history?limit=1"))
    before = workers(server)
    (place / "rooms.py").write_text("class Other: pass\n")
    code, said = reload(place, "--services")
    assert code == 1
    assert "--service /room=rooms:Room: The module rooms has no Room" in said
    assert workers(server) == before
    writeService(place, SERVICE.replace("VERSION", "new"))
    with server.client("/room") as client:
        assert reload(place, "--services") == (0, "")
        assert ended(client) == 1001
    assert not set(before) & set(workers(server))
    with server.client("/room") as client:
        client.send("who")
        assert str(client.recv(PATIENCE)).endswith("new")
    assert json.loads(server.curl("--data", "kept", *headers, path="/channels/rolled")) == published
    assert json.loads(server.curl(path="/api/channels/rolled/history?limit=1")) == first


def test_settingsThatNeedARestart(server: Running, place: Path) -> None:
    """A roll refuses a change of what the supervisor has made at its start, and names it."""
    config = place / "ws.toml"
    kept = config.read_text()
    config.write_text(f"broadcast-interface = '127.0.0.2'\n{kept}")
    code, said = reload(place, "--services")
    assert (code, said) == (1, "twisted-ws: A change of broadcast-interface takes effect only after a restart.\n")
    config.write_text(kept)


def test_aWorkerThatIsKilled(server: Running) -> None:
    """Only the connections of a worker that is killed are lost; it is replaced, and what channels have kept is there."""
    server.curl("--data", "before", path="/channels/lasting")
    with ExitStack() as stack:
        clients = oneEach(server, stack)
        victim, other = clients
        again = server.output.count("listens again")
        os.kill(victim, signal.SIGKILL)
        assert ended(clients[victim]) == 1006
        assert whose(clients[other]) == other
        server.waitFor("was ended by SIGKILL: its connections are lost, and a new one starts now")
        server.waitFor("listens again", again + 1)
        assert len(workers(server)) == 2
    history = json.loads(server.curl(path="/api/channels/lasting/history"))
    assert [each["data"] for each in history["messages"]] == ["before"]


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
        assert "while True" in server.output


def test_aStop(place: Path, tmp_path: Path) -> None:
    """At SIGTERM all callers get 1001, the exit code is that of one process, and nothing is left behind."""
    with starting(tmp_path, [*COMMAND, *PORTS, "--workers", "2", "--state-directory", str(place / "other")]) as server:
        server.waitFor("2 workers listen")
        server.waitForState("READY=1")
        children = workers(server)
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(4)]
            server.signal(signal.SIGTERM)
            assert [ended(client) for client in clients] == [1001] * 4
        assert server.waitForEnd() == 0
        assert not [each for each in children if os.path.exists(f"/proc/{each}")]
        assert [each for each in os.listdir(place / "other") if each.startswith("control")] == []
        assert "Traceback" not in server.output


def test_aSupervisorThatIsKilled(place: Path, tmp_path: Path) -> None:
    """When the supervisor is killed, its workers let their callers go, and end; the next server finds the port free."""
    with starting(tmp_path, [*COMMAND, *PORTS, "--workers", "1"]) as server:
        server.waitForState("READY=1")
        port = server.port("ws")
        (worker,) = workers(server)
        with server.client() as client:
            server.signal(signal.SIGKILL)
            assert ended(client) == 1001
        until(lambda: not os.path.exists(f"/proc/{worker}"))
    with starting(tmp_path, [*COMMAND, "--port", str(port), "--broadcast-port", "off", "--workers", "1"]) as server:
        server.waitFor("1 worker listens")
        done = run(
            [*COMMAND, "--port", str(port), "--broadcast-port", "off", "--workers", "1"], PATIENCE, cwd=tmp_path, text=True
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"twisted_ws: Another process is listening on port {port}:")


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
        until(lambda: not os.path.exists(f"/proc/{process}"))
    assert not (tmp_path / "pid").exists()


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
