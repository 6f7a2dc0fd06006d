"""Servers with workers, as real processes."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.live.nursery import run
from tests.live.support import COMMAND, PATIENCE, Running, environment

SERVICE = """
import os
import time
class Room:
    def onTextMessage(self, caller, text):
        if text == 'who':
            return f'{os.getpid()} VERSION'
        if text == 'spin':
            open('spins', 'w').close()
            while True: time.sleep(0.01)
"""
ASK = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"


def state(process: int) -> list[str]:
    """Return the state of a process and its parent (see proc(5))."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]


def isGone(process: int) -> bool:
    """Return whether a process has ended; whoever is to take note of that may not have done so yet."""
    try:
        return state(process)[0] == "Z"
    except OSError:
        return True


def children(process: int, word: bytes) -> list[int]:
    """Return the children of a process that have a word in their command line."""
    found = []
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = state(int(number))
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(fields[1]) == process and word in words and fields[0] != "Z":
            found.append(int(number))
    return found


def supervisor(server: Running) -> int:
    """Return the number of its supervisor: the process that was started, or the child of it that has taken its place."""
    found = children(server.process.pid, b"twisted_ws.daemon.succession")
    return found[0] if found else server.process.pid


def workers(server: Running) -> list[int]:
    """Return the numbers of its workers."""
    return children(supervisor(server), b"twisted_ws.daemon.workers")


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
    """Run ``twisted-ws reload``, and return its exit code and what it says of errors."""
    return tell(place, "reload", *arguments)


def tell(place: Path, *words: str) -> tuple[int, str]:
    """Run a command for the server that works in a directory, and return its exit code and what it says of errors."""
    command = [*COMMAND, *words, "--state-directory", str(place / "state")]
    done = run(command, PATIENCE, cwd=place, env=environment(place), text=True)
    return done.returncode, done.stderr
