"""JSON Web Tokens of the service's own site, or of an OpenID provider."""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from twisted_ws.access.asking.backend import checkURL, makeBackEnd
from twisted_ws.access.asking.jwks import RemoteKeys
from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.kinds.ticket import AUDIENCE as TICKET
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import EXPIRED, INVALID, OF_ANOTHER_USER, AccessRefused, unauthorized
from twisted_ws.access.sources import DEFAULT, Found, TokenSources
from twisted_ws.access.tokens.claims import (
    CLIENT_CLAIMS,
    LEEWAY,
    ChannelGrants,
    ClaimRules,
    channelGrantsOf,
    decodeClaims,
    identityOf,
    isForAnother,
)
from twisted_ws.access.tokens.keyfiles import KeyFile, publicKeys, secretKeys
from twisted_ws.access.tokens.presets import completed
from twisted_ws.access.tokens.verification import (
    CHANNEL_TYPE,
    CONNECTION_TYPES,
    AnyKey,
    InvalidToken,
    KeySet,
    Token,
    parse,
    verify,
)
from twisted_ws.access.tokens.verified import VerifiedTokens
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import Identity
from twisted_ws.upgrade import UpgradeRequest

T = TypeVar("T")

# Seconds for which a verified token counts without another look at keys that change meanwhile: a key that its owner has
# withdrawn opens nothing for longer.
RECHECK = 300.0
# Subscription tokens that are remembered, and the bytes of what they say: a client sends the same one for each of its channels.
MOST_FOR_CHANNELS = 1000
MOST_BYTES_FOR_CHANNELS = 4 * 1024 * 1024


