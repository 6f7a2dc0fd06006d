"""The real commands as a user runs them: in a process of their own, with pipes, files or a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websockets.sync.server

from tests.live.nursery import run, start
from tests.live.support import PATIENCE, environment

COMMAND = (sys.executable, "-m", "twisted_ws")

SERVICES = """
from twisted_ws import Reject, WebSocketService


class Echo(WebSocketService):
    subProtocols = ["a", "b"]

    def onUpgrade(self, request):
        if "auth" in request.query:
            raise Reject(401, "who are you?") if not request.headers.get("authorization") else Reject(418, "no tea")
        return self

    def onTextMessage(self, caller, text):
        if text.startswith("close "):
            caller.close(int(text[6:]), "enough")
            return None
        return text

    def onBinaryMessage(self, caller, data):
        return data
"""


class Done:
    """What a command did.

    Attributes:
        code: its exit code.
        out: what it wrote to standard output.
        err: what it wrote to standard error.
    """

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out = out
        self.err = err.decode()

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out[-2000:]!r}\n{self.err}"


def command(directory: Path, *arguments: str, stdin: bytes | Any = b"", **more: str) -> Done:
    """Run ``twisted-ws ARGUMENTS`` to its end.

    Args:
        directory: its working and home directory.
        arguments: the command and its options.
        stdin: bytes, or an open file.
        more: for its environment.
    """
    given: dict[str, Any] = {"data": stdin, "stdin": subprocess.PIPE} if isinstance(stdin, bytes) else {"stdin": stdin}
    done = run([*COMMAND, *arguments], PATIENCE, cwd=directory, env=environment(directory, **more), **given)
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def going(directory: Path, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``twisted-ws ARGUMENTS`` with pipes; it is gone at the end."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = start([*COMMAND, *arguments], cwd=directory, env=environment(directory), **streams)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        process.wait(PATIENCE)


@contextmanager
def foreign(handler: Callable[[Any], None], **options: Any) -> Iterator[str]:
    """Serve with the websockets library, and give the URL."""
    server = websockets.sync.server.serve(handler, "127.0.0.1", 0, max_size=None, **options)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/"
    finally:
        server.shutdown()
        thread.join(PATIENCE)


def echo(ws: Any) -> None:
    """Say what it hears."""
    for message in ws:
        ws.send(message)


class Terminal:
    """A command on a terminal, and what is on its screen: rows of text, as far as our sequences go.

    Attributes:
        raw: every byte that it wrote.
        code: its exit code, once it has ended.
    """

    def __init__(self, directory: Path, *arguments: str, columns: int = 60, **more: str) -> None:
        self.raw = b""
        given = {**environment(directory), "TERM": "xterm", **more}
        if "NO_COLOR" not in more:
            given.pop("NO_COLOR", None)
        self._master, slave = pty.openpty()
        # The terminal is that of its session: so Ctrl-C is a signal.
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self._process = start([*COMMAND, *arguments], start_new_session=True, cwd=directory, env=given, **streams)
        self._slave: int | None = slave  # a terminal that nobody has open is at its end
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.code: int | None = None

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.code is None:
            self._process.kill()
            self._process.wait()
        self._letGo()
        os.close(self._master)

    def _letGo(self) -> None:
        slave, self._slave = self._slave, None
        if slave is not None:
            os.close(slave)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def mode(self) -> int:
        """Return the terminal's local flags."""
        return int(termios.tcgetattr(self._master)[3])

    def read(self, seconds: float) -> bool:
        """Read what is there; False at the end."""
        if not select.select((self._master,), (), (), seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            data = b""  # Linux says EIO when the last who had the terminal is gone
        self.raw += data
        self._letGo()
        return bool(data)

    def expect(self, row: str) -> str:
        """Wait until a row of the screen matches a pattern as a whole, and return the row."""
        until = time.monotonic() + PATIENCE
        while True:
            for each in self.rows():
                if re.fullmatch(row, each):
                    return each
            assert time.monotonic() < until, f"no {row!r} in {self.rows()}"
            if not self.read(1):
                found = [each for each in self.rows() if re.fullmatch(row, each)]
                assert found, f"it ended without {row!r}: {self.rows()}"
                return found[0]

    def rows(self) -> list[str]:
        """Return the rows; colours are left out."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.raw.decode(errors="replace"))
        rows, row, column = [], "", 0
        for token in re.findall(r"\x1b\[K|\x1b\[\d+D|[\s\S]", text):
            if token == "\x1b[K":
                row = row[:column]
            elif token.startswith("\x1b["):
                column -= int(token[2:-1])
            elif token == "\r":
                column = 0
            elif token == "\n":
                rows.append(row)
                row, column = "", 0
            else:
                row = row[:column] + token + row[column + 1 :]
                column += 1
        return [*rows, row]

    def end(self) -> int:
        """Wait for the end, and return the exit code."""
        until = time.monotonic() + PATIENCE
        while self.read(1):
            assert time.monotonic() < until, self.rows()
        self.code = self._process.wait(PATIENCE)
        return self.code
