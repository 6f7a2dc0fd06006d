"""What authenticators of user names and passwords have in common: reading them, counting wrong ones, and being late."""

from __future__ import annotations

import math

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.publishers.credentials import Password, decodeBasic
from twisted_ws.access.recent import Recent
from twisted_ws.access.refusals import INVALID, AccessRefused, unauthorized, unavailable
from twisted_ws.identity import LONGEST_USER, Identity
from twisted_ws.upgrade import UpgradeRequest

SCHEME = "Basic"
# Seconds for which a slow check counts: whoever polls sends the password with each request.
CACHE = 60


class Login:
    """An authenticator of HTTP's user names and passwords (RFC 7617).

    Args:
        settings: the settings.
        cache: seconds for which an answer of `ask` counts.
        deadline: seconds that `ask` may take.
    """

    scheme = SCHEME
    _log = Logger()

    findsGuests = False

    def __init__(self, settings: AuthenticatorSettings, cache: float, deadline: float) -> None:
        self._name = settings.name
        self._reactor = settings.reactor
        self._deadline = deadline
        self._recent: Recent[Identity] = Recent(cache, settings.reactor.seconds)
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who counts wrong passwords."""
        self._host = host

    def lookUp(self, user: str, sent: Password) -> Identity | None:
        """Return who this is if that can be said at once, None to `ask`.

        Raises:
            AccessRefused: the password is wrong.
        """
        return None

    async def ask(self, user: str, sent: Password) -> Identity:
        """Return who this is.

        Raises:
            AccessRefused: the password is wrong. After anything else, nobody comes in, and nobody is blamed.
        """
        raise NotImplementedError

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return whose name and password are in a request; None without them."""
        scheme, _, value = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() != "basic":
            return None
        host, address = self._host, request.peerAddress
        assert host is not None
        host.failures.check(address)
        sent = decodeBasic(value.strip())
        user = userName(sent.username) if sent is not None else ""
        try:
            # Some servers take an empty password for no password at all, and say yes.
            if sent is None or not user or not sent.password:
                raise wrongPassword()
            found = self._recent.get(sent.username, sent.password) or self.lookUp(user, sent)
        except AccessRefused:
            host.failures.charge(address)
            raise
        if found is not None:
            return found
        asked = Deferred.fromCoroutine(self.ask(user, sent))
        return asked.addTimeout(self._deadline, self._reactor).addCallbacks(
            self._found, self._failed, callbackArgs=(sent,), errbackArgs=(host, address)
        )

    def _found(self, identity: Identity, sent: Password) -> Identity:
        self._recent.put(identity, sent.username, sent.password, size=identity.size)
        return identity

    def _failed(self, failure: Failure, host: Host, address: str) -> Failure:
        error = failure.value
        if isinstance(error, AccessRefused):
            if error.status == 401:
                host.failures.charge(address)
            return failure
        if failure.check(CancelledError):
            return failure
        turn = host.mayLog(f"authenticator {self._name}: {type(error).__name__}")
        if not turn:
            pass  # said often enough
        elif failure.check(defer.TimeoutError):
            self._log.warn(
                "the authenticator {by} had no answer in {duration} seconds",
                by=self._name,
                duration=math.ceil(self._deadline),
                event="auth.unavailable",
                suppressed=turn - 1,
            )
        else:
            # Neither its text nor its frames: a password may be in both. Our own errors say what may be shown.
            kind = " ".join(filter(None, (type(error).__name__, getattr(error, "detail", ""))))
            self._log.error(
                "the authenticator {by} failed with {reason}",
                by=self._name,
                reason=kind,
                event="auth.failed",
                suppressed=turn - 1,
            )
        raise unavailable("Passwords cannot be checked at present.") from None


def wrongPassword() -> AccessRefused:
    """Return the refusal of a wrong password, which does not say what of it is wrong."""
    return unauthorized(INVALID, "The credentials are wrong.", SCHEME)


def userName(name: bytes) -> str:
    """Return the name of a user; "" for one that nobody can have."""
    try:
        decoded = name.decode()
    except UnicodeDecodeError:
        return ""
    return decoded if len(decoded) <= LONGEST_USER else ""
