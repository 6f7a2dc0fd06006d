"""A server that is asked, and what it costs at most while it is slow or away."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.asking.breaker import Breaker
from twisted_ws.access.asking.exchange import Answer, Exchanges, Question, Unanswered
from twisted_ws.access.options import Options
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import Throttle
from twisted_ws.telemetry import tracing
from twisted_ws.wire.tls.files import pemCertificates, readFile

# Seconds from the asking to the answer, with all waiting between.
DEADLINE = 3
# Questions that are out at the same time: as many as a small application server has workers for, and more would only wait there.
IN_FLIGHT = 64
# Questions that wait: 3 seconds of a back end that answers 3,000 a second.
WAITING = 10_000
# Of those that wait, how many leave in one turn of the reactor: some milliseconds of work. To give up one that is out costs as
# much as several of them.
_PER_TURN = 32
_GIVING_UP = 4


class BackEnd:
    """Asks one server: some questions at a time, each with a deadline, and none while it only fails (see `Breaker`).

    Args:
        what: what it is called in the log, such as ``authenticator shop``.
        reactor: the reactor.
        send: asks (see `Exchanges.send`).
        deadline: seconds from `ask` to the answer.
        inFlight: how many questions may be out.
        stop: called at the end.
    """

    _log = Logger()

    def __init__(
        self,
        what: str,
        reactor: Any,
        send: Callable[[Question], Deferred[Answer]],
        deadline: float = DEADLINE,
        inFlight: int = IN_FLIGHT,
        stop: Callable[[], Deferred[None]] = lambda: succeed(None),
    ) -> None:
        self._what = what
        self._reactor = reactor
        self._send = send
        self._deadline = deadline
        self._inFlight = inFlight
        self._stop = stop
        self._breaker = Breaker(reactor.seconds)
        self._throttle = Throttle(reactor.seconds)
        self._waiting: OrderedDict[_Asked, None] = OrderedDict()
        self._out: set[_Asked] = set()
        # All that have a deadline, in the order of asking, and the one timer for them: thousands would be late in one turn.
        self._due: OrderedDict[_Asked, None] = OrderedDict()
        self._turn: Any = None
        self._sweep: Any = None

    @property
    def isResting(self) -> bool:
        """Whether it has failed so often that it is not asked now."""
        return self._breaker.isOpen

    def __repr__(self) -> str:
        return f"<BackEnd of {self._what}>"

    def ask(self, question: Question) -> Deferred[Answer]:
        """Return the answer: any but those that say that the server cannot answer now (429 and 5xx).

        If the Deferred is cancelled, a question that waits is forgotten; one that is out goes on, so that its connection is kept.

        Raises:
            Unanswered: there is none; the Deferred fails with it.
        """
        wait = self._breaker.wait()
        if wait:
            raise Unanswered("it has failed several times, and is not asked for a while", wait)
        if len(self._waiting) >= WAITING:
            raise Unanswered("too many questions wait")
        span = None
        if tracing.tracer is not None:
            attributes = {"http.request.method": question.method, "twisted_ws.by": self._what}
            span = tracing.start("ask the back end", "client", attributes)
            question = question._replace(headers=(*question.headers, *tracing.injected(span)))
        asked = _Asked(question, self._forget)
        asked.since = self._reactor.seconds()
        self._due[asked] = None
        self._watch()
        if self._waiting or len(self._out) >= self._inFlight or self._turn is not None:
            self._waiting[asked] = None
            self._goOn()
        else:
            self._begin(asked)
        return asked.result if span is None else asked.result.addBoth(_ended, span)

    def stop(self) -> Deferred[None]:
        """Give up all questions and close the connections."""
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        pending = (*self._waiting, *self._out)
        self._waiting.clear()
        for each in pending:
            self._end(each, Failure(Unanswered("the server stops")))
            if each.sent is not None:
                each.sent.cancel()
        return self._stop()

    def _forget(self, asked: _Asked) -> None:
        if asked in self._waiting:
            del self._waiting[asked]
            self._end(asked, Failure(CancelledError()))

    def _end(self, asked: _Asked, result: Answer | Failure) -> None:
        self._due.pop(asked, None)
        if not self._due and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        asked.end(result)

    def _watch(self) -> None:
        if self._sweep is None and self._due:
            left = next(iter(self._due)).since + self._deadline - self._reactor.seconds()
            self._sweep = self._reactor.callLater(max(left, 0), self._sweepLate)

    def _isLate(self, asked: _Asked) -> bool:
        return bool(asked.since + self._deadline <= self._reactor.seconds())

    def _sweepLate(self) -> None:
        self._sweep = None
        left = _PER_TURN
        while left > 0 and self._due and self._isLate(asked := next(iter(self._due))):
            if asked in self._waiting:
                del self._waiting[asked]
                self._tooLate(asked)
                left -= 1
            else:
                del self._due[asked]
                asked.isLate = True
                if asked.sent is not None:
                    asked.sent.cancel()
                left -= _GIVING_UP
        self._watch()

    def _tooLate(self, asked: _Asked) -> None:
        self._end(asked, Failure(Unanswered(f"too many questions were before it for {self._deadline:g} seconds")))

    def _goOn(self) -> None:
        # One call for all that wait, and never from within the end of another question: that would recurse.
        if self._turn is None and self._waiting and len(self._out) < self._inFlight:
            self._turn = self._reactor.callLater(0, self._next)

    def _next(self) -> None:
        self._turn = None
        for _ in range(_PER_TURN):
            if not self._waiting or len(self._out) >= self._inFlight:
                break
            asked, _ = self._waiting.popitem(last=False)
            wait = self._breaker.wait()
            if wait:
                self._end(asked, Failure(Unanswered("it fails, and is not asked for a while", wait)))
            elif self._isLate(asked):
                self._tooLate(asked)
            else:
                self._begin(asked)
        self._goOn()

    def _begin(self, asked: _Asked) -> None:
        asked.wasProbe = self._breaker.begin()
        asked.begun = self._reactor.seconds()
        self._out.add(asked)
        asked.sent = self._send(asked.question)
        asked.sent.addBoth(partial(self._ended, asked))

    def _ended(self, asked: _Asked, result: Answer | Failure) -> None:
        self._out.discard(asked)
        if isinstance(result, Answer) and result.status != 429 and result.status < 500:
            if self._breaker.isOpen:
                self._log.info("{by}: the back end answers again", by=self._what, event="auth.answers")
            self._breaker.succeed()
            self._end(asked, result)
        elif isinstance(result, Failure) and result.check(CancelledError) and not asked.isLate:
            self._breaker.forget(asked.wasProbe)
            self._end(asked, result)
        else:
            self._failed(asked, result)
        self._goOn()

    def _failed(self, asked: _Asked, result: Answer | Failure) -> None:
        if isinstance(result, Answer):
            detail = f"it answered {result.status}"
        elif asked.isLate:
            detail = f"no answer within {self._deadline:g} seconds"
        elif isinstance(result.value, Unanswered):
            detail = result.value.detail
        else:
            detail = f"the request failed with {type(result.value).__name__}"
        # One that has waited here for most of its time says little about the server.
        if asked.isLate and asked.begun - asked.since > self._deadline / 2:
            self._breaker.forget(asked.wasProbe)
        elif self._breaker.fail(asked.wasProbe):
            self._log.warn(
                "{by}: the back end is not asked for a while: {reason}", by=self._what, reason=detail, event="auth.resting"
            )
        elif turn := self._throttle.allows("no answer"):
            self._log.warn(
                "{by}: no answer from the back end: {reason}",
                by=self._what,
                reason=detail,
                event="auth.unavailable",
                suppressed=turn - 1,
            )
        self._end(asked, Failure(Unanswered(detail, self._breaker.wait())))


def _ended(result: Answer | Failure, span: Any) -> Answer | Failure:
    """End the span of a question."""
    if isinstance(result, Failure):
        tracing.finish(span, result.value)
    else:
        tracing.finish(span, status=result.status)
    return result


class _Asked:
    """A question that waits or is out."""

    __slots__ = ("begun", "isLate", "question", "result", "sent", "since", "wasProbe")

    def __init__(self, question: Question, forget: Callable[[_Asked], None]) -> None:
        self.question = question
        self.result: Deferred[Answer] = Deferred(lambda _: forget(self))
        self.sent: Deferred[Any] | None = None
        self.since = self.begun = 0.0
        self.isLate = self.wasProbe = False

    def end(self, result: Answer | Failure) -> None:
        """Tell whoever has asked, if they still wait."""
        if not self.result.called:
            self.result.callback(result)


def checkURL(options: Options, name: str, default: Any = None) -> Any:
    """Return the URL in an option.

    Raises:
        ConfigurationError: it is none of HTTP, or has a password: those belong into files.
    """
    expected = "a URL that begins with https:// or http://, without a user, password or fragment"
    url = options.text(name, expected=expected) if default is None else options.text(name, default, expected)
    if url == default:
        return url
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    isPlain = url.isascii() and url.isprintable() and " " not in url
    if not host or not isPlain or parts.scheme not in ("http", "https") or "@" in parts.netloc or parts.fragment:
        raise options.wrong(name, expected)
    if parts.scheme == "http" and not _isLoopback(host):
        BackEnd._log.warn(
            "{option} is asked without TLS: whoever is between this machine and {url} can read and change what is said.",
            option=name,
            url=host,
            event="auth.plain",
        )
    return url


def makeBackEnd(options: Options, what: str, reactor: Any, longest: float) -> BackEnd:
    """Return a back end as the options ``deadline``, ``in-flight`` and ``ca-file`` say.

    Args:
        options: the options.
        what: what it is called in the log.
        reactor: the reactor.
        longest: the longest deadline in seconds.

    Raises:
        ConfigurationError: one of them is wrong.
    """
    deadline = options.number("deadline", min(DEADLINE, longest), 0.1, longest, "seconds")
    inFlight = int(options.number("in-flight", IN_FLIGHT, 1, 1000, "questions"))
    path = options.path("ca-file", None)
    trusted = None
    if path is not None:
        file = readFile(path, "CA file")
        trusted = pemCertificates(file, "CA file")
        if not trusted:
            raise ConfigurationError(f"The CA file {file.path} has no certificate in PEM.")
    exchanges = Exchanges(reactor, inFlight, trusted)
    return BackEnd(what, reactor, exchanges.send, deadline, inFlight, exchanges.stop)


def _isLoopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
