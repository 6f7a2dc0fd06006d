"""Who may publish: API keys (``Authorization: Bearer``) and Twisted's credentials checkers (``Authorization: Basic``)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
from collections.abc import Iterable
from typing import Any

from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import LoginFailed, Unauthorized
from twisted.cred.portal import IRealm, Portal
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, fail, maybeDeferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

from twisted_ws.access.buckets import TokenBuckets
from twisted_ws.access.publishers.keys import KeyFile, KeyHolder
from twisted_ws.access.publishers.sessions import Moving, Session, Sessions
from twisted_ws.errors import ConfigurationError
from twisted_ws.limits import Limits
from twisted_ws.logs import Throttle
from twisted_ws.wire.door.gate import addressKey


class CredentialsError(Exception):
    """Why access is refused; the text is one fixed sentence for the peer."""


class Unauthenticated(CredentialsError):
    """Credentials are missing or wrong: HTTP's 401.

    Attributes:
        hint: what the log says in addition.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class TooManyFailures(CredentialsError):
    """Too many wrong credentials came from this address: HTTP's 429.

    Attributes:
        wait: seconds until the next attempt is looked at.
    """

    def __init__(self, wait: float) -> None:
        super().__init__("Too many wrong credentials came from this address.")
        self.wait = wait


class CheckFailed(CredentialsError):
    """The checker is down or too slow, so nobody is let in: HTTP's 503."""

    def __init__(self) -> None:
        super().__init__("The credentials cannot be checked at present.")


class _IPublisher(Interface):
    """The interface that a portal is asked for: a user who may publish."""


@implementer(IRealm)
class _Realm:
    def requestAvatar(self, avatarId: Any, mind: Any, *interfaces: Any) -> Any:
        """Return whom the checker found; a password opens everything."""
        name = avatarId.decode("utf-8", "replace") if isinstance(avatarId, bytes) else str(avatarId)
        return _IPublisher, KeyHolder(name), lambda: None


class Password(UsernamePassword):
    """Compares in constant time; Twisted's own stops at the first byte that differs."""

    def checkPassword(self, password: bytes | str) -> bool:
        """Return whether this is the password."""
        expected = password.encode() if isinstance(password, str) else password
        return hmac.compare_digest(self.password, expected)


