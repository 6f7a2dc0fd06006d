"""The authenticators of a service, asked one after the other, and what holds for whoever they find."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.authenticator import Authenticator
from twisted_ws.access.refusals import EXPIRED, INVALID, MISSING, REVOKED, AccessRefused, forbidden, unauthorized
from twisted_ws.access.revocations import Revocations
from twisted_ws.access.tokens.claims import ChannelGrants
from twisted_ws.dispatch.awaitables import asDeferred
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import GUEST, Identity
from twisted_ws.telemetry import tracing
from twisted_ws.telemetry.counts import Counts
from twisted_ws.upgrade import Reject, UpgradeRequest

GUEST_OR_MESSAGE = "a client that comes without credentials is a guest: name guest, or the source message."

_log = Logger()


class Guest:
    """The authenticator ``guest``: whoever has no credentials of any kind may come in, as nobody."""

    def identify(self, request: UpgradeRequest) -> Identity:
        """Return the guest."""
        return GUEST


class Chain:
    """Authenticators in their order: the first that finds credentials of its kind decides.

    Args:
        authenticators: each with its name.
        revocations: what is not accepted any more.
        unixTime: the wall clock.
        mayLog: says whether one more line of a kind may be written (see `twisted_ws.logs.Throttle.allows`).
        counts: where their answers are counted; None: nowhere that anybody sees.
        seconds: the clock by which these are timed.

    Attributes:
        takesMessage: whether a client may say who it is in its first message.

    Raises:
        ConfigurationError: it may, and whoever has not done so yet is a guest.
    """

    __slots__ = (
        *("_askers", "_authenticators", "_counts", "_granting", "_mayLog", "_revocations", "_scheme", "_seconds"),
        *("_unclaimed", "_unixTime"),
        "takesMessage",
    )

    def __init__(
        self,
        authenticators: Iterable[tuple[str, Authenticator]],
        revocations: Revocations,
        unixTime: Callable[[], float],
        mayLog: Callable[[str], int],
        counts: Counts | None = None,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts = counts or Counts()
        self._seconds = seconds
        self._authenticators = tuple(authenticators)
        self._revocations = revocations
        self._unixTime = unixTime
        self._mayLog = mayLog
        self._unclaimed = tuple(
            (name, why) for name, each in self._authenticators if (why := getattr(each, "whyUnclaimed", None))
        )
        self._granting = tuple((name, ask) for name, each in self._authenticators if (ask := getattr(each, "grantsOf", None)))
        self._askers = {name: each for name, each in self._authenticators if getattr(each, "canAsk", False)}
        self.takesMessage = any(getattr(each, "takesMessage", False) for _, each in self._authenticators)
        if self.takesMessage and any(isinstance(each, Guest) for _, each in self._authenticators):
            raise ConfigurationError(GUEST_OR_MESSAGE)
        # What a client without credentials is told to use: the first that says so.
        schemes: Sequence[str] = [scheme for _, each in self._authenticators if (scheme := getattr(each, "scheme", None))]
        self._scheme = schemes[0] if schemes else "Bearer"

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity]:
        """Return who made a request.

        Raises:
            Reject: nobody that may come in; the Deferred fails with the same, or with CancelledError.
        """
        if tracing.tracer is not None:
            return tracing.traced("authenticate", self._identify, request, found=_tellBy)  # type: ignore[no-any-return]
        return self._identify(request)

    def _identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity]:
        for index, (name, authenticator) in enumerate(self._authenticators):
            try:
                found = authenticator.identify(request)
                if found is None:
                    continue
                pending = None if isinstance(found, Identity) else asDeferred(found)
            except BaseException:
                raise self._refusal(Failure(), name) from None
            if pending is not None:
                return Deferred.fromCoroutine(self._goOn(request, index, pending))
            if found is GUEST and isinstance(authenticator, Guest):
                self._requireNone(request)
            return self._checked(found, name)
        self._requireNone(request)
        raise self._nobody()

    async def _goOn(self, request: UpgradeRequest, index: int, pending: Deferred[Any]) -> Identity:
        """Wait for the authenticator at `index`, and ask those after it."""
        for name, authenticator in self._authenticators[index:]:
            try:
                if pending is None:
                    answer = authenticator.identify(request)
                    pending = asDeferred(answer)
                begun = self._seconds()
                try:
                    found = answer if pending is None else await pending
                finally:
                    if pending is not None:
                        self._counts.authentication.of(name).add(self._seconds() - begun)
            except BaseException as error:
                if isinstance(error, (CancelledError, asyncio.CancelledError, GeneratorExit)):
                    raise
                raise self._refusal(Failure(), name) from None
            pending = None  # type: ignore[assignment]
            if found is not None:
                if found is GUEST and isinstance(authenticator, Guest):
                    self._requireNone(request)
                return self._checked(found, name)
        self._requireNone(request)
        raise self._nobody()

    def _requireNone(self, request: UpgradeRequest) -> None:
        """Refuse credentials that nobody has claimed: they are wrong, and whoever sent them is not a guest.

        Raises:
            AccessRefused: there is one.
        """
        whys = [f"{name}: {why}" for name, ask in self._unclaimed if (why := ask(request))]
        if not whys and (request.bearer is not None or "authorization" in request.headers):
            whys = ["no authenticator reads such credentials"]
        if whys:
            self._counts.authentications.add("", INVALID)
            raise unauthorized(INVALID, "No authenticator accepts these credentials.", detail="; ".join(whys))

    def _nobody(self) -> AccessRefused:
        self._counts.authentications.add("", MISSING)
        return unauthorized(MISSING, "This needs credentials.", self._scheme)

    def _checked(self, found: Any, name: str) -> Identity:
        if not isinstance(found, Identity):
            what = type(found).__name__
            raise self._refusal(Failure(TypeError(f"an authenticator returns an Identity or None, not {what}")), name)
        identity = found if found.by else replace(found, by=name)
        expiresAt = identity.expiresAt
        if self._revocations.due or (expiresAt is not None and expiresAt <= self._unixTime()):
            try:
                requireValid(identity, self._revocations, self._unixTime())
            except AccessRefused as refused:
                self._counts.authentications.add(name, refused.reason)
                raise
        self._counts.authentications.add(name, "ok")
        return identity

    def become(self, other: Chain) -> None:
        """Ask whom another chain asks, from now on; what is being asked goes on."""
        for each in self.__slots__:
            setattr(self, each, getattr(other, each))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the authenticators, in order."""
        return tuple(name for name, _ in self._authenticators)

    @property
    def mayFindGuests(self) -> bool:
        """Whether somebody without a name may be let in."""
        return any(getattr(each, "findsGuests", True) for _, each in self._authenticators)

    @property
    def canAsk(self) -> bool:
        """Whether there is an authenticator that can be asked what a user may do with channels."""
        return bool(self._askers)

    def asker(self, identity: Identity) -> Any:
        """Return the authenticator that can be asked that: the one that knows the user, or the first beside it; else None."""
        return self._askers.get(identity.by) or next(iter(self._askers.values()), None)

    async def grantsOf(self, token: str, user: str) -> ChannelGrants:
        """Return what a subscription token allows a user, as the first authenticator says that accepts it.

        Raises:
            Reject: none does; with `AccessRefused`, for the reason that comes closest to accepting it.
        """
        refused: Reject | None = None
        for name, ask in self._granting:
            try:
                answer = ask(token, user)
                pending = asDeferred(answer)
                found: ChannelGrants = answer if pending is None else await pending
            except BaseException as error:
                if isinstance(error, (CancelledError, asyncio.CancelledError, GeneratorExit)):
                    raise
                # One without the right key only knows that the token is invalid.
                if refused is None or getattr(refused, "reason", "") == INVALID:
                    refused = self._refusal(Failure(), name)
                continue
            if self._revocations.coversToken(found.tokenId, user, found.issuedAt):
                raise unauthorized(REVOKED, "The subscription token is revoked.", detail=f"by {name}")
            return found
        raise refused or unauthorized(INVALID, "No authenticator here reads subscription tokens.")

    def _refusal(self, failure: Failure, name: str) -> Reject:
        error = failure.value
        self._counts.authentications.add(name, _resultOf(error))
        if isinstance(error, AccessRefused) and not error.detail.startswith(f"by {name}"):
            error.detail = f"by {name}{f': {error.detail}' if error.detail else ''}"
        if isinstance(error, Reject):
            return error
        if turn := self._mayLog(f"authenticator {name} raised {type(error).__name__}"):
            _log.failure(
                "the authenticator {by} failed, and the request is answered with 500",
                failure,
                by=name,
                event="auth.failed",
                suppressed=turn - 1,
            )
        return Reject(500, "Internal server error.")


