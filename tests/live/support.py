"""Real processes: a server as an operator starts it, with what it prints and what it tells systemd."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.live.nursery import BIN, start

# A test that waits this long, in seconds, has failed; it is no measure of anything.
PATIENCE = 180

TWISTD = (str(BIN / "twistd"), "--pidfile=", "-n", "wsservice")
TWIST = (sys.executable, "-m", "twisted", "--log-format=text", "wsservice")
COMMAND = (str(BIN / "twisted-ws"),)
PORTS = ("--port", "0", "--broadcast-port", "0")


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds that nothing reports: ask, and leave the processor to the server between two questions."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


class Running:
    """A started server.

    Attributes:
        process: the process.
        lines: what it has printed so far, on standard output and error.
        states: what it has told systemd.
        readers: the threads that read both.
    """

    def __init__(self, process: subprocess.Popen[str], notifications: socket.socket) -> None:
        self.process = process
        self.lines: list[str] = []
        self.states: list[str] = []
        self.ended = False
        self._news = threading.Condition()
        self._notifications = notifications
        self.readers = [threading.Thread(target=task, daemon=True) for task in (self._readOutput, self._readStates)]
        for each in self.readers:
            each.start()

    def _readOutput(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.ended = True
            self._news.notify_all()

    def _readStates(self) -> None:
        while state := self._notifications.recv(4096):
            with self._news:
                self.states.append(state.decode())
                self._news.notify_all()

    @property
    def output(self) -> str:
        """All that it has printed."""
        with self._news:
            return "\n".join(self.lines)

    def _wait(self, condition: Callable[[], Any], what: str) -> Any:
        with self._news:
            self._news.wait_for(lambda: condition() or self.ended, PATIENCE)
            found = condition()
        assert found, f"{what} did not come; the output is:\n{self.output}"
        return found

    def waitFor(self, text: str, count: int = 1) -> str:
        """Return the line with `text` (the `count`-th such line), once it has been printed."""
        return str(self._wait(lambda: [line for line in self.lines if text in line][count - 1 : count], text)[0])

    def waitForState(self, state: str, count: int = 1) -> None:
        """Wait until systemd was told `state` for the `count`-th time."""
        self._wait(lambda: self.states.count(state) >= count, state)

    def waitForEnd(self) -> int:
        """Return the exit status, once the process has ended and all its output is read."""
        self._wait(lambda: self.ended, "the end of the output")
        return self.process.wait(PATIENCE)

    def port(self, scheme: str) -> int:
        """Return the port of ``ws``, ``wss``, ``http`` or ``https``; the last two are the broadcast site."""
        pattern = re.compile(rf"(?:WebSocket|Broadcast site) on {scheme}://[^ ]*?:(\d+)")
        return int(self._wait(lambda: next(filter(None, map(pattern.search, self.lines)), None), f"the port of {scheme}")[1])

    def client(self, path: str = "/ws/subscribe", secure: bool = False, **options: Any) -> ClientConnection:
        """Return a connected client of another library; TLS without a look at the certificate."""
        scheme = "wss" if secure else "ws"
        options = {
            "open_timeout": PATIENCE,
            "max_size": None,
            "proxy": None,
            "compression": None,
            "ping_interval": None,
            **options,
        }
        if secure:
            options.setdefault("ssl", unverified())
        return connect(f"{scheme}://localhost:{self.port(scheme)}{path}", **options)

    def curl(self, *arguments: str, path: str = "/broadcaster/broadcast", scheme: str = "http", body: bytes | None = None) -> str:
        """Return what ``curl ARGUMENTS`` for the broadcast site prints; `body` is its standard input."""
        return curl(*arguments, f"{scheme}://localhost:{self.port(scheme)}{path}", body=body)

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it as a service manager does, and return the exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.waitForEnd()


class _Shared(ssl.SSLSocket):
    """A connection that one thread reads while another writes, as websockets' client does.

    OpenSSL takes one at a time, and Python 3.11 does not see to it: a request that is sent while tickets are read may get lost.
    """

    def __new__(cls, *_arguments: Any, **_options: Any) -> Self:
        made = super().__new__(cls)
        made._turn = threading.Lock()
        return made

    _turn: threading.Lock

    def _once(self, wanted: int, call: Callable[[], Any]) -> Any:
        """Return what `call` returns, once it need not wait."""
        ready = select.poll()
        ready.register(self, wanted)
        while True:
            with self._turn:
                timeout = self.gettimeout()
                self.settimeout(0)
                try:
                    return call()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
                finally:
                    self.settimeout(timeout)
            if not ready.poll(None if timeout is None else timeout * 1000):
                raise TimeoutError

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        """Read (see `socket.socket.recv`)."""
        return bytes(self._once(select.POLLIN, lambda: ssl.SSLSocket.recv(self, size, flags)))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Write all (see `socket.socket.sendall`)."""
        left = memoryview(data).cast("B")
        while left:
            left = left[self._once(select.POLLOUT, partial(self.send, left)) :]


def unverified() -> ssl.SSLContext:
    """Return TLS settings of a client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's certificates, which take long to load
    context.sslsocket_class = _Shared
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def curl(*arguments: str, body: bytes | None = None) -> str:
    """Return what ``curl`` prints."""
    command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(PATIENCE), *arguments]
    done = subprocess.run(command, input=body, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def environment(directory: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server that finds nothing of this user's in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "LISTEN_", "NOTIFY_", "WATCHDOG_"))}
    return {**kept, "HOME": str(directory), "XDG_STATE_HOME": str(directory / "state"), **more}


@contextmanager
def starting(directory: Path, command: Sequence[str], more: Mapping[str, str] | None = None, **options: Any) -> Iterator[Running]:
    """Start `command` in `directory`, without waiting for it to be ready; end it at the end."""
    # The path of a Unix socket is short, and pytest's directories are not.
    place = tempfile.mkdtemp(prefix="ws-")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(f"{place}/notify")
        for each, mode in ((place, 0o711), (f"{place}/notify", 0o777)):
            os.chmod(each, mode)  # also for a server that has become somebody else
        process = start(
            command,
            cwd=directory,
            env=environment(directory, NOTIFY_SOCKET=f"{place}/notify", **(more or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )
        server = Running(process, notifications)
        try:
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", f"{place}/notify")  # ends the thread that reads it
            server._wait(lambda: server.ended, "the end of the output")
            for each in server.readers:
                each.join(PATIENCE)  # before what they read from is closed
            assert process.stdout is not None
            process.stdout.close()
            shutil.rmtree(place)


@contextmanager
def running(
    directory: Path,
    *arguments: str,
    command: Sequence[str] = TWISTD,
    ports: Sequence[str] = PORTS,
    more: Mapping[str, str] | None = None,
    mayFail: bool = False,
    **options: Any,
) -> Iterator[Running]:
    """Start a server, wait until it is ready, and end it with SIGTERM at the end.

    Args:
        directory: its working and home directory.
        arguments: options of the service.
        command: twistd in the foreground, or another runner.
        ports: options that say where it listens.
        more: additions to its environment.
        mayFail: whether tracebacks may be in its log.
        options: for `tests.live.nursery.start`.
    """
    with starting(directory, [*command, *ports, *arguments], more, **options) as server:
        server.waitForState("READY=1")
        yield server
        server.stop()
        assert mayFail or "Traceback" not in server.output, server.output


def writeService(directory: Path, source: str, name: str = "rooms") -> None:
    """Write the module of a service into `directory`."""
    (directory / f"{name}.py").write_text(source, encoding="utf-8")
