"""Our commands, and programs that use us, as real processes, without the time that each takes to load its modules.

That is more than most tests take. They are forked from a process that has loaded them, the nursery; there is one for each process
that runs tests. All else is as with a process that starts anew: its number, arguments, environment, working directory, session
and standard streams, and how it ends.

A server that may start workers has a nursery of its own, the annex: its workers, and the supervisor that takes over at an
upgrade, are forked from that, and become its children. With `PLAIN` in its environment, it starts them as it does elsewhere.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import importlib.metadata
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import twisted_ws

BIN = Path(sys.executable).parent
_PROGRAMS = ("twistd", "twisted-ws")
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
    "twisted_ws.daemon.succession.successor",
    "twisted_ws.daemon.workers.starting",
    "twisted_ws.daemon.workers.supervisor",
    "twisted_ws.daemon.workers.worker",
    "twisted_ws.channels.service",
    "twisted_ws.services.demo",
)
_EARLY = ("PYTHON", "TWISTED_WS_LANE", "TWISTED_WS_SPEEDUPS", "COVERAGE", "LC_", "LANG", "LD_", "MALLOC")
_OPTIONS = {"cwd", "env", "stdin", "stdout", "stderr", "text", "start_new_session"}
# A server with this variable starts its workers itself.
PLAIN = "TESTS_PLAIN_WORKERS"
# What a server with workers starts: these modules, with this beginning of the command line.
_STARTED = ("twisted_ws.daemon.workers", "twisted_ws.daemon.succession")
_BEGINNING = [sys.executable, "-B", "-P", "-m"]
# Bytes for the command line that others see of a process (the nursery has as many), and of a request.
_SHOWN = 4096
_REQUEST = 1 << 20
# More than a process has open.
_DESCRIPTORS = 1 << 16
# Of prctl(2).
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_CHILD_SUBREAPER = 1, 4, 36


def start(command: Sequence[str], descriptors: int = 0, start_new_session: bool = False, **options: Any) -> subprocess.Popen[Any]:
    """Return ``subprocess.Popen(command, **options)``, forked from the nursery where that makes no difference.

    That is so for our commands, and for a Python program that is a file, a module or a text, without options of Python.

    Args:
        command: its words.
        descriptors: how many it may have open; 0: as many as this process.
        start_new_session: begin a session; if its standard input is a terminal, that is the terminal of the session.
        options: those of `subprocess.Popen`.
    """
    if mayFork(command, options):
        return _Forked(command, descriptors, start_new_session, **options)
    if descriptors or start_new_session:
        options["preexec_fn"] = partial(_begin, descriptors, start_new_session)
    return subprocess.Popen(command, **options)


def _begin(descriptors: int, isSession: bool) -> None:
    """Do in a new process what its parent asks for."""
    if isSession:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))


def mayFork(command: Sequence[str], options: Mapping[str, Any]) -> bool:
    """Return whether it makes no difference to such a process if it is forked from the nursery."""
    return _isOurs(command) and options.keys() <= _OPTIONS and _isAsHere(options.get("env") or os.environ)


def _isOurs(command: Sequence[str]) -> bool:
    program = str(command[0])
    if program == sys.executable:
        return len(command) > 1 and (command[1] in ("-c", "-m") or not command[1].startswith("-"))
    name = Path(program).name
    return name in _PROGRAMS and _text(program) == _text(str(BIN / name))


@functools.cache
def _text(path: str) -> bytes:
    return Path(path).read_bytes()


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


def _isAsHere(environment: Mapping[str, str]) -> bool:
    """Return whether a process with this environment loads what the nursery has; it may find more modules."""
    return _earlyButPath(environment) == _nursery()[1] and _findsUs(environment)


def _earlyButPath(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in early(environment).items() if name != "PYTHONPATH"}


def _findsUs(environment: Mapping[str, str]) -> bool:
    """Return whether no directory of ``PYTHONPATH`` has another `twisted_ws` than the one that is loaded."""
    ours = Path(twisted_ws.__file__).parent
    return all(each == ours or not each.exists() for each in (Path(place, "twisted_ws") for place in _places(environment)))


def _places(environment: Mapping[str, str]) -> list[str]:
    return list(filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)))


class _Forked(subprocess.Popen[Any]):
    """A process of the nursery: it is not our own child, so its number and its end are told by whoever waits for it."""

    _news: int

    def __init__(self, command: Sequence[str], *begin: Any, **options: Any) -> None:
        self._begin = begin
        super().__init__(command, **options)

    def _execute_child(self, args: Any, *given: Any) -> None:
        cwd, env = given[4:6]
        pipes = given[9:15]
        streams = [number if mine == -1 else mine for number, mine in enumerate((pipes[0], pipes[3], pipes[5]))]
        where = {"cwd": str(cwd or os.getcwd()), "env": dict(os.environ if env is None else env)}
        request = {"command": list(map(str, args)), **where, "begin": self._begin}
        self._news, told = os.pipe()
        socket.send_fds(_nursery()[0], [json.dumps(request).encode()], [*streams, told])
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
def _nursery() -> tuple[socket.socket, dict[str, str]]:
    """Return where to ask for processes, and what they have read of the environment; who answers lives as long as we do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST)
    with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as public, open(os.devnull, "r+b") as nothing:
        public.bind(_address())
        asked = [theirs.fileno(), public.fileno()]
        # What it has not loaded are modules of a test, which the test may write anew in the same second.
        command = [sys.executable, "-B", __file__, *map(str, asked), "-" * _SHOWN]
        process = subprocess.Popen(command, pass_fds=asked, stdin=nothing, stdout=nothing, cwd="/")
        process.returncode = 0  # nobody waits for it
    atexit.register(ours.close)
    return ours, _earlyButPath(os.environ)


