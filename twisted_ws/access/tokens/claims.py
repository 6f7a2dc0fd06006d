"""What the claims of a verified token say, and whether they are as the options want them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from twisted_ws.access.tokens.verification import InvalidToken
from twisted_ws.errors import ChannelError
from twisted_ws.identity import LONGEST_TOKEN_ID, LONGEST_USER, NOTHING, Grants, Identity

# Seconds by which the clocks of two machines may differ.
LEEWAY = 10.0
# Seconds that a token in a URL may live: proxies log it, and whoever reads such a log must come too late.
LONGEST_IN_URL = 60.0
# The year 9999, in Unix time: a later one is a mistake.
_LATEST = 253402300799
# Claims that name the client that a token was issued to; Cognito and Keycloak have them in place of an audience.
CLIENT_CLAIMS = ("azp", "client_id")


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What claims must say, and which mean what.

    Attributes:
        issuer: who must have issued a token; None: anybody with the key.
        audience: whom a token may be for, any one of them; (): it must not be for anybody in particular.
        require: claims that must have a value, or, if they are lists, include it; of a list of values, any one of them.
        user: the claim with the name of the user.
        scopes: that with scopes, a list or a text with spaces; a token need not have it.
        grants: that with channels: ``{"subscribe": [...], "publish": [...], "info": ...}``; a token need not have it.
        info: that with what presence tells others; "" for what the grants say.
        leeway: seconds by which the clocks of two machines may differ.
        mayOutlive: whether a connection may go on when its token has expired.
        id: that with an id by which tokens can be revoked, which all tokens of one login may share; without it, ``jti`` counts.
    """

    issuer: str | None = None
    audience: tuple[str, ...] = ()
    require: Mapping[str, Any] = field(default_factory=dict)
    user: str = "sub"
    scopes: str = "scope"
    grants: str = "twisted_ws"
    info: str = ""
    leeway: float = LEEWAY
    mayOutlive: bool = False
    id: str = "jti"


@dataclass(frozen=True, slots=True)
class ChannelGrants:
    """What a subscription token allows.

    Attributes:
        subscribe: the channels that may be subscribed to, with patterns.
        publish: those that may be published to.
        expiresAt: until when, in Unix time, with leeway.
        issuedAt: when it was issued, in Unix time; None if it does not say.
        tokenId: its id (``jti``), by which it can be revoked; None without one.
    """

    subscribe: Grants
    publish: Grants
    expiresAt: float
    issuedAt: float | None = None
    tokenId: str | None = None

    @property
    def size(self) -> int:
        """The bytes of memory that this takes, roughly."""
        return self.subscribe.size + self.publish.size


def decodeClaims(payload: bytes) -> dict[str, Any]:
    """Return the claims of a token.

    Raises:
        InvalidToken: they are not a JSON object.
    """
    try:
        claims = msgspec.json.decode(payload)
    except (ValueError, UnicodeError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise InvalidToken("The claims are not a JSON object.", step="claims")
    return claims


def claimAt(claims: Any, path: str) -> Any:
    """Return the claim with a name, None without it; dots go into objects, where no name has them itself."""
    if not isinstance(claims, dict):
        return None
    if path in claims:
        return claims[path]
    dot = path.find(".")
    while dot >= 0:
        found = claimAt(claims.get(path[:dot]), path[dot + 1 :])
        if found is not None:
            return found
        dot = path.find(".", dot + 1)
    return None


def identityOf(rules: ClaimRules, payload: bytes, now: float, by: str, isAmbient: bool, inURL: bool) -> tuple[Identity, float]:
    """Return who a verified token is of, and when the token itself ends, in Unix time, with leeway.

    Args:
        rules: what it must say.
        payload: its claims.
        now: Unix time.
        by: the name of the authenticator.
        isAmbient: whether a browser sent it by itself.
        inURL: whether it was in a URL.

    Raises:
        InvalidToken: it does not say it. The steps, in this order, are "claims", "times", "iss", "aud", "required", "url",
            "user", "scopes", "grants" and "id".
    """
    claims = decodeClaims(payload)
    until = checkTimes(claims, now, rules.leeway)
    _checkIssuer(rules, claims)
    _checkAudience(rules, claims)
    for name, wanted in rules.require.items():
        if not _isOrHas(claimAt(claims, name), wanted):
            raise InvalidToken("A claim does not have the value that is required.", f"require.{name}", step="required")
    if inURL:
        begin = claims.get("iat", now)
        if claims["exp"] - begin > LONGEST_IN_URL or until > now + LONGEST_IN_URL + 2 * rules.leeway:
            raise InvalidToken(f"A token in a URL lives for at most {LONGEST_IN_URL:g} seconds.", "sources", step="url")
    user = _user(claims, rules.user)
    scopes = _scopes(claimAt(claims, rules.scopes))
    grants = claimAt(claims, rules.grants)
    subscribe, publish, info = (NOTHING, NOTHING, None) if grants is None else _granted(grants)
    identity = Identity(
        user,
        subscribe,
        publish,
        scopes,
        claimAt(claims, rules.info) if rules.info else info,
        None if rules.mayOutlive else until,
        claims.get("iat"),
        _tokenId(claims, rules.id),
        by,
        isAmbient,
        payload,
    )
    return identity, until


def channelGrantsOf(rules: ClaimRules, payload: bytes, user: str, now: float) -> ChannelGrants:
    """Return the channels in a verified subscription token: claims ``sub``, ``channels``, ``exp``, and perhaps ``publish``.

    Raises:
        InvalidToken: it is not for this user, or malformed, or has expired; the steps are "claims", "times", "iss", "aud",
            "user", "channels", "publish" and "id".
    """
    claims = decodeClaims(payload)
    until = checkTimes(claims, now, rules.leeway)
    if "iss" in claims:
        _checkIssuer(rules, claims)
    if "aud" in claims:
        _checkAudience(rules, claims)
    if claims.get("sub") != user:
        raise InvalidToken("The subscription token is for another user.", step="user", isOfAnother=True)
    subscribe = _names(claims.get("channels"), "The subscription token has no list of channels.", "", "channels")
    publish = _names(claims.get("publish", []), "The claim publish is not a list of channels.", "", "publish")
    return ChannelGrants(subscribe, publish, until, claims.get("iat"), _tokenId(claims, "jti"))


def isForAnother(rules: ClaimRules, payload: bytes) -> bool:
    """Return whether a token that nobody has verified says that it is from another issuer than these rules want."""
    if rules.issuer is None:
        return False
    try:
        return decodeClaims(payload).get("iss") != rules.issuer
    except InvalidToken:
        return False  # and is refused as malformed


def checkTimes(claims: Mapping[str, Any], now: float, leeway: float) -> float:
    """Return when a token ends, in Unix time, with leeway.

    Raises:
        InvalidToken: it has ended, has not begun, or does not say when it ends.
    """
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name not in claims and name != "exp":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= _LATEST):
            what = "must say when it ends" if name == "exp" and name not in claims else "has an invalid time"
            raise InvalidToken(f"The token {what} ({name}).", step="times")
    until: float = claims["exp"] + leeway
    if until <= now:
        raise InvalidToken("The token has expired.", step="times", isExpired=True)
    if claims.get("nbf", 0) > now + leeway:
        raise InvalidToken("The token is not valid yet (nbf).", "leeway", step="times")
    if claims.get("iat", 0) > now + leeway:
        raise InvalidToken("The token was issued in the future (iat).", "leeway", step="times")
    return until


