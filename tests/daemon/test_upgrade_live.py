"""Whole servers that are replaced, supervisor and all, as real processes, while clients are connected."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

import twisted_ws
from hostile.moved import Crowd, Publications, versions
from tests.daemon.test_handover_live import CONFIG, Figures, write
from tests.daemon.workers.support import children, ended, isGone, supervisor, tell, workers
from tests.engines.redis.servers import Server as Redis
from tests.live.nursery import BIN, PLAIN
from tests.live.support import PATIENCE, Running, running, until

PACKAGE = Path(twisted_ws.__file__).parent
SUCCESSOR = "daemon/succession/successor.py"
PRESENT = """
from twisted_ws import ChannelService
class Present(ChannelService):
    def onUpgrade(self, request):
        request.user = request.query.get("user", ["ann"])[0]
        return super().onUpgrade(request)
    def onPresence(self, caller, channel):
        return {"name": caller.user}
"""
PRESENT_SETTINGS = """
[services."/present"]
target = "present:Present"
presence = true
"""
KINDS = {"raw": 20, "json": 20, "deflate": 10, "pattern": 5, "counter": 20, "stream": 10, "stream of a pattern": 5}


def upgrade(place: Path) -> tuple[int, str]:
    """Run ``twisted-ws upgrade``, and return its exit code and what it says of errors."""
    return tell(place, "upgrade")


@contextmanager
def server(
    count: int = 1, mayFail: bool = False, more: str = "", command: tuple[str, ...] = ()
) -> Iterator[tuple[Running, Path]]:
    """A server with workers, started by a program in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        write(place, "v0")
        (place / "present.py").write_text(PRESENT)
        (place / "ws.toml").write_text(more + CONFIG.replace("WORKERS", str(count)) + PRESENT_SETTINGS)
        options = {"command": command} if command else {}
        with running(place, "--config", "ws.toml", "--listen", f"unix:{place}/s", mayFail=mayFail, **options) as started:
            started.waitFor("listen")
            yield started, place


@pytest.mark.parametrize("count", [1, 2])
def test_nobodyNotices(count: int) -> None:
    """Over upgrades of the whole server, no connection is closed, loses a message or gets one twice; new code answers on it.

    No request to publish fails, though all come over one connection, and the number of the process stays. No counter of the
    metrics falls, and no connection is counted twice.
    """
    with server(count) as (daemon, place):
        port, http = daemon.port("ws"), daemon.port("http")
        with (
            Crowd(port, KINDS, 5, 0.2) as crowd,
            Publications(http, 5, 100, 100) as publications,
            Figures(http) as figures,
        ):
            for number in range(1, 3):
                before, old = supervisor(daemon), set(workers(daemon))
                write(place, f"v{number}")
                assert upgrade(place) == (0, "")
                assert supervisor(daemon) not in (before, daemon.process.pid)
                assert len(workers(daemon)) == count
                assert not old & set(workers(daemon))
                crowd.askAll()
                assert versions(crowd.clients) == {f"v{number}"}
            publications.stop()
            assert publications.wrong == ""
            tallies = crowd.rest(publications.counts)
        assert (figures.fell, figures.most) == (set(), sum(KINDS.values()))
        assert {kind: (tally.clients, tally.isWhole) for kind, tally in tallies.items()} == {
            kind: (number, True) for kind, number in KINDS.items()
        }, tallies
        assert daemon.states.count("READY=1") >= 3  # for systemd, by the process that it knows
        last = supervisor(daemon)
        assert daemon.stop() == -signal.SIGTERM  # as twistd ends
        assert isGone(last)
        assert not (place / "s").exists()
        assert os.listdir(place / "state") == [] or not list((place / "state").glob("control.*"))


