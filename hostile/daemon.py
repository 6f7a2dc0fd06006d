"""The daemon as a process: started with a variant of its settings, and observed from the outside."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from hostile import processes
from hostile.places import ROOT

__all__ = ["DESCRIPTORS", "Daemon", "Variant", "freePorts", "listens"]

START_SECONDS = 60.0
DESCRIPTORS = 20_000
_SERVICES = """
[services."/ws"]
target = "demo"
[services."/good"]
target = "hostile.services:Good"
[services."/hesitant"]
target = "hostile.services:Hesitant"
[services."/evil"]
target = "hostile.services:Evil"
[services."/raising/{event}"]
target = "hostile.services:Raising"
[services."/channels"]
target = "channels"
[services."/channels/{channel}"]
target = "channels"
[services."/patterns"]
target = "channels"
wildcards = true
[services."/counter"]
target = "hostile.services:Counter"
[services."/shown/{channel}"]
target = "channels"
presence = true
[services."/drop/{channel}"]
target = "channels"
policy = "drop-oldest"
[services."/latest/{channel}"]
target = "channels"
policy = "latest"
"""


@dataclass(frozen=True)
class Variant:
    """Settings of a daemon.

    Attributes:
        name: a word.
        options: command-line options.
        limits: the table ``[limits]``.
        environment: additional environment variables.
        descriptors: the number of descriptors that it may have open.
        log: where its standard output and error go; None for a file that can be read.
    """

    name: str
    options: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    descriptors: int = DESCRIPTORS
    log: Path | None = None


def freePorts(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that are currently free."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Daemon:
    """A server that can be started, stopped and restarted on the same ports.

    Args:
        variant: its settings.
        directory: its working directory, with its log and its state.
        core: the core that it runs on; None for any.

    Attributes:
        ws: the WebSocket port.
        tls: the WebSocket port with TLS.
        http: the broadcast port.
        process: the process, after `start`.
    """

    def __init__(self, variant: Variant, directory: Path, core: int | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.variant = variant
        self.directory = directory
        self.ws, self.tls, self.http = freePorts(3)
        self.logFile = directory / "log"
        self.logFile.write_bytes(b"")
        config = directory / "wsservice.toml"
        limits = "".join(f"{name} = {value}\n" for name, value in variant.limits.items())
        config.write_text(f"[limits]\n{limits}{_SERVICES}")
        twistd = Path(sys.executable).with_name("twistd")
        ports = {"--port": self.ws, "--tls-port": self.tls, "--broadcast-port": self.http}
        words = [str(twistd), "--pidfile=", "-n", "wsservice", "--config", str(config)]
        words += [str(word) for pair in ports.items() for word in pair]
        self._command = processes.pinned(core, [*words, *variant.options])
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, and wait until all its ports listen.

        Raises:
            RuntimeError: they do not within `START_SECONDS`; the last line of its log.
        """
        state = {"HOME": str(self.directory), "XDG_STATE_HOME": str(self.directory / "state"), "PYTHONPATH": str(ROOT)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LISTEN_", "NOTIFY_"))}
        with open(self.variant.log or self.logFile, "ab") as log:
            self.process = processes.start(
                self._command,
                self.variant.descriptors,
                cwd=self.directory,
                env={**kept, **state, **self.variant.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        for port in (self.ws, self.tls, self.http):
            while not listens(port):
                if self.process.poll() is not None or time.monotonic() > end:
                    said = self.said().strip().splitlines() or ["it printed nothing"]
                    raise RuntimeError(f"the daemon does not listen: {said[-1]}")
                time.sleep(0.02)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """Stop it with a drain, as a service manager does, and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """Kill it at once, even if it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def runs(self) -> bool:
        """Return whether it is running."""
        return self.process is not None and self.process.poll() is None

    def said(self) -> str:
        """Return everything that it has written to its log."""
        return self.logFile.read_text(errors="replace")

    def memory(self) -> int:
        """Return its resident bytes; 0 if it has ended."""
        found = re.search(r"^Rss:\s+(\d+) kB", self._proc("smaps_rollup"), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0

    def descriptors(self) -> int:
        """Return its number of open descriptors; 0 if it has ended."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0

    def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        return int((self._proc("schedstat") or "0").split()[0]) / 1e9

    def _proc(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except OSError:
            return ""


def listens(port: int) -> bool:
    """Return whether something listens on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
