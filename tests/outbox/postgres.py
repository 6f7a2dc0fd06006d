"""A real PostgreSQL, on a Unix socket of its own."""

from __future__ import annotations

import ctypes
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
        if os.getuid() == 0:
            shutil.chown(self.directory, "nobody")
        options = ["--pgdata", f"{self.directory}/data", "--username", "test", "--auth", "trust", "--no-sync", "--no-locale"]
        self._run([str(_BIN / "initdb"), *options, "--encoding", "UTF8"]).wait()
        self.start()
        self.execute(_SQL)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        with open(f"{self.directory}/log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, preexec_fn=_begin)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        # What the kernel has survives the end of the process; only the machine must not fail.
        options = ["listen_addresses=", f"unix_socket_directories={self.directory}", "fsync=off", "max_connections=20"]
        command = [str(_BIN / "postgres"), "-D", f"{self.directory}/data"]
        self._process = self._run([*command, *(word for each in options for word in ("-c", each))])
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
        process = self._run([str(shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")), str(settings)])
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
