"""The servers that are compared: each a command, and where its WebSocket and its broadcast site listen."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "Peer", "Running", "pinned", "started"]

HERE = Path(__file__).parent
START_SECONDS = 20


@dataclass(frozen=True)
class Peer:
    """One server.

    Attributes:
        name: as the table has it.
        command: what starts it; ``{ws}`` and ``{http}`` are replaced by ports.
        path: the path of its WebSocket.
        broadcast: the path that takes a POST for all clients, "" without one.
    """

    name: str
    command: tuple[str, ...]
    path: str = "/"
    broadcast: str = ""


@dataclass(frozen=True)
class Running:
    """A server that runs.

    Attributes:
        peer: what it is.
        ws: its WebSocket port.
        http: its broadcast port.
        pid: its process.
    """

    peer: Peer
    ws: int
    http: int
    pid: int


PEERS = (
    Peer("yardstick (C)", (str(HERE / "build" / "wslimit"), "{ws}", "{http}"), "/", "/"),
    Peer(
        "twisted_ws",
        (
            *(sys.executable, "-m", "twisted_ws", "--port", "tcp:{ws}:interface=127.0.0.1:backlog=4096"),
            *("--broadcast-port", "{http}", "--service", "/ws=bench.services:Echo"),
        ),
        "/ws",
        "/broadcaster/broadcast",
    ),
    Peer("Autobahn as it comes", (sys.executable, str(HERE / "stock_autobahn.py"), "{ws}", "{http}"), "/", "/"),
)


def pinned(core: int, command: list[str]) -> list[str]:
    """Return `command` pinned to a core, where the system can do that."""
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") else command


def _freePort() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(peer: Peer) -> Iterator[Running]:
    """Start a server on core 0 and stop it at the end.

    Raises:
        RuntimeError: it does not listen within `START_SECONDS`.
    """
    ws, http = _freePort(), _freePort()
    command = pinned(0, [part.format(ws=ws, http=http) for part in peer.command])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=HERE.parent)
    try:
        for port in (ws, http):
            _waitFor(port, process, peer)
        yield Running(peer, ws, http, process.pid)
    finally:
        process.kill()
        process.wait()


def _waitFor(port: int, process: subprocess.Popen[bytes], peer: Peer) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    process.kill()
    raise RuntimeError(f"{peer.name} does not listen: {process.stderr.read().decode() if process.stderr else ''}")
