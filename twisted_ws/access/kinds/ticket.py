"""Tickets: tokens that open one connection, within a minute of their making; they may stand in a URL."""

from __future__ import annotations

import hmac
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from twisted_ws.access.authenticator import AuthenticatorSettings, Host
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import EXPIRED, INVALID, AccessRefused, unauthorized, unavailable
from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.sources import MOST_BYTES, Found, TokenSources
from twisted_ws.access.tokens.base64url import decoded, encoded
from twisted_ws.errors import ChannelError
from twisted_ws.identity import LONGEST_USER, Grants, Identity
from twisted_ws.upgrade import UpgradeRequest

# Who a ticket is for (RFC 7519 section 4.1.3): no other token counts as one.
AUDIENCE = "twisted-ws-ticket"
# Seconds between the making of a ticket and its end. Proxies log URLs, and whoever reads such a log must come too late; and the
# ids of used tickets are kept as long.
LONGEST_LIFE = 60
# Seconds by which the clocks of two machines may differ.
LEEWAY = 10
# Characters of the id of a ticket: a UUID has 36.
LONGEST_ID = 128
# Characters of a ticket that is made here: with it, the first line of a request stays well below the 8 KiB of most servers.
LONGEST_TICKET = 4096
# The year 9999, in Unix time: a later one is a mistake.
_LATEST = 253402300799

SOURCES = ("query:ticket", "header", "subprotocol")


class _Header(msgspec.Struct):
    alg: str
    typ: str = "JWT"
    crit: Any = None
    b64: Any = None


class _Audience(msgspec.Struct):
    aud: str | list[str] | None = None


class _Granted(msgspec.Struct):
    subscribe: list[str] = []
    publish: list[str] = []
    info: Any = None


class _Claims(msgspec.Struct):
    sub: str
    exp: int | float
    iat: int | float
    jti: str
    nbf: int | float | None = None
    scope: str = ""
    twisted_ws: _Granted = msgspec.field(default_factory=_Granted)
    expire_at: int | float | None = None


_headers = msgspec.json.Decoder(_Header)
_audiences = msgspec.json.Decoder(_Audience)
_claims = msgspec.json.Decoder(_Claims)