def test_nobodyNoticesWithRedis() -> None:
    """Nor with Redis: messages and presence, here and at another server, go on, and a reload is the same.

    Nobody is told that somebody has come or left, until somebody has.
    """
    with Redis() as redis, ExitStack() as stack:
        engine = f'engine = "redis://127.0.0.1:{redis.port}"\n'
        daemon, place = stack.enter_context(server(1, more=engine))
        elsewhere, _ = stack.enter_context(server(1, more=engine))
        watchers = [Watcher(stack.enter_context(present(each, "watcher"))) for each in (daemon, elsewhere)]
        clients = [stack.enter_context(present(daemon, f"user{number}")) for number in range(20)]
        for each in watchers:
            each.wait("join", *(f"user{number}" for number in range(20)))
        with (
            Crowd(daemon.port("ws"), KINDS, 5, 0.2) as crowd,
            Publications(elsewhere.port("http"), 5, 50, 100) as publications,
        ):
            assert upgrade(place) == (0, "")
            write(place, "v1")
            assert tell(place, "reload", "--services") == (0, "")
            crowd.askAll()
            assert versions(crowd.clients) == {"v1"}
            publications.stop()
            assert publications.wrong == ""
            tallies = crowd.rest(publications.counts)
        assert all(each.isWhole for each in tallies.values()), tallies
        # Each node tells Redis at most once a second how many are subscribed there.
        until(lambda: ask(daemon, "/api/channels/a/presence?limit=1")["count"] == 22)
        clients[0].close()
        for each in watchers:
            each.wait("leave", "user0")  # what would have been told of the moves by mistake has come before that
            assert sorted(each.said) == sorted([*(("join", f"user{number}") for number in range(20)), ("leave", "user0")])


@contextmanager
def present(daemon: Running, user: str) -> Iterator[ClientConnection]:
    """A client that is on a channel as this user."""
    with daemon.client(f"/present?user={user}", subprotocols=["twisted-ws.v1"], max_queue=None) as client:  # type: ignore[list-item]
        client.send('{"type": "subscribe", "channel": "a", "presence": true}')
        until(lambda: json.loads(client.recv(PATIENCE))["type"] == "subscribed")
        yield client


class Watcher:
    """Looks at what a client is told of who comes to a channel and leaves it.

    Args:
        client: the client.

    Attributes:
        said: what it was told of users, but for watchers.
    """

    def __init__(self, client: ClientConnection) -> None:
        self.said: list[tuple[str, str]] = []
        self._client = client

    def wait(self, kind: str, *users: str) -> None:
        """Return when it was told that all of these have come, or left."""
        left = set(users)
        while left:
            said = json.loads(self._client.recv(PATIENCE))
            if said["type"] in ("join", "leave") and said["member"]["user"] != "watcher":
                self.said.append((said["type"], said["member"]["user"]))
                if said["type"] == kind:
                    left.discard(said["member"]["user"])