def _checkIssuer(rules: ClaimRules, claims: Mapping[str, Any]) -> None:
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise InvalidToken("The token is from another issuer.", "issuer", step="iss")


def _checkAudience(rules: ClaimRules, claims: Mapping[str, Any]) -> None:
    found = claims.get("aud")
    named = (found,) if isinstance(found, str) else found
    if named is not None and not (isinstance(named, list | tuple) and all(isinstance(each, str) for each in named)):
        raise InvalidToken("The token has an audience that is malformed (aud).", step="aud")
    if rules.audience:
        if not named or set(rules.audience).isdisjoint(named):
            raise InvalidToken("The token is for another audience.", "audience", step="aud")
    elif named and not any(name in rules.require for name in CLIENT_CLAIMS):
        # RFC 7519 section 4.1.3: whoever does not find itself in it must not take the token.
        raise InvalidToken("The token is for an audience, and none is set here.", "audience", step="aud")


def _isOrHas(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_isOrHas(value, each) for each in wanted)
    if isinstance(value, list):
        return any(_isOrHas(each, wanted) for each in value)
    # True is 1 in Python, but not in JSON.
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _user(claims: Mapping[str, Any], path: str) -> str:
    user = claimAt(claims, path)
    if isinstance(user, int) and not isinstance(user, bool) and path != "sub":
        user = str(user)  # the keys of many databases
    if not isinstance(user, str) or not 0 < len(user) <= LONGEST_USER:
        raise InvalidToken(f"The token does not name a user with 1 to {LONGEST_USER} characters.", "user", step="user")
    return user


def _scopes(found: Any) -> frozenset[str]:
    if found is None:
        return frozenset()
    if isinstance(found, str):
        return frozenset(found.split())
    if isinstance(found, list) and all(isinstance(each, str) for each in found):
        return frozenset(found)
    raise InvalidToken("The scopes are neither text nor a list of texts.", "scopes", step="scopes")


def _granted(grants: Any) -> tuple[Grants, Grants, Any]:
    if not isinstance(grants, dict):
        raise InvalidToken("The grants are not an object.", "grants", step="grants")
    wrong = "The grants have something other than lists of channels."
    return _names(grants.get("subscribe", []), wrong), _names(grants.get("publish", []), wrong), grants.get("info")


def _names(found: Any, wrong: str, option: str = "grants", step: str = "grants") -> Grants:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise InvalidToken(wrong, option, step=step)
    try:
        return Grants(found) if found else NOTHING
    except ChannelError:
        raise InvalidToken("A grant is neither a name nor a pattern of channels.", option, step=step) from None


def _tokenId(claims: Mapping[str, Any], path: str) -> str | None:
    found = claimAt(claims, path)
    if found is None and path != "jti":
        found, path = claims.get("jti"), "jti"
    if found is not None and (not isinstance(found, str) or len(found) > LONGEST_TOKEN_ID):
        raise InvalidToken(
            f"The id of the token is not text of at most {LONGEST_TOKEN_ID} characters.", "" if path == "jti" else "id", step="id"
        )
    return found
