"""An authenticator of tests: tokens of the form ``USER.SECONDS``, which end so many seconds after the server's start."""

from __future__ import annotations

from twisted_ws.access.refusals import EXPIRED, INVALID, unauthorized
from twisted_ws.access.sources import TokenSources
from twisted_ws.identity import Identity


class Tokens:
    """Reads a token from wherever a `TokenSources` finds one.

    Args:
        unixTime: the wall clock; tokens count from its first reading.
        scopes: those of every identity.
        info: what presence tells of everybody.
        sources: where tokens are looked for.
    """

    def __init__(self, unixTime, scopes=(), info=None, sources=("header", "subprotocol", "cookie:token")):
        self._unixTime = unixTime
        self._begin = unixTime()
        self._scopes = frozenset(scopes)
        self._info = info
        self._sources = TokenSources(sources)
        self.takesMessage = self._sources.hasMessage

    def identify(self, request):
        found = self._sources.find(request)
        if found is None:
            return None
        user, _, seconds = found.token.partition(".")
        if not seconds.isdigit():
            raise unauthorized(INVALID, "The token is wrong.")
        expiresAt = self._begin + int(seconds)
        if expiresAt <= self._unixTime():
            raise unauthorized(EXPIRED, "The token has expired.")
        return Identity(
            user,
            expiresAt=expiresAt,
            scopes=self._scopes,
            info=self._info,
            issuedAt=self._begin,
            isAmbient=found.isAmbient,
            tokenId=found.token,
        )
