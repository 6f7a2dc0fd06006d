"""The authenticator ``http``: the user's own application says who a visitor is, by its sessions, and what they may."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.access.asking.answers import Answers, Kept
from twisted_ws.access.asking.backend import BackEnd, checkURL, makeBackEnd
from twisted_ws.access.asking.exchange import Answer, Question, Unanswered
from twisted_ws.access.asking.reading import LONGEST_LIFE, GrantsOf, scopesOf
from twisted_ws.access.asking.verdicts import LONGEST_STALE, Verdict, Verdicts
from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import INVALID, AccessRefused, forbidden, unauthorized
from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.sources import bearerOf
from twisted_ws.identity import GUEST, LONGEST_TOKEN_ID, Identity
from twisted_ws.upgrade import UpgradeRequest, isToken

# Seconds for which an answer counts: a page with several connections, and one that polls, cost one question.
CACHE = 10
# Channels in one question; more become several.
CHANNELS = 500
# Headers that belong to one connection, or that the client of the back end writes itself.
_OWN = {
    *("connection", "content-length", "content-type", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection"),
    *("te", "trailer", "transfer-encoding", "upgrade", "x-forwarded-for", "x-original-uri", "twisted-ws-signature"),
}


class _Who(msgspec.Struct):
    user: str | int | None
    grants: GrantsOf = msgspec.field(default_factory=GrantsOf)
    scopes: str | list[str] | None = None
    info: Any = None
    expires: float | None = None
    session: Annotated[str, msgspec.Meta(min_length=1, max_length=LONGEST_TOKEN_ID)] | int | None = None


class _May(msgspec.Struct):
    subscribe: list[str] = []
    publish: list[str] = []


_who = msgspec.json.Decoder(_Who)
_may = msgspec.json.Decoder(_May)


class HTTPAuthenticator:
    """The authenticator ``http``.

    Options: ``url``, ``forward`` (more headers), ``channels-url``, ``deadline`` (seconds), ``cache`` (seconds), ``in-flight``
    (questions), ``secret-file`` (signs each question), ``ca-file``, ``stale-if-error`` (seconds).

    Args:
        settings: the settings.
        unixTime: the wall clock.
        makeAsking: makes the back end; tests have one of their own.

    Attributes:
        canAsk: whether the back end can be asked about channels, with `may`.

    Raises:
        ConfigurationError: an option or a file is wrong.
    """

    def __init__(
        self,
        settings: AuthenticatorSettings,
        unixTime: Callable[[], float] = time.time,
        makeAsking: Callable[[Options, str, Any, float], BackEnd] = makeBackEnd,
    ) -> None:
        options = Options(f"authenticators.{settings.name}", settings.options, settings.directory)
        self._name = settings.name
        self._unixTime = unixTime
        self._reactor = settings.reactor
        self._url: str = checkURL(options, "url")
        self._channelsURL: str = checkURL(options, "channels-url", "")
        forward = [each.lower() for each in options.texts("forward", ())]
        if not all(isToken(each) and each not in _OWN for each in forward):
            raise options.wrong("forward", "a list of names of headers that a client sends for itself")
        self._forward = tuple(dict.fromkeys(("authorization", "cookie", *forward)))
        self._cache: float = options.number("cache", CACHE, 0, 3600, "seconds")
        stale = options.number("stale-if-error", 0, 0, LONGEST_STALE, "seconds")
        path = options.path("secret-file", None)
        self._secret = SecretFile(path) if path is not None else None
        self._backEnd = makeAsking(options, f"authenticator {settings.name}", settings.reactor, settings.limits.upgradeDeadline)
        options.done()
        self.canAsk = bool(self._channelsURL)
        self._verdicts = Verdicts(settings.name, settings.reactor, stale, "The application cannot be asked at present.")
        self._channels: Answers[bool] = Answers(settings.reactor, stale)
        self._batches: dict[str, _Batch] = {}

    def __repr__(self) -> str:
        return f"<HTTPAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who counts wrong credentials."""
        self._verdicts.start(host)

    async def probe(self) -> str:
        """Ask about a visitor without credentials (see `Authenticator`): any answer shows that the back end is there."""
        answer = await self._backEnd.ask(self._signed(Question("GET", self._url, (("accept", "application/json"),))))
        if answer.status not in (200, 204, 401, 403):
            raise Unanswered(f"it answered {answer.status}")
        return f"{self._url}: it answers {answer.status} without credentials"

    @property
    def isResting(self) -> bool:
        """Whether the other server has failed so often that it is not asked now."""
        return self._backEnd.isResting

    def stop(self) -> Deferred[None]:
        """Give up all questions."""
        return self._backEnd.stop()

    def reload(self) -> None:
        """Read the secret anew, and forget what was answered.

        Raises:
            ConfigurationError: the file cannot be used, and the old secret stays.
        """
        if self._secret is not None:
            self._secret.reload()
        self._verdicts.clear()
        self._channels.clear()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return who the back end says has sent these cookies and headers; None if there are none of them."""
        credentials = self._credentialsIn(request)
        if not credentials:
            return None
        address, path = request.peerAddress, request.target.partition("?")[0]
        # The address and the path too: the back end may decide by them. The query stays here: it may have tokens.
        headers = (*credentials, ("x-forwarded-for", address), ("x-original-uri", path))
        key = hashlib.sha256(msgspec.json.encode(headers)).digest()
        # A cookie that comes along counts as what has decided: nobody here knows. A browser sends passwords by itself, too.
        isAmbient = any(name == "cookie" or (name == "authorization" and bearerOf(value) is None) for name, value in credentials)
        return self._verdicts.find(key, address, partial(self._ask, key, headers, isAmbient))

    async def may(self, identity: Identity, subscribe: Sequence[str], publish: Sequence[str]) -> tuple[set[str], set[str]]:
        """Return which of these channels the back end lets a user subscribe to, and publish to.

        What is asked about a user within one turn of the reactor, by whichever connection, is one question.

        Raises:
            AccessRefused: with the status 503: the back end cannot be asked.
            RuntimeError: there is no ``channels-url``.
        """
        if not self.canAsk:
            raise RuntimeError("the authenticator has no channels-url")
        found: list[tuple[set[str], str, bool | Deferred[bool]]] = []
        allowed: tuple[set[str], set[str]] = set(), set()
        try:
            for kind, names, into in (("subscribe", subscribe, allowed[0]), ("publish", publish, allowed[1])):
                for name in names:
                    ask = partial(self._join, identity.user, kind, name)
                    found.append((into, name, self._channels.find((identity.user, kind, name), ask)))
            for into, name, answer in found:
                if answer if isinstance(answer, bool) else await answer:
                    into.add(name)
        except GeneratorExit:
            found.clear()  # nobody is there any more, and this cannot be resumed by what it waits for
            raise
        except Unanswered as error:
            raise self._verdicts.unavailable(error) from None
        finally:
            for _, _, answer in found:
                if isinstance(answer, Deferred) and not answer.called:
                    answer.addErrback(lambda failure: None)
                    answer.cancel()
                elif isinstance(answer, Deferred):
                    answer.addErrback(lambda failure: None)  # one that failed with the first
        return allowed

    def _credentialsIn(self, request: UpgradeRequest) -> tuple[tuple[str, str], ...]:
        headers = request.headers
        found = []
        for name in self._forward:
            values = headers.getAll(name)
            if values:
                found.append((name, ("; " if name == "cookie" else ", ").join(values)))
        if request.bearer is not None and "authorization" not in headers:
            token = request.bearer
            # What cannot stand in a header is not a token; the back end refuses an empty one.
            isPlain = token.isascii() and token.isprintable()
            found.append(("authorization", f"Bearer {token if isPlain else ''}"))
        return tuple(found)

    def _signed(self, question: Question) -> Question:
        if self._secret is None:
            return question
        now = int(self._unixTime())
        parts = urlsplit(question.url)
        target = parts.path or "/"
        if parts.query:
            target += f"?{parts.query}"
        signed = f"{now}.{question.method}.{target}.".encode() + question.body
        code = hmac.new(self._secret.secrets[0], signed, hashlib.sha256).hexdigest()
        return question._replace(headers=(*question.headers, ("Twisted-WS-Signature", f"t={now},v1={code}")))

    def _ask(self, key: bytes, headers: tuple[tuple[str, str], ...], isAmbient: bool) -> Deferred[Kept[Verdict]]:
        question = Question("GET", self._url, (*headers, ("accept", "application/json")))
        later: Deferred[Any] = self._backEnd.ask(self._signed(question))
        return later.addCallback(self._read, key, isAmbient)

    def _read(self, answer: Answer, key: bytes, isAmbient: bool) -> Kept[Verdict]:
        if answer.status in (401, 403):
            isWrong = answer.status == 401
            return self._verdicts.refused(key, _unaccepted if isWrong else _unwelcome, isWrong)
        if answer.status == 204:
            return self._verdicts.accepted(GUEST, self._cache)
        if answer.status != 200:
            raise self._verdicts.unusable(f"it answered {answer.status}")
        try:
            who = _who.decode(answer.body)
            subscribe, publish = who.grants.parsed()
            seconds = self._cache
            expiresAt = None
            if who.expires is not None:
                if not 0 <= who.expires <= LONGEST_LIFE:
                    raise ValueError("expires is not a number of seconds from now")
                expiresAt = self._unixTime() + who.expires
                seconds = min(seconds, who.expires)
            user = "" if who.user is None else str(who.user)
            identity = Identity(
                user,
                subscribe,
                publish,
                scopesOf(who.scopes),
                who.info,
                expiresAt,
                issuedAt=self._unixTime(),
                tokenId=None if who.session is None else str(who.session),
                isAmbient=isAmbient,
                payload=answer.body,
            )
        except (ValueError, UnicodeError, RecursionError) as error:
            # The words of the decoder name what is wrong, and not the value.
            raise self._verdicts.unusable(f"its answer cannot be used: {error}") from None
        return self._verdicts.accepted(identity, seconds)

    def _join(self, user: str, kind: str, channel: str) -> Deferred[Kept[bool]]:
        batch = self._batches.get(user)
        if batch is None or len(batch.waiters) >= CHANNELS:
            batch = self._batches[user] = _Batch()
            self._reactor.callLater(0, self._askChannels, user, batch)
        waiter: Deferred[Kept[bool]] = Deferred()
        batch.waiters[kind, channel] = waiter
        return waiter

    def _askChannels(self, user: str, batch: _Batch) -> None:
        if self._batches.get(user) is batch:
            del self._batches[user]
        asked = {
            kind: [name for (each, name), waiter in batch.waiters.items() if each == kind and not waiter.called]
            for kind in ("subscribe", "publish")
        }
        if not any(asked.values()):
            return
        body = msgspec.json.encode({"user": user, **asked})
        headers = (("content-type", "application/json"), ("accept", "application/json"))
        question = self._signed(Question("POST", self._channelsURL, headers, body))
        try:
            later: Deferred[Any] = self._backEnd.ask(question)
        except Unanswered:
            batch.end(Failure(), self._cache)
        else:
            later.addCallback(self._readChannels).addBoth(batch.end, self._cache)

    def _readChannels(self, answer: Answer) -> set[tuple[str, str]]:
        if answer.status in (204, 401, 403):
            return set()
        if answer.status != 200:
            raise self._verdicts.unusable(f"it answered {answer.status}")
        try:
            may = _may.decode(answer.body)
        except (ValueError, UnicodeError, RecursionError) as error:
            raise self._verdicts.unusable(f"its answer cannot be used: {error}") from None
        return {*(("subscribe", name) for name in may.subscribe), *(("publish", name) for name in may.publish)}


def _unaccepted() -> AccessRefused:
    return unauthorized(INVALID, "The application does not accept these credentials.")


def _unwelcome() -> AccessRefused:
    return forbidden("The application does not let this user in.")


class _Batch:
    """What is asked about one user in one turn."""

    def __init__(self) -> None:
        self.waiters: dict[tuple[str, str], Deferred[Kept[bool]]] = {}

    def end(self, result: set[tuple[str, str]] | Failure, cache: float) -> None:
        """Tell all who wait."""
        for asked, waiter in self.waiters.items():
            if waiter.called:
                continue
            if isinstance(result, Failure):
                waiter.errback(result)
            else:
                waiter.callback(Kept(asked in result, cache, len(asked[1])))
