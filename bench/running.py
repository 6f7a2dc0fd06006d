"""Servers and load as processes: the server alone on core 0, everything else on core 1."""

from __future__ import annotations

import gzip
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.peers import Peer
from bench.places import BUILD, CERTIFICATE, KEY, ROOT, SECRET, SERVERS, TOKEN

__all__ = ["Failed", "Load", "Server", "others", "publishing", "settle", "started"]

START_SECONDS = 20.0
DESCRIPTORS = 20_000
TICKS = os.sysconf("SC_CLK_TCK")
NGINX_MODULES = "/usr/lib/nginx/modules"


class Failed(Exception):
    """A server or the load failed; the message has its output."""


def settle() -> None:
    """Move to core 1 and raise the descriptor limit to what the largest workload needs; child processes inherit both."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS), hard))
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[1]})


def _pinned(core: int, command: list[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command] if shutil.which("taskset") and (os.cpu_count() or 1) > 1 else command


# The sessions of all running processes: each process is started as the leader of its own.
_sessions: set[int] = set()


def _processes(sessions: Collection[int]) -> Iterator[tuple[Path, list[str]]]:
    """Yield the directory in /proc of each process of these sessions, and the fields of its stat after the name."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) in sessions:
            yield folder, fields


def _cpu(sessions: Collection[int]) -> float:
    return sum(int(fields[11]) + int(fields[12]) for _, fields in _processes(sessions)) / TICKS


def _interruptsCounted() -> bool:
    """Return whether this kernel excludes interrupts, such as much of the work of loopback networking, from process times."""
    try:
        with gzip.open("/proc/config.gz", "rt") as config:
            return "CONFIG_IRQ_TIME_ACCOUNTING=y" in config.read()
    except OSError:
        pass
    try:
        return "CONFIG_IRQ_TIME_ACCOUNTING=y" in Path(f"/boot/config-{platform.release()}").read_text()
    except OSError:
        return False


# The fields user, nice, system and steal of /proc/stat; also irq and softirq if process times include them.
_TAKEN = (1, 2, 3, 8) if _interruptsCounted() else (1, 2, 3, 6, 7, 8)


def others() -> float:
    """Return the seconds of cores 0 and 1 that went to processes not started here, or to other virtual machines.

    Only differences between two calls are meaningful.
    """
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines()[1:3])
    taken = sum(int(fields[index]) for fields in lines for index in _TAKEN) / TICKS
    return taken - _cpu(_sessions) - time.process_time()


def _start(command: list[str], **more: Any) -> subprocess.Popen[Any]:
    process = subprocess.Popen(command, start_new_session=True, **more)
    _sessions.add(process.pid)
    return process


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        peer: its entry in the table of servers.
        ws: its WebSocket port.
        tls: its WebSocket port with TLS.
        http: its port for posts.
        pid: its process, and the session of all processes that it starts.
    """

    peer: Peer
    ws: int
    tls: int
    http: int
    pid: int

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used, to 10 ms."""
        return _cpu({self.pid})

    def memory(self) -> int:
        """Return its resident bytes, counted page by page because the kernel's running total lags behind.

        Raises:
            Failed: the server has ended.
        """
        total = 0
        for folder, _ in _processes({self.pid}):
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
        """Return the bytes that the kernel holds for the client of the WebSocket port that has the most unread."""
        local = f":{self.ws:04X}"
        lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return max((int(fields[4][:8], 16) for fields in lines if fields[1].endswith(local)), default=0)

    def subscribed(self, clients: int) -> None:
        """Wait until so many clients of twisted_ws are subscribed: with an engine, they are open before that.

        Raises:
            Failed: they are not within `START_SECONDS`.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=START_SECONDS) as answer:
                found = re.findall(r"^twisted_ws_subscriptions(?:\{.*\})? (\S+)$", answer.read().decode(), re.MULTILINE)
            if sum(map(float, found)) >= clients:
                return
            time.sleep(0.05)
        raise Failed(f"{self.peer.title}: not all clients are subscribed")


def _freePorts(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _end(process: subprocess.Popen[Any]) -> None:
    """Kill a process and its whole session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    _sessions.discard(process.pid)


