"""The network and the time of a test: both stand still until told to go on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger

from twisted_ws.testing.connection import MemoryConnection

# Turns after which endless activity is given up: a large stream takes some ten thousand.
TURNS = 100_000

_log = Logger()


class Restless(AssertionError):
    """Something repeats itself without any time passing: the test would never end."""


class Network:
    """The connections of a test, and its clock.

    Args:
        clock: tells the time.

    Attributes:
        clock: as given.
        ports: port numbers for the clients' ends.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.ports = count(40000)
        self._connections: list[MemoryConnection] = []

    def add(self, connection: MemoryConnection) -> None:
        """Carry the bytes of a connection from now on."""
        self._connections.append(connection)

    def settle(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Let everything happen that needs no time; stop as soon as `until` returns True.

        Returns:
            What `until` returns at the end.

        Raises:
            Restless: it does not end.
        """
        for _ in range(TURNS):
            if until():
                return True
            if not self._turn():
                return False
        names = sorted({_nameOf(call) for call in self._due()})
        raise Restless(f"{' and '.join(names) or 'a message'} repeats itself without any time passing")

    def advance(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` pass, from one timer to the next; stop early when `until` returns True.

        Returns:
            What `until` returns at the end.

        Raises:
            Restless: something repeats itself without any time passing.
        """
        clock = self.clock
        end = clock.seconds() + seconds
        while not self.settle(until):
            # `end` itself, not a sum of steps: a rounding error must not miss a timer.
            clock.rightNow = min([end, *(call.getTime() for call in clock.getDelayedCalls())])
            if not self._due() and clock.seconds() >= end:
                return False
        return True

    def _turn(self) -> bool:
        """Act as a reactor for one turn; return whether there was anything to do."""
        moved = False
        for connection in tuple(self._connections):
            moved = connection.turn() or moved
            if connection.closed:
                self._connections.remove(connection)
        # Like a reactor: what these calls make due comes in the next turn.
        for call in self._due():
            if call.active() and call.getTime() <= self.clock.seconds():
                moved = True
                self.clock.calls.remove(call)
                call.called = 1
                try:
                    call.func(*call.args, **call.kw)
                except Exception:
                    _log.failure("a timed call failed: {call}", call=_nameOf(call), event="testing.failed")
        return moved

    def _due(self) -> list[Any]:
        now = self.clock.seconds()
        return [call for call in self.clock.calls if call.getTime() <= now]


def _nameOf(call: Any) -> str:
    return str(getattr(call.func, "__qualname__", None) or repr(call.func))
