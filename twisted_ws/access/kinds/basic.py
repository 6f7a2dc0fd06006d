"""User names and passwords that a file has, or Twisted's credentials checkers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.strcred import StrcredException, makeChecker
from twisted.internet.defer import Deferred, maybeDeferred

from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.kinds.login import CACHE, Login, userName, wrongPassword
from twisted_ws.access.kinds.passwords import PasswordFile
from twisted_ws.access.kinds.threads import Threads
from twisted_ws.access.options import Options
from twisted_ws.access.publishers.credentials import Password, PasswordDB
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import LONGEST_USER, Identity

# The checkers of Twisted that block the thread that calls them.
_BLOCKING = ("unix", "pam")


class BasicAuthenticator(Login):
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

    def __init__(
        self, settings: AuthenticatorSettings, checkers: Iterable[ICredentialsChecker] = (), threads: Threads | None = None
    ) -> None:
        where = f"authenticators.{settings.name}"
        options = Options(where, settings.options, settings.directory)
        path = options.path("file", None)
        named = options.texts("checkers", ())
        self._inThreads = options.switch("threads", any(each.partition(":")[0] in _BLOCKING for each in named))
        cache = options.number("cache", CACHE, 0, 3600, "seconds")
        options.done()
        super().__init__(settings, cache, settings.limits.credentialsDeadline)
        self._checkers = [*checkers, *(_checker(each, f"{where}.checkers") for each in named)]
        if path is None and not self._checkers:
            raise ConfigurationError(f"{where} needs a file, or checkers.")
        self._file = PasswordFile(path) if path is not None else None
        self._threads = threads or Threads(settings.reactor)

    def reload(self) -> None:
        """Read the file anew, and forget what was checked.

        Raises:
            ConfigurationError: the file cannot be used, and the old users stay.
        """
        if self._file is not None:
            self._file.reload()
        self._recent.clear()

    def lookUp(self, user: str, sent: Password) -> Identity | None:
        """Look into the file, if that is fast (see `Login.lookUp`)."""
        if self._file is None or self._file.isSlow:
            return None
        scopes = self._file.check(user, sent.password)
        if scopes is not None:
            return _identity(user, scopes)
        if not self._checkers:
            raise wrongPassword()
        return None

    async def ask(self, user: str, sent: Password) -> Identity:
        """Ask the slow file, then one checker after the other (see `Login.ask`)."""
        if self._file is not None and self._file.isSlow:
            scopes = await self._threads.run(partial(self._file.check, user, sent.password))
            if scopes is not None:
                return _identity(user, scopes)
        for checker in self._checkers:
            try:
                check: Any = partial(checker.requestAvatarId, sent)
                found = await (self._threads.run(check) if self._inThreads else maybeDeferred(check))
                if isinstance(found, Deferred):  # of a thread
                    found = await found
            except (LoginFailed, Unauthorized):
                continue
            name = userName(found) if isinstance(found, bytes) else found
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_USER:
                raise TypeError(f"a checker returns the name of a user as str or bytes, not {type(found).__name__}")
            return _identity(name, frozenset())
        raise wrongPassword()


def _identity(user: str, scopes: frozenset[str]) -> Identity:
    # Checked now: a revocation of what was issued before now does not shut out who logs in again.
    return Identity(user, scopes=scopes, issuedAt=time.time(), isAmbient=True)


def _checker(text: str, where: str) -> ICredentialsChecker:
    kind, _, rest = text.partition(":")
    if kind == "memory":
        raise ConfigurationError(f"{where} has a password, which others may read there: write it to a file.")
    try:
        checker: ICredentialsChecker = PasswordDB(rest) if kind == "file" and rest else makeChecker(text)
    except (StrcredException, ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"{where} has a checker that cannot be made ({type(error).__name__}).") from None
    if not any(each.isOrExtends(IUsernamePassword) for each in checker.credentialInterfaces):
        raise ConfigurationError(f"{where} has a checker that takes no user name and password: {kind}.")
    return checker
