"""A token as a server reads it, for commands that ask what its user may do."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from twisted_ws.access.kinds.jwt import JWTAuthenticator, checkType, whyNotMine
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.access.tokens.claims import channelGrantsOf, decodeClaims, identityOf
from twisted_ws.access.tokens.verification import CHANNEL_TYPE, InvalidToken, Token, parse, verify
from twisted_ws.commands.secrets import line
from twisted_ws.commands.token.configured import Configured
from twisted_ws.errors import ConfigurationError
from twisted_ws.identity import Identity


class Reading(NamedTuple):
    """What a token says.

    Attributes:
        identity: whom it is of, with what it grants.
        hasExpired: whether it did so before it ended only.
    """

    identity: Identity
    hasExpired: bool


def readToken(config: str, file: str) -> Reading:
    """Return what a token in a file says to a server; of a subscription token, what it grants to its user.

    Raises:
        ConfigurationError: a file cannot be used, or its key cannot be fetched.
        InvalidToken: the server would refuse it, and not only because it has ended.
    """
    text = line(file, "token file").strip()
    configured = Configured(config)
    done: list[Any] = []

    async def read(reactor: Any = None) -> int:
        made = configured.make(None)
        try:
            done.append(await _read(made, text, time.time()))
        except (InvalidToken, AccessRefused) as error:
            done.append(error)
        finally:
            for each in made.values():
                stopped = each.stop()
                if stopped is not None:
                    await stopped
        return 0

    if configured.areRemote:
        from twisted_ws.commands.runner import Runner

        Runner().run(read)
    else:
        Deferred.fromCoroutine(read()).addErrback(lambda failure: done.append(failure.value))
    if isinstance(done[0], AccessRefused):
        raise ConfigurationError(f"The token's key cannot be fetched: {done[0].detail}.")
    if isinstance(done[0], Exception):
        raise done[0]
    reading: Reading = done[0]
    return reading


async def _read(made: dict[str, JWTAuthenticator], text: str, now: float) -> Reading:
    token = parse(text)
    if token is None:
        raise InvalidToken("This is not a JSON Web Token.", step="header")
    each = next((each for each in made.values() if not whyNotMine(each.rules, token)), None)
    if each is None:
        raise InvalidToken("No authenticator of the type jwt accepts this token.", step="iss")
    checkType(token, token.type == CHANNEL_TYPE)
    keys = each.keysFor(token)
    verify(token, await keys if isinstance(keys, Deferred) else keys)
    try:
        return Reading(_identity(each, token, now), False)
    except InvalidToken as error:
        if not error.isExpired:
            raise
    return Reading(_identity(each, token, decodeClaims(token.payload)["exp"] - 1), True)


def _identity(authenticator: JWTAuthenticator, token: Token, now: float) -> Identity:
    if token.type != CHANNEL_TYPE:
        return identityOf(authenticator.rules, token.payload, now, authenticator.name, False, False)[0]
    user = decodeClaims(token.payload).get("sub", "")
    granted = channelGrantsOf(authenticator.rules, token.payload, user, now)
    return Identity(user if isinstance(user, str) else "", granted.subscribe, granted.publish)