class TicketAuthenticator:
    """The authenticator ``ticket``: a JSON Web Token signed with HS256, which is taken once, by one server of all.

    Options: ``secret-file`` (see `SecretFile`), ``sources``, ``life`` (seconds, at most 60), ``leeway`` (seconds).

    Raises:
        ConfigurationError: an option or the file is wrong.
    """

    findsGuests = False

    def __init__(self, settings: AuthenticatorSettings, unixTime: Callable[[], float] = time.time) -> None:
        options = Options(f"authenticators.{settings.name}", settings.options, settings.directory)
        self._name = settings.name
        self._unixTime = unixTime
        path = options.path("secret-file")
        self._sources = TokenSources(options.texts("sources", SOURCES), f"authenticators.{settings.name}.sources")
        self.takesMessage = self._sources.hasMessage
        self._life = int(options.number("life", LONGEST_LIFE, 1, LONGEST_LIFE, "seconds"))
        self._leeway: float = options.number("leeway", LEEWAY, 0, LONGEST_LIFE, "seconds")
        options.done()
        self._secrets = SecretFile(path)
        self._host: Host | None = None

    def __repr__(self) -> str:
        return f"<TicketAuthenticator {self._name}>"

    def start(self, host: Host) -> None:
        """Learn who knows which tickets are used."""
        self._host = host

    def reload(self) -> None:
        """Read the secrets anew.

        Raises:
            ConfigurationError: the file cannot be used, and the old secrets stay.
        """
        self._secrets.reload()

    def identify(self, request: UpgradeRequest) -> Identity | Deferred[Identity] | None:
        """Return whom the ticket in a request is for; None without one."""
        found = self._sources.find(request)
        if found is None:
            return None
        parts = _split(found)
        if parts is None:
            return None
        identity, until, key = self._read(*parts)
        assert self._host is not None
        try:
            claimed = self._host.claim(f"ticket:{key}", until)
        except ChannelError:
            raise _notNow() from None
        if isinstance(claimed, bool):
            return _once(claimed, identity)
        later: Deferred[Any] = claimed.addCallbacks(_once, _failed, callbackArgs=(identity,))
        return later

    def whyUnclaimed(self, request: UpgradeRequest) -> str:
        """Return why a token in a request is not a ticket; "" without a token."""
        found = self._sources.find(request)
        return "" if found is None or _split(found) is not None else "is not a ticket"

    def _read(self, signed: bytes, payload: bytes, signature: bytes) -> tuple[Identity, float, str]:
        """Return the identity in a ticket, until when it must not be taken again, and by what it is known."""
        secret = next((each for each in self._secrets.secrets if _isSigned(each, signed, signature)), None)
        if secret is None:
            raise _invalid("The signature is wrong.")
        try:
            claims = _claims.decode(payload)
            times = (claims.iat, claims.exp, claims.nbf or 0, claims.expire_at or 0)
            if not claims.sub or not 0 < len(claims.jti) <= LONGEST_ID or not all(0 <= each <= _LATEST for each in times):
                raise ValueError
            granted = claims.twisted_ws
            identity = Identity(
                claims.sub,
                Grants(granted.subscribe),
                Grants(granted.publish),
                frozenset(claims.scope.split()),
                granted.info,
                None if claims.expire_at is None else claims.expire_at + self._leeway,
                claims.iat,
                claims.jti,
                payload=payload,
            )
        except (msgspec.DecodeError, UnicodeError, ChannelError, ValueError, RecursionError):
            raise _invalid("A claim is missing or malformed.") from None
        now, leeway = self._unixTime(), self._leeway
        if claims.exp + leeway <= now:
            raise unauthorized(EXPIRED, "The ticket has expired.")
        if claims.exp - claims.iat > self._life or claims.exp > now + self._life + leeway:
            raise _invalid(f"A ticket lives for at most {self._life} seconds.")
        if max(claims.iat, claims.nbf or 0) > now + leeway:
            raise _invalid("The ticket is not valid yet.")
        # By the secret, not by our name: whoever takes tickets of the same secret must not take this one again.
        used = hmac.digest(secret, b"used\0" + claims.jti.encode("utf-8", "surrogatepass"), "sha256").hex()
        return identity, claims.exp + leeway, used

    def issue(
        self,
        user: str,
        *,
        subscribe: Iterable[str] = (),
        publish: Iterable[str] = (),
        info: Any = None,
        scopes: Iterable[str] = (),
        expires: float | None = None,
    ) -> tuple[str, int]:
        """Make a ticket; return it, and the seconds for which it can be used.

        Args:
            user: whom it is for, 1 to 128 characters.
            subscribe: names and patterns of channels.
            publish: the same.
            info: what presence tells others.
            scopes: what else the user may do; words without spaces.
            expires: seconds from now after which the connection ends; None: it does not.

        Raises:
            ChannelError: "bad-request", "bad-channel" or "too-large": such a ticket would not be accepted.
        """
        scopes = tuple(scopes)
        if not 0 < len(user) <= LONGEST_USER:
            raise ChannelError("bad-request", f"user must have 1 to {LONGEST_USER} characters.")
        if any(len(each.split()) != 1 or each.split()[0] != each for each in scopes):
            raise ChannelError("bad-request", "A scope is a word without spaces.")
        now = math.floor(self._unixTime())
        granted = {"subscribe": list(Grants(subscribe)), "publish": list(Grants(publish)), "info": info}
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "sub": user,
            "iat": now,
            "exp": now + self._life,
            "jti": secrets.token_urlsafe(16),
        }
        if any(granted.values()):
            claims["twisted_ws"] = {name: value for name, value in granted.items() if value}
        if scopes:
            claims["scope"] = " ".join(scopes)
        if expires is not None:
            claims["expire_at"] = now + expires
        signed = f"{_encode({'alg': 'HS256', 'typ': 'JWT'})}.{_encode(claims)}"
        signature = hmac.digest(self._secrets.secrets[0], signed.encode(), "sha256")
        ticket = f"{signed}.{encoded(signature)}"
        if len(ticket) > LONGEST_TICKET:
            raise ChannelError("too-large", f"The ticket would have more than {LONGEST_TICKET} characters.")
        return ticket, self._life


def _split(found: Found) -> tuple[bytes, bytes, bytes] | None:
    """Return what is signed, the claims and the signature of a ticket; None if it is another kind of token.

    Raises:
        AccessRefused: it is none, though a URL has nothing else, or it is one that nobody should make.
    """
    try:
        if len(found.token) > MOST_BYTES:
            raise ValueError
        header, payload, signature = map(decoded, found.token.split("."))
        audience = _audiences.decode(payload).aud
    except (ValueError, UnicodeError, RecursionError):
        if found.inURL:
            raise _invalid("This is not a ticket.") from None
        return None
    if audience not in (AUDIENCE, [AUDIENCE]):
        return None
    try:
        head = _headers.decode(header)
    except (ValueError, UnicodeError, RecursionError):
        raise _invalid("The header is malformed.") from None
    if head.alg != "HS256" or head.typ.upper() != "JWT" or head.crit is not None or head.b64 is not None:
        raise _invalid("Tickets are signed with HS256.")
    return found.token.rpartition(".")[0].encode("ascii"), payload, signature


def _isSigned(secret: bytes, signed: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(hmac.digest(secret, signed, "sha256"), signature)


def _encode(fields: dict[str, Any]) -> str:
    return encoded(msgspec.json.encode(fields))


def _invalid(message: str) -> AccessRefused:
    return unauthorized(INVALID, message)


def _notNow() -> AccessRefused:
    return unavailable("Tickets cannot be taken at present.")


def _once(isFirst: bool, identity: Identity) -> Identity:
    if not isFirst:
        raise _invalid("The ticket has been used.")
    return identity


def _failed(failure: Failure) -> Failure:
    if failure.check(ChannelError):
        raise _notNow() from None
    return failure
