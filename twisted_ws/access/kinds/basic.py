"""User names and passwords of HTTP (RFC 7617), checked by a file or by Twisted's credentials checkers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.strcred import StrcredException, makeChecker
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.credentials import Password, decodeBasic
from twisted_ws.access.kinds.passwords import PasswordFile
from twisted_ws.access.kinds.threads import Threads
from twisted_ws.access.options import Options
from twisted_ws.access.recent import Recent
from twisted_ws.access.refusals import INVALID, AccessRefused, unauthorized, unavailable
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import LONGEST_USER, Identity
from twisted_ws.upgrade import UpgradeRequest

SCHEME = "Basic"
# Seconds for which a slow check counts: whoever polls sends the password with each request.
CACHE = 60
# The checkers of Twisted that block the thread that calls them.
_BLOCKING = ("unix", "pam")


class BasicAuthenticator:
    """The authenticator ``basic``.

    Options: ``file`` (see `PasswordFile`), ``checkers`` (as ``--auth`` takes them), ``threads`` (whether those are called in a
    thread), ``cache`` (seconds for which a slow check counts).

    Args:
        settings: the settings.
        checkers: more checkers, for a server without a daemon.
        threads: where slow checks are made; None: the reactor's.

    Raises:
        ConfigurationError: an option or the file is wrong.
    """

    scheme = SCHEME
    _log = Logger()

    def __init__(
        self, settings: AuthenticatorSettings, checkers: Iterable[ICredentialsChecker] = (), threads: Threads | None = None
    ) -> None:
        where = f"authenticators.{settings.name}"
        options = Options(where, settings.options, settings.directory)
        path = options.path("file", None)
        named = options.texts("checkers", ())
        inThreads = options.switch("threads", any(each.partition(":")[0] in _BLOCKING for each in named))
        cache = options.number("cache", CACHE, 0, 3600, "seconds")
        options.done()
        self._name = settings.name
        self._checkers = [*checkers, *(_checker(each, f"{where}.checkers") for each in named)]
        if path is None and not self._checkers:
            raise ConfigurationError(f"{where} needs a file, or checkers.")
        self._file = PasswordFile(path) if path is not None else None
        self._reactor = settings.reactor
        self._threads = threads or Threads(settings.reactor)
        self._inThreads = inThreads
        self._deadline = settings.limits.credentialsDeadline
        self._recent: Recent[Identity] = Recent(cache, settings.reactor.seconds)
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<BasicAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who counts wrong passwords."""
        self._host = host

    def reload(self) -> None:
        """Read the file anew, and forget what was checked.

        Raises:
            ConfigurationError: the file cannot be used, and the old users stay.
        """
        if self._file is not None:
            self._file.reload()
        self._recent.clear()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return whose name and password are in a request; None without them."""
        scheme, _, value = request.headers.get("authorization", "").strip().partition(" ")
        if scheme.lower() != "basic":
            return None
        host, address = self._host, request.peerAddress
        assert host is not None
        host.failures.check(address)
        sent = decodeBasic(value.strip())
        user = _name(sent.username) if sent is not None else ""
        if sent is None or not user:
            host.failures.charge(address)
            raise wrongPassword()
        known = self._recent.get(sent.username, sent.password)
        if known is not None:
            return known
        if self._file is not None and not self._file.isSlow:
            scopes = self._file.check(user, sent.password)
            if scopes is not None:
                return _identity(user, scopes)
            if not self._checkers:
                host.failures.charge(address)
                raise wrongPassword()
        # Waits for what was begun; the address is not known to be a guesser's before that.
        asked = Deferred.fromCoroutine(self._ask(user, sent))
        return asked.addTimeout(self._deadline, self._reactor).addErrback(self._failed, host, address)

    async def _ask(self, user: str, sent: Password) -> Identity:
        identity = None
        if self._file is not None and self._file.isSlow:
            file = self._file
            scopes = await self._threads.run(lambda: file.check(user, sent.password))
            if scopes is not None:
                identity = _identity(user, scopes)
        for checker in self._checkers if identity is None else ():
            try:
                ask: Any = partial(checker.requestAvatarId, sent)
                found = await (self._threads.run(ask) if self._inThreads else maybeDeferred(ask))
                if isinstance(found, Deferred):  # of a thread
                    found = await found
            except (LoginFailed, Unauthorized):
                continue
            name = _name(found) if isinstance(found, bytes) else found
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_USER:
                raise TypeError(f"a checker returns the name of a user as str or bytes, not {type(found).__name__}")
            identity = _identity(name, frozenset())
            break
        if identity is None:
            raise wrongPassword()
        self._recent.put(identity, sent.username, sent.password)
        return identity

    def _failed(self, failure: Failure, host: Host, address: str) -> Failure:
        error = failure.value
        if isinstance(error, AccessRefused):
            if error.status == 401:
                host.failures.charge(address)
            return failure
        if failure.check(CancelledError):
            return failure
        if not host.mayLog(f"authenticator {self._name}: {type(error).__name__}"):
            pass  # said often enough
        elif failure.check(defer.TimeoutError):
            self._log.warn(
                "the authenticator {name} had no answer in {seconds} seconds", name=self._name, seconds=math.ceil(self._deadline)
            )
        else:
            # Without the traceback: the values of a checker's frames may be passwords.
            self._log.error(
                "a checker of the authenticator {name} failed with {kind}", name=self._name, kind=type(error).__name__
            )
        raise unavailable("Passwords cannot be checked at present.") from None


def wrongPassword() -> AccessRefused:
    """Return the refusal of a wrong password, which does not say what of it is wrong."""
    return unauthorized(INVALID, "The credentials are wrong.", SCHEME)


def _identity(user: str, scopes: frozenset[str]) -> Identity:
    return Identity(user, scopes=scopes, isAmbient=True)


def _name(name: bytes) -> str:
    """Return the name of a user; "" for one that nobody can have."""
    try:
        decoded = name.decode()
    except UnicodeDecodeError:
        return ""
    return decoded if len(decoded) <= LONGEST_USER else ""


def _checker(text: str, where: str) -> ICredentialsChecker:
    try:
        checker: ICredentialsChecker = makeChecker(text)
    except (StrcredException, ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"{where} has a checker that cannot be made ({type(error).__name__}).") from None
    if not any(each.isOrExtends(IUsernamePassword) for each in checker.credentialInterfaces):
        raise ConfigurationError(f"{where} has a checker that takes no user name and password: {text.partition(':')[0]}.")
    return checker
