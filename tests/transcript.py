"""A reader who follows a page of the documentation: types its commands, and compares what it says with what appears.

In a page,

- a ``console`` block has commands (``$ ``), and beneath each what it prints; ``...`` stands for anything;
- ``twistd``, ``twisted-ws`` and ``python embed.py`` run on in a terminal of their own, until the page starts another server
  (``Ctrl-C``), and what is beneath them must be in the log; so do ``flask``, ``uvicorn`` and ``python manage.py runserver``,
  until the page starts another of these;
- ``websockets`` and ``curl -N`` run on too; ``> `` is what the reader types there, ``^D`` ends it, the other lines are what it
  shows;
- a ``console`` block without a command goes on with the clients that are open: all of them show these lines;
- a ``text`` block is what the server's log says by then;
- a ``python``, ``toml`` or ``html`` block whose first line is a comment with a file name is saved under it, another Python block
  is run;
- a ``sh`` block is for other machines (systemctl, docker, certbot): its syntax is checked.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.live.nursery import BIN, early, run, standIn, start
from tests.ports import freePort
from twisted_ws.commands.main import COMMANDS

ROOT = Path(__file__).parent.parent
# Long enough for a machine that does something else at the same time; no test waits for it but one that fails.
PATIENCE = 120

# A page may save a module twice in one second.
_UNCOMPILED = {"PYTHONDONTWRITEBYTECODE": "1"}

_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<kind>[^\n]*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;]*[A-Za-z]|[78])|\r")
_COMMANDS = rf"(?! (?:{'|'.join(COMMANDS)})\b)"
_SERVER = re.compile(rf"^(?:\w+=\S+ )*(?:twistd|twisted-ws{_COMMANDS}|python embed\.py)\b(?!.*--(?:help|version))")
_APPLICATION = re.compile(r"^(?:flask|uvicorn|python manage\.py runserver) ")
_CLIENT = re.compile(r'^(?:\w+=\S+ )*(?:websockets "?ws|curl -N )')
_PORTS = re.compile(r"\b(8000|8080|8081|8443|8444|9181)\b")
# One of our commands, or a program, without anything that is the shell's.
_SIMPLE = re.compile(r"^(?:twistd|twisted-ws|python) [^|&;<>()$`*?!#~{}\[\\]*$")
_FILE = re.compile(r"^(?:#|<!--) (?P<name>(?:\w+/)?[\w.-]+\.(?:py|tac|toml|html))(?: -->)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its kind ("console") and its text."""

    kind: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; directives (as literalinclude) are no blocks."""
    for match in _FENCE.finditer(page.read_text()):
        if not match["kind"].startswith("{"):
            yield Block(match["kind"].strip(), match["text"])


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with the lines beneath it; "" for lines before the first command."""
    command = ""
    lines: list[str] = []
    for line in text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            if command or lines:
                yield command, lines
            command, lines = line[2:].partition("   # ")[0].strip(), []
        else:
            lines.append(line)
    yield command, lines


def words(command: str) -> list[str]:
    """Return the words of a command that is one of `_SIMPLE`."""
    name, *arguments = shlex.split(command)
    return [str(BIN / name), *arguments]


def pattern(expected: str) -> str:
    """Return the regular expression for what a page shows, where ``...`` stands for anything."""
    return ".*".join(map(re.escape, expected.strip().split("...")))


