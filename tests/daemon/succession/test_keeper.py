"""The process that keeps the number of a server, as a real process, with a supervisor that does what a test wants."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.support import PATIENCE
from twisted_ws.daemon.succession import keeper

# Becomes the keeper of a child, as a supervisor does: keeper.py, the program of the child, and what follows.
LAUNCH = """
import os, signal, socket, sys
program, child, *more = sys.argv[1:]
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM))
ours, theirs = socket.socketpair()
number = os.fork()
if not number:
    ours.close()
    theirs.set_inheritable(True)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", child, str(theirs.fileno())])
theirs.close()
ours.set_inheritable(True)
os.execv(sys.executable, [sys.executable, "-I", "-S", program, str(ours.fileno()), str(number), *more])
"""
# Says each signal that it gets; a SIGTERM ends it.
SUPERVISOR = """
import os, signal, sys
def say(number, frame):
    os.write(1, (signal.Signals(number).name + "\\n").encode())
    if number == signal.SIGTERM:
        {then}
for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, say)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM))
os.write(int(sys.argv[1]), b"{said}")
os.write(1, b"ready\\n")
os.read(int(sys.argv[1]), 1)  # until the keeper is gone
os._exit(1)
"""


@contextmanager
def kept(program: str, *more: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The keeper of a process that runs a program; once that is ready."""
    command = [sys.executable, "-c", LAUNCH, str(Path(keeper.__file__)), program, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        try:
            assert line(process) == "ready"
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Return the next line that is printed."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def supervisor(then: str = "os._exit(0)", said: str = "") -> str:
    """Return the program of a supervisor: what it does on SIGTERM, and what it says to the keeper."""
    return SUPERVISOR.replace("{then}", then).replace("{said}", said)


def test_signals() -> None:
    """Signals go on to the supervisor, one by one."""
    with kept(supervisor()) as process:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP):
            process.send_signal(number)
            assert line(process) == number.name


@pytest.mark.parametrize(
    ("then", "code"),
    [
        ("os._exit(0)", 0),
        ("os._exit(7)", 7),
        ("signal.signal(number, signal.SIG_DFL); os.kill(os.getpid(), number)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
)
def test_end(then: str, code: int, tmp_path: Path) -> None:
    """It ends as the supervisor does, and removes the pid file."""
    pidfile = tmp_path / "pid"
    pidfile.write_text("1")
    with kept(supervisor(then), str(pidfile)) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == code
    assert not pidfile.exists()


def test_next() -> None:
    """A supervisor that ends after it has named another one has passed the number on: signals and the end are that one's."""
    nextOne = supervisor("os._exit(3)")
    then = (
        "child = os.fork()\n"
        "        if not child:\n"
        f"            os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', {nextOne!r}, sys.argv[1]])\n"
        "        os.write(int(sys.argv[1]), b'next %d\\0' % child)\n"
        "        os._exit(0)"
    )
    with kept(supervisor("os.set_inheritable(int(sys.argv[1]), True)\n        " + then)) as process:
        process.send_signal(signal.SIGTERM)
        assert [line(process), line(process)] == ["SIGTERM", "ready"]
        process.send_signal(signal.SIGHUP)
        assert line(process) == "SIGHUP"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "SIGTERM"
        assert process.wait(PATIENCE) == 3


def test_systemd(tmp_path: Path) -> None:
    """What the supervisor says for systemd comes from the process that systemd knows, as it was said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(tmp_path / "n"))
        notifications.settimeout(PATIENCE)
        said = "notify READY=1\\0notify RELOADING=1\\nMONOTONIC_USEC=5\\0"
        with kept(supervisor(said=said), NOTIFY_SOCKET=str(tmp_path / "n")):
            assert [notifications.recv(100), notifications.recv(100)] == [b"READY=1", b"RELOADING=1\nMONOTONIC_USEC=5"]


def test_nothingElseStays() -> None:
    """No descriptor of the process that it was stays open, so no port and no connection."""
    with kept(supervisor()) as process:
        process.send_signal(signal.SIGHUP)
        assert line(process) == "SIGHUP"  # it works
        opened = [os.readlink(f"/proc/{process.pid}/fd/{each}") for each in os.listdir(f"/proc/{process.pid}/fd")]
        assert sum(each.startswith("socket:") for each in opened) == 1