@contextmanager
def started(peer: Peer) -> Iterator[Server]:
    """Start a server on core 0, and kill it at the end of the context.

    Raises:
        Failed: the server does not listen within `START_SECONDS`.
    """
    ws, tls, http, beside = _freePorts(4)
    run = BUILD / "run" / peer.key
    run.mkdir(parents=True, exist_ok=True)
    words = {"ws": ws, "tls": tls, "http": http, "certificate": CERTIFICATE, "key": KEY, "run": run, "modules": NGINX_MODULES}
    words |= {"beside": beside, "secret": SECRET}
    if peer.template:
        conf = run / peer.template
        words["conf"] = conf
        conf.write_text(re.sub(r"@(\w+)@", lambda match: str(words[match[1]]), (SERVERS / peer.template).read_text()))
    with ExitStack() as stack:

        def start(core: int, command: tuple[str, ...], *ports: int) -> int:
            with open(run / "log", "wb") as log:
                process = _start(
                    _pinned(core, [part.format(**words) for part in command]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=ROOT,
                    env={**os.environ, **peer.environment},
                )
            stack.callback(_end, process)
            for port in ports:
                if not _listens(port, process):
                    said = (run / "log").read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
                    raise Failed(f"{peer.title} does not listen: {said[-1][:300]}")
            return process.pid

        if peer.beside:
            start(1, peer.beside, beside)
        pid = start(0, peer.command, *((ws, tls, http) if peer.secure else (ws, http)))
        yield Server(peer, ws, tls, http, pid)


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
        mode: the mode of ``wsload``.
        server: the server that they connect to.
        arguments: the arguments after the path: the number of clients, and so on.
        tls: whether they use TLS.
        options: additional options.
    """

    def __init__(
        self, mode: str, server: Server, *arguments: object, tls: bool = False, options: tuple[object, ...] = ()
    ) -> None:
        where = ("127.0.0.1", server.tls if tls else server.ws, server.peer.path)
        head = ("-H", f"Authorization: Bearer {TOKEN.read_text()}") if server.peer.showsToken else ()
        words = (BUILD / "wsload", *(("-s",) if tls else ()), *head, *options, mode, *where, *arguments)
        self._name = f"{server.peer.title}: {mode}"
        self._command = _pinned(1, [str(word) for word in words])

    def __enter__(self) -> Load:
        self._process = _start(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exception: object) -> None:
        _end(self._process)
        self._process.stdout.close()
        self._process.stderr.close()

    def opened(self) -> None:
        """Wait until all connections are open.

        Raises:
            Failed: some cannot be opened.
        """
        line = self._process.stderr.readline()
        if not line.startswith("open=") or "failed=0" not in line:
            raise Failed(f"{self._name}: {line.strip() or 'the load ended'}")

    def begin(self) -> None:
        """Start counting now, if the option ``-g`` made the load wait for this."""
        self._process.send_signal(signal.SIGUSR1)

    def figures(self) -> dict[str, float]:
        """Wait for the end and return the figures.

        Raises:
            Failed: the load printed none.
        """
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._name}: {self._process.stderr.read().strip()[-300:] or 'no figures'}")
        return _figures(line)


@contextmanager
def publishing(server: Server, size: int, seconds: float, rate: float = 0, posts: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Post messages for all clients, one after another, while the context lasts.

    Args:
        server: the server to post to.
        size: the size of each message in bytes.
        seconds: the maximum duration.
        rate: posts per second; 0: as fast as they are answered.
        posts: the number of posts; 0: as many as the time allows.
    """
    options = ("-n", posts) if posts else ()
    words = (BUILD / "wspub", *options, "127.0.0.1", server.http, server.peer.broadcast, size, seconds, rate)
    command = _pinned(1, [str(word) for word in words])
    process = _start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        _end(process)