class JWTAuthenticator:
    """The authenticator ``jwt``.

    Options: ``secret-file`` (see `secretKeys`), ``key-file`` (see `publicKeys`) or ``jwks`` (a URL, see `RemoteKeys`);
    ``issuer``, ``audience``, ``require``, ``user``, ``scopes``, ``grants``, ``info``, ``id``, ``leeway`` (see `ClaimRules`);
    ``sources``; ``expiry`` ("close" or "keep"); ``preset`` (see `PRESETS`).

    Args:
        settings: the settings.
        unixTime: the wall clock.
        keys: keys that change, in place of a file.

    Attributes:
        rules: what tokens must say.

    Raises:
        ConfigurationError: an option or a file is wrong.
    """

    findsGuests = False

    def __init__(
        self, settings: AuthenticatorSettings, unixTime: Callable[[], float] = time.time, keys: KeySet | None = None
    ) -> None:
        where = f"authenticators.{settings.name}"
        given = completed(settings.options, where)
        options = Options(where, given, settings.directory)
        self.name = settings.name
        self._unixTime = unixTime
        options.has("preset")
        sources = options.texts("sources", DEFAULT)
        self._sources = TokenSources(sources, f"{where}.sources")
        self.takesMessage = self._sources.hasMessage
        secretFile, keyFile = options.path("secret-file", None), options.path("key-file", None)
        count = sum(each is not None for each in (secretFile, keyFile, keys)) + options.has("jwks")
        if count != 1:
            raise ConfigurationError(f"{where} needs one of secret-file, key-file and jwks.")
        if options.has("jwks"):
            what = f"authenticator {settings.name}"
            backEnd = makeBackEnd(options, what, settings.reactor, settings.limits.upgradeDeadline)
            keys = RemoteKeys(checkURL(options, "jwks"), what, backEnd, settings.reactor)
        self.rules = ClaimRules(
            options.text("issuer", None),
            options.texts("audience", ()),
            _required(options),
            options.text("user", "sub"),
            options.text("scopes", "scope"),
            options.text("grants", "twisted_ws"),
            options.text("info", ""),
            options.number("leeway", LEEWAY, 0, 300, "seconds"),
            options.choice("expiry", ("close", "keep"), "close") == "keep",
            options.text("id", "jti"),
        )
        options.done()
        if keys is not None:
            checkForKeySet(self.rules, where)
        self._file: KeyFile | None = None
        if secretFile is not None:
            self._file = KeyFile(secretFile, secretKeys)
        elif keyFile is not None:
            self._file = KeyFile(keyFile, publicKeys)
        self._keys = keys
        self._verified: VerifiedTokens[Identity] = VerifiedTokens(unixTime)
        self._granted: VerifiedTokens[ChannelGrants] = VerifiedTokens(unixTime, MOST_FOR_CHANNELS, MOST_BYTES_FOR_CHANNELS)

    def __repr__(self) -> str:
        return f"<JWTAuthenticator {self.name}{f' of {self.rules.issuer}' if self.rules.issuer else ''}>"

    def start(self, host: Host) -> None:
        """Begin to fetch keys that change."""
        if self._keys is not None:
            self._keys.start()

    async def probe(self) -> str:
        """Ask for keys that change (see `Authenticator`); "" if they are in a file."""
        return await self._keys.probe() if isinstance(self._keys, RemoteKeys) else ""

    @property
    def isResting(self) -> bool | None:
        """Whether the server of the keys has failed so often that it is not asked now; None if the keys are in a file."""
        return None if self._keys is None else self._keys.isResting

    def stop(self) -> Any:
        """Fetch no more; return a Deferred if that takes time."""
        return None if self._keys is None else self._keys.stop()

    def reload(self) -> None:
        """Read the keys anew, and verify every token anew.

        Raises:
            ConfigurationError: the file cannot be used, and the old keys stay.
        """
        if self._file is not None:
            self._file.reload()
        self._verified.clear()
        self._granted.clear()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return whose token is in a request; None without a token, or if it says that another issued it.

        Raises:
            AccessRefused: the token is wrong, or (503) its key cannot be had at present.
        """
        found = self._sources.find(request)
        if found is None:
            return None
        name = self._verified.nameOf(found)
        known = self._verified.get(name)
        if known is not None:
            return known
        try:
            token = parse(found.token)
            if token is None or whyNotMine(self.rules, token):
                return None
            checkType(token, isForChannels=False)
        except InvalidToken as error:
            raise self._refusal(error) from None
        return self._withKeys(token, lambda keys: self._verify(token, keys, found, name))

    def whyUnclaimed(self, request: UpgradeRequest) -> str:
        """Return why a token in a request is not this authenticator's, for the operator; "" without a token."""
        found = self._sources.find(request)
        if found is None:
            return ""
        try:
            token = parse(found.token)
        except InvalidToken as error:
            return error.message
        return "is not a JSON Web Token" if token is None else whyNotMine(self.rules, token)

    def grantsOf(self, token: str, user: str) -> ChannelGrants | Deferred[ChannelGrants]:
        """Return what a subscription token allows a user: type ``twisted-ws-sub+jwt``; see `channelGrantsOf` for its claims.

        Raises:
            AccessRefused: the token is wrong, or (503) its key cannot be had at present; the Deferred fails with the same.
        """
        name = sha256(token.encode("utf-8", "surrogatepass")).digest() + user.encode("utf-8", "surrogatepass")
        known = self._granted.get(name)
        if known is not None:
            return known
        try:
            parsed = parse(token)
            if parsed is None:
                raise InvalidToken("This is not a JSON Web Token.", step="header")
            checkType(parsed, isForChannels=True)
        except InvalidToken as error:
            raise self._refusal(error) from None

        def check(keys: tuple[AnyKey, ...]) -> ChannelGrants:
            verify(parsed, keys)
            now = self._unixTime()
            granted = channelGrantsOf(self.rules, parsed.payload, user, now)
            self._granted.put(name, granted, self._until(granted.expiresAt, now), granted.size)
            return granted

        return self._withKeys(parsed, check)

    def _verify(self, token: Token, keys: tuple[AnyKey, ...], found: Found, name: bytes) -> Identity:
        verify(token, keys)
        now = self._unixTime()
        identity, until = identityOf(self.rules, token.payload, now, self.name, found.isAmbient, found.inURL)
        self._verified.put(name, identity, self._until(until, now), identity.size)
        return identity

    def _until(self, until: float, now: float) -> float:
        """Return how long a token counts without another look at the keys."""
        return until if self._keys is None else min(until, now + RECHECK)

    def _withKeys(self, token: Token, check: Callable[[tuple[AnyKey, ...]], T]) -> T | Deferred[T]:
        """Return what `check` makes of the keys that may have signed a token."""

        def checked(keys: tuple[AnyKey, ...]) -> T:
            try:
                return check(keys)
            except InvalidToken as error:
                raise self._refusal(error) from None

        keys = self.keysFor(token)
        if isinstance(keys, Deferred):
            return keys.addCallback(checked)
        return checked(keys)

    def keysFor(self, token: Token) -> tuple[AnyKey, ...] | Deferred[tuple[AnyKey, ...]]:
        """Return the keys that may have signed a token, by its header.

        Raises:
            AccessRefused: with the status 503: they cannot be had at present; the Deferred fails with the same.
        """
        if self._keys is None:
            assert self._file is not None
            return self._file.keys
        key = self._keys.find(token.kid, token.alg)
        if isinstance(key, Deferred):
            later: Deferred[tuple[AnyKey, ...]] = key.addCallback(_oneOrNone)
            return later
        return _oneOrNone(key)

    def _refusal(self, error: InvalidToken) -> AccessRefused:
        by = f"by {self.name}{f', {error.option}' if error.option else ''}"
        reason = EXPIRED if error.isExpired else OF_ANOTHER_USER if error.isOfAnother else INVALID
        return unauthorized(reason, error.message, detail=by)


