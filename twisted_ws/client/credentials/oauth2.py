"""Tokens from an authorization server (RFC 6749), for `twisted_ws.client.Bearer`."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from os import PathLike
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from twisted_ws.access.asking.exchange import Answer, Exchanges, Question, Unanswered
from twisted_ws.client.credentials.signed import SignedToken
from twisted_ws.client.errors import ConnectFailed
from twisted_ws.logs import printable
from twisted_ws.wire.tls.files import readFile, replaceFile

GRANTS = ("client_credentials", "refresh_token", "password", "jwt-bearer")
# Seconds before its end in which a token is not used any more, and for which one counts that does not say when it ends.
EARLY = 30.0
UNKNOWN = 300.0
# Seconds for which an assertion of our own is valid.
ASSERTION = 60
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class _Token(msgspec.Struct):
    access_token: str
    expires_in: float | None = None
    refresh_token: str | None = None


class _Refused(msgspec.Struct):
    error: str = ""


class OAuth2:
    """A function for tokens: ``Bearer(OAuth2(url, client, secretFile=...))``.

    A token is asked for when there is none that lives for 30 seconds more. The files are read each time, so that a secret can be
    replaced.

    Args:
        url: the token endpoint; ``https:``, or ``http:`` on a loopback address.
        client: the client's id.
        secretFile: a file with the client's secret.
        grant: "client_credentials" (RFC 6749 section 4.4), "refresh_token" (section 6), "password" (section 4.3), or "jwt-bearer"
            (RFC 7523 section 2.1), for which the client signs a token about itself.
        scope: the scopes to ask for, separated by spaces.
        parameters: more of the request, such as ``resource`` (RFC 8707), or Auth0's ``audience``: whom the token is to be for.
        refreshTokenFile: for "refresh_token": a file with the refresh token. One that comes with an answer, because the server
            takes each only once, is written into it; if that fails, the log warns, and the new one is used all the same.
        user: for "password".
        passwordFile: for "password": a file with the user's password.
        keyFile: for "jwt-bearer": a file with the private key, in PEM.
        algorithm: for "jwt-bearer": of the signature.
        audience: for "jwt-bearer": the audience of the assertion; the url by default.
        reactor: the reactor; None for the global one.
        send: sends a request in place of HTTP; for tests.

    Raises:
        ValueError: the url cannot be used, there is no such grant, or something that it needs is missing.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        client: str,
        *,
        secretFile: str | PathLike[str] | None = None,
        grant: str = "client_credentials",
        scope: str = "",
        parameters: Mapping[str, str] | None = None,
        refreshTokenFile: str | PathLike[str] | None = None,
        user: str = "",
        passwordFile: str | PathLike[str] | None = None,
        keyFile: str | PathLike[str] | None = None,
        algorithm: str = "RS256",
        audience: str = "",
        reactor: Any = None,
        send: Callable[[Question], Deferred[Answer]] | None = None,
    ) -> None:
        needed = {
            "client_credentials": {"secretFile": secretFile},
            "refresh_token": {"refreshTokenFile": refreshTokenFile},
            "password": {"user": user, "passwordFile": passwordFile},
            "jwt-bearer": {"keyFile": keyFile},
        }
        if grant not in needed:
            raise ValueError(f"grant must be one of {', '.join(GRANTS)}, not {grant!r}")
        missing = [name for name, value in needed[grant].items() if not value]
        if missing:
            raise ValueError(f"the grant {grant} needs {' and '.join(missing)}")
        self._url = _checked(url)
        self._client = client
        self._secretFile = secretFile
        self._grant = grant
        self._scope = scope
        self._parameters = dict(parameters or {})
        self._refreshTokenFile = refreshTokenFile
        self._user = user
        self._passwordFile = passwordFile
        self._keyFile = keyFile
        self._algorithm = algorithm
        self._audience = audience or url
        self._reactor = reactor
        self._send = send
        self._lock = DeferredLock()
        self._token = ""
        self._until = 0.0
        self._refreshToken = ""  # one that could not be written to the file

    def __repr__(self) -> str:
        return f"<OAuth2 {self._grant} of {self._client!r} at {urlsplit(self._url).netloc}>"

    async def __call__(self) -> str:
        """Return a token.

        Raises:
            ConnectFailed: there is none; the text says why.
            ConfigurationError: a file cannot be read.
        """
        await self._lock.acquire()
        try:
            reactor = self._clock()
            if self._until - EARLY <= reactor.seconds():
                found = await self._ask()
                self._token = found.access_token
                self._until = reactor.seconds() + (UNKNOWN if found.expires_in is None else found.expires_in)
                if found.refresh_token and self._refreshTokenFile is not None:
                    self._keep(found.refresh_token, self._refreshTokenFile)
            return self._token
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Forget the token, because the server has refused it."""
        self._until = 0.0

    def _keep(self, refreshToken: str, path: str | PathLike[str]) -> None:
        if refreshToken == (self._refreshToken or _read(path)):
            return
        try:
            replaceFile(path, refreshToken.encode() + b"\n")
            self._refreshToken = ""
        except OSError as error:
            self._refreshToken = refreshToken
            self._log.warn(
                "The new refresh token of {name} cannot be written to {file} ({reason}): the one that is there may not count any "
                "more when this program starts again.",
                name=self._client,
                file=os.fspath(path),
                reason=error.strerror,
                event="client.token_lost",
            )

    def _clock(self) -> Any:
        if self._reactor is None:
            from twisted.internet import reactor  # installs the default reactor, so only when one is needed

            self._reactor = reactor
        return self._reactor

    async def _ask(self) -> _Token:
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
        fields = {**self._parameters, **self._fields()}
        if self._secretFile is not None:
            # RFC 6749 section 2.3.1: both are encoded as in a form first.
            pair = f"{quote_plus(self._client)}:{quote_plus(_read(self._secretFile))}"
            headers.append(("Authorization", "Basic " + base64.b64encode(pair.encode()).decode()))
        else:
            fields["client_id"] = self._client
        if self._scope:
            fields["scope"] = self._scope
        if self._send is None:
            self._send = Exchanges(self._clock(), 1).send
        where = urlsplit(self._url).netloc
        try:
            answer = await self._send(Question("POST", self._url, tuple(headers), urlencode(fields).encode()))
        except Unanswered as error:
            raise ConnectFailed(f"{where} was asked for a token, and did not answer: {error.detail}") from None
        try:
            if answer.status == 200:
                return msgspec.json.decode(answer.body, type=_Token)
            why = msgspec.json.decode(answer.body, type=_Refused).error
        except (msgspec.DecodeError, RecursionError):
            why = "its answer is not that of an authorization server"
        raise ConnectFailed(f"{where} was asked for a token, and refused with {answer.status} ({printable(why, 100)})")

    def _fields(self) -> dict[str, str]:
        match self._grant:
            case "refresh_token":
                assert self._refreshTokenFile is not None
                return {"grant_type": "refresh_token", "refresh_token": self._refreshToken or _read(self._refreshTokenFile)}
            case "password":
                assert self._passwordFile is not None
                return {"grant_type": "password", "username": self._user, "password": _read(self._passwordFile)}
            case "jwt-bearer":
                return {"grant_type": _JWT_BEARER, "assertion": self._assertion()}
            case _:
                return {"grant_type": "client_credentials"}

    def _assertion(self) -> str:
        return SignedToken(
            self._client,
            keyFile=self._keyFile,
            issuer=self._client,
            audience=self._audience,
            algorithm=self._algorithm,
            life=ASSERTION,
        )()


def _checked(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        isLoopback = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        isLoopback = False
    isSafe = parts.scheme == "https" or (parts.scheme == "http" and isLoopback)
    if not host or "@" in parts.netloc or parts.fragment or not isSafe:
        # Without the URL, which may have a password.
        raise ValueError("the token endpoint must be an https:// URL (http:// on a loopback address), without user and fragment")
    return url


def _read(path: str | PathLike[str]) -> str:
    return readFile(path, "secret file").data.decode("utf-8", "replace").strip()