def ask(daemon: Running, path: str, body: bytes | None = None, *headers: tuple[str, str]) -> dict[str, object]:
    """Return what the broadcast site answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{daemon.port('http')}{path}", body, dict(headers))
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as response:
        found: dict[str, object] = json.loads(response.read())
        return found


def test_whatIsKnown(monkeypatch: pytest.MonkeyPatch) -> None:
    """History, numbering and the answers to idempotency keys are there after an upgrade, and so is who is present."""
    monkeypatch.setenv(PLAIN, "1")
    with server() as (daemon, place), daemon.client("/present", subprotocols=["twisted-ws.v1"]) as client:  # type: ignore[list-item]
        client.send('{"type": "subscribe", "channel": "a", "presence": true}')
        until(lambda: json.loads(client.recv(PATIENCE))["type"] == "subscribed")
        key = ("Idempotency-Key", "once")
        first = ask(daemon, "/channels/a", b"one", key)
        ask(daemon, "/channels/a", b"two")
        here = ask(daemon, "/api/channels/a/presence")
        assert here["count"] == 1
        assert upgrade(place)[0] == 0
        assert ask(daemon, "/api/channels/a/presence") == here
        assert ask(daemon, "/channels/a", b"one", key) == first
        third = ask(daemon, "/channels/a", b"three")
        assert [each["data"] for each in ask(daemon, "/api/channels/a/history")["messages"]] == ["one", "two", "three"]  # type: ignore[attr-defined]
        assert str(third["id"]).partition(":")[0] == str(first["id"]).partition(":")[0]
        said = [json.loads(client.recv(PATIENCE)) for _ in range(3)]
        assert [each.get("data") for each in said] == ["one", "two", "three"]


def test_aRequestThatHasComeInPart() -> None:
    """What a server has read of a request is not lost: the next one answers when the rest has come."""
    with server() as (daemon, place), socket.create_connection(("127.0.0.1", daemon.port("http")), PATIENCE) as client:
        request = b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\none"
        for _ in range(2):
            client.sendall(request + request[:20])  # the first is answered: then the beginning of the second has been read, too
            assert _answer(client).startswith(b"HTTP/1.1 200 OK\r\n")
            assert upgrade(place)[0] == 0
            client.sendall(request[20:])
            assert _answer(client).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(ask(daemon, "/api/channels/a/history")["messages"]) == 4  # type: ignore[arg-type]


def _answer(client: socket.socket) -> bytes:
    """Return an answer, which ends with the brace of its JSON."""
    answer = b""
    while not answer.rstrip().endswith(b"}"):
        more = client.recv(4096)
        assert more, answer
        answer += more
    return answer


def test_otherSettings() -> None:
    """An upgrade takes over settings that a reload does not reach, such as a port and a limit; the old port is closed then."""
    with server(more='metrics-port = "0"\n') as (daemon, place), daemon.client("/counter") as client:
        config = place / "ws.toml"
        config.write_text(config.read_text().replace("[limits]", "[limits]\nhistoryMessages = 1"))
        assert upgrade(place)[0] == 0
        ask(daemon, "/channels/a", b"one")
        ask(daemon, "/channels/a", b"two")
        assert len(ask(daemon, "/api/channels/a/history")["messages"]) == 1  # type: ignore[arg-type]
        old = daemon.port("http")
        config.write_text('broadcast-interface = "127.0.0.2"\n' + config.read_text())
        assert upgrade(place)[0] == 0
        with socket.socket() as refused:
            assert refused.connect_ex(("127.0.0.1", old)) == errno.ECONNREFUSED
        client.send("next")
        assert client.recv(PATIENCE) == "1 v0"


def test_theHistoryFileCannotBeWritten() -> None:
    """A full disk, or what else keeps the history file from being written, does no harm to an upgrade.

    If it is another file, which the new supervisor has to begin, the old one goes on.
    """
    with server(more='history-file = "history"\n') as (daemon, place), daemon.client("/counter") as client:
        config, hindrance = place / "ws.toml", place / "history.new"
        hindrance.mkdir()  # not even root writes a file there
        assert upgrade(place) == (0, "")
        right = config.read_text()
        config.write_text(right.replace('"history"', '"another/history"'))
        code, said = upgrade(place)
        assert (code, "history cannot be written" in said) == (1, True), said
        client.send("next")
        assert client.recv(PATIENCE) == "1 v0"
        ask(daemon, "/channels/a", b"one")
        hindrance.rmdir()
        config.write_text(right.replace('"history"', '"history2"'))
        assert upgrade(place) == (0, "")
        assert daemon.stop() == -signal.SIGTERM
        assert b"one" in (place / "history2").read_bytes()


# A new version that does not work.


class Release:
    """A version of the package in a directory of its own, with the program's name in front of it."""

    def __init__(self, place: Path) -> None:
        self.package = place / "new" / "twisted_ws"
        self.bin = place / "bin"
        self._python = self.bin / Path(sys.executable).name
        self.bin.mkdir()
        for name in ("twistd", "twisted-ws"):
            shutil.copy(BIN / name, self.bin / name)

    @property
    def program(self) -> tuple[str, ...]:
        """What starts a server."""
        return (str(self.bin / "twistd"), "--pidfile=", "-n", "wsservice")

    def install(self) -> None:
        """Let the next process be of this version, 99.0."""
        # It comes compiled, but for what others are just writing.
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("*.pyc.*"), copy_function=os.symlink)
        self.change("__init__.py", f'"{twisted_ws.__version__}"', '"99.0"')
        self._python.write_text(f'#!/bin/sh\nPYTHONPATH="{self.package.parent}" exec "{sys.executable}" "$@"\n')
        self._python.chmod(self._python.stat().st_mode | stat.S_IXUSR)

    def change(self, module: str, old: str, new: str) -> None:
        """Change the text of a module."""
        path = self.package / module
        text = path.read_text()
        assert old in text
        path.unlink()  # which is a link
        path.write_text(text.replace(old, new))


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        yield Path(directory)


