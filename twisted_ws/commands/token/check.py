"""``twisted-ws token check``: what the server makes of a token, and which line of its configuration refuses it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from twisted.internet.defer import Deferred
from twisted.python.usage import UsageError

from twisted_ws.access.kinds.jwt import JWTAuthenticator, checkType, whyNotMine
from twisted_ws.access.kinds.ticket import AUDIENCE as TICKET
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.access.sources import MOST_BYTES
from twisted_ws.access.tokens.claims import ClaimRules, channelGrantsOf, claimAt, decodeClaims, identityOf
from twisted_ws.access.tokens.verification import CHANNEL_TYPE, AnyKey, InvalidToken, Token, parse, verify
from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions
from twisted_ws.commands.secrets import line
from twisted_ws.commands.terminal.display import complain
from twisted_ws.commands.token.configured import Configured
from twisted_ws.errors import ConfigurationError
from twisted_ws.logs import printable

# Characters of a claim that are shown.
LONGEST = 200
# Characters of the shortest token.
_SHORTEST = 40


class CheckOptions(CommandOptions):
    """The options of ``twisted-ws token check``."""

    synopsis = "Usage: twisted-ws token check --config FILE [--authenticator NAME] FILE|-"
    longdesc = (
        "Says what a server with this configuration makes of a token, step by step: its header, the key and signature, its times "
        "and its claims. The token is read from a file, or from standard input (-): every user of the machine can read a command "
        "line. No server has to run; keys at a URL are fetched. The exit code is 0 if the token is accepted and 1 if it is "
        "refused; then the last lines say why, and which line of the configuration wants it so. What has been taken back with "
        "POST /api/revoke is known to the running server only."
    )
    examples = "twisted-ws token check --config push.toml token"
    argument = "file"
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["config", None, None, "the server's configuration file"],
        ["authenticator", None, None, "the one that is asked [the one that the token's issuer chooses]"],
    ]

    def parseArgs(self, *files: str) -> None:
        """Take the name of the file."""
        if len(files) != 1:
            raise UsageError("give one file with a token, or - for standard input")
        if len(files[0]) > _SHORTEST and files[0].count(".") == 2 and not Path(files[0]).exists():
            raise UsageError(
                "give a file, not the token itself, which every user of this machine could read; - is standard input"
            )
        self["file"] = files[0]

    def postOptions(self) -> None:
        """Require a configuration."""
        if self["config"] is None:
            raise UsageError("--config is needed: it says what tokens must be like")


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = CheckOptions()
    options.parseOptions(arguments)
    try:
        text = _tokenIn(options["file"])
        configured = Configured(options["config"])
        if configured.areRemote:
            from twisted_ws.commands.runner import Runner

            return Runner().run(lambda reactor: _run(configured, options["authenticator"], text))
        done: list[Any] = []
        Deferred.fromCoroutine(_run(configured, options["authenticator"], text)).addBoth(done.append)
    except ConfigurationError as error:
        complain(str(error))
        return Exit.USAGE
    if not isinstance(done[0], int):
        done[0].raiseException()
    code: int = done[0]
    return code


def _tokenIn(path: str) -> str:
    if path != "-":
        return line(path, "token file").strip()
    data = sys.stdin.buffer.read(8 * MOST_BYTES)
    try:
        return data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigurationError("The token on standard input is not ASCII.") from None


async def _run(configured: Configured, name: str | None, text: str) -> int:
    try:
        made = configured.make(name)
    except ConfigurationError as error:
        complain(str(error))
        return Exit.USAGE
    try:
        return await Check(configured, made, text, time.time()).run()
    except AccessRefused as error:
        print(f"key: {error.message} {error.detail}")
        return Exit.LATER
    finally:
        for each in made.values():
            stopped = each.stop()
            if stopped is not None:
                await stopped


class Row(NamedTuple):
    """What a token says about one thing, and the option that says what it must be."""

    step: str
    text: str
    option: str = ""


class Check:
    """Prints the steps of a check.

    Args:
        configured: the configuration.
        authenticators: those that may be asked, by name; of several, the token's issuer chooses one.
        text: the token.
        now: Unix time.
    """

    def __init__(self, configured: Configured, authenticators: Mapping[str, JWTAuthenticator], text: str, now: float) -> None:
        self._configured = configured
        self._authenticators = authenticators
        self._text = text
        self._now = now
        self._name = next(iter(authenticators))

    async def run(self) -> int:
        """Print them, and return the exit code.

        Raises:
            AccessRefused: the keys cannot be had.
        """
        try:
            isAccepted = await self._steps()
        except InvalidToken as error:
            self._refuse(error)
            isAccepted = False
        return Exit.OK if isAccepted else Exit.FAILED

    async def _steps(self) -> bool:
        token = parse(self._text)
        if token is None:
            raise InvalidToken("This is not a JSON Web Token.", step="header")
        kid = "none" if token.kid is None else _shown(token.kid)
        self._print(Row("header", f"alg {printable(token.alg, 20)}, kid {kid}, typ {printable(token.type, 100)}"))
        authenticator = self._choose(token)
        isForChannels = token.type == CHANNEL_TYPE
        checkType(token, isForChannels)
        self._print(Row("typ", "a subscription token, which opens no connection" if isForChannels else "opens connections"))
        found = authenticator.keysFor(token)
        keys = await found if isinstance(found, Deferred) else found
        self._signature(token, keys)
        rules, claims = authenticator.rules, decodeClaims(token.payload)
        if isForChannels:
            rows = _channelRows(rules, claims, self._now)
            errors = _errors(lambda now: channelGrantsOf(rules, token.payload, claims.get("sub", ""), now), claims, self._now)
        else:
            rows = _rows(rules, claims, self._now)
            errors = _errors(lambda now: identityOf(rules, token.payload, now, self._name, False, False), claims, self._now)
        for row in rows:
            self._print(row)
            for error in errors:
                if error.step == row.step and (error.step != "required" or error.option == row.option):
                    self._refuse(error)
                    if not error.isExpired:
                        return False
        if not errors:
            print("accepted")
        return not errors

    def _choose(self, token: Token) -> JWTAuthenticator:
        """Return the first authenticator that does not leave the token to others.

        Raises:
            InvalidToken: there is none.
        """
        for name, authenticator in self._authenticators.items():
            if not whyNotMine(authenticator.rules, token):
                self._name = name
                print(f"authenticator: {name}  {self._configured.place(name, 'type')}")
                return authenticator
        claims = decodeClaims(token.payload)
        for name, authenticator in self._authenticators.items():
            why = whyNotMine(authenticator.rules, token)
            wanted = f", and the issuer must be {_shown(authenticator.rules.issuer)}" if "issuer" in why else ""
            print(f"authenticator: not {name}: the token {why}{wanted}  {self._configured.place(name, 'issuer')}")
        if claims.get("aud") in (TICKET, [TICKET]):
            raise InvalidToken(
                "This is a ticket, for an authenticator of the type ticket: this command knows no tickets.", step="aud"
            )
        self._print(Row("iss", _shown(claims.get("iss"))))
        option = "issuer" if len(self._authenticators) == 1 else ""
        raise InvalidToken("No authenticator accepts this token.", option, step="iss")

    def _signature(self, token: Token, keys: Sequence[AnyKey]) -> None:
        option = self._configured.keyOption(self._name)
        try:
            key = _described(verify(token, keys), keys)
        except InvalidToken as error:
            if error.step == "signature":
                usable = [each for each in keys if token.alg in each.algorithms]
                self._print(Row("key", f"{len(usable)} of {len(keys)} would fit the algorithm", option))
            raise
        self._print(Row("key", key, option))
        self._print(Row("signature", "right"))

    def _print(self, row: Row) -> None:
        place = f"  {self._configured.place(self._name, row.option)}" if row.option else ""
        print(f"{row.step}: {row.text}{place}")

    def _refuse(self, error: InvalidToken) -> None:
        option = error.option or (self._configured.keyOption(self._name) if error.step in ("key", "signature") else "")
        place = f"  {self._configured.place(self._name, option)}" if option else ""
        print(f"refused ({error.step}): {error.message}{place}")


def _errors(decide: Callable[[float], object], claims: Mapping[str, Any], now: float) -> list[InvalidToken]:
    """Return why a token is refused; of one that has expired, also why it was refused before."""
    try:
        decide(now)
    except InvalidToken as error:
        return [error, *(_errors(decide, claims, claims["exp"] - 1) if error.isExpired and now >= claims["exp"] else ())]
    return []


def _described(key: AnyKey, keys: Sequence[AnyKey]) -> str:
    """Return which of the keys this is, without anything of a secret."""
    if isinstance(key.key, bytes):
        kind = "a secret"
    elif isinstance(key.key, rsa.RSAPublicKey):
        kind = f"RSA, {key.key.key_size} bits"
    else:
        kind = key.algorithms[0]
    return f"{kind}, number {keys.index(key) + 1} of {len(keys)}" if len(keys) > 1 else kind


def _rows(rules: ClaimRules, claims: Mapping[str, Any], now: float) -> Iterator[Row]:
    """Yield what a token for connections says, in the order in which it is looked at."""
    yield _timesRow(rules, claims, now)
    yield _issuerRow(rules, claims)
    yield _audienceRow(rules, claims)
    for name, wanted in rules.require.items():
        values = " or ".join(map(_shown, wanted if isinstance(wanted, list) else [wanted]))
        yield Row("required", f"{name} is {_shown(claimAt(claims, name))}, and must be {values}", f"require.{name}")
    yield Row("user", f"{rules.user} is {_shown(claimAt(claims, rules.user))}", "user")
    yield Row("scopes", f"{rules.scopes} is {_shown(claimAt(claims, rules.scopes))}", "scopes")
    yield Row("grants", f"{rules.grants} is {_shown(claimAt(claims, rules.grants))}", "grants")
    name = rules.id if claimAt(claims, rules.id) is not None else "jti"
    yield Row("id", f"{name} is {_shown(claimAt(claims, name))}", "id")


def _channelRows(rules: ClaimRules, claims: Mapping[str, Any], now: float) -> Iterator[Row]:
    """Yield the same of a subscription token."""
    yield _timesRow(rules, claims, now)
    if "iss" in claims:
        yield _issuerRow(rules, claims)
    if "aud" in claims:
        yield _audienceRow(rules, claims)
    yield Row("user", f"sub is {_shown(claims.get('sub'))}")
    yield Row("channels", _shown(claims.get("channels")))
    if "publish" in claims:
        yield Row("publish", _shown(claims["publish"]))
    yield Row("id", f"jti is {_shown(claims.get('jti'))}")


def _timesRow(rules: ClaimRules, claims: Mapping[str, Any], now: float) -> Row:
    said = [f"{what} {_moment(claims[name], now)}" for name, what in _TIMES.items() if name in claims]
    return Row("times", f"{', '.join(said) or 'none'}; the leeway is {rules.leeway:g} seconds", "leeway")


_TIMES = {"iat": "issued", "nbf": "begins", "exp": "ends"}


def _moment(value: Any, now: float) -> str:
    try:
        text = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (TypeError, ValueError, OverflowError, OSError):
        return _shown(value)
    seconds = round(value - now)
    return f"{text} (in {seconds} seconds)" if seconds > 0 else f"{text} ({-seconds} seconds ago)"


def _issuerRow(rules: ClaimRules, claims: Mapping[str, Any]) -> Row:
    wanted = "anybody's is taken" if rules.issuer is None else f"it must be {_shown(rules.issuer)}"
    return Row("iss", f"{_shown(claims.get('iss'))}; {wanted}", "issuer")


def _audienceRow(rules: ClaimRules, claims: Mapping[str, Any]) -> Row:
    wanted = f"it must have {' or '.join(map(_shown, rules.audience))}" if rules.audience else "none is set"
    return Row("aud", f"{_shown(claims.get('aud'))}; {wanted}", "audience")


def _shown(value: Any) -> str:
    return "missing" if value is None else printable(json.dumps(value, ensure_ascii=False), LONGEST)
