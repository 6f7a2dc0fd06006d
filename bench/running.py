"""Servers and load as processes: the server alone on core 0, everything else on core 1."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Peer
from bench.places import BUILD, CERTIFICATE, KEY, ROOT, SERVERS

__all__ = ["Failed", "Load", "Server", "publishing", "settle", "started", "taken0"]

START_SECONDS = 20.0
DESCRIPTORS = 20_000
TICKS = os.sysconf("SC_CLK_TCK")
NGINX_MODULES = "/usr/lib/nginx/modules"


class Failed(Exception):
    """A server or the load did not do what it should have; what it said."""


def settle() -> None:
    """Go to core 1 and take the descriptors that the most clients need: children have the same."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS), hard))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[1]})


def _pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else command


@dataclass(frozen=True)
class Server:
    """One server that runs.

    Attributes:
        peer: what it is.
        ws: its WebSocket port.
        tls: the same with TLS.
        http: where posts go.
        pid: its process, and the session of all that it starts.
    """

    peer: Peer
    ws: int
    tls: int
    http: int
    pid: int

    def _processes(self) -> Iterator[tuple[Path, list[str]]]:
        """Yield the folder of each process of the session in /proc, and the fields of its stat behind the name."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid:
                yield folder, fields

    def cpu(self) -> float:
        """Return the seconds of processor time that it has had, to 10 ms."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self._processes()) / TICKS

    def memory(self) -> int:
        """Return its resident bytes; counted page by page, for the sum that the kernel keeps lags behind.

        Raises:
            Failed: it has ended.
        """
        total = 0
        for folder, _ in self._processes():
            try:
                rollup = (folder / "smaps_rollup").read_text()
            except OSError:
                continue
            match = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
            total += int(match[1]) * 1024 if match else 0
        if not total:
            raise Failed(f"{self.peer.title} has ended")
        return total

    def unsent(self) -> int:
        """Return how many bytes the kernel keeps for that client of the WebSocket port which has most to read yet."""
        local = f":{self.ws:04X}"
        lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return max((int(fields[4][:8], 16) for fields in lines if fields[1].endswith(local)), default=0)


def taken0() -> float:
    """Return the seconds of core 0 that any process has had, or another machine on the same processor, to 10 ms."""
    fields = Path("/proc/stat").read_text().splitlines()[1].split()
    user, nice, system, steal = (int(fields[index]) for index in (1, 2, 3, 8))
    return (user + nice + system + steal) / TICKS


def _freePorts(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and the whole session that it leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def started(peer: Peer) -> Iterator[Server]:
    """Start a server on core 0, and kill it at the end.

    Raises:
        Failed: it does not listen within `START_SECONDS`.
    """
    ws, tls, http = _freePorts(3)
    run = BUILD / "run" / peer.key
    run.mkdir(parents=True, exist_ok=True)
    words = {"ws": ws, "tls": tls, "http": http, "certificate": CERTIFICATE, "key": KEY, "run": run, "modules": NGINX_MODULES}
    if peer.template:
        conf = run / peer.template
        words["conf"] = conf
        conf.write_text(re.sub(r"@(\w+)@", lambda match: str(words[match[1]]), (SERVERS / peer.template).read_text()))
    command = _pinned(0, [part.format(**words) for part in peer.command])
    with open(run / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **peer.environment},
            start_new_session=True,
        )
    try:
        for port in (ws, tls, http) if peer.secure else (ws, http):
            if not _listens(port, process):
                said = (run / "log").read_text(errors="replace").strip().splitlines() or ["it said nothing"]
                raise Failed(f"{peer.title} does not listen: {said[-1][:300]}")
        yield Server(peer, ws, tls, http, process.pid)
    finally:
        _end(process)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def _figures(output: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", output)}


class Load:
    """The clients of one server, while the context lasts.

    Args:
        mode: of ``wsload``.
        server: whom they talk to.
        arguments: what comes behind the path: the number of clients, and so on.
        tls: whether they speak TLS.
        options: more options.
    """

    def __init__(
        self, mode: str, server: Server, *arguments: object, tls: bool = False, options: tuple[object, ...] = ()
    ) -> None:
        where = ("127.0.0.1", server.tls if tls else server.ws, server.peer.path)
        words = (BUILD / "wsload", *(("-s",) if tls else ()), *options, mode, *where, *arguments)
        self._name = f"{server.peer.title}: {mode}"
        self._command = _pinned(1, [str(word) for word in words])

    def __enter__(self) -> Load:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        _end(self._process)  # type: ignore[arg-type]
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()  # type: ignore[union-attr]

    def opened(self) -> None:
        """Wait until all connections are open.

        Raises:
            Failed: not all can be.
        """
        line = self._process.stderr.readline()  # type: ignore[union-attr]
        if not line.startswith("open=") or "failed=0" not in line:
            raise Failed(f"{self._name}: {line.strip() or 'the load ended'}")

    def begin(self) -> None:
        """Let the figures count from now on, where the option ``-g`` makes them wait for this."""
        self._process.send_signal(signal.SIGUSR1)

    def figures(self) -> dict[str, float]:
        """Wait for the end and return the figures.

        Raises:
            Failed: there are none.
        """
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise Failed(f"{self._name}: {self._process.stderr.read().strip()[-300:] or 'no figures'}")  # type: ignore[union-attr]
        return _figures(line)


@contextmanager
def publishing(server: Server, size: int, seconds: float, rate: float = 0, posts: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Post messages for all clients, one after another, while the context lasts.

    Args:
        server: to whom.
        size: bytes of each message.
        seconds: how long at most.
        rate: posts a second; 0: as fast as they are answered.
        posts: how many; 0: as many as the time allows.
    """
    options = ("-n", posts) if posts else ()
    words = (BUILD / "wspub", *options, "127.0.0.1", server.http, server.peer.broadcast, size, seconds, rate)
    command = _pinned(1, [str(word) for word in words])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        _end(process)