def test_anotherEnvironment(place: Path) -> None:
    """A new version in another place takes over, if the path of the program leads there now."""
    release = Release(place)
    with server(command=release.program) as (daemon, where), daemon.client("/counter") as client:
        release.install()
        assert upgrade(where)[0] == 0
        daemon.waitFor(f"twisted_ws 99.0 has taken over from {twisted_ws.__version__}")
        client.send("next")
        assert client.recv(PATIENCE) == "1 v0"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param("ONCE = 1.0", 'raise RuntimeError("does not work")', "RuntimeError: does not work", id="at import"),
        pytest.param('self._stream.send("ready", hold)', "os.abort()", "SIGABRT", id="as it begins to run"),
        pytest.param('self._stream.send("have")', "os.abort()", "SIGABRT", id="a death when it has everything"),
        pytest.param("worker = Worker(", "worker = Werker(", "NameError", id="in the middle"),
    ],
)
def test_aVersionThatFails(place: Path, old: str, new: str, why: str) -> None:
    """Wherever a new version fails before it has taken over, the old one goes on, nobody notices, and the command says why."""
    release = Release(place)
    with server(1, mayFail=True, command=release.program) as (daemon, where):
        release.install()
        release.change(SUCCESSOR, old, new)
        before = workers(daemon)
        with (
            Crowd(daemon.port("ws"), {"raw": 20, "counter": 20}, 5, 0.2) as crowd,
            Publications(daemon.port("http"), 5, 100) as publications,
        ):
            code, said = upgrade(where)
            assert (code, "The old server goes on" in said, why in said) == (1, True, True), said
            daemon.waitFor("The old server goes on")
            assert supervisor(daemon) == daemon.process.pid
            crowd.askAll()
            publications.stop()
            assert publications.wrong == ""
            tallies = crowd.rest(publications.counts)
        assert all(each.isWhole for each in tallies.values()), tallies
        assert workers(daemon) == before


def test_clientsThatLeave(place: Path) -> None:
    """A client of the broadcast site that leaves while the server is being replaced does no harm."""
    release = Release(place)
    with server(command=release.program) as (daemon, where), daemon.client("/counter") as client:
        release.install()
        wait = "open('has', 'w').close()\n                while not os.path.exists('go'):\n                    time.sleep(0.01)\n"
        release.change(SUCCESSOR, 'self._stream.send("have")', wait + '                self._stream.send("have")')
        with ThreadPoolExecutor(1) as pool, socket.create_connection(("127.0.0.1", daemon.port("http"))) as leaving:
            leaving.settimeout(PATIENCE)
            leaving.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert leaving.recv(65536)
            asked = pool.submit(upgrade, where)
            until((where / "has").exists)
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it sends a reset
            leaving.close()
            (where / "go").touch()
            assert asked.result()[0] == 0
        client.send("next")
        assert client.recv(PATIENCE) == "1 v0"


def test_mistakesOfTheOperator() -> None:
    """A mistake in the settings, a port that is taken, a service that cannot be made, what has to stay: the command names it."""
    with server(1) as (daemon, place), daemon.client("/counter") as client:
        config, service = (place / "ws.toml"), (place / "rooms.py")
        right = config.read_text()
        taken = daemon.port("http")
        for text, why in (
            ("nonsense = 1\n" + right, "nonsense"),
            (f'metrics-port = "{taken}"\n' + right, f"Another process is listening on port {taken}"),
            (right.replace("workers = 1", "workers = 2"), "A change of workers takes effect only after a restart."),
        ):
            config.write_text(text)
            exitCode, said = upgrade(place)
            assert (exitCode, why in said) == (1, True), said
        config.write_text(right)
        code = service.read_text()
        service.write_text("import nothing_like_that")
        exitCode, said = upgrade(place)
        assert (exitCode, "nothing_like_that" in said) == (1, True), said
        client.send("next")
        assert client.recv(PATIENCE) == "1 v0"
        service.write_text(code)
        assert upgrade(place)[0] == 0  # once it is mended
        client.send("next")
        assert client.recv(PATIENCE) == "2 v0"


def test_stoppedMeanwhile(place: Path) -> None:
    """A server that is stopped while its successor hangs stops as always, and the successor with it."""
    release = Release(place)
    with server(command=release.program) as (daemon, where):
        release.install()
        release.change(SUCCESSOR, "ONCE = 1.0", "open('hangs', 'w').close(); time.sleep(1000)")
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(upgrade, where)
            until((where / "hangs").exists)
            (successor,) = children(daemon.process.pid, b"twisted_ws.daemon.succession")
            assert daemon.stop() == -signal.SIGTERM
            assert asked.result()[0] != 0
        until(lambda: isGone(successor))


