"""Open connections that go from worker to worker, as real processes: what only real sockets and real deaths can show."""

from __future__ import annotations

import json
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import unix_connect

from hostile.moved import Crowd, Publications, versions
from tests.daemon.workers.support import ended, reload, workers
from tests.engines.redis.servers import Server
from tests.live.support import PATIENCE, Running, running, until, writeService
from twisted_ws.client import Retry
from twisted_ws.client.sync import connect

SERVICE = """
import os, signal, time
from twisted_ws import WebSocketService

def once(name):
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

class Counter(WebSocketService):
    resumable = True
    gone = come = 0

    def onOpen(self, caller):
        caller.attributes["count"] = 0

    def onTextMessage(self, caller, text):
        caller.attributes["count"] += 1
        return f"{caller.attributes['count']} VERSION"

    def onHandOver(self, caller):
        self.gone += 1
        with open("gone", "a") as file:
            file.write("x")
        if "OLD" == "dies" and self.gone == 50 and once("died"):
            os.kill(os.getpid(), signal.SIGKILL)

    def onResume(self, caller, state):
        if "VERSION" == "broken":
            raise ValueError("a mistake in the new code")
        self.come += 1
        if "NEW" == "dies" and self.come == 50 and once("died"):
            os.kill(os.getpid(), signal.SIGKILL)

class Noting(WebSocketService):
    def onOpen(self, caller):
        open("here", "w").close()

    def onHandOver(self, caller):
        open("leaving", "w").close()
        while not os.path.exists("reset"):
            time.sleep(0.01)
        return "noted"

    def onResume(self, caller, state):
        open(state, "w").close()

    def onClose(self, caller, statusCode, reason):
        os.unlink("here")

class Listener(WebSocketService):
    pass

class Room:
    def onOpen(self, caller):
        pass
"""
CONFIG = """workers = WORKERS
compression = "on"
state-directory = "state"
[limits]
drainTimeout = 60
upgradeHold = 60
[services]
"/counter" = {target = "rooms:Counter"}
"/noting" = {target = "rooms:Noting"}
"/room" = {target = "rooms:Room"}
"/listen" = {target = "rooms:Listener"}
"/channels" = {target = "channels"}
"/patterns" = {target = "channels", wildcards = true}
"/channels/{channel}" = {target = "channels"}
"""


