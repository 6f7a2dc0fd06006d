"""Servers, callers and publishers as processes: what the measurements are made with."""

from __future__ import annotations

import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.installing import compilePrograms, makeCertificate
from bench.places import BUILD, CERTIFICATE, KEY, ROOT
from tools.capacity.processes import children, cpu, on

__all__ = ["Group", "Node", "Run", "connects", "node", "run", "settle"]

_START_SECONDS = 30.0
# Seconds of the same work before anything is counted.
_WARM = 0.3
BROADCAST = "/broadcaster/broadcast"


def settle() -> None:
    """Compile what the load is made with, and raise the limit of descriptors."""
    compilePrograms()
    makeCertificate()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Node:
    """A server that runs.

    Attributes:
        pid: its first process: the only one, or the supervisor.
        workers: the processes of its workers.
        ws: its port for callers.
        tls: the same with TLS.
        http: its port for publishers.
    """

    pid: int
    workers: tuple[int, ...]
    ws: int
    tls: int
    http: int


def _freePorts(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@contextmanager
def node(*options: str, workers: int = 0, core: int = 0) -> Iterator[Node]:
    """Run a server, with `workers` or in one process, on one core."""
    ws, tls, http = _freePorts(3)
    command = [sys.executable, "-m", "twisted_ws", "--port", f"tcp:{ws}:interface=127.0.0.1:backlog=4096"]
    command += ["--tls-port", f"tcp:{tls}:interface=127.0.0.1:backlog=4096"]
    command += ["--certificate", str(CERTIFICATE), "--private-key", str(KEY), "--broadcast-port", str(http)]
    command += ["--service", "/ws=bench.services:Echo", "--service", "/channels/{channel}=channels", *options]
    if workers:
        command += ["--workers", str(workers)]
    log = BUILD / f"capacity-{http}.log"
    with on(core), open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
    try:
        end = time.monotonic() + _START_SECONDS
        ready = f"{workers} workers listen" if workers > 1 else "1 worker listens" if workers else "Broadcast site on"
        while ready not in (said := log.read_text()):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start:\n{said}")
            time.sleep(0.02)
        # The one that tried the settings has ended by now; what is left are the workers.
        yield Node(process.pid, tuple(children(process.pid)) if workers else (), ws, tls, http)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.unlink()


@dataclass(frozen=True)
class Group:
    """Callers of one path, and what is published to them.

    Attributes:
        callers: how many.
        path: of the WebSocket, and of the POST unless `post` says another.
        size: bytes of a message.
        rate: messages per second.
        tls: whether the callers use TLS.
        post: the path of the POST.
        publishers: connections that the messages come from; each waits for an answer before it sends the next.
    """

    callers: int
    path: str
    size: int
    rate: float
    tls: bool = False
    post: str = ""
    publishers: int = 1


@dataclass(frozen=True)
class Run:
    """What a run took and gave.

    Attributes:
        cpu: microseconds by the name of a part.
        posts: messages that were published, by group.
        p50: microseconds from the POST to the caller, by group; 0 without callers.
        p99: the same.
        seconds: how long it took.
    """

    cpu: dict[str, float]
    posts: tuple[int, ...]
    p50: tuple[float, ...]
    p99: tuple[float, ...]
    seconds: float


def _figure(line: str, name: str) -> float:
    match = re.search(rf"\b{name}=([\d.]+)", line)
    if match is None:
        raise RuntimeError(f"the load says {line!r}")
    return float(match[1])


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _load(stack: ExitStack, *words: object) -> subprocess.Popen[str]:
    command = [str(word) for word in words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    stack.callback(_end, process)
    return process


def run(
    groups: Sequence[Group],
    parts: Mapping[str, Sequence[int]],
    callersAt: Node,
    publishersAt: Node | None = None,
    seconds: float = 3,
    doze: float = 2,
) -> Run:
    """Publish to groups of callers at the same time, and return what the parts of the server took for it.

    Args:
        groups: who is there, and what comes.
        parts: processes by the name of a part, such as ``{"hub": [7], "workers": [8, 9]}``.
        callersAt: the server that the callers connect to.
        publishersAt: that of the publishers; by default the same.
        seconds: how long messages come.
        doze: milliseconds between two looks of the callers. If each message woke them up, the server would pay for that: on one
            machine the sender wakes the receiver, which is faster, and would sleep again before the next one.
    """
    publishersAt = publishersAt or callersAt
    with ExitStack() as stack, on(1):
        crowds: list[subprocess.Popen[str] | None] = []
        counts = [round(each.rate * seconds / each.publishers) * each.publishers for each in groups]
        warming = [round(each.rate * _WARM / each.publishers) * each.publishers for each in groups]
        for each, count, warm in zip(groups, counts, warming, strict=True):
            if not each.callers:
                crowds.append(None)
                continue
            port = callersAt.tls if each.tls else callersAt.ws
            options = ("-g", "-d", doze, "-l", 3, "-n", (count + warm) * each.callers, *(("-s",) if each.tls else ()))
            load = _load(stack, BUILD / "wsload", *options, "fanout", "127.0.0.1", port, each.path, each.callers, 60)
            assert load.stderr is not None
            line = load.stderr.readline()
            if "failed=0" not in line:
                raise RuntimeError(f"the callers say {line!r}")
            crowds.append(load)
        time.sleep(0.2)

        def publish(numbers: list[int]) -> None:
            publishers = [
                _load(
                    stack,
                    *(BUILD / "wspub", "-n", number // each.publishers, "127.0.0.1", publishersAt.http, each.post or each.path),
                    *(each.size, 60, each.rate / each.publishers),
                )
                for each, number in zip(groups, numbers, strict=True)
                for _ in range(each.publishers)
                if number
            ]
            for each in publishers:
                if each.wait():
                    raise RuntimeError(f"a publisher says {each.stderr.read() if each.stderr else ''!r}")

        publish(warming)
        time.sleep(0.1)
        for crowd in crowds:
            if crowd is not None:
                crowd.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        before, began = {name: cpu(pids) for name, pids in parts.items()}, time.monotonic()
        publish(counts)
        lines = [None if crowd is None or crowd.stdout is None else crowd.stdout.readline() for crowd in crowds]
        took, passed = {name: cpu(pids) - before[name] for name, pids in parts.items()}, time.monotonic() - began
        latencies = [(0.0, 0.0) if line is None else (_figure(line, "p50"), _figure(line, "p99")) for line in lines]
        return Run(took, tuple(counts), tuple(p50 for p50, _ in latencies), tuple(p99 for _, p99 in latencies), passed)


def connects(at: Node, pids: Sequence[int], tls: bool, count: int) -> float:
    """Return the microseconds that a connection takes from its SYN to its end: TLS if wanted, handshake, close."""
    with ExitStack() as stack, on(1):
        words = (*(("-s",) if tls else ()), "-l", 3, "-n", count, "connect", "127.0.0.1", at.tls if tls else at.ws, "/ws", 16, 60)
        _load(stack, BUILD / "wsload", *words[:-6], *words[-6:]).communicate()  # once to warm up
        before = cpu(pids)
        line, _ = _load(stack, BUILD / "wsload", *words).communicate()
        time.sleep(0.2)  # the ends of the last ones
        return (cpu(pids) - before) / _opened(line)


def _opened(line: str) -> int:
    return int(_figure(line, "open"))


@contextmanager
def silent(at: Node, count: int, tls: bool, path: str = "/ws") -> Iterator[None]:
    """Keep silent callers connected."""
    with ExitStack() as stack, on(1):
        words = (
            *(("-s",) if tls else ()),
            "-d",
            2,
            "-l",
            3,
            "-k",
            "idle",
            "127.0.0.1",
            at.tls if tls else at.ws,
            path,
            count,
            600,
        )
        load = _load(stack, BUILD / "wsload", *words)
        assert load.stderr is not None
        line = load.stderr.readline()
        if "failed=0" not in line:
            raise RuntimeError(f"the callers say {line!r}")
        yield


@contextmanager
def valkey() -> Iterator[tuple[int, int]]:
    """Run a server of Valkey on core 0 that writes what it has once a second; return its process and its port."""
    from hostile.valkey import Valkey

    with on(0), Valkey(Path(BUILD) / "capacity-valkey") as server:
        assert server.process is not None
        yield server.process.pid, server.port


def echo(at: Node, pids: Sequence[int], size: int, tls: bool, callers: int, seconds: float) -> float:
    """Return the microseconds of a message from a caller that is answered with another of the same size."""
    with ExitStack() as stack, on(1):
        words = (
            *(("-s",) if tls else ()),
            "-g",
            "-w",
            0.5,
            "-k",
            "echo",
            "127.0.0.1",
            at.tls if tls else at.ws,
            "/ws",
            callers,
            size,
            seconds,
        )
        load = _load(stack, BUILD / "wsload", *words)
        assert load.stderr is not None
        assert load.stdout is not None
        load.stderr.readline()
        load.send_signal(signal.SIGUSR1)
        time.sleep(0.5 + 0.1 * seconds)
        used = cpu(pids)
        time.sleep(0.8 * seconds)
        used = cpu(pids) - used
        rate = _figure(load.stdout.readline(), "rate")
        return used / (rate * 0.8 * seconds)
