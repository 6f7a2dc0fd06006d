"""A back end that answers when the test says so."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_ws.access.asking.backend import BackEnd
from twisted_ws.access.asking.exchange import Answer, Question


class Server:
    """The other side of a `BackEnd`: it notes what is asked, and answers by hand, or at once if `answer` is set."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.pending: list[Deferred[Answer]] = []
        self.cancelled = 0
        self.answer: Any = None

    def send(self, question: Question) -> Deferred[Answer]:
        """Take a question."""
        self.questions.append(question)
        result: Deferred[Answer] = Deferred(self._cancel)
        if self.answer is None:
            self.pending.append(result)
        elif isinstance(self.answer, Exception):
            result.errback(self.answer)
        else:
            result.callback(self.answer)
        return result

    def _cancel(self, result: Deferred[Answer]) -> None:
        self.cancelled += 1
        self.pending.remove(result)

    def reply(self, status: int = 200, body: bytes = b"{}", cacheControl: str = "") -> None:
        """Answer the oldest question."""
        self.pending.pop(0).callback(Answer(status, body, cacheControl))

    def backEnd(self, clock: Clock, deadline: float = 3, inFlight: int = 64) -> BackEnd:
        """Return a back end that asks this."""
        return BackEnd("authenticator mine", clock, self.send, deadline, inFlight)

    def making(self, clock: Clock) -> Any:
        """Return what an authenticator makes its back end with."""

        def make(options: Any, what: str, reactor: Any, longest: float) -> BackEnd:
            return self.backEnd(clock)

        return make


def outcome(result: Any) -> Any:
    """Return the result of a Deferred, an exception it failed with, or None while it waits."""
    found: list[Any] = []
    result.addBoth(found.append)
    if not found:
        return None
    return getattr(found[0], "value", found[0]) if not isinstance(found[0], tuple) else found[0]


def turn(clock: Clock) -> None:
    """Let one turn of the reactor happen: what is due now, and not what that asks for."""
    due = [each for each in clock.calls if each.getTime() <= clock.seconds()]
    for each in due:
        if each not in clock.calls:
            continue  # cancelled by one before it
        clock.calls.remove(each)
        each.called = 1
        each.func(*each.args, **each.kw)


def turns(clock: Clock, count: int = 50) -> None:
    """Let what waits for the next turns of the reactor happen."""
    for _ in range(count):
        clock.advance(0)