UPGRADE = (
    "{} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


def write(place: Path, version: str, old: str = "lives", new: str = "lives") -> None:
    """Write another version of the services, and which of its processes dies in the middle of a hand-over."""
    writeService(place, SERVICE.replace("VERSION", version).replace("OLD", old).replace("NEW", new))


@contextmanager
def server(count: int, *options: str, mayFail: bool = False, **dying: str) -> Iterator[tuple[Running, Path]]:
    """A server with workers."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        write(place, "v0", **dying)
        (place / "ws.toml").write_text(CONFIG.replace("WORKERS", str(count)))
        options = ("--config", "ws.toml", "--tls-port", "0", "--listen", f"unix:{place}/s", *options)
        with running(place, *options, mayFail=mayFail) as started:
            started.waitFor("listen")
            yield started, place


KINDS = {
    "raw": 30,
    "json": 30,
    "deflate": 20,
    "pattern": 5,
    "counter": 30,
    "listener": 20,
    "stream": 20,
    "stream of a pattern": 5,
}


class Figures:
    """Looks at the metrics again and again, while it is used as a context.

    Attributes:
        fell: the counters that were lower than before.
        most: how many WebSocket connections and event streams there were at most.
    """

    def __init__(self, port: int) -> None:
        self.fell: set[str] = set()
        self.most = 0.0
        self._port = port
        self._before: dict[str, float] = {}
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Figures:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ends.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._ends.wait(0.15):
            connection.request("GET", "/metrics")
            self.look(connection.getresponse().read().decode())
        connection.close()

    def look(self, text: str) -> None:
        """Compare with the last look."""
        now = {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")}
        counters = [name for name in now if name.partition("{")[0].endswith(("_total", "_count", "_bucket", "_sum"))]
        self.fell.update(name for name in counters if now[name] < self._before.get(name, 0))
        self.fell.update(name for name in self._before if name not in now)
        self._before = {name: now[name] for name in counters}
        self.most = max(self.most, sum(value for name, value in now.items() if name.startswith("twisted_ws_connections{")))


def nobodyNotices(daemon: Running, place: Path) -> None:
    """Reload twice in a row, while clients of all kinds look."""
    port, http = daemon.port("ws"), daemon.port("http")
    with (
        Crowd(port, KINDS, 5, 0.4) as crowd,
        Publications(http, 5, 50, 100, broadcasts=True) as publications,
        Figures(http) as figures,
    ):
        for number in range(1, 3):
            before = set(workers(daemon))
            write(place, f"v{number}")
            assert reload(place, "--services") == (0, "")
            assert not before & set(workers(daemon))
            crowd.askAll()
            assert versions(crowd.clients) == {f"v{number}"}
        publications.stop()
        assert publications.wrong == ""
        tallies = crowd.rest(publications.counts)
    assert (figures.fell, figures.most) == (set(), sum(KINDS.values()))
    assert {kind: (tally.clients, tally.isWhole) for kind, tally in tallies.items()} == {
        kind: (number, True) for kind, number in KINDS.items()
    }, tallies


@pytest.mark.parametrize("count", [1, 2])
def test_nobodyNotices(count: int) -> None:
    """Over several reloads in a row, no connection of any kind is closed, loses a message, or gets one twice or late.

    The service's new code is in force for the same connection each time. No counter of the metrics falls, and no connection is
    counted twice.
    """
    with server(count) as (daemon, place):
        nobodyNotices(daemon, place)


@pytest.mark.parametrize("servers", [1, 2])
def test_nobodyNoticesWithRedis(servers: int) -> None:
    """Nor do they if each worker is a node of its own, with Redis as the engine, or several of them."""
    with ExitStack() as stack:
        places = [f"127.0.0.1:{stack.enter_context(Server()).port}" for _ in range(servers)]
        with server(1, "--engine", f"redis://{','.join(places)}") as (daemon, place):
            nobodyNotices(daemon, place)


def test_newCodeThatFails() -> None:
    """If new code raises for the few connections that it gets first, the others go on with the old code, as the command says."""
    kinds = {"counter": 150, "raw": 10}
    with server(2, mayFail=True) as (daemon, place):
        with Crowd(daemon.port("ws"), kinds, 5, 0.5) as crowd, Publications(daemon.port("http"), 5, 25) as publications:
            before = set(workers(daemon))
            write(place, "broken")
            code, said = reload(place, "--services")
            assert code == 1
            assert "The new services fail" in said
            until(lambda: set(workers(daemon)) == before)
            crowd.askAll()
            publications.stop()
            tallies = crowd.rest(publications.counts)
            assert versions([each for each in crowd.clients if not each.closed]) == {"v0"}
        assert tallies["raw"].isWhole
        counters = tallies["counter"]
        assert 1 <= counters.closed <= 4  # a hundredth of those of one worker, for which the new code has raised
        assert (counters.how, counters.lost, counters.doubled, counters.disordered) == ({"1011"}, 0, 0, 0)


@pytest.mark.parametrize("dying", ["old", "new"])
def test_aDeathInTheMiddle(dying: str) -> None:
    """If the old or the new process is killed in the middle, those that live lose nothing, and have the new code in the end."""
    kinds = {"raw": 20, "counter": 100, "json": 20}
    with server(1, **{dying: "dies"}) as (daemon, place):
        port, http = daemon.port("ws"), daemon.port("http")
        with Crowd(port, kinds, 5, 0.5) as crowd, Publications(http, 5, 50) as publications:
            write(place, "v1", **{dying: "dies"})
            reload(place, "--services")
            daemon.waitFor("SIGKILL" if dying == "new" else "workers that have the new services: 1")
            if dying == "new":
                daemon.waitFor("connections that go on in the new worker", 2)
            crowd.askAll()
            assert versions([each for each in crowd.clients if not each.closed]) == {"v1"}
            publications.stop()
            tallies = crowd.rest(publications.counts)
        living = [each for each in crowd.clients if not each.closed]
        # Those that had gone over when the old one died; or those that had not when the new one did.
        assert len(living) >= 32
        assert {each.closed for each in crowd.clients} == {"", "1006"}
        assert {kind: (each.lost, each.doubled, each.disordered) for kind, each in tallies.items()} == dict.fromkeys(
            kinds, (0, 0, 0)
        )


def test_aResetOnTheWay() -> None:
    """If a client breaks its connection between two processes, the service of the new one is told that it has gone."""
    with server(1) as (daemon, place), daemon.client("/noting") as client, ThreadPoolExecutor(1) as pool:
        until((place / "here").exists)
        reloading = pool.submit(reload, place, "--services")
        until((place / "leaving").exists)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        (place / "reset").touch()
        assert reloading.result() == (0, "")
        until(lambda: not (place / "here").exists())
        assert (place / "noted").exists()


def test_whoCannotGo() -> None:
    """A service that says nothing, and TLS, are closed with 1012 at once; all others go on, also over a Unix socket."""
    with (
        server(1) as (daemon, place),
        daemon.client("/counter") as counter,
        daemon.client("/room") as room,
        unix_connect(f"{place}/s", "ws://localhost/counter", compression=None, ping_interval=None) as local,
    ):
        with daemon.client("/counter", secure=True) as secure:
            assert reload(place, "--services") == (0, "")
            assert [ended(room), ended(secure)] == [1012, 1012]
        for client in (counter, local):
            client.send("next")
            assert client.recv(60) == "1 v0"
        daemon.waitFor("1 (it has TLS here)")


def test_stopMeanwhile() -> None:
    """A stop while the old process waits for the end of a message is as any other: its client is asked to leave at once."""
    with server(1) as (daemon, place), ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        clients = [stack.enter_context(daemon.client("/counter")) for _ in range(3)]
        clients[0].socket.sendall(b"\x01\x80\0\0\0\0")
        reloading = pool.submit(reload, place, "--services")
        # One of the two others may have gone before, to try the new code.
        until(lambda: (place / "gone").exists() and len((place / "gone").read_text()) == 2)
        daemon.signal(signal.SIGTERM)
        assert [ended(client) for client in clients] == [1001] * 3
        daemon.waitForEnd()
        reloading.result()


def request(connection: socket.socket, head: str) -> tuple[str, dict[str, str], str]:
    """Send a request on a connection that may have had others; return status, fields and body of the answer."""
    connection.sendall(f"GET {head}\r\nHost: localhost\r\n\r\n".encode())
    return answer(connection)


def answer(connection: socket.socket) -> tuple[str, dict[str, str], str]:
    """Return status, fields and body of the next answer on a connection."""
    response = HTTPResponse(connection)
    response.begin()
    return str(response.status), {name.lower(): value for name, value in response.getheaders()}, response.read().decode()


def test_polls() -> None:
    """A poll that waits is answered at once, and goes on elsewhere without a loss; the old process takes no new callers.

    Whoever has a connection to the old process for requests is told to come again, which nobody has to wait for.
    """
    with server(1) as (daemon, place), ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        where = "127.0.0.1", daemon.port("ws")
        poll, kept, silent, between = [stack.enter_context(socket.create_connection(where, 180)) for _ in range(4)]
        cursor = json.loads(request(poll, "/channels?channel=a&wait=0 HTTP/1.1")[2])["id"]
        poll.sendall(f"GET /channels?channel=a&after={cursor}&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert request(kept, "/nowhere HTTP/1.1")[0] == "404"
        assert "connection" not in request(between, "/channels?channel=a&wait=0 HTTP/1.1")[1]
        # One that never answers its Close, so that the old process stays for a while.
        assert request(silent, UPGRADE.format("/room"))[0] == "101"
        reloading = pool.submit(reload, place, "--services")
        status, fields, body = answer(poll)
        came = json.loads(body)
        assert (status, came["messages"], fields["connection"]) == ("200", [], "close")
        assert poll.recv(1) == b""
        daemon.waitFor("connections that go on in the new worker")
        status, fields, _ = request(kept, UPGRADE.format("/counter"))
        assert (status, fields["retry-after"], fields["connection"]) == ("503", "5", "close")
        # The next poll on a connection is the last there, so the one after it is not refused again.
        assert request(between, f"/channels?channel=a&after={cursor}&wait=60 HTTP/1.1")[1]["connection"] == "close"
        daemon.curl("--data", "one", path="/channels/a")
        again = stack.enter_context(socket.create_connection(where, 180))
        found = json.loads(request(again, f"/channels?channel=a&after={came['id']}&wait=0 HTTP/1.1")[2])
        assert [each["data"] for each in found["messages"]] == ["one"]
        silent.close()
        assert reloading.result() == (0, "")


def test_comesBack() -> None:
    """A client of the package whose connection cannot go, because TLS ends here, comes back and has each message once."""
    with server(1) as (daemon, place), ThreadPoolExecutor(1) as pool:
        last = {"id": ""}

        def subscribe(client: Any) -> None:
            client.writeMessage({"type": "subscribe", "channel": "a", **({"after": last["id"]} if last["id"] else {})})

        (trust,) = (place / "state").glob("*.pem")
        url = f"wss://localhost:{daemon.port('wss')}/channels"
        retry = Retry(interval=0.1, maxInterval=0.2)
        with connect(url, subProtocols=["twisted-ws.v1"], trustStore=str(trust), retry=retry, onReconnect=subscribe) as client:
            subscribe(client)
            came: list[str] = []
            answers = []

            def read(until: int) -> None:
                while len(came) < until:
                    frame = json.loads(client.readTextMessage(PATIENCE))
                    answers.append(frame)
                    if frame["type"] == "message":
                        last["id"] = frame["id"]
                        came.append(frame["data"])

            daemon.curl("--data", "0", path="/channels/a")
            read(1)
            for number in range(1, 3):
                reloading = pool.submit(reload, place, "--services")
                daemon.waitFor("connections that go on in the new worker", number)
                daemon.curl("--data", str(number), path="/channels/a")
                read(number + 1)
                assert reloading.result() == (0, "")
        assert came == ["0", "1", "2"]
        assert [each["recovered"] for each in answers if each["type"] == "subscribed"][1:] == [True, True]
