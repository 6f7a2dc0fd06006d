"""When to connect again, and when not to. Pure.

Twisted's `ClientService` knows how often an attempt has failed, but not why: it can neither stop at a 403 nor wait as long as
Retry-After says. `twisted_ws.client.reconnector` takes its place, and this the place of its policy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import SystemRandom

from twisted_ws.client.errors import ConnectFailed, HandshakeRefused, HandshakeTimeout, ProxyRefused
from twisted_ws.closecodes import CROWD, EXPIRED, RETRIED, SPREAD
from twisted_ws.errors import ConnectionClosed, TransportError
from twisted_ws.limits import checkNumber

# Not Python's shared generator: the clients of a program that seeds it would all come back at once.
_random = SystemRandom()

# The longest wait, in seconds, that a server may ask for with Retry-After: one that says a year would lose the client.
MAX_HINT = 3600.0


def expired(error: Exception) -> bool:
    """Return whether the server has refused, or no longer accepts, the client's credentials."""
    if isinstance(error, ConnectionClosed):
        return error.statusCode == EXPIRED
    return isinstance(error, HandshakeRefused) and error.status == 401


@dataclass(frozen=True, slots=True)
class Retry:
    """Connect again after the connection is lost, or an attempt fails for a reason that may pass.

    The wait before attempt n (1, 2, ...) is ``interval * factor ** (n - 1)``, at most `maxInterval`, minus a random part of it
    (`jitter`: 0 none, 1 all). A server's hint makes it longer: Retry-After with 503 or 429 (up to an hour), and Close 1001 and
    1012, after which all clients would come back at once (1 to 10 seconds at random, at most `maxInterval`).

    Attributes:
        interval: seconds before the first attempt.
        maxInterval: seconds before any attempt, at most.
        factor: how much the wait grows each time.
        jitter: the part of the wait that is random, 0 to 1.
        maxCount: attempts in a row before giving up; 0: no limit. The count starts anew once a connection has lasted for
            `maxInterval` seconds or has brought a message.
        statusCodes: statuses of a handshake, or from an HTTP proxy, that may pass.
        closeCodes: close codes after which to come back (see `twisted_ws.closecodes`); 1006 is an end without a Close.
        random: returns numbers from 0 to 1; for tests.

    Raises:
        ValueError: a number is out of range.
        TypeError: a value is not a number.
    """

    interval: float = 1.0
    maxInterval: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5
    maxCount: int = 0
    statusCodes: frozenset[int] = frozenset({408, 425, 429, 500, 502, 503, 504})
    closeCodes: frozenset[int] = RETRIED
    random: Callable[[], float] = field(default=_random.random, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least, most in (
            ("interval", 0.0, inf),
            ("maxInterval", 0.0, inf),
            ("factor", 1.0, inf),
            ("jitter", 0.0, 1.0),
            ("maxCount", 0, inf),
        ):
            checkNumber(name, getattr(self, name), least, most)
        if self.maxInterval < self.interval:
            raise ValueError(f"maxInterval must be interval ({self.interval:g}) or more, not {self.maxInterval:g}")

    def again(self, error: Exception) -> bool:
        """Return whether to connect again after `error` ended a connection or an attempt.

        Not if it would only happen again: a wrong certificate or URL, a response that is not a WebSocket's, a 4xx, a redirect,
        a server that breaks the protocol, or a Close whose code is not in `closeCodes`.
        """
        if isinstance(error, ConnectionClosed):
            return error.statusCode in self.closeCodes
        if isinstance(error, HandshakeRefused):
            return error.status in self.statusCodes
        if isinstance(error, ProxyRefused):
            return error.status == 0 or error.status in self.statusCodes
        return isinstance(error, (ConnectFailed, HandshakeTimeout, TransportError))

    def wait(self, attempt: int, error: Exception) -> float:
        """Return how many seconds to wait before `attempt` (1, 2, ...), given `error`."""
        try:
            delay = min(self.interval * float(self.factor) ** (attempt - 1), self.maxInterval)
        except OverflowError:
            delay = self.maxInterval if self.interval else 0.0
        delay *= 1 - self.jitter * self.random()
        if isinstance(error, HandshakeRefused) and error.retryAfter is not None:
            return max(delay, min(error.retryAfter, MAX_HINT))
        if isinstance(error, ConnectionClosed) and error.statusCode in CROWD:
            first, last = SPREAD
            return max(delay, min(first + (last - first) * self.random(), self.maxInterval))
        return delay
