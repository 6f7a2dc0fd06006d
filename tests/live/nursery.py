"""Our commands as real processes, without the time that it takes each to load its modules, which is more than most tests take.

They are forked from a process that has loaded them, the nursery; there is one for each process that runs tests. All else is as
with a process that starts anew: its number, arguments, environment, working directory and standard streams, and how it ends.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
_PROGRAMS = [[str(BIN / "twistd")], [str(BIN / "twisted-ws")]]
_MODULES = [[sys.executable, "-m", "twisted"], [sys.executable, "-m", "twisted_ws"]]
# What they load; none of it makes a reactor, which has a descriptor that no two processes can share.
_LOADED = (
    "cryptography.hazmat.backends.openssl.backend",
    "encodings.idna",
    "twisted.application.twist._twist",
    "twisted.internet.default",
    "twisted.internet.epollreactor",
    "twisted.scripts._twistd_unix",
    "twisted.scripts.twistd",
    "twisted_ws.client",
    "twisted_ws.commands.broadcast",
    "twisted_ws.commands.connect",
    "twisted_ws.commands.explain",
    "twisted_ws.commands.main",
    "twisted_ws.commands.site.post",
    "twisted_ws.commands.terminal.screen",
    "twisted_ws.commands.connect.talk",
    "twisted_ws.daemon.main",
    "twisted_ws.daemon.process",
    "twisted_ws.daemon.workers.starting",
    "twisted_ws.daemon.workers.supervisor",
    "twisted_ws.channels.service",
    "twisted_ws.services.demo",
)
_EARLY = ("PYTHON", "TWISTED_WS_LANE", "TWISTED_WS_SPEEDUPS", "COVERAGE", "LC_", "LANG", "LD_", "MALLOC")
_OPTIONS = {"cwd", "env", "stdin", "stdout", "stderr", "text"}


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Return ``subprocess.Popen(command, **options)``, forked from the nursery where that makes no difference."""
    ours = any(list(command[: len(each)]) == each for each in (*_PROGRAMS, *_MODULES))
    forked = ours and options.keys() <= _OPTIONS and early(options.get("env", os.environ)) == early(os.environ)
    return (_Forked if forked else subprocess.Popen)(command, **options)


def run(command: Sequence[str], timeout: float, data: Any = None, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a process to its end, as `subprocess.run` with its output captured, both streams unless `options` say otherwise."""
    with start(command, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}) as process:
        try:
            output, errors = process.communicate(data, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def early(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment is read while modules are loaded, and before: a forked process has ours of that."""
    return {name: value for name, value in environment.items() if name.startswith(_EARLY)}


class _Forked(subprocess.Popen[Any]):
    """A process of the nursery: it is not our own child, so its number and its end are told by whoever waits for it."""

    _news: int

    def _execute_child(self, args: Any, *given: Any) -> None:
        cwd, env = given[4:6]
        pipes = given[9:15]
        streams = [number if mine == -1 else mine for number, mine in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = {"command": list(args), "cwd": str(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
        self._news, told = os.pipe()
        socket.send_fds(_nursery(), [json.dumps(request).encode()], [*streams, told])
        os.close(told)
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]
        self.pid = self._read()

    def _read(self) -> int:
        return int.from_bytes(os.read(self._news, 4), sys.byteorder)

    def _try_wait(self, flags: int) -> tuple[int, int]:
        if flags & os.WNOHANG and not select.select([self._news], [], [], 0)[0]:
            return 0, 0
        status = self._read()
        os.close(self._news)
        return self.pid, status

    def _internal_poll(self, **options: Any) -> int | None:
        if self.returncode is None:
            number, status = self._try_wait(os.WNOHANG)
            if number == self.pid:
                self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


@functools.cache
def _nursery() -> socket.socket:
    """Return where to ask for processes; who has it lives as long as we do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as public, open(os.devnull, "r+b") as nothing:
        public.bind(_address())
        asked = [theirs.fileno(), public.fileno()]
        # What it has not loaded are modules of a test, which the test may write anew in the same second.
        command = [sys.executable, "-B", __file__, *map(str, asked)]
        process = subprocess.Popen(command, pass_fds=asked, stdin=nothing, stdout=nothing, cwd="/")
        process.returncode = 0  # nobody waits for it
    return ours


def _address() -> str:
    """Return where programs ask the nursery of this process."""
    return f"\0twisted_ws tests: nursery of {os.getpid()}"


def standIn(directory: Path) -> None:
    """Write a ``twisted-ws`` into a directory that asks the nursery, for shells that start it; it is not for what runs on."""
    _nursery()
    path = directory / "twisted-ws"
    text = _STAND_IN.replace("PYTHON", sys.executable).replace("ADDRESS", repr(_address()))
    path.write_text(
        text.replace("EARLY", repr(early(os.environ))).replace("NAMES", repr(_EARLY)).replace("REAL", repr(_PROGRAMS[1][0]))
    )
    path.chmod(0o755)


# It starts in a fiftieth of the time. An interpreter that is told nothing of where it is finds the same one in any environment.
_STAND_IN = """#!PYTHON -IS
import json, os, signal, socket, sys

command = [REAL, *sys.argv[1:]]
early = {name: value for name, value in os.environ.items() if name.startswith(NAMES)}
early.pop("PYTHONDONTWRITEBYTECODE", None)  # as the nursery itself
try:
    os.fstat(0), os.fstat(1), os.fstat(2)
except OSError:
    early = None  # a stream is closed
if early != EARLY:
    os.execv(command[0], command)
news, told = os.pipe()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nursery:
    nursery.connect(ADDRESS)
    request = {"command": command, "cwd": os.getcwd(), "env": dict(os.environ)}
    socket.send_fds(nursery, [json.dumps(request).encode()], [0, 1, 2, told])
os.close(told)
child = int.from_bytes(os.read(news, 4), sys.byteorder)
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(child, number))
code = os.waitstatus_to_exitcode(int.from_bytes(os.read(news, 4), sys.byteorder))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def _serve(asked: socket.socket, public: socket.socket) -> list[str]:
    """Fork a process for each request, and return its command in it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        (ready, *_), _, _ = select.select([asked, public], [], [])
        message, descriptors, _, _ = socket.recv_fds(ready, 1 << 20, 4)
        if not message:
            raise SystemExit
        if os.fork() == 0:
            break
        for each in descriptors:
            os.close(each)
    asked.close()
    public.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = descriptors[3]
    if not (child := os.fork()):
        for number, each in enumerate(descriptors[:3]):
            os.dup2(each, number)
    for each in descriptors[:3]:
        os.close(each)
    if child:
        os.write(told, child.to_bytes(4, sys.byteorder))
        os.write(told, os.waitpid(child, 0)[1].to_bytes(4, sys.byteorder))
        os._exit(0)
    os.close(told)
    request = json.loads(message)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    command: list[str] = request["command"]
    return command


def _run(command: list[str]) -> None:
    """Do what Python does with a command line."""
    if command[:1] in _PROGRAMS:
        sys.argv[:], sys.path[0] = command, str(BIN)
        runpy.run_path(command[0], run_name="__main__")
    else:
        sys.argv[:], sys.path[0] = command[2:], os.getcwd()
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = "/"  # not the directory of this file, whose modules are not for all
    # What is installed is looked up by each service that is mounted; it does not change while tests run.
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    for _name in _LOADED:
        import_module(_name)
    assert "twisted.internet.reactor" not in sys.modules
    # A process that collects, as each does at its end, would go through all of that, and have it copied.
    gc.collect()
    gc.freeze()
    _run(_serve(*(socket.socket(fileno=int(each)) for each in sys.argv[1:])))
