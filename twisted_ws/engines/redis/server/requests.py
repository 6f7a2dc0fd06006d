"""What waits for the server, in order, and what it refuses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from twisted_ws.engines.redis.server.link import Link
from twisted_ws.engines.redis.server.operations import HOLD, Call, Operation, unavailable
from twisted_ws.engines.redis.server.scripts import Script, nameOf
from twisted_ws.errors import ChannelError
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import BucketTable

if TYPE_CHECKING:
    from twisted_ws.wire.loop.wheel import Wheel

# Requests that may be on their way or wait, and their bytes; more are refused, because they would only be late.
WAITING = 10_000
WAITING_BYTES = 16 * 1024 * 1024
# Errors after which the connection is of no use.
_ENDING = ("NOSCRIPT", "READONLY", "LOADING", "MASTERDOWN", "NOAUTH", "NOPERM", "UNKILLABLE")


def _tooMuch() -> ChannelError:
    return unavailable("More is on its way to the server of the channels than it can take.")


class Requests:
    """The way of operations to the server: at once, or when there is a link again.

    Args:
        wheel: for deadlines.
        shut: is called when the gate is closed.

    Attributes:
        link: the link, while its gate is open.
        isStopped: whether everything is refused.
        times: how long scripts took, by name, but for publications.
    """

    _log = Logger()

    def __init__(self, wheel: Wheel, shut: Callable[[], None]) -> None:
        self.link: Link | None = None
        self.isStopped = False
        self.times = BucketTable(1)
        self._wheel = wheel
        self._shut = shut
        self._waiting: deque[Operation] = deque()
        self._waitingBytes = 0
        self._returned: list[Operation] = []  # comes before what waits
        self._refused = ""

    def submit(self, operation: Operation) -> None:
        """Send an operation, or keep it until there is a link."""
        link = self.link
        if link is not None:
            operation.send(link)
        else:
            self._hold(operation)

    def _hold(self, operation: Operation) -> None:
        self._waiting.append(operation)
        self._waitingBytes += operation.size
        self._wheel.set(operation, operation.started + HOLD)

    def admit(self) -> None:
        """Refuse what is too much."""
        if self.isStopped:
            raise unavailable("The server stops.")
        link, waiting = self.link, self._waiting
        if link is not None and not waiting and not self._returned:
            commands = link.commands
            if commands.waiting >= WAITING or commands.bytes >= WAITING_BYTES:
                raise _tooMuch()
            return
        while waiting and waiting[0].isOver:
            self._waitingBytes -= waiting.popleft().size
        if self._returned and self._returned[0].isOver:
            self._returned = [each for each in self._returned if not each.isOver]
        count, size = len(self._waiting) + len(self._returned), self._waitingBytes
        if link is not None:
            count, size = count + link.commands.waiting, size + link.commands.bytes
        if count >= WAITING or size >= WAITING_BYTES:
            raise _tooMuch()

    def ask(
        self,
        script: Script,
        keys: tuple[bytes, ...],
        arguments: tuple[Any, ...],
        convert: Callable[[Any], Any],
        gated: bool = False,
    ) -> Deferred[Any]:
        """Execute a script, and return a Deferred of what `convert` makes of the reply."""
        if self.isStopped:
            raise unavailable("The server stops.")
        call = Call(self, self._wheel.seconds(), script, keys, arguments, convert, gated)
        self.submit(call)
        name = nameOf(script)
        later = self.times.timed(call.later, self._wheel.seconds, name)
        return later if tracing.tracer is None else tracing.waiting(f"engine {name}", later)

    def giveBack(self, operation: Operation) -> None:
        """Take an operation that got no answer (see `Asker`)."""
        if operation.isOver:
            return
        if self.isStopped or operation.started + HOLD <= self._wheel.seconds():
            operation.fail(unavailable())
        else:
            self._returned.append(operation)
            self._wheel.set(operation, operation.started + HOLD)

    def shut(self, operation: Operation) -> None:
        """Take an operation that came to a closed gate (see `Asker`)."""
        self.giveBack(operation)
        self._shut()

    def refused(self, operation: Operation, error: hiredis.ReplyError) -> None:
        """Take an error (see `Asker`)."""
        text = str(error)
        if text.startswith(_ENDING):
            self.giveBack(operation)
            if self.link is not None:
                self.link.drop(f"it says {text[:160]}")
            return
        if text != self._refused:
            self._refused = text
            self._log.error("The engine's server refuses: {reason}", reason=text[:160], event="engine.refuses")
        full = text.startswith("OOM")
        operation.fail(unavailable("The server of the channels is full." if full else "The server of the channels refuses this."))

    def misread(self, operation: Operation, error: Exception) -> None:
        """Take an answer that cannot be read (see `Asker`)."""
        text = repr(error)
        if text != self._refused:
            self._refused = text
            self._log.error(
                "The engine's server has something that no server of ours has written: {reason}",
                reason=text[:160],
                event="engine.refuses",
            )
        operation.fail(unavailable("The server of the channels has something that cannot be read."))

    def goOn(self, link: Link) -> None:
        """Send everything that waits."""
        self.link = link
        operations = [*sorted(self._returned, key=lambda each: each.order), *self._waiting]
        self._returned.clear()
        self._waiting.clear()
        self._waitingBytes = 0
        for operation in operations:
            self._wheel.drop(operation)
            if not operation.isOver:
                operation.send(link)

    def end(self) -> None:
        """Refuse everything."""
        self.isStopped, self.link = True, None
        for operation in [*self._returned, *self._waiting]:
            self._wheel.drop(operation)
            operation.fail(unavailable("The server stops."))
        self._returned.clear()
        self._waiting.clear()