HANGS = """
import os, time
with open("hangs.part", "w") as file:
    file.write(str(os.getpid()))
os.rename("hangs.part", "hangs")
while not os.path.exists("go"):
    time.sleep(0.01)
"""


def hang(place: Path) -> None:
    """Let services take as long to be made as the test wants: until there is a file "go"."""
    service = place / "rooms.py"
    service.write_text(HANGS + service.read_text())


def test_servicesThatHang() -> None:
    """A new version whose services are never made is given up after `workerStart` seconds; all works on, and the next one can."""
    with server() as (daemon, place), daemon.client("/counter") as client:
        config = place / "ws.toml"
        right, old = config.read_text(), workers(daemon)
        config.write_text(right.replace("[limits]", "[limits]\nworkerStart = 1"))
        hang(place)
        code, said = upgrade(place)
        assert (code, "their services were not made within 1 s" in said) == (1, True), said
        daemon.waitFor("The old server goes on: Workers cannot start: their services were not made within 1 s.")
        assert (supervisor(daemon), workers(daemon)) == (daemon.process.pid, old)
        config.write_text(right)
        write(place, "v1")
        for number, version in ((1, "v0"), (2, "v1")):
            client.send("next")
            assert client.recv(PATIENCE) == f"{number} {version}"
            with daemon.client("/counter") as another:
                another.send("next")
                assert another.recv(PATIENCE) == f"1 {version}"
            assert ask(daemon, "/channels/a", b"one")["id"]
            if version == "v0":
                assert upgrade(place) == (0, "")


def test_stoppedDuringTheTrial() -> None:
    """A server that is stopped while the services of the new version hang leaves no process behind."""
    with server() as (daemon, place):
        hang(place)
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(upgrade, place)
            until((place / "hangs").exists)
            assert daemon.stop() == -signal.SIGTERM
            assert asked.result()[0] != 0
        until(lambda: isGone(int((place / "hangs").read_text())))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        pytest.param(("reload", "--services"), "Workers are being started or replaced", id="a reload"),
        pytest.param(("upgrade",), "The server is being upgraded", id="an upgrade"),
    ],
)
def test_notAtOnce(words: tuple[str, ...], why: str) -> None:
    """An upgrade that is asked for while another one or a reload runs is refused at once, and does not disturb it."""
    with server() as (daemon, place), ThreadPoolExecutor(1) as pool:
        hang(place)
        first = pool.submit(tell, place, *words)
        until((place / "hangs").exists)
        code, said = upgrade(place)
        assert (code, why in said, first.done()) == (1, True, False), said
        assert ("upgrade" in words) == bool(children(daemon.process.pid, b"twisted_ws.daemon.succession"))
        (place / "go").touch()
        assert first.result() == (0, "")


@pytest.mark.parametrize("times", [1, 2])
def test_reloadMeanwhile(times: int) -> None:
    """A reload that is asked for while a new supervisor starts, which has read the settings by then, holds in that one, too."""
    with server() as (daemon, place), ThreadPoolExecutor(1) as pool:
        for _ in range(times - 1):
            assert upgrade(place) == (0, "")  # from then on, another process has the number that is signalled
        hang(place)
        asked = pool.submit(upgrade, place)
        until((place / "hangs").exists)
        config = place / "ws.toml"
        config.write_text(config.read_text() + '[channels."*"]\nsubscribe = "anyone"\n[channels."a"]\nsubscribe = "nobody"\n')
        daemon.signal(signal.SIGHUP)
        daemon.waitFor("reloaded")
        (place / "go").touch()
        assert asked.result() == (0, "")
        with daemon.client("/channels/a") as client:
            assert ended(client) == 4403
        os.kill(workers(daemon)[0], signal.SIGKILL)  # the next one has its rules from the new supervisor
        daemon.waitFor("listens again")
        with daemon.client("/channels/a") as client:
            assert ended(client) == 4403


def test_killed() -> None:
    """If the process is killed that the world knows, the server ends with it, as one that was never upgraded does."""
    with server() as (daemon, place):
        assert upgrade(place)[0] == 0
        last, before = supervisor(daemon), workers(daemon)
        daemon.signal(signal.SIGKILL)
        until(lambda: isGone(last))
        until(lambda: all(map(isGone, before)))


def test_withoutWorkers(place: Path) -> None:
    """A server without workers is not found, and the command says so with exit code 3."""
    code, said = upgrade(place)
    assert (code, "no server with workers" in said) == (3, True)