class PasswordDB(FilePasswordDB):
    """Twisted's file of passwords, which it opens for each login, so that it may have become something else since the start.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)  # type: ignore[no-untyped-call]

    def getUser(self, username: bytes) -> tuple[bytes, bytes]:
        """Return a user's name and password (see `FilePasswordDB`).

        Raises:
            KeyError: there is no such user.
            OSError: the file cannot be read, which is not the fault of whoever logs in.
        """
        # To open a pipe would hold up the reactor until somebody writes to it.
        if not stat.S_ISREG(os.stat(self.filename).st_mode):
            raise OSError("the password file is not a regular file")
        found: tuple[bytes, bytes] = super().getUser(username)
        return found


class Credentials:
    """Checks ``Authorization`` headers.

    A valid API key is always let in. Passwords are no longer checked once too many wrong credentials came from an address
    (`Limits.authFailures`), because passwords can be guessed, and a checker may be slow on purpose.

    Args:
        checkers: Twisted's credentials checkers (such as those that ``--auth`` makes), for ``Basic``.
        keyFile: the path of a file of API keys (see `KeyFile`), for ``Bearer``.
        limits: `credentialsDeadline` and `authFailures` are used.
        reactor: the reactor; None for the global one.

    Attributes:
        requiresCredentials: whether there is anything to check; otherwise everybody is let in.
        challenges: the values of WWW-Authenticate (RFC 9110 section 11.6.1).
        takes: what the login of the admin page takes: ``key``, ``password``.
        sessions: who is logged in there.
        generation: how often the keys have changed.

    Raises:
        ConfigurationError: a checker that does not take a user name and password, or a key file that cannot be used.
    """

    _log = Logger()

    def __init__(
        self,
        checkers: Iterable[ICredentialsChecker] = (),
        keyFile: str | None = None,
        limits: Limits | None = None,
        reactor: Any = None,
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor  # installs the default reactor, so not before somebody needs one
        limits = limits or Limits()
        self._reactor = reactor
        self._deadline = limits.credentialsDeadline
        self._failures = TokenBuckets(limits.authFailures / 60, limits.authFailures, reactor.seconds)
        self._throttle = Throttle(reactor.seconds)
        self._portals = [self._portal(checker) for checker in checkers]
        self._keys = KeyFile(keyFile) if keyFile is not None else None
        self.requiresCredentials = bool(self._portals) or self._keys is not None
        self.sessions = Sessions(limits, reactor.seconds)
        self.generation = 0
        challenges, takes = [], []
        if self._keys is not None:
            takes.append("key")
            challenges.append('Bearer realm="broadcast"')
        if self._portals:
            takes.append("password")
            challenges.append('Basic realm="broadcast", charset="UTF-8"')
        self.challenges = tuple(challenges)
        self.takes = tuple(takes)

    def __repr__(self) -> str:
        return f"<Credentials {', '.join(self.challenges) or 'none required'}>"

    @property
    def keys(self) -> KeyFile | None:
        """The API keys; None without any."""
        return self._keys

    def _portal(self, checker: ICredentialsChecker) -> Portal:
        if not any(each.isOrExtends(IUsernamePassword) for each in checker.credentialInterfaces):
            raise ConfigurationError(f"the checker {type(checker).__name__} does not take a user name and password")
        return Portal(_Realm(), [checker])

    def reload(self) -> None:
        """Read the key file again, and log everybody out if the keys have changed; if that raises, the old keys stay.

        Raises:
            ConfigurationError: the file cannot be used; the text says why.
        """
        if self._keys is not None and self._keys.reload():
            self.sessions.clear()
            self.generation += 1

    def moving(self) -> tuple[bytes, list[Moving]]:
        """Return the sessions, for another process, and what its credentials must be like for them to go on there."""
        return self._digest(), self.sessions.moving()

    def arrive(self, digest: bytes, sessions: list[Moving]) -> None:
        """Go on with the sessions of another process, if the keys are what they were there: otherwise, all are logged out."""
        if digest == self._digest():
            self.sessions.arrive(sessions)

    def _digest(self) -> bytes:
        keys = () if self._keys is None else self._keys.said
        return hashlib.sha256(repr((self.takes, keys)).encode()).digest()

    def logIn(self, authorization: str, address: str) -> Deferred[tuple[str, Session]]:
        """Begin a session for whoever has sent this; for arguments and errors see `check`.

        Returns:
            A Deferred of the cookie and the session.
        """

        def begin(holder: KeyHolder) -> tuple[str, Session]:
            kind, _, key = authorization.partition(" ")
            lasts = self._keys.lasts(key) if self._keys is not None and kind == "Bearer" else None
            return self.sessions.begin(holder, lasts)

        return self.check(authorization, address).addCallback(begin)

    def check(self, authorization: str | None, address: str) -> Deferred[KeyHolder]:
        """Return who sent this header.

        Args:
            authorization: the value of the Authorization header; None if there is none.
            address: the peer's IP address as text; "" for a UNIX socket.

        Returns:
            A Deferred that fires with who that is, or fails with a `CredentialsError` and nothing else. It may be cancelled.
        """
        if not self.requiresCredentials:
            return succeed(KeyHolder())
        scheme, _, value = (authorization or "").strip().partition(" ")
        kind, value = scheme.lower(), value.strip()
        if kind == "bearer" and self._keys is not None:
            holder = self._keys.find(value)
            if holder is not None:
                return succeed(holder)
            expired = self._keys.expired(value)  # which is not a guess: whoever has it may know
            return fail(
                self._wrong(address) if expired is None else Unauthenticated("The API key has expired.", f"it is {expired}")
            )
        if kind == "basic" and self._portals:
            wait = self._failures.wait(addressKey(address))
            if wait:
                return fail(TooManyFailures(wait))
            password = decodeBasic(value)
            return self._ask(password, address) if password is not None else fail(self._wrong(address))
        how = " (Authorization: Bearer KEY)" if self._keys is not None else ""
        return fail(Unauthenticated(f"This needs credentials{how}."))

    def _wrong(self, address: str) -> CredentialsError:
        key = addressKey(address)
        if self._failures.take(key):
            return Unauthenticated("The credentials are wrong.")
        return TooManyFailures(self._failures.wait(key))

    def _ask(self, password: Password, address: str) -> Deferred[KeyHolder]:
        """Ask one checker after another until one accepts; the deadline is for all together."""

        def failed(failure: Failure) -> Failure:
            if failure.check(LoginFailed, Unauthorized):
                # Several passwords may be checked at the same time: each counts.
                self._failures.charge(addressKey(address))
                return Failure(Unauthenticated("The credentials are wrong."))
            if failure.check(CancelledError):
                return failure
            # Anyone who sends a password can make this write a line.
            turn = self._throttle.allows(f"a credentials checker failed with {type(failure.value).__name__}")
            if not turn:
                pass  # logged often enough
            elif failure.check(defer.TimeoutError):
                self._log.warn(
                    "no credentials checker answered within {duration} seconds",
                    duration=self._deadline,
                    event="auth.unavailable",
                    suppressed=turn - 1,
                )
            else:
                self._log.failure("a credentials checker failed", failure, event="auth.failed", suppressed=turn - 1)
            return Failure(CheckFailed())

        asked = Deferred.fromCoroutine(self._login(password))
        return asked.addTimeout(self._deadline, self._reactor).addErrback(failed)

    async def _login(self, password: Password) -> KeyHolder:
        refused: Exception = Unauthorized()
        for portal in self._portals:
            try:
                # A checker is other people's code: it may raise instead of failing.
                avatar: Any = await maybeDeferred(portal.login, password, None, _IPublisher)
            except (LoginFailed, Unauthorized) as error:
                refused = error
            else:
                holder: KeyHolder = avatar[1]
                return holder
        raise refused


def decodeBasic(value: str) -> Password | None:
    """Return user name and password of Basic credentials (RFC 7617), None if they are malformed."""
    try:
        user, colon, password = base64.b64decode(value.encode("ascii"), validate=True).partition(b":")
    except (UnicodeEncodeError, binascii.Error):
        return None
    return Password(user, password) if colon else None