def _address() -> str:
    """Return where programs ask the nursery of this process."""
    return f"\0twisted_ws tests: nursery of {os.getpid()}"


def standIn(directory: Path) -> None:
    """Write our commands and ``python`` into a directory, for shells that start them; they ask the nursery.

    They are not for what runs on.
    """
    _nursery()
    text = _STAND_IN.replace("PYTHON", sys.executable).replace("ADDRESS", repr(_address()))
    text = text.replace("EARLY", repr(early(os.environ))).replace("NAMES", repr(_EARLY))
    for name in (*_PROGRAMS, "python"):
        path = directory / name
        path.write_text(text.replace("REAL", repr(str(BIN / name))))
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
if command[0] == sys.executable and (not command[1:] or command[1].startswith("-") and command[1] not in ("-c", "-m")):
    early = None  # it has options, or is interactive
if early != EARLY:
    os.execv(command[0], command)
news, told = os.pipe()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nursery:
    nursery.connect(ADDRESS)
    request = {"command": command, "cwd": os.getcwd(), "env": dict(os.environ), "begin": [0, False]}
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
    """Fork a process for each request, tell who asked its number and how it ends, and return its command in it."""
    told = {}
    while True:
        ready, _, _ = select.select([asked, public, *told], [], [])
        for each in told.keys() & set(ready):
            child, news = told.pop(each)
            os.close(each)
            _tell(news, os.waitpid(child, 0)[1])
            os.close(news)
        for each in {asked, public} & set(ready):
            message, descriptors, _, _ = socket.recv_fds(each, _REQUEST, 4)
            if not message:
                os._exit(0)
            if (child := os.fork()) == 0:
                asked.detach()
                public.detach()  # closed with all that is not given
                return _born(json.loads(message), descriptors[:3])
            told[os.pidfd_open(child)] = child, descriptors[3]
            _tell(descriptors[3], child)
            for number in descriptors[:3]:
                os.close(number)


def _tell(news: int, what: int) -> None:
    with suppress(OSError):  # who asked has ended
        os.write(news, what.to_bytes(4, sys.byteorder))


def _born(request: dict[str, Any], streams: Sequence[int]) -> list[str]:
    """Make of this process what was asked for, and return its command."""
    for number, each in enumerate(streams):
        os.dup2(each, number)
    os.closerange(3, _DESCRIPTORS)
    _begin(*request["begin"])
    if os.isatty(1):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(request["cwd"])
    _live(request["env"])
    command: list[str] = request["command"]
    return command


