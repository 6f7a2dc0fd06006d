"""The outbox as a Twisted service: it publishes in the reactor what the consumer's thread reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.logs import printable
from twisted_ws.outbox.consumer import Consumer, State
from twisted_ws.outbox.publishing import Publish, Publishing
from twisted_ws.outbox.rows import Outcome, Row
from twisted_ws.outbox.table import Backlog, Table
from twisted_ws.wire.loop.turns import Turns

# Seconds that a stop waits for the database to hear what is published. What it does not hear stays in the table, and is published
# again after the restart.
STOP = 5.0


class Outbox(Service):
    """Publishes what is written to the table ``twisted_ws_outbox``, in order, and deletes it.

    Args:
        connect: makes a `Table`, in a thread, given the descriptor that wakes it.
        publish: publishes a message: channel, message, conflation key, idempotency key.
        turns: the budget of the reactor.
        reactor: the reactor.

    Attributes:
        state: what the consumer does.
        waiting: the rows that wait in the table, when it was last looked at; `twisted_ws.outbox.table.COUNTED` at most.
        lag: the age of the oldest of them, in seconds.
    """

    _log = Logger()

    def __init__(self, connect: Callable[[int], Table], publish: Publish, turns: Turns, reactor: Any) -> None:
        self.state = State.STOPPED
        self.waiting = 0
        self.lag = 0.0
        self._connect = connect
        self._publishing = Publishing(publish, turns)
        self._reactor = reactor
        self._told = (State.STOPPED, "")
        self._awaySince: float | None = None
        self._consumer: Consumer | None = None
        self._hasEnded: Deferred[None] = succeed(None)

    @property
    def isUp(self) -> bool:
        """Whether the table can be read, by this consumer or another."""
        return self.state in (State.CONSUMING, State.STANDBY)

    @property
    def published(self) -> int:
        """The rows that were published since the start."""
        return self._publishing.published

    @property
    def refused(self) -> int:
        """The rows that could not be; they are in the table, with their ``error``."""
        return self._publishing.refused

    def startService(self) -> None:
        """Begin to consume, in a thread: after twistd has become a daemon."""
        super().startService()  # type: ignore[no-untyped-call]
        inReactor = self._reactor.callFromThread
        self._hasEnded = Deferred()
        self._consumer = Consumer(
            self._connect,
            self._publishFromThread,
            lambda state, detail: inReactor(self._tell, state, detail),
            lambda backlog: inReactor(self._measured, backlog),
            lambda error: inReactor(self._log.failure, "the outbox failed inside the server", Failure(error)),
        )
        self.state = State.STARTING
        threading.Thread(target=self._run, args=(self._consumer, self._hasEnded), name="outbox", daemon=True).start()

    def stopService(self) -> Deferred[None]:
        """Stop after the row that is being published; fire when the database knows of it, or after `STOP` seconds."""
        if self._consumer is None or not self.running:
            return succeed(None)
        super().stopService()  # type: ignore[no-untyped-call]
        self._publishing.isStopping = True
        self._consumer.stop()
        if self.state is not State.CONSUMING:
            return succeed(None)  # nothing is on its way, and a database that is away would be waited for in vain
        waiter: Deferred[None] = Deferred()
        late = self._reactor.callLater(STOP, self._giveUp, waiter)

        def ended(result: None) -> None:
            if late.active():
                late.cancel()
                waiter.callback(None)

        self._hasEnded.addCallback(ended)
        return waiter

    def _giveUp(self, waiter: Deferred[None]) -> None:
        self._log.warn(
            "outbox: the database does not answer: what is published may be published again after the restart",
            event="outbox.late",
        )
        waiter.callback(None)

    # In the thread.

    def _run(self, consumer: Consumer, hasEnded: Deferred[None]) -> None:
        try:
            consumer.run()
        finally:
            consumer.close()
            self._reactor.callFromThread(self._ended, hasEnded)

    def _publishFromThread(self, rows: list[Row]) -> Outcome:
        answer: Future[Outcome] = Future()
        self._reactor.callFromThread(self._begin, rows, answer)
        return answer.result()

    # In the reactor.

    def _begin(self, rows: list[Row], answer: Future[Outcome]) -> None:
        Deferred.fromCoroutine(self._publishing.publish(rows)).addCallbacks(
            answer.set_result, lambda failure: answer.set_exception(failure.value)
        )

    def _ended(self, hasEnded: Deferred[None]) -> None:
        self.state = State.STOPPED
        hasEnded.callback(None)

    def _measured(self, backlog: Backlog) -> None:
        self.waiting, self.lag = backlog

    def _tell(self, state: State, detail: str) -> None:
        """Log what has changed, in one line."""
        if (state, detail) == self._told:
            return
        self.state = state
        self._told = state, detail
        if state is State.AWAY:
            if self._awaySince is None:
                self._awaySince = self._reactor.seconds()
            self._log.error(
                "outbox: the table cannot be read, and is tried again: {reason}", event="outbox.away", reason=printable(detail)
            )
            return
        since, self._awaySince = self._awaySince, None
        after = "" if since is None else f", after {self._reactor.seconds() - since:.0f} s without it"
        if state is State.STANDBY:
            self._log.info(
                "outbox: another server consumes it, and this one stands by{after}", event="outbox.standby", after=after
            )
            return
        self._log.info("outbox: publishing what is in twisted_ws_outbox{after}", event="outbox.consuming", after=after)
        if detail:
            self._log.warn(
                "outbox: there is a connection pooler in front of PostgreSQL; if it pools transactions, rows may be published "
                "late and twice: give --outbox the address of PostgreSQL itself, or of a pool of sessions",
                event="outbox.pooled",
            )