def _resultOf(error: BaseException | None) -> str:
    """Return what an authenticator has said, as it is counted."""
    if isinstance(error, AccessRefused) and error.reason:
        return error.reason
    if isinstance(error, Reject):
        return "unavailable" if error.status >= 500 else "refused"
    return "failed"


def _tellBy(span: Any, identity: Identity) -> None:
    span.set_attribute("twisted_ws.by", identity.by)


def requireValid(identity: Identity, revocations: Revocations, now: float) -> None:
    """Refuse an identity that has expired or is revoked, whether it was found just now or long ago.

    Args:
        identity: the identity.
        revocations: what is not accepted any more.
        now: Unix time.

    Raises:
        AccessRefused: it is.
    """
    if identity.expiresAt is not None and identity.expiresAt <= now:
        raise unauthorized(EXPIRED, "The credentials have expired.", detail=f"by {identity.by}")
    if revocations.due and revocations.covers(identity):
        raise unauthorized(REVOKED, "The credentials are revoked.", detail=f"by {identity.by}")


def requireScope(identity: Identity, scopes: frozenset[str]) -> None:
    """Refuse an identity that has none of `scopes`; an empty set requires nothing.

    Raises:
        AccessRefused: it has none of them.
    """
    if scopes and scopes.isdisjoint(identity.scopes):
        needed = " ".join(sorted(scopes))
        raise forbidden(f"This needs one of these scopes: {needed}.", "scope", needed, f"by {identity.by or 'nobody'}")
