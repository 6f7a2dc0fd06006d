"""The table of the outbox in PostgreSQL, as one connection sees it.

Everything here blocks, and belongs to the thread of the consumer. One connection does it all: it holds the lock, it hears of new
rows, and it reads and deletes them. So a consumer that has lost its lock has lost its transaction as well.
"""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict

from twisted_ws.channels.channels import LONGEST_KEY
from twisted_ws.limits import MIB, Limits
from twisted_ws.outbox.rows import Outcome, Row

# Rows of one transaction, and the bytes of their JSON: what is published twice at most if everything fails at once, and what is
# held in memory. One row may be as large as a message.
ROWS = 100
BYTES = 1 * MIB

# Rows that are counted: counting more takes the database longer than the number is worth.
COUNTED = 100_000

# The upper half of the lock's number, "wsob"; the lower half is the table, so that each has a lock of its own.
_LOCK = 0x77736F62

# A connection on which nothing has come back for so long is dead. Where the operator says something else, that holds.
_CONNECTION = {
    "application_name": "twisted-ws outbox",
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    # The protocol's negotiation of Kerberos blocks, and the binary package warns of it.
    "gssencmode": "disable",
}

_READ = """
SELECT id, left(channel, %(name)s), left(key, %(key)s), CASE WHEN size <= %(largest)s THEN data END, coalesce(size, 0)
FROM (
    SELECT *, sum(coalesce(size, 0)) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS place
    FROM (
        SELECT id, channel, key, data::text AS data, octet_length(data::text) AS size
        FROM twisted_ws_outbox WHERE error IS NULL ORDER BY id LIMIT %(rows)s
    ) AS head
) AS sized
WHERE total <= %(bytes)s OR place = 1 ORDER BY id
"""

_MEASURE = """
SELECT count(*), greatest(coalesce(extract(epoch FROM clock_timestamp() - min(created)), 0), 0)
FROM (SELECT created FROM twisted_ws_outbox WHERE error IS NULL ORDER BY id LIMIT %s) AS waiting
"""


class Backlog(NamedTuple):
    """What waits in the table.

    Attributes:
        rows: how many, up to `COUNTED`.
        age: of the oldest, in seconds.
    """

    rows: int
    age: float


class TableMissing(Exception):
    """The database has no table of this name, or none where this user looks."""


def connectionOptions(dsn: str, password: bytes | None) -> dict[str, Any]:
    """Return the parameters of a connection.

    Raises:
        ValueError: the DSN is malformed, or has a password.
    """
    try:
        given: Mapping[str, Any] = conninfo_to_dict(dsn)
    except psycopg.Error as error:
        raise ValueError(str(error).strip()) from None
    if "password" in given:
        raise ValueError("it has a password")
    more = {} if password is None else {"password": password.decode()}
    return {**_CONNECTION, **given, **more}


class Table:
    """One connection to the table.

    Args:
        options: the parameters of the connection.
        limits: those of the server.
        woken: a descriptor that becomes readable when a wait is to end at once.

    Attributes:
        isPooled: whether something stands between, and answers in place of PostgreSQL.

    Raises:
        psycopg.Error: there is no connection.
        TableMissing: there is no table.
    """

    def __init__(self, options: Mapping[str, Any], limits: Limits, woken: int) -> None:
        self._limits = limits
        self._isNotified = False
        self._connection = connection = psycopg.connect(**options, autocommit=True, prepare_threshold=None)
        try:
            connection.add_notify_handler(self._notified)
            (found, process), *_ = connection.execute("SELECT to_regclass('twisted_ws_outbox'), pg_backend_pid()").fetchall()
            if found is None:
                raise TableMissing("there is no table twisted_ws_outbox: python -m twisted_ws.outbox prints the SQL for it")
            self.isPooled = process != connection.info.backend_pid
        except BaseException:
            connection.close()
            raise
        self._poll = select.poll()
        self._poll.register(connection.pgconn.socket, select.POLLIN)
        self._poll.register(woken, select.POLLIN)

    def close(self) -> None:
        """Close the connection; the lock is free then."""
        self._connection.close()

    def _notified(self, notification: object) -> None:
        self._isNotified = True

    def lock(self) -> bool:
        """Take the lock, if nobody has it, until the connection ends; then hear of new rows, which is nothing to others."""
        ask = "SELECT pg_try_advisory_lock((%s::bigint << 32) | 'twisted_ws_outbox'::regclass::oid::bigint)"
        row = self._connection.execute(ask, (_LOCK,)).fetchone()
        if row is None or not row[0]:
            return False
        self._connection.execute("LISTEN twisted_ws_outbox")
        return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is done meanwhile one transaction."""
        with self._connection.transaction():
            yield

    def read(self) -> list[Row]:
        """Return the oldest rows, no more than fit into one transaction."""
        self._isNotified = False  # what is notified from now on may not be among them
        found = self._connection.execute(
            _READ,
            {
                "name": self._limits.channelName + 1,  # enough to see that it is too long
                "key": LONGEST_KEY + 1,
                "largest": self._limits.maxMessageSize,
                "rows": ROWS,
                "bytes": BYTES,
            },
        )
        return [Row(number, channel, key, data and data.encode(), size) for number, channel, key, data, size in found]

    def settle(self, outcome: Outcome) -> None:
        """Delete what is published, and write beside the rest why it cannot be."""
        if outcome.published:
            self._connection.execute("DELETE FROM twisted_ws_outbox WHERE id = ANY(%s)", (list(outcome.published),))
        for number, error in outcome.refused:
            self._connection.execute("UPDATE twisted_ws_outbox SET error = %s WHERE id = %s", (error, number))

    def measure(self) -> Backlog:
        """Return how much waits."""
        row = self._connection.execute(_MEASURE, (COUNTED,)).fetchone()
        assert row is not None
        return Backlog(int(row[0]), float(row[1]))

    def wait(self, seconds: float) -> None:
        """Wait until there are new rows, `seconds` have passed, or somebody has woken this.

        Raises:
            psycopg.Error: the connection is lost.
        """
        if self._isNotified:
            self._isNotified = False
            return
        if self._poll.poll(seconds * 1000):
            self._connection.pgconn.consume_input()
            while self._connection.pgconn.notifies():
                pass
