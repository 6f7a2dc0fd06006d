"""Open connections that go from worker to worker, as real processes: what only real sockets and real deaths can show."""

from __future__ import annotations

import signal
import socket
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import unix_connect

from hostile.moved import Crowd, Publications, versions
from tests.daemon.workers.support import ended, reload, workers
from tests.engines.redis.servers import Server
from tests.live.support import Running, running, until, writeService

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
[services]
"/counter" = {target = "rooms:Counter"}
"/noting" = {target = "rooms:Noting"}
"/room" = {target = "rooms:Room"}
"/listen" = {target = "rooms:Listener"}
"/channels" = {target = "channels"}
"/patterns" = {target = "channels", wildcards = true}
"/channels/{channel}" = {target = "channels"}
"""


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


def nobodyNotices(daemon: Running, place: Path) -> None:
    """Reload several times in a row, while clients of all kinds look."""
    port, http = daemon.port("ws"), daemon.port("http")
    with Crowd(port, KINDS, 5, 0.2) as crowd, Publications(http, 5, 100, 100, broadcasts=True) as publications:
        for number in range(1, 4):
            before = set(workers(daemon))
            write(place, f"v{number}")
            assert reload(place, "--services") == (0, "")
            assert not before & set(workers(daemon))
            crowd.askAll()
            assert versions(crowd.clients) == {f"v{number}"}
        publications.stop()
        assert publications.wrong == ""
        tallies = crowd.rest(publications.counts)
    assert {kind: (tally.clients, tally.isWhole) for kind, tally in tallies.items()} == {
        kind: (number, True) for kind, number in KINDS.items()
    }, tallies


@pytest.mark.parametrize("count", [1, 2])
def test_nobodyNotices(count: int) -> None:
    """Over several reloads in a row, no connection of any kind is closed, loses a message, or gets one twice or late.

    The service's new code is in force for the same connection each time.
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
        with Crowd(daemon.port("ws"), kinds, 5, 0.2) as crowd, Publications(daemon.port("http"), 5, 50) as publications:
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
        with Crowd(port, kinds, 5, 0.2) as crowd, Publications(http, 5, 100) as publications:
            write(place, "v1", **{dying: "dies"})
            reload(place, "--services")
            daemon.waitFor("SIGKILL" if dying == "new" else "1 workers have the new services")
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
