"""The consumer's order of work, with a table in memory."""

from __future__ import annotations

from contextlib import contextmanager

import psycopg
import pytest

from twisted_ws.outbox.consumer import Consumer, State
from twisted_ws.outbox.rows import FIRST_PAUSE, LONGEST_PAUSE, Outcome, Row, pause
from twisted_ws.outbox.table import Backlog


class Database:
    """Rows, and what is to go wrong.

    Attributes:
        rows: the ids of those that wait.
        commits: for each commit whether it works; at the end, the consumer is stopped.
    """

    def __init__(self, *rows, commits=(True,)):
        self.rows = list(rows)
        self.commits = list(commits)
        self.published = []
        self.states = []
        self.consumer = Consumer(self.connect, self.publish, self.tell, lambda backlog: None, self.fail, chance=lambda: -1)

    def connect(self, woken):
        return Table(self)

    def publish(self, rows):
        self.published += [each.id for each in rows]
        return Outcome([each.id for each in rows])

    def tell(self, state, detail):
        self.states.append(state)

    def fail(self, error):
        raise error


class Table:
    """One connection to the database."""

    isPooled = False

    def __init__(self, database):
        self.database = database

    def lock(self):
        return True

    @contextmanager
    def transaction(self):
        before = list(self.database.rows)
        yield
        if not self.database.commits.pop(0):
            self.database.rows = before
            raise psycopg.OperationalError("the connection is lost")

    def read(self):
        if not self.database.rows:
            self.database.consumer.stop()
            self.database.commits.insert(0, True)
        return [Row(number, "orders", None, b"1", 1) for number in self.database.rows[:2]]

    def settle(self, outcome):
        self.database.rows = [each for each in self.database.rows if each not in outcome.published]

    def measure(self):
        return Backlog(len(self.database.rows), 0)

    def wait(self, seconds):
        pass

    def close(self):
        pass


def test_drains():
    """Rows are published and deleted, some at a time, until there are none."""
    database = Database(1, 2, 3, 4, 5, commits=[True] * 3)
    database.consumer.run()
    assert (database.published, database.rows) == ([1, 2, 3, 4, 5], [])
    assert database.states == [State.CONSUMING]


def test_lostAfterPublishing():
    """What is published when the database is lost before it has said that it is deleted is deleted later, not published again."""
    database = Database(1, 2, 3, commits=[False, True])
    database.consumer.run()
    assert (database.published, database.rows) == ([1, 2, 3], [])
    assert database.states == [State.CONSUMING, State.AWAY, State.CONSUMING]


@pytest.mark.parametrize("chance", [0, 0.5, 1])
def test_pause(chance):
    """The pauses begin short, become longer, and end at a length that an operator can wait for."""
    pauses = [pause(attempt, chance) for attempt in (1, 2, 3, 20, 1_000_000)]
    assert pauses == sorted(pauses)
    assert FIRST_PAUSE / 2 <= pauses[0] <= FIRST_PAUSE
    assert LONGEST_PAUSE / 2 <= pauses[-1] <= LONGEST_PAUSE
