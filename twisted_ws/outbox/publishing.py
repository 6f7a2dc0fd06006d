"""How rows of the outbox are published, in the reactor."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.errors import ChannelError
from twisted_ws.logs import Throttle, printable
from twisted_ws.message import Message, Published
from twisted_ws.outbox.rows import Outcome, Row, contentOf
from twisted_ws.wire.loop.turns import Turns

Publish = Callable[[str, Message, str | None, str], Deferred[Published]]

# Refusals that end by themselves: the row is tried again.
PASSING = frozenset({"unavailable", "too-many-requests"})

# Seconds after such a refusal, if it does not say.
RETRY = 1.0

# The cost of one row, in steps of `Turns`, on top of what sending it counts by itself.
_STEPS = 25


class Publishing:
    """Publishes rows one after another, so that none overtakes another.

    Args:
        publish: publishes a message: channel, message, conflation key, idempotency key.
        turns: the budget of the reactor.

    Attributes:
        isStopping: whether the rows that are not published yet stay in the table.
        published: the rows that were published.
        refused: the rows that never can be.
    """

    _log = Logger()

    def __init__(self, publish: Publish, turns: Turns) -> None:
        self.isStopping = False
        self.published = 0
        self.refused = 0
        self._publish = publish
        self._turns = turns
        self._throttle = Throttle(turns.seconds)

    async def publish(self, rows: Sequence[Row]) -> Outcome:
        """Publish rows until the first that has to wait, or the stop."""
        published: list[int] = []
        refused: list[tuple[int, str]] = []
        wait: float | None = None
        async for row in self._turns.through(rows, _STEPS):
            if self.isStopping:
                wait = 0
                break
            try:
                channel, message = contentOf(row)
                await self._publish(channel, message, row.key, row.idempotencyKey)
            except ChannelError as error:
                if error.code in PASSING:
                    wait = RETRY if error.retryAfter is None else error.retryAfter
                    self._throttle.info(
                        self._log,
                        "outbox: rows wait",
                        "outbox: rows wait: {reason}",
                        event="outbox.waiting",
                        reason=str(error),
                        code=error.code,
                    )
                    break
                refused.append((row.id, f"{error.code}: {error}"))
                self._tellRefused(row, error)
            except Exception:
                # The row alone may be to blame, and would be in the way of all others.
                self._log.failure(
                    "outbox: row {row} failed inside the server, and stays in the table", event="outbox.failed", row=row.id
                )
                refused.append((row.id, "internal-error: see the log of the server"))
            else:
                published.append(row.id)
        self.published += len(published)
        self.refused += len(refused)
        return Outcome(published, refused, wait)

    def _tellRefused(self, row: Row, error: ChannelError) -> None:
        if turn := self._throttle.allows("outbox: refused rows"):
            self._log.warn(
                "outbox: row {row} cannot be published, and stays in the table: {reason}",
                event="outbox.refused",
                row=row.id,
                code=error.code,
                reason=printable(str(error)),
                suppressed=turn - 1,
            )
