"""What another server has said of credentials, kept for a while; whoever sends wrong ones is counted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.asking.answers import Answers, Kept
from twisted_ws.access.asking.exchange import Unanswered
from twisted_ws.access.authenticator import Host
from twisted_ws.access.refusals import AccessRefused, unavailable
from twisted_ws.identity import Identity
from twisted_ws.logs import Throttle

# Seconds for which a refusal counts: a client that tries again at once costs nothing, one that has logged in waits no longer.
REFUSED = 1
# The longest time that an answer may be used after its end, in seconds, while the other server is away.
LONGEST_STALE = 300
# Wrong credentials that are remembered, so that an old page that comes back with the same is counted once: it does not guess.
REMEMBERED = 1000
# Seconds after which a client may try again while the other server cannot be asked and has not said when.
_RETRY = 5


class Verdict(NamedTuple):
    """What was said of credentials.

    Attributes:
        identity: whose they are; None if they are refused.
        refusal: makes the error of a refusal.
        isWrong: whether a refusal counts as a guess.
    """

    identity: Identity | None
    refusal: Callable[[], AccessRefused] | None = None
    isWrong: bool = True


class Verdicts:
    """What the other server has said of credentials, by their hash.

    Args:
        name: the authenticator's, for the log.
        reactor: the reactor.
        stale: seconds for which an answer that has ended is still used while there is no new one.
        away: what a client is told while the other server cannot be asked.
    """

    _log = Logger()

    def __init__(self, name: str, reactor: Any, stale: float, away: str) -> None:
        self._name = name
        self._away = away
        self._accepted: Answers[Verdict] = Answers(reactor, stale)
        # Beside the others: whoever sends wrong credentials must not push right ones out.
        self._refused: Answers[Verdict] = Answers(reactor, most=REMEMBERED)
        self._counted: OrderedDict[bytes, None] = OrderedDict()
        self._throttle = Throttle(reactor.seconds)
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<Verdicts of {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who counts wrong credentials."""
        self._host = host

    def clear(self) -> None:
        """Forget what was said."""
        self._accepted.clear()
        self._refused.clear()

    def find(self, key: bytes, address: str, ask: Callable[[], Deferred[Kept[Verdict]]]) -> Identity | Deferred[Identity]:
        """Return whose credentials these are; `ask` asks the other server if it has not said so lately.

        Args:
            key: the credentials' hash.
            address: where they come from.
            ask: returns what `accepted` or `refused` has returned, or fails with `Unanswered`.

        Raises:
            AccessRefused: they are refused, or the other server cannot be asked; the Deferred fails with it as well.
        """
        verdict = self._accepted.get(key) or self._refused.get(key)
        if verdict is not None:
            return self._judge(verdict, key, address)
        assert self._host is not None
        self._host.failures.check(address)
        found = self._accepted.find(key, ask)
        if isinstance(found, Verdict):
            return self._judge(found, key, address)
        later: Deferred[Any] = found.addCallbacks(self._judge, self._failed, callbackArgs=(key, address))
        return later

    def accepted(self, identity: Identity, seconds: float) -> Kept[Verdict]:
        """Return what `find` keeps of an identity, for so many seconds."""
        return Kept(Verdict(identity), seconds, identity.size)

    def refused(self, key: bytes, refusal: Callable[[], AccessRefused], isWrong: bool = True) -> Kept[Verdict]:
        """Return what `find` takes for a refusal, and keep it."""
        verdict = Verdict(None, refusal, isWrong)
        self._refused.put(key, Kept(verdict, REFUSED))
        return Kept(verdict, 0)

    def unusable(self, detail: str) -> Unanswered:
        """Return the error for an answer that cannot be used, and log it."""
        if turn := self._throttle.allows("an answer that cannot be used"):
            self._log.warn(
                "authenticator {by}: the back end cannot be used: {reason}",
                by=self._name,
                reason=detail,
                event="auth.unusable",
                suppressed=turn - 1,
            )
        return Unanswered(detail)

    def unavailable(self, error: Unanswered) -> AccessRefused:
        """Return the refusal of those who came while the other server could not be asked."""
        return unavailable(self._away, error.seconds or _RETRY, f"by {self._name}: {error.detail}")

    def _judge(self, verdict: Verdict, key: bytes, address: str) -> Identity:
        if verdict.identity is not None:
            return verdict.identity
        assert verdict.refusal is not None
        if verdict.isWrong and key not in self._counted:
            assert self._host is not None
            self._host.failures.charge(address)
            self._counted[key] = None
            if len(self._counted) > REMEMBERED:
                self._counted.popitem(last=False)
        raise verdict.refusal()

    def _failed(self, failure: Failure) -> Failure:
        if isinstance(failure.value, Unanswered):
            raise self.unavailable(failure.value) from None
        return failure