def _live(environment: Mapping[str, str]) -> None:
    """Give this process an environment."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:] = list(dict.fromkeys([*_places(environment), *sys.path[1:]]))


def _warm() -> None:
    """Do in advance what each server does at its start, and what Python keeps."""
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    from twisted_ws.limits import Limits
    from twisted_ws.web.api.openapi import openAPI

    for group in ("services", "engines", "authenticators"):
        importlib.metadata.entry_points(group=f"twisted_ws.{group}")
    for each in getPlugins(IServiceMaker):
        assert each
    openAPI(Limits(), ())


def _mayHaveWorkers(command: Sequence[str]) -> bool:
    """Return whether a command line, or a file that it names, speaks of workers."""
    for each in command[1:]:
        if "workers" in each:
            return True
        with suppress(OSError, ValueError):
            if each.endswith(".toml") and "workers" in Path(each).read_text():
                return True
    return False


def _annex(command: list[str]) -> list[str]:
    """Fork the annex of this process, and return the command to run: in this process the same, in one of the annex its own."""
    server = os.getpid()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asked:
        asked.bind(_annexOf(server))
        if os.fork():
            _useAnnex(server)
            return command
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != server:
            os._exit(0)
        _show([])
        # It has none of the server's streams, and no signal of the server's terminal ends it.
        asked = socket.socket(fileno=_alone(asked.detach()))
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
        while True:
            message, descriptors, _, _ = socket.recv_fds(asked, _REQUEST, 253)
            *given, told = descriptors
            number, naming = os.pipe()
            if not (between := os.fork()):
                if os.fork():
                    os._exit(0)
                _show(json.loads(message)["command"])
                os.write(naming, os.getpid().to_bytes(4, sys.byteorder))
                break
            for each in (*given, naming):
                os.close(each)
            child = os.read(number, 4)
            os.close(number)
            os.waitpid(between, 0)  # from now on the server, which takes in orphans, is its parent
            os.write(told, child)
            os.close(told)
        asked.detach()  # closed with all that is not given
        return _bornOfAnnex(json.loads(message), given)


def _annexOf(server: int) -> str:
    return f"\0twisted_ws tests: annex of {server}"


def _alone(descriptor: int) -> int:
    """Close all descriptors but one, leave the standard streams without anything, and return the number that it has now."""
    os.dup2(descriptor, 3)
    os.closerange(4, _DESCRIPTORS)
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for number in range(3):
            os.dup2(nothing.fileno(), number)
    return 3


def _bornOfAnnex(request: dict[str, Any], given: Sequence[int]) -> list[str]:
    """Make of this process what was asked for, and return its command."""
    numbers: list[int] = request["numbers"]
    above = max((*numbers, *given)) + 1
    moved = [os.dup2(each, above + place) for place, each in enumerate(given)]
    os.closerange(0, above)
    for number, each in zip(numbers, moved, strict=True):
        os.dup2(each, number)
    os.closerange(above, above + len(moved))
    for name, limits in request["limits"]:
        if resource.getrlimit(name) != tuple(limits):
            resource.setrlimit(name, tuple(limits))
    os.umask(request["umask"])
    user, group, groups = request["who"]
    if [os.getuid(), os.getgid(), os.getgroups()] != [user, group, groups]:
        os.setgroups(groups)
        os.setgid(group)
        os.setuid(user)
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 1)
    os.chdir(request["cwd"])
    _live(request["env"])
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["mask"])
    command: list[str] = request["command"]
    return _annex(command) if command[4] == _STARTED[1] else command


def _useAnnex(server: int) -> None:
    """Have what this process starts of `_STARTED` forked from its annex."""
    environment = _earlyButPath(os.environ)
    plainSpawn, plainProcess = os.posix_spawnp, subprocess.Popen[Any]

    def isOurs(command: Sequence[Any], env: Mapping[str, str] | None) -> bool:
        if list(command[:4]) != _BEGINNING or command[4] not in _STARTED or os.getpid() != server:
            return False
        env = os.environ if env is None else env
        return _earlyButPath(env) == environment and _findsUs(env)

    def fork(command: Sequence[str], env: Mapping[str, str], descriptors: Mapping[int, int]) -> int:
        number, told = os.pipe()
        who = [os.getuid(), os.getgid(), os.getgroups()]
        os.umask(mask := os.umask(0))
        limits = [[each, resource.getrlimit(each)] for each in range(16)]
        request = {"command": list(command), "cwd": os.getcwd(), "env": dict(env), "numbers": [*descriptors], "who": who}
        request |= {"umask": mask, "limits": limits, "mask": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))]}
        process = ctypes.CDLL(None)
        process.prctl(_SET_CHILD_SUBREAPER, 1)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as annex:
                annex.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST)
                annex.connect(_annexOf(server))
                socket.send_fds(annex, [json.dumps(request).encode()], [*descriptors.values(), told])
            os.close(told)
            child = os.read(number, 4)
            if len(child) != 4:  # 0 would stand for our process group, which is killed then
                raise ChildProcessError("the annex has ended")
            return int.from_bytes(child, sys.byteorder)
        finally:
            process.prctl(_SET_CHILD_SUBREAPER, 0)
            os.close(number)

    def spawn(path: Any, argv: Any, env: Any, *, file_actions: Any = (), **options: Any) -> int:
        if not isOurs(argv, env):
            return plainSpawn(path, argv, env, file_actions=file_actions, **options)
        descriptors = {}
        for each in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):
                if os.get_inheritable(each):
                    descriptors[each] = each
        for what, number, *other in file_actions:
            if what == os.POSIX_SPAWN_CLOSE:
                descriptors.pop(number, None)
            else:
                descriptors[other[0]] = descriptors.get(number, number)
        return fork(argv, env, descriptors)

    class Process(plainProcess):
        """A process that is forked from the annex where that makes no difference."""

        def _execute_child(self, args: Any, *given: Any) -> None:
            _, _, _, passed, cwd, env = given[:6]
            pipes, who = given[9:15], given[16:19]
            if not isOurs(args, env) or cwd is not None or who != (None, None, None):
                super()._execute_child(args, *given)  # type: ignore[misc]
                return
            streams = {number: number if mine == -1 else mine for number, mine in enumerate((pipes[0], pipes[3], pipes[5]))}
            self.pid = fork(args, os.environ if env is None else env, streams | {each: each for each in passed})
            self._child_created = True
            self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    os.posix_spawnp, subprocess.Popen = spawn, Process  # type: ignore[misc,assignment]


def _show(command: Sequence[str]) -> None:
    """Have others see a command line as that of this process."""
    with open("/proc/self/stat") as file:
        start, end = map(int, file.read().rpartition(")")[2].split()[45:47])
    words = b"".join(os.fsencode(each) + b"\0" for each in command)[: end - start - 1]
    ctypes.memmove(start, words.ljust(end - start, b"\0"), end - start)


def _run(command: list[str]) -> None:
    """Do what Python does with a command line."""
    _show(command)
    program, how, *_ = command
    if program != sys.executable:
        sys.argv[:], sys.path[0] = command, str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    elif command[:4] == _BEGINNING:
        sys.argv[:] = command[4:]
        runpy.run_module(command[4], run_name="__main__", alter_sys=True)
    elif how == "-m":
        sys.argv[:], sys.path[0] = command[2:], os.getcwd()
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv[:], sys.path[0] = ["-c", *command[3:]], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(command[2], "<string>", "exec"), main.__dict__)
    else:
        sys.argv[:], sys.path[0] = command[1:], str(Path(how).resolve().parent)
        runpy.run_path(how, run_name="__main__")


def _end(code: Any) -> None:
    """End this process as Python does, but for taking all modules apart, which copies them first: longer than most commands take.

    Args:
        code: that of a `SystemExit`, or a text. Where output is refused, it is left to Python to say so.
    """
    try:
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):
        return
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    sys.path[0] = "/"  # not the directory of this file, whose modules are not for all
    # What is installed is looked up by each service that is mounted; it does not change while tests run.
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)
    for _name in _LOADED:
        import_module(_name)
    _warm()
    assert "twisted.internet.reactor" not in sys.modules
    # A process that collects, as each does at its end, would go through all of that, and have it copied.
    gc.collect()
    gc.freeze()
    _command = _serve(*(socket.socket(fileno=int(each)) for each in sys.argv[1:3]))
    if PLAIN not in os.environ and _mayHaveWorkers(_command):
        _command = _annex(_command)
    try:
        _run(_command)
    except SystemExit as _ended:
        _end(_ended.code)
        raise SystemExit(1 if isinstance(_ended.code, str) else _ended.code) from None
    _end(None)
