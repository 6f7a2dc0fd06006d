"""A supervisor and its workers as real processes: what a clock and processes that are played cannot show."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.workers.support import ASK, SERVICE, ended, oneEach, reload, whose, workers
from tests.live.support import PATIENCE, Running, running, writeService


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
    assert 'services."/room": The module rooms has no Room' in said
    assert workers(server) == before
    writeService(place, SERVICE.replace("VERSION", "new"))
    with server.client("/room") as client:
        assert reload(place, "--services") == (0, "")
        assert ended(client) == 1012  # this service does not say that it is resumable
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
    config.write_text(f"max-connections-per-ip = 50\n{kept}")
    code, said = reload(place, "--services")
    assert (code, said) == (1, "twisted-ws: A change of limits.maxConnectionsPerIp takes effect only after a restart.\n")
    config.write_text(kept)


def test_settingsThatAReloadDoesNotReach(server: Running, place: Path) -> None:
    """A plain reload takes none of them, and says of each whether a roll is enough."""
    config = place / "ws.toml"
    kept = config.read_text()
    config.write_text(f"broadcast-interface = '127.0.0.2'\nallowed-origin = ['https://a.example']\n{kept}")
    assert reload(place) == (0, "")
    server.waitFor("A change of broadcast-interface takes effect only after a restart.")
    server.waitFor("A change of allowed-origin takes effect only with twisted-ws reload --services.")
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
