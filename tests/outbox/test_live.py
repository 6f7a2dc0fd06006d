"""The outbox of a real daemon in a real PostgreSQL, while one of them, or what is between them, fails."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.daemon.workers.support import tell
from tests.engines.redis.servers import Server
from tests.live.support import PATIENCE, PORTS, TWISTD, Running, running, starting, until
from tests.outbox.postgres import Postgres
from twisted_ws.limits import Limits
from twisted_ws.outbox.consumer import Consumer, State
from twisted_ws.outbox.rows import Outcome
from twisted_ws.outbox.table import Backlog, Table, connectionOptions

CHANNELS = ("--service", "/channels/{channel}=channels", "--service", "/channels=channels")
WORKS = "publishing what is in twisted_ws_outbox"


@pytest.fixture(scope="module")
def _one() -> Iterator[Postgres]:
    with Postgres() as postgres:
        yield postgres


@pytest.fixture
def postgres(_one: Postgres) -> Postgres:
    """A database with an empty table."""
    _one.execute("TRUNCATE twisted_ws_outbox")
    return _one


class Writer:
    """An application that writes numbers, each in a transaction of its own, and goes on when the database fails.

    Attributes:
        committed: those that the database has said are there.
        doubtful: those of which nobody knows.
    """

    def __init__(self, postgres: Postgres) -> None:
        self.committed: list[int] = []
        self.doubtful: list[int] = []
        self._postgres = postgres
        self._allowed = threading.Semaphore(0)
        self._isEnding = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._isEnding = True
        self.write(1)
        self._thread.join()

    def write(self, count: int, wait: int = 0) -> None:
        """Write so many more numbers, in a thread; return when `wait` of them have been tried."""
        end = len(self.committed) + len(self.doubtful) + wait
        self._allowed.release(count)
        until(lambda: len(self.committed) + len(self.doubtful) >= end)

    def _run(self) -> None:
        connection: psycopg.Connection[Any] | None = None
        number = 0
        while self._allowed.acquire() and not (self._isEnding and self._isDone()):
            try:
                if connection is None:
                    until(self._isThere)
                    connection = self._postgres.connect()
                connection.execute("INSERT INTO twisted_ws_outbox (channel, data) VALUES ('numbers', %s)", (str(number),))
                self.committed.append(number)
            except psycopg.OperationalError:
                self.doubtful.append(number)
                connection = None
            number += 1
        if connection is not None:
            connection.close()

    def _isDone(self) -> bool:
        """Return whether what was allowed is written, and what is left is the word to end."""
        if self._allowed.acquire(blocking=False):
            self._allowed.release()
            return False
        return True

    def _isThere(self) -> bool:
        try:
            self._postgres.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def check(self, got: list[int]) -> None:
        """Check that what was got is all that was written, once, and in order."""
        assert got == sorted(set(got))
        assert set(self.committed) <= set(got) <= {*self.committed, *self.doubtful}


def kept(server: Running, channel: str = "numbers") -> list[Any]:
    """Return what a channel keeps."""
    messages: list[Any] = []
    cursor = ""
    while True:
        page = json.loads(server.curl(path=f"/api/channels/{channel}/history?limit=1000{cursor}"))
        messages += page["messages"]
        if not page.get("next"):
            return [each["data"] for each in messages]
        cursor = f"&after={page['next']}"


def test_committed(postgres: Postgres, tmp_path: Path) -> None:
    """What a transaction has written is published in order when it commits, text as text; what is rolled back never is."""
    with running(tmp_path, *CHANNELS, "--outbox", postgres.dsn) as server, server.client("/channels/orders") as client:
        server.waitFor(WORKS)
        with postgres.connect() as connection:
            for data, ends in (('{"n": 1}', True), ('"lost"', False), ('"plain \\"text\\""', True), ("null", True)):
                with connection.transaction(force_rollback=not ends):
                    connection.execute("INSERT INTO twisted_ws_outbox (channel, data) VALUES ('orders', %s)", (data,))
        assert [client.recv(PATIENCE) for _ in range(3)] == ['{"n": 1}', 'plain "text"', "null"]
        until(lambda: postgres.waiting() == 0)
        assert postgres.execute("SELECT * FROM twisted_ws_outbox") == []
        for line in ("outbox_up 1.0", "outbox_lag_seconds 0.0", "outbox_published_total 3.0", "outbox_refused_total 0.0"):
            until(lambda line=line: f"twisted_ws_{line}" in server.curl(path="/metrics"))  # type: ignore[misc]


def test_daemonKilled(postgres: Postgres, tmp_path: Path) -> None:
    """Over a daemon that is killed while it publishes, an engine elsewhere has each message once, and in order."""
    with Server() as valkey:
        options = (*CHANNELS, "--engine", f"redis://127.0.0.1:{valkey.port}", "--outbox", postgres.dsn)
        with Writer(postgres) as writer:
            for _ in range(3):
                with starting(tmp_path, [*TWISTD, *PORTS, *options]) as server:
                    server.waitFor(WORKS)
                    writer.write(200, 100)
                    server.signal(signal.SIGKILL)
        with running(tmp_path, *options) as server:
            until(lambda: postgres.waiting() == 0)
            writer.check(kept(server))


def test_databaseKilled(tmp_path: Path) -> None:
    """Over a database that is killed, or that ends the connection, subscribers get each message once, and in order."""
    with Postgres() as postgres, running(tmp_path, *CHANNELS, "--outbox", postgres.dsn) as server:
        server.waitFor(WORKS)
        with server.client("/channels/numbers") as client:
            with Writer(postgres) as writer:
                writer.write(600, 100)
                postgres.kill()
                server.waitFor("the table cannot be read")
                postgres.start()
                server.waitFor(WORKS, 2)
                writer.write(200, 100)
                assert postgres.disconnect() == 1
                server.waitFor(WORKS, 3)
            postgres.put("numbers", "-1")
            got = []
            while (number := int(client.recv(PATIENCE))) != -1:
                got.append(number)
            writer.check(got)


def test_twoDaemons(postgres: Postgres, tmp_path: Path) -> None:
    """Of two daemons one consumes; when it is killed, the other goes on, and each message is published once."""
    with Server() as valkey, ExitStack() as stack:
        options = (*CHANNELS, "--engine", f"redis://127.0.0.1:{valkey.port}", "--outbox", postgres.dsn)
        first = stack.enter_context(starting(tmp_path, [*TWISTD, *PORTS, *options]))
        first.waitFor(WORKS)
        second = stack.enter_context(running(tmp_path, *options))
        second.waitFor("another server consumes it")
        with Writer(postgres) as writer:
            writer.write(600, 300)
            first.signal(signal.SIGKILL)
        second.waitFor(WORKS)
        until(lambda: postgres.waiting() == 0)
        writer.check(kept(second))


def test_workers(postgres: Postgres, tmp_path: Path) -> None:
    """With workers, one consumer publishes to the clients of all of them."""
    with running(tmp_path, *CHANNELS, "--workers", "2", "--outbox", postgres.dsn) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.client("/channels/orders")) for _ in range(6)]
        server.waitFor(WORKS)
        for number in range(50):
            postgres.put("orders", str(number))
        for each in clients:
            assert [int(each.recv(PATIENCE)) for _ in range(50)] == [*range(50)]
        consumers = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'twisted-ws outbox'"
        assert postgres.execute(consumers) == [(1,)]


def test_upgrade(postgres: Postgres, tmp_path: Path) -> None:
    """Over an upgrade of the whole server, each row is published once and in order, and is in the history of the new one."""
    options = (*CHANNELS, "--workers", "1", "--state-directory", str(tmp_path / "state"), "--outbox", postgres.dsn)
    with running(tmp_path, *options) as server, server.client("/channels/numbers") as client:
        server.waitFor(WORKS)
        with Writer(postgres) as writer:
            writer.write(600, 50)
            assert tell(tmp_path, "upgrade") == (0, "")
            writer.write(50)
        server.waitFor(WORKS, 2)
        until(lambda: postgres.waiting() == 0)
        writer.check(kept(server))
        writer.check([int(client.recv(PATIENCE)) for _ in kept(server)])


HOSTILE = {
    "bad-channel": [(None, "1", None), ("", "1", None), ("a b", "1", None), ("x" * 10_000, "1", None), ("rooms.*", "1", None)],
    "bad-request": [("orders", None, None)],
    "too-large": [
        ("orders", json.dumps("x" * 2_000_000), None),
        ("orders", json.dumps(["x" * 100] * 20_000), None),
        ("orders", "1", "k" * 1_000_000),
    ],
}


def test_hostileRows(tmp_path: Path) -> None:
    """A row that cannot be published stays, with the reason, and those around it are published in order."""
    with Postgres() as postgres:
        postgres.execute("ALTER TABLE twisted_ws_outbox ALTER channel DROP NOT NULL, ALTER data DROP NOT NULL")
        count = 0
        for rows in HOSTILE.values():
            for row in rows:
                postgres.put(*row)
                postgres.put("orders", str(count), "k")
                count += 1
        with running(tmp_path, *CHANNELS, "--outbox", postgres.dsn) as server:
            until(lambda: postgres.waiting() == 0)
            assert kept(server, "orders") == [*range(count)]
        errors = [error.partition(":")[0] for (error,) in postgres.execute("SELECT error FROM twisted_ws_outbox ORDER BY id")]
        assert errors == [code for code, rows in HOSTILE.items() for _ in rows]


def test_waits(tmp_path: Path) -> None:
    """A daemon starts without its database, says in a line what it waits for, and consumes when the table is there."""
    with Postgres() as postgres:
        postgres.execute("DROP TABLE twisted_ws_outbox")
        postgres.kill()
        with running(tmp_path, *CHANNELS, "--outbox", postgres.dsn) as server:
            server.waitFor("the table cannot be read")
            postgres.start()
            server.waitFor("there is no table twisted_ws_outbox: python -m twisted_ws.outbox")
            postgres.execute((Path(__file__).parents[2] / "twisted_ws/outbox/table.sql").read_text())
            server.waitFor(WORKS)
            postgres.put("orders", "1")
            until(lambda: postgres.waiting() == 0)


def test_password(tmp_path: Path) -> None:
    """The password comes from a file, which is read again for each connection."""
    with Postgres() as postgres:
        postgres.execute("CREATE ROLE push LOGIN PASSWORD 'right'")
        postgres.execute("GRANT SELECT, UPDATE, DELETE ON twisted_ws_outbox TO push")
        rules = Path(postgres.directory, "data/pg_hba.conf")
        rules.write_text("local all push scram-sha-256\n" + rules.read_text())
        postgres.execute("SELECT pg_reload_conf()")
        secret = tmp_path / "password"
        secret.write_text("wrong\n")
        secret.chmod(0o600)
        dsn = postgres.dsn.replace("user=test", "user=push")
        with running(tmp_path, "--outbox", dsn, "--outbox-password-file", str(secret)) as server:
            assert "password" in server.waitFor("the table cannot be read")
            secret.write_text("right\n")
            server.waitFor(WORKS)
            assert "right" not in server.output


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_pooler(postgres: Postgres, tmp_path: Path, mode: str) -> None:
    """The log warns of a pooler, which may pool transactions; what is written is published all the same."""
    with postgres.pooler(mode) as dsn, running(tmp_path, *CHANNELS, "--outbox", dsn) as server:
        server.waitFor("there is a connection pooler in front of PostgreSQL")
        with server.client("/channels/orders") as client:
            postgres.put("orders", "1")
            assert client.recv(PATIENCE) == "1"
    with running(tmp_path, "--outbox", postgres.dsn) as server:
        server.waitFor(WORKS)
        assert "pooler" not in server.output


def test_standingBy(postgres: Postgres) -> None:
    """One that stands by is not woken by what it does not consume: it asks now and then, however much is written."""
    asked: list[Backlog] = []
    standsBy = threading.Event()

    def tell(state: State, detail: str) -> None:
        assert state is State.STANDBY
        standsBy.set()

    def connect(woken: int) -> Table:
        return Table(connectionOptions(postgres.dsn, None), Limits(), woken)

    other = connect(0)
    assert other.lock()
    consumer = Consumer(connect, lambda rows: Outcome(()), tell, asked.append, lambda error: None)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    standsBy.wait(PATIENCE)
    with postgres.connect() as connection:
        for number in range(500):
            connection.execute("INSERT INTO twisted_ws_outbox (channel, data) VALUES ('orders', %s)", (str(number),))
    consumer.stop()
    thread.join()
    other.close()
    consumer.close()
    assert 1 <= len(asked) < 100
