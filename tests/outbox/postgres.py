"""A real PostgreSQL, on a Unix socket of its own."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

from tests.live.support import until

_BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
_SQL = (Path(__file__).parents[2] / "twisted_ws/outbox/table.sql").read_text()
_SET_PDEATHSIG = 1  # from sys/prctl.h


def _begin() -> None:
    os.setsid()
    if os.getuid() == 0:  # which PostgreSQL refuses to be
        nobody = pwd.getpwnam("nobody")
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)


def _run(command: list[str], directory: str) -> subprocess.Popen[bytes]:
    with open(f"{directory}/log", "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, preexec_fn=_begin)


def _give(directory: str) -> None:
    if os.getuid() == 0:
        shutil.chown(directory, "nobody")


@functools.cache
def _template() -> str:
    """Return a directory with the data of a new server: to make them takes longer than to copy them."""
    directory = tempfile.mkdtemp(prefix="pg-")
    atexit.register(shutil.rmtree, directory)
    _give(directory)
    options = ["--pgdata", f"{directory}/data", "--username", "test", "--auth", "trust", "--no-sync", "--no-locale"]
    made = _run([str(_BIN / "initdb"), *options, "--encoding", "UTF8", "--wal-segsize", "1"], directory).wait()
    assert made == 0, Path(directory, "log").read_text()
    return directory


class Postgres:
    """A server while the context lasts, with the table of the outbox.

    Attributes:
        dsn: how to reach it, as its superuser `test`.
        directory: where its socket is.
    """

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="pg-")
        self.dsn = f"postgresql:///postgres?host={self.directory}&user=test"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        _give(self.directory)
        subprocess.run(["cp", "-a", f"{_template()}/data", self.directory], check=True)
        self.start()
        self.execute(_SQL)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # What the kernel has survives the end of the process; only the machine must not fail.
        options = ["listen_addresses=", f"unix_socket_directories={self.directory}", "fsync=off", "max_connections=20"]
        command = [str(_BIN / "postgres"), "-D", f"{self.directory}/data"]
        self._process = _run([*command, *(word for each in options for word in ("-c", each))], self.directory)
        until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, Path(self.directory, "log").read_text()
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    @contextmanager
    def pooler(self, mode: str) -> Iterator[str]:
        """Start PgBouncer before it, and yield the DSN of that."""
        settings = Path(self.directory, "pgbouncer.ini")
        settings.write_text(
            f"[databases]\npostgres = host={self.directory} user=test\n[pgbouncer]\nlisten_addr =\n"
            f"unix_socket_dir = {self.directory}\nauth_type = any\npool_mode = {mode}\n"
        )
        process = _run([str(shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")), str(settings)], self.directory)
        try:
            until(Path(self.directory, ".s.PGSQL.6432").exists)
            yield f"{self.dsn}&port=6432"
        finally:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """Kill all its processes at once, as the kernel does when memory is short."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection; each statement is a transaction, unless it is part of one."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, sql: str, *values: Any) -> list[Any]:
        """Run one statement, or several without values, and return the rows of its result."""
        with self.connect() as connection:
            cursor = connection.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []

    def put(self, channel: str | None, data: str | None, key: str | None = None) -> None:
        """Write a row whose data is a JSON text."""
        self.execute("INSERT INTO twisted_ws_outbox (channel, data, key) VALUES (%s, %s, %s)", channel, data, key)

    def waiting(self) -> int:
        """Return how many rows wait."""
        return int(self.execute("SELECT count(*) FROM twisted_ws_outbox WHERE error IS NULL")[0][0])

    def disconnect(self) -> int:
        """End the connections of consumers; return how many."""
        ask = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'twisted-ws outbox'"
        return len(self.execute(ask))
