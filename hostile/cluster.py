"""Several processes that serve the same channels: a daemon with workers, or several daemons and their engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from hostile.attack import PLAIN
from hostile.daemon import Daemon, Variant
from hostile.places import ROOT
from hostile.valkey import Valkey, Way

__all__ = ["Cluster", "Nodes", "Sentinels", "Workers"]

_PATIENCE = 60.0
_WORKER = b"twisted_ws.daemon.workers"


class Cluster:
    """Run several processes that serve the same channels, while the context lasts.

    Args:
        directory: for all their files.
        limits: the table ``[limits]`` of each daemon.

    Attributes:
        daemons: the daemons.
    """

    workers = 0

    def __init__(self, directory: Path, limits: Mapping[str, float]) -> None:
        self.directory = directory
        self.limits = limits
        self.daemons: list[Daemon] = []
        self._stack = ExitStack()

    def __enter__(self) -> Cluster:
        with self._stack:
            self.begin(self._stack)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        workers = [pid for daemon in self.daemons for pid in self.workersOf(daemon)]
        self._stack.close()
        for pid in workers:  # a stopped one does not notice that its supervisor has gone
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def begin(self, stack: ExitStack) -> None:
        """Start everything."""
        raise NotImplementedError

    def add(self, stack: ExitStack, name: str, *options: str) -> None:
        """Start one more daemon."""
        more = ("--workers", str(self.workers)) if self.workers else ()
        variant: Variant = replace(PLAIN, options=(*options, *more), limits=self.limits)
        daemon = Daemon(variant, self.directory / name)
        self.daemons.append(stack.enter_context(daemon))
        self._listens(daemon)

    def again(self, daemon: Daemon) -> None:
        """Start a daemon again that has ended, as a service manager does: until it has its ports.

        They may be taken: workers that have just begun to start notice late that their supervisor has gone.
        """
        said = len(daemon.said())

        def starts() -> bool:
            try:
                daemon.start()
                self._listens(daemon, said)
            except RuntimeError:
                return False
            return daemon.runs()

        until("it starts", starts)

    def _listens(self, daemon: Daemon, said: int = 0) -> None:
        def is_() -> bool:
            if not daemon.runs():
                raise RuntimeError("the daemon has ended")
            return f"{self.workers} workers listen" in daemon.said()[said:]

        if self.workers:
            until("its workers listen", is_)

    @property
    def ports(self) -> list[dict[str, int]]:
        """The ports of the clients, for each daemon."""
        return [{"ws": daemon.ws, "tls": daemon.tls} for daemon in self.daemons]

    @property
    def http(self) -> list[int]:
        """The ports of the publishers."""
        return [daemon.http for daemon in self.daemons]

    def workersOf(self, daemon: Daemon) -> list[int]:
        """Return the process ids of the workers of a daemon, in the order of their starts."""
        if not self.workers or daemon.process is None:
            return []
        return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and _isWorker(name, daemon.pid))

    def reloadServices(self, daemon: Daemon) -> None:
        """Replace all workers of a daemon, one by one.

        Raises:
            RuntimeError: they were not; why.
        """
        command = [sys.executable, "-m", "twisted_ws", "reload", "--services"]
        command += ["--state-directory", str(daemon.directory / "state" / "twisted-ws")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"twisted-ws reload says {done.stderr.strip()}")


class Workers(Cluster):
    """One daemon with three workers and a hub."""

    workers = 3

    def begin(self, stack: ExitStack) -> None:
        """Start it."""
        self.add(stack, "workers")


class Nodes(Cluster):
    """Three daemons with one server of Valkey, each by a way of its own.

    Attributes:
        valkey: the server.
        replica: another one that has what the first has.
        ways: the way of each daemon.
        program: that of the servers; "" for Valkey.
    """

    program = ""

    def begin(self, stack: ExitStack) -> None:
        """Start all."""
        self.valkey = stack.enter_context(Valkey(self.directory / "valkey", program=self.program))
        replicaOf = ("--replicaof", "127.0.0.1", str(self.valkey.port))
        self.replica = stack.enter_context(Valkey(self.directory / "replica", options=replicaOf, program=self.program))
        until("the replica is connected", lambda: self.replica.about("replication")["master_link_status"] == "up")
        self.ways = [stack.enter_context(Way(self.valkey.port)) for _ in range(3)]
        for number, way in enumerate(self.ways):
            self.add(stack, f"node{number}", "--engine", f"redis://127.0.0.1:{way.port}")


class NodesOnRedis(Nodes):
    """The same with the Redis of the system."""

    program = "redis-server"


class NodesWithWorkers(Nodes):
    """The same, and each daemon has two workers."""

    workers = 2


class Sentinels(Cluster):
    """Three daemons with two servers of Valkey, whose roles three Sentinels know.

    Attributes:
        valkey: the primary.
        replica: its replica, or the first of them.
        replicas: all of them.
        way: the way of everybody to the primary.
        count: how many replicas there are.
        options: more of the servers' configuration.
    """

    count = 1
    options: tuple[str, ...] = ()

    def begin(self, stack: ExitStack) -> None:
        """Start all."""
        self.valkey = stack.enter_context(Valkey(self.directory / "valkey", options=self.options))
        self.way = stack.enter_context(Way(self.valkey.port))
        replicaOf = (*self.options, "--replicaof", "127.0.0.1", str(self.way.port))
        names = [f"replica{number}" for number in range(self.count)]
        self.replicas = [stack.enter_context(Valkey(self.directory / name, options=replicaOf)) for name in names]
        for each in self.replicas:
            until("it is connected", lambda each=each: each.about("replication")["master_link_status"] == "up")  # type: ignore[misc]
        self.replica = self.replicas[0]
        lines = f"sentinel monitor main 127.0.0.1 {self.way.port} 2\nsentinel down-after-milliseconds main 1000\n"
        lines += "sentinel failover-timeout main 10000\n"
        sentinels = [stack.enter_context(Valkey(self.directory / f"sentinel{number}", sentinel=lines)) for number in range(3)]
        for each in sentinels:
            until("Sentinels know all", lambda each=each: _knowsAll(each, self.count))  # type: ignore[misc]
        where = ",".join(f"127.0.0.1:{each.port}" for each in sentinels)
        for number in range(3):
            self.add(stack, f"node{number}", "--engine", f"redis+sentinel://{where}/main")


class CarefulSentinels(Sentinels):
    """The same with two replicas, and a primary takes nothing while it has not heard of any for two seconds."""

    count = 2
    options = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")


def _knowsAll(sentinel: Valkey, replicas: int) -> bool:
    flat = sentinel.ask("SENTINEL", "MASTER", "main")
    facts = dict(zip(flat[::2], flat[1::2], strict=True))
    return facts["num-slaves"] == str(replicas) and facts["num-other-sentinels"] == "2"


def _isWorker(name: str, parent: int) -> bool:
    try:
        fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return int(fields[1]) == parent and any(word.startswith(_WORKER) for word in words) and fields[0] != "Z"


def until(what: str, is_: Callable[[], bool]) -> None:
    """Wait for something.

    Raises:
        RuntimeError: it does not come true.
    """
    end = time.monotonic() + _PATIENCE
    while not is_():
        if time.monotonic() > end:
            raise RuntimeError(f"waited in vain: {what}")
        time.sleep(0.05)
