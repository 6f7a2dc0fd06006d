"""The authenticator ``introspection``: the server that has issued a token says whether it counts (RFC 7662)."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote_plus, urlencode

import msgspec
from twisted.internet.defer import Deferred

from twisted_ws.access.asking.answers import Kept
from twisted_ws.access.asking.backend import BackEnd, checkURL, makeBackEnd
from twisted_ws.access.asking.exchange import Answer, Question, Unanswered
from twisted_ws.access.asking.reading import GrantsOf, scopesOf
from twisted_ws.access.asking.verdicts import LONGEST_STALE, Verdict, Verdicts
from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import INVALID, AccessRefused, unauthorized
from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.sources import DEFAULT, MOST_BYTES, TokenSources
from twisted_ws.identity import Identity
from twisted_ws.upgrade import UpgradeRequest

# Seconds for which an answer counts at most: so long does a token that was revoked there go on.
CACHE = 60
# The fewest characters of the client's secret: the other side has made it.
_SHORTEST_SECRET = 8
# The year 9999, in Unix time: a later one is a mistake.
_LATEST = 253402300799


class _Active(msgspec.Struct):
    active: bool
    exp: float | None = None
    iat: float | None = None
    scope: str | list[str] | None = None
    jti: str | None = None
    aud: str | list[str] | None = None
    twisted_ws: GrantsOf = msgspec.field(default_factory=GrantsOf)


_active = msgspec.json.Decoder(_Active)


class IntrospectionAuthenticator:
    """The authenticator ``introspection``.

    Options: ``url``, ``client``, ``client-secret-file``, ``sources``, ``user`` (the member that names the user; by default
    ``sub``, else ``username``), ``audience``, ``cache`` (seconds), ``deadline``, ``in-flight``, ``ca-file``, ``stale-if-error``.

    Args:
        settings: the settings.
        unixTime: the wall clock.
        makeAsking: makes the back end; tests have one of their own.

    Raises:
        ConfigurationError: an option or the file is wrong.
    """

    scheme = "Bearer"

    findsGuests = False

    def __init__(
        self,
        settings: AuthenticatorSettings,
        unixTime: Callable[[], float] = time.time,
        makeAsking: Callable[[Options, str, Any, float], BackEnd] = makeBackEnd,
    ) -> None:
        options = Options(f"authenticators.{settings.name}", settings.options, settings.directory)
        self._name = settings.name
        self._unixTime = unixTime
        self._url: str = checkURL(options, "url")
        self._client: str = options.text("client")
        path = options.path("client-secret-file")
        sources = options.texts("sources", DEFAULT)
        if any(each.startswith("query") for each in sources):
            raise options.wrong("sources", "a list without query: such tokens live too long for a URL, which proxies log")
        self._sources = TokenSources(sources, f"authenticators.{settings.name}.sources")
        self.takesMessage = self._sources.hasMessage
        user = options.text("user", "")
        self._user = (user,) if user else ("sub", "username")
        self._audience: str = options.text("audience", "")
        self._cache: float = options.number("cache", CACHE, 0, CACHE, "seconds")
        stale = options.number("stale-if-error", 0, 0, LONGEST_STALE, "seconds")
        self._backEnd = makeAsking(options, f"authenticator {settings.name}", settings.reactor, settings.limits.upgradeDeadline)
        options.done()
        self._secret = SecretFile(path, "client secret file", _SHORTEST_SECRET)
        self._verdicts = Verdicts(settings.name, settings.reactor, stale, "Tokens cannot be checked at present.")

    def __repr__(self) -> str:
        return f"<IntrospectionAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who counts wrong tokens."""
        self._verdicts.start(host)

    async def probe(self) -> str:
        """Ask about a token that nobody has issued (see `Authenticator`)."""
        answer = await self._backEnd.ask(self._question("twisted-ws-check"))
        if answer.status != 200:
            why = ": is the client's secret right?" if answer.status in (400, 401, 403) else ""
            raise Unanswered(f"it answered {answer.status}{why}")
        return f"{self._url}: it answers"

    @property
    def isResting(self) -> bool:
        """Whether the other server has failed so often that it is not asked now."""
        return self._backEnd.isResting

    def stop(self) -> Deferred[None]:
        """Give up all questions."""
        return self._backEnd.stop()

    def reload(self) -> None:
        """Read the client's secret anew, and forget what was answered.

        Raises:
            ConfigurationError: the file cannot be used, and the old secret stays.
        """
        self._secret.reload()
        self._verdicts.clear()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return whom the token in a request stands for; None without a token."""
        found = self._sources.find(request)
        if found is None:
            return None
        token, address = found.token, request.peerAddress
        data = token.encode("utf-8", "replace")
        if not data or len(data) > MOST_BYTES:
            raise _refusal("it is empty or too long")
        key = hashlib.sha256(bytes([found.isAmbient]) + data).digest()
        return self._verdicts.find(key, address, partial(self._ask, key, token, found.isAmbient))

    def _question(self, token: str) -> Question:
        # RFC 6749 section 2.3.1: both are encoded as in a form before they become a password of HTTP.
        secret = self._secret.secrets[0].decode("utf-8", "replace")
        password = base64.b64encode(f"{quote_plus(self._client)}:{quote_plus(secret)}".encode()).decode()
        headers = (
            ("authorization", f"Basic {password}"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
        )
        body = urlencode({"token": token, "token_type_hint": "access_token"}, errors="replace").encode()
        return Question("POST", self._url, headers, body)

    def _ask(self, key: bytes, token: str, isAmbient: bool) -> Deferred[Kept[Verdict]]:
        later: Deferred[Any] = self._backEnd.ask(self._question(token))
        return later.addCallback(self._read, key, isAmbient)

    def _read(self, answer: Answer, key: bytes, isAmbient: bool) -> Kept[Verdict]:
        if answer.status != 200:
            # 401: the secret of this client is wrong, and not the visitor's token.
            raise self._verdicts.unusable(f"it answered {answer.status}")
        try:
            said = _active.decode(answer.body)
            members = msgspec.json.decode(answer.body)
            if not all(each is None or 0 <= each <= _LATEST for each in (said.exp, said.iat)):
                raise ValueError("exp or iat is not a time")
            subscribe, publish = said.twisted_ws.parsed()
        except (ValueError, UnicodeError, RecursionError) as error:
            raise self._verdicts.unusable(f"its answer cannot be used: {error}") from None
        now = self._unixTime()
        user = next((members[name] for name in self._user if isinstance(members.get(name), str) and members[name]), "")
        audience = [said.aud] if isinstance(said.aud, str) else said.aud or []
        why = ""
        if not said.active:
            why = "it is not active"
        elif said.exp is not None and said.exp <= now:
            why = "it has expired"
        elif self._audience and self._audience not in audience:
            why = "it is for another audience"
        elif not user:
            why = f"the answer has no {' or '.join(self._user)}"
        seconds = self._cache
        if not why:
            if said.exp is not None:
                seconds = min(seconds, said.exp - now)
            try:
                identity = Identity(
                    user,
                    subscribe,
                    publish,
                    scopesOf(said.scope),
                    said.twisted_ws.info,
                    said.exp,
                    said.iat,
                    said.jti,
                    isAmbient=isAmbient,
                    payload=answer.body,
                )
            except ValueError:
                why = "the name of its user is too long"
            else:
                return self._verdicts.accepted(identity, seconds)
        return self._verdicts.refused(key, partial(_refusal, why))


def _refusal(why: str) -> AccessRefused:
    return unauthorized(INVALID, "The token is not valid.", detail=why)
