"""Sessions that web frameworks keep in signed cookies, read without the framework."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import itsdangerous
import msgspec

from twisted_ws.access.authenticator import AuthenticatorSettings
from twisted_ws.access.options import Options
from twisted_ws.access.refusals import EXPIRED, INVALID, unauthorized
from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.sources import MOST_BYTES
from twisted_ws.identity import LONGEST_TOKEN_ID, LONGEST_USER, Identity
from twisted_ws.upgrade import UpgradeRequest, isToken

# Bytes of a session, once it is inflated: a cookie of 8 KiB could have a thousand times as many.
MOST_SESSION = 64 * 1024
# Bytes of a secret: what frameworks generate has more.
SHORTEST_SECRET = 16
_DAY = 86400


class BadCookie(Exception):
    """A cookie that nobody signed, or that cannot be read."""


class Preset(NamedTuple):
    """How a framework writes its sessions.

    Attributes:
        cookie: the cookie's name.
        user: the key of the session that has the user, as the framework or its usual extension has it.
        maxAge: seconds from signing.
        unsign: returns what is signed, and when it was, in Unix time; raises `BadCookie`.
        isPlain: whether the session is plain base64, never compressed.
    """

    cookie: str
    user: str
    maxAge: int
    unsign: Callable[[str, tuple[bytes, ...]], tuple[bytes, float]]
    isPlain: bool = False


def _unsign(signer: itsdangerous.TimestampSigner, cookie: str) -> tuple[bytes, float]:
    try:
        value, signed = signer.unsign(cookie, return_timestamp=True)
    except (itsdangerous.BadData, UnicodeError):
        raise BadCookie from None
    return value, signed.timestamp()


def _flask(cookie: str, secrets: tuple[bytes, ...]) -> tuple[bytes, float]:
    # The last key of a list is the one that itsdangerous signs with.
    keys = list(reversed(secrets))
    return _unsign(
        itsdangerous.TimestampSigner(keys, "cookie-session", key_derivation="hmac", digest_method=hashlib.sha1), cookie
    )


def _starlette(cookie: str, secrets: tuple[bytes, ...]) -> tuple[bytes, float]:
    return _unsign(itsdangerous.TimestampSigner(list(reversed(secrets))), cookie)


_DJANGO = b"django.contrib.sessions.backends.signed_cookiessigner"
_BASE62 = {digit: value for value, digit in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")}


def _django(cookie: str, secrets: tuple[bytes, ...]) -> tuple[bytes, float]:
    signed, _, signature = cookie.rpartition(":")
    value, _, stamp = signed.rpartition(":")
    sent = signature.encode()
    for secret in secrets:
        digest = hmac.digest(hashlib.sha256(_DJANGO + secret).digest(), signed.encode(), "sha256")
        if hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"="), sent):
            break
    else:
        raise BadCookie
    moment = 0
    for digit in stamp:
        moment = moment * 62 + _BASE62[digit]
    return value.encode(), moment


PRESETS = {
    "flask": Preset("session", "_user_id", 31 * _DAY, _flask),
    "starlette": Preset("session", "user", 14 * _DAY, _starlette, isPlain=True),
    "django": Preset("sessionid", "_auth_user_id", 14 * _DAY, _django),
}


class CookieAuthenticator:
    """The authenticator ``signed-cookie``: the user is in the session that a web framework keeps in a signed cookie.

    Nobody is asked, so a session counts until its end even if its user has logged out elsewhere.

    Options: ``preset`` (``flask``, ``starlette`` or ``django``), ``secret-file`` (the framework's secrets, one a line),
    ``cookie``, ``user`` and ``id`` (keys of the session; dots go into objects), ``max-age`` (seconds).

    Raises:
        ConfigurationError: an option or the file is wrong.
    """

    findsGuests = False

    def __init__(self, settings: AuthenticatorSettings, unixTime: Callable[[], float] = time.time) -> None:
        options = Options(f"authenticators.{settings.name}", settings.options, settings.directory)
        self._name = settings.name
        self._unixTime = unixTime
        preset = self._preset = PRESETS[options.choice("preset", tuple(PRESETS))]
        path = options.path("secret-file")
        self._cookie: str = options.text("cookie", preset.cookie)
        self._user: list[str] = options.text("user", preset.user).split(".")
        self._id: list[str] = options.text("id").split(".") if options.has("id") else []
        self._maxAge: float = options.number("max-age", preset.maxAge, 1, 10 * 365 * _DAY, "seconds")
        if not isToken(self._cookie):
            raise options.wrong("cookie", "the name of a cookie")
        options.done()
        self._secrets = SecretFile(path, shortest=SHORTEST_SECRET)

    def __repr__(self) -> str:
        return f"<CookieAuthenticator {self._name}>"

    def reload(self) -> None:
        """Read the secrets anew.

        Raises:
            ConfigurationError: the file cannot be used, and the old secrets stay.
        """
        self._secrets.reload()

    def identify(self, request: UpgradeRequest) -> Identity | None:
        """Return whose session a request has; None without one, or with one of nobody."""
        cookie = request.cookies.get(self._cookie)
        if cookie is None:
            return None
        try:
            if len(cookie) > MOST_BYTES:
                raise BadCookie
            value, signed = self._preset.unsign(cookie, self._secrets.secrets)
        except BadCookie:
            raise unauthorized(INVALID, "The session is not signed by a known secret.") from None
        now = self._unixTime()
        if signed + self._maxAge <= now:
            raise unauthorized(EXPIRED, "The session has expired.")
        try:
            session = _read(value, self._preset.isPlain)
        except Exception:  # signed, but by somebody with another format
            raise unauthorized(INVALID, "The session cannot be read.") from None
        user = _at(session, self._user)
        if user is None or user == "":
            return None
        if not isinstance(user, str) or len(user) > LONGEST_USER:
            raise unauthorized(INVALID, "The session names no user.")
        # A session from before the framework gave them ids has none.
        sessionId = _at(session, self._id) if self._id else None
        if sessionId is not None and not (isinstance(sessionId, str) and 0 < len(sessionId) <= LONGEST_TOKEN_ID):
            raise unauthorized(INVALID, "The id of the session cannot be used.")
        return Identity(
            user,
            expiresAt=signed + self._maxAge,
            issuedAt=signed,
            tokenId=sessionId,
            isAmbient=True,
            payload=msgspec.json.encode(session),
        )


def _at(session: dict[str, Any], keys: list[str]) -> Any:
    """Return what a session has at these keys, each within the one before; a whole number as text, None if there is nothing."""
    found: Any = session
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else found


def _read(value: bytes, isPlain: bool) -> dict[str, Any]:
    if isPlain:
        data = base64.b64decode(value)
    else:
        isCompressed = value.startswith(b".")
        data = base64.urlsafe_b64decode(value.removeprefix(b".") + b"==")
        if isCompressed:
            inflating = zlib.decompressobj()
            data = inflating.decompress(data, MOST_SESSION)
            if not inflating.eof:
                raise ValueError
    return msgspec.json.decode(data, type=dict[str, Any])