def checkType(token: Token, isForChannels: bool) -> None:
    """Refuse a token that is for something else.

    Raises:
        InvalidToken: it is.
    """
    if isForChannels:
        if token.type != CHANNEL_TYPE:
            raise InvalidToken("This is not a subscription token.", step="typ")
    elif token.type == CHANNEL_TYPE:
        raise InvalidToken("This is a subscription token, which opens no connection.", step="typ")
    elif token.type not in CONNECTION_TYPES:
        raise InvalidToken("The token is of another type (typ).", step="typ")


def checkForKeySet(rules: ClaimRules, where: str) -> None:
    """Refuse rules that let in whoever has a token of a provider: its keys sign those of all its clients.

    Raises:
        ConfigurationError: they do.
    """
    if rules.issuer is None:
        raise ConfigurationError(f"{where} needs issuer: what the provider's tokens have as iss.")
    if not rules.audience and not any(name in rules.require for name in CLIENT_CLAIMS):
        names = " or ".join(CLIENT_CLAIMS)
        raise ConfigurationError(f"{where} needs audience, or a value of {names} in require: whom tokens are for.")


def _oneOrNone(key: AnyKey | None) -> tuple[AnyKey, ...]:
    return () if key is None else (key,)


def whyNotMine(rules: ClaimRules, token: Token) -> str:
    """Return why a token is left to other authenticators; "" if it is not."""
    if isForAnother(rules, token.payload):
        return "is from another issuer"
    if TICKET not in rules.audience:
        try:
            if decodeClaims(token.payload).get("aud") in (TICKET, [TICKET]):
                return "is a ticket"
        except InvalidToken:
            pass  # and is refused as malformed
    return ""


def _required(options: Options) -> dict[str, Any]:
    found: dict[str, Any] = options.table("require", {})
    if not all(_isWanted(each) or (isinstance(each, list) and each and all(map(_isWanted, each))) for each in found.values()):
        raise options.wrong("require", "a table of claims, each with a value or a list of values")
    return found


def _isWanted(value: Any) -> bool:
    return isinstance(value, str | int | float)  # or true and false