class Running:
    """A command that runs on: what it has printed so far, and where the reader is in it."""

    def __init__(self, command: str, directory: Path, environment: dict[str, str]) -> None:
        self.command = command
        isSimple = _SIMPLE.match(command) is not None
        self.process = start(
            words(command) if isSimple else ["bash", "-c", f"exec env {command}"],
            cwd=directory,
            env=environment if isSimple else {**environment, **_UNCOMPILED},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._output = ""
        self._read = 0
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        stdout: Any = self.process.stdout
        while data := stdout.read1():
            with self._news:
                self._output = _ESCAPES.sub("", self._output + data.decode())
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def type(self, line: str) -> None:
        """Type a line, or end the input."""
        stdin: Any = self.process.stdin
        if line == "^D":
            stdin.close()
        else:
            stdin.write(line.encode() + b"\n")
            stdin.flush()

    def expect(self, expected: str) -> None:
        """Wait until a line shows what the page says, after what was seen before."""
        wanted = re.compile(pattern(expected))
        with self._news:
            found = self._news.wait_for(lambda: (match := wanted.search(self._output, self._read)) or self._ended, PATIENCE)
            match = wanted.search(self._output, self._read)
            assert match is not None, f"{'ended' if found else 'waited'} without {expected!r}, after:\n{self._output}"
            self._read = match.end()

    def reread(self) -> None:
        """Go back to the first line."""
        self._read = 0

    def end(self, number: int = signal.SIGINT) -> str:
        """Send a signal, wait for the end, and return all that was printed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()  # seen by its return code
            self.process.wait()
        self._thread.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass
        return self._output


class Reader:
    """Follows pages; a context manager, so that nothing is left running.

    Args:
        directory: an empty directory to work in; it looks like a clone as far as a page needs it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = {port: str(freePort()) for port in ("8000", "8080", "8081", "8443", "8444", "9181")}
        self.server: Running | None = None
        self.application: Running | None = None
        self.clients: list[Running] = []
        self._path = f"{BIN}:{os.environ['PATH']}"
        self.environment = {
            **early(os.environ),
            "PATH": self._path,
            "HOME": str(directory),
            # A reader has pytest, and not what the tests of this package need beside it.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        # What shells start of ours, and wait for, is there sooner.
        self._programs = directory / ".programs"
        self._programs.mkdir()
        standIn(self._programs)
        # A terminal shows no progress, because the answer goes to it.
        (directory / ".curlrc").write_text("silent\nshow-error\n")
        for tool in ("bench", "tools"):
            (directory / tool).symlink_to(ROOT / tool)
        for example in (ROOT / "examples").rglob("*"):
            if example.suffix in (".py", ".tac", ".toml", ".html", ".css", ".js"):
                copy = directory / example.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_text(self.translate(example.read_text()))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._endAll()
        self._endApplication()

    def translate(self, text: str) -> str:
        """Return a text of the documentation with this reader's ports."""
        return _PORTS.sub(lambda match: self.ports[match[1]], text)

    def follow(self, block: Block) -> None:
        """Do what a block says; if that fails, end what runs on, and add what it has printed to the error."""
        try:
            self._follow(block)
        except Exception as error:
            running = [*self.clients, *filter(None, (self.server, self.application))]
            self.clients, self.server, self.application = [], None, None
            for each in running:
                output = each.end()  # it prints some of it only then
                error.add_note(f"{each.command}: exit code {each.process.returncode}, after:\n{output}")
            raise

    def _follow(self, block: Block) -> None:
        text = self.translate(block.text)
        if block.kind == "console":
            for command, lines in steps(text):
                self._step(command, lines)
        elif block.kind in ("python", "toml", "html") and (file := _FILE.match(text)) is not None:
            path = self.directory / file["name"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif block.kind == "python":
            self._runWords([sys.executable, "-c", text], self.environment, [])
        elif block.kind == "text" and self.server is not None:
            for line in filter(None, text.splitlines()):
                self.server.expect(line)
        elif block.kind == "sh":
            subprocess.run(["bash", "-n", "-c", block.text], check=True)

    def _step(self, command: str, lines: list[str]) -> None:
        if not command:
            assert self.clients, f"no client is open for {lines}"
            for client in tuple(self.clients):
                self._talk(client, lines)
        elif command.startswith("make "):
            self._make(command.split()[1])
        elif command.startswith("pip install "):
            for name in command.split()[2:]:
                distribution("twisted-ws-publisher" if name == "./publisher" else name)
        elif command == ". .venv/bin/activate":
            pass  # the tests run in it
        elif command.startswith("cd "):
            self.directory = (self.directory / command[3:]).resolve()
            assert self.directory.is_dir()
        elif _SERVER.match(command) and lines[:1] and lines[0].startswith("twisted_ws: "):
            self._endAll()
            self._run(self._withPorts(command), lines, 1)
        elif _SERVER.match(command):
            self._serve(self._withPorts(command), lines)
        elif _APPLICATION.match(command):
            self._endApplication()
            self.application = Running(command, self.directory, {**self.environment, "PYTHONUNBUFFERED": "1"})
            for line in lines:
                self.application.expect(line)
        elif _CLIENT.match(command):
            client = Running(command, self.directory, self.environment)
            self.clients.append(client)
            if "websockets" in command and (not lines or not lines[0].startswith(("Connected", "Failed"))):
                client.expect("Connected to")
            self._talk(client, lines)
        else:
            self._run(command, lines)

    def _talk(self, client: Running, lines: list[str]) -> None:
        for line in filter(None, lines):
            if line.startswith("> ") or line == "^D":
                client.type(line.removeprefix("> "))
            else:
                client.expect(line)
        if any(line.startswith(("Connection closed", "Failed")) for line in lines):
            client.end()
            self.clients.remove(client)

    def _withPorts(self, command: str) -> str:
        """Return the command of a server; where it has the default ports, with this reader's own."""
        if "--config" in command or " -ny " in command or command.startswith("python"):
            return command  # the file has the ports
        defaults = {"--port": "8080", "--broadcast-port": "8081"}
        missing = [f"{flag} {self.ports[port]}" for flag, port in defaults.items() if f"{flag} " not in command]
        return " ".join([command, *missing])

    def _serve(self, command: str, lines: list[str]) -> None:
        self._endAll()
        # Its lines come before its reactor runs, and with that its handlers of signals: systemd's READY=1 comes after.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind("")  # Linux chooses an abstract name
            notified.settimeout(PATIENCE)
            place = "@" + notified.getsockname()[1:].decode()
            self.server = Running(command, self.directory, {**self.environment, "NOTIFY_SOCKET": place})
            isDaemon = not command.startswith("python")
            self.server.expect("WebSocket on ..." if isDaemon else "starting on ...")
            while isDaemon and b"READY=1" not in notified.recv(4096):
                pass
        self.server.reread()
        for line in lines:
            self.server.expect(line)

    def _make(self, target: str) -> None:
        # The tests are what `make test` runs, so no target is run from here; what `make run` does last is, because pages go on
        # with the server that it starts.
        recipe = re.search(rf"^{target}:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert recipe is not None, f"the Makefile has no target {target}"
        if target == "run":
            self._serve(self._withPorts(self.translate(recipe[1].replace("$(BIN)/", "").replace("$(ARGS)", ""))), [])

    def _run(self, command: str, lines: list[str], status: int = 0) -> None:
        if _SIMPLE.match(command):
            self._runWords(words(command), self.environment, lines, status)
        else:
            environment = {**self.environment, **_UNCOMPILED, "PATH": f"{self._programs}:{self._path}"}
            self._runWords(["bash", "-c", command], environment, lines, status)

    def _runWords(self, command: list[str], environment: dict[str, str], lines: list[str], status: int = 0) -> None:
        done = run(command, PATIENCE, cwd=self.directory, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        output = done.stdout.decode().replace("\r\n", "\n").strip()
        assert done.returncode == status, f"{shlex.join(command)}: exit code {done.returncode}\n{output}"
        expected = "\n".join(lines).strip()
        if expected:
            matched = re.fullmatch(pattern(expected), output, re.DOTALL)
            assert matched, f"{shlex.join(command)}\nThe page says:\n{expected}\nIt is:\n{output}"

    def _endApplication(self) -> None:
        application, self.application = self.application, None
        if application is not None:
            application.end()

    def _endAll(self) -> None:
        for client in self.clients:
            client.end()
        self.clients.clear()
        server, self.server = self.server, None
        if server is not None:
            output = server.end()
            # twistd ends by the signal that it got, once everything is closed; twisted-ws returns 0.
            assert server.process.returncode in (0, -signal.SIGINT), output
