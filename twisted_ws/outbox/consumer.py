"""The consumer of the outbox: a thread that waits for the database, so that the reactor need not."""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable
from contextlib import closing
from enum import Enum

import psycopg

from twisted_ws.outbox.rows import Outcome, Row, pause
from twisted_ws.outbox.table import Backlog, Table, TableMissing

# Seconds after which the table is looked at though nothing has been heard: a notification may be lost with its connection, and
# somebody may have left out the trigger. One that stands by asks for the lock as often.
POLL = 5.0


class State(Enum):
    """What a consumer does.

    Attributes:
        value: the word for it.
    """

    STARTING = "starting"
    CONSUMING = "consuming"
    STANDBY = "standby"
    AWAY = "away"
    STOPPED = "stopped"


class Consumer:
    """Reads rows, has them published, and deletes them, while it holds the lock; else it stands by.

    `run` is for a thread of its own, and so are all calls of the arguments. `stop` may be called from any thread.

    Args:
        connect: makes a `Table`, given the descriptor that wakes it.
        publish: publishes rows, and returns what became of them.
        tell: is told of each state, and of what is wrong; several times of the same.
        measured: is told what waits.
        failed: is told of an exception that nobody expects.
        chance: returns 0 to 1.
        seconds: a clock.
    """

    def __init__(
        self,
        connect: Callable[[int], Table],
        publish: Callable[[list[Row]], Outcome],
        tell: Callable[[State, str], None],
        measured: Callable[[Backlog], None],
        failed: Callable[[Exception], None],
        chance: Callable[[], float] = random.random,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._publish = publish
        self._tell = tell
        self._measured = measured
        self._failed = failed
        self._chance = chance
        self._seconds = seconds
        self._isStopping = False
        # What is published though its rows may still be there: the database was lost before it said that they are deleted.
        self._unsettled = Outcome(())
        self._failures = 0  # in a row
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)

    def stop(self) -> None:
        """Let `run` end after the rows that are being published."""
        if not self._isStopping:
            self._isStopping = True
            os.write(self._wake, b"\0")  # it stays readable

    def close(self) -> None:
        """Let go of the descriptors, once `run` has ended."""
        for each in (self._woken, self._wake):
            os.close(each)

    def run(self) -> None:
        """Work until `stop`; wait for a database that is away."""
        while not self._isStopping:
            try:
                with closing(self._connect(self._woken)) as table:
                    self._serve(table)
            except (psycopg.Error, TableMissing, OSError) as error:
                self._away(error)
            except Exception as error:
                self._failed(error)
                self._away(error)

    def _away(self, error: Exception) -> None:
        if not self._isStopping:
            self._failures += 1
            self._tell(State.AWAY, (str(error) or error.__class__.__name__).strip().splitlines()[0])
            self._sleep(pause(self._failures, self._chance()))

    def _sleep(self, seconds: float) -> None:
        waiting = select.poll()
        waiting.register(self._woken, select.POLLIN)
        waiting.poll(seconds * 1000)

    def _serve(self, table: Table) -> None:
        """Use a connection until it is lost, or until `stop`."""
        while not table.lock():
            self._failures = 0
            self._tell(State.STANDBY, "")
            self._measured(table.measure())
            table.wait(POLL)
            if self._isStopping:
                return
        self._failures = 0
        self._tell(State.CONSUMING, "a pooler" if table.isPooled else "")
        table.settle(self._unsettled)
        self._unsettled = Outcome(())
        due = 0.0
        while not self._isStopping:
            isMore = self._transact(table)
            if not isMore or self._seconds() >= due:
                self._measured(table.measure())
                due = self._seconds() + POLL
            if not isMore:
                table.wait(POLL)

    def _transact(self, table: Table) -> bool:
        """Publish some rows; return whether there may be more at once."""
        with table.transaction():
            rows = table.read()
            if not rows:
                return False
            self._unsettled = outcome = self._publish(rows)
            table.settle(outcome)
        self._unsettled = Outcome(())
        if outcome.wait is not None:
            self._sleep(outcome.wait)
        return True
