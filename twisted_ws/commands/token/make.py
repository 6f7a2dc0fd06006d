"""``twisted-ws token make``: a signed token, for development and for machines."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.python.usage import UsageError

from twisted_ws.access.secretfile import SecretFile
from twisted_ws.access.tokens.claims import ClaimRules
from twisted_ws.access.tokens.keyfiles import SHORTEST_RSA, algorithmsOf
from twisted_ws.access.tokens.verification import CHANNEL_TYPE, EDWARDS
from twisted_ws.commands.exits import Exit
from twisted_ws.commands.options import CommandOptions, number
from twisted_ws.commands.terminal.display import complain
from twisted_ws.commands.token.configured import Configured
from twisted_ws.errors import ChannelError, ConfigurationError
from twisted_ws.exposure import isOpenToOthers
from twisted_ws.identity import Grants
from twisted_ws.wire.tls.files import PEM_KEY, readFile

# Seconds for which a token counts if nothing else is said: a forgotten one ends within the hour.
EXPIRY = 3600.0
_SECRETS = ("HS256", "HS384", "HS512")


class MakeOptions(CommandOptions):
    """The options of ``twisted-ws token make``."""

    synopsis = "Usage: twisted-ws token make [options] > FILE"
    longdesc = (
        "Writes a signed JSON Web Token to standard output, for development and for machines. What signs it is in a file: a "
        "secret or a private key. With --config, the secret, the issuer, the audience and the names of claims are those of an "
        "authenticator of the server. Whoever has the token is that user until it ends."
    )
    examples = (
        "twisted-ws token make --config push.toml --user ann > token\n"
        "twisted-ws token make --key-file private.pem --issuer https://shop.example --user ann --subscribe 'orders.*'\n"
        "twisted-ws token make --secret-file jwt.key --user ann --channel rooms.7 --channel 'rooms.7.*'"
    )
    optParameters = [  # noqa: RUF012 - as Twisted declares it
        ["config", None, None, "the server's configuration file"],
        ["authenticator", None, None, "the one in it that is to accept the token [the first of the type jwt]"],
        ["secret-file", None, None, "file with a secret for HS256; of several lines, the first"],
        ["key-file", None, None, "file with a private key in PEM: RSA, ECDSA or EdDSA"],
        ["key-id", None, None, "id of the key (kid)"],
        ["algorithm", None, None, "algorithm of the signature [HS256, RS256, ES256, EdDSA ..., as the key is]"],
        ["user", None, None, "whose token this is (sub)"],
        ["issuer", None, None, "who issues it (iss)"],
        ["expiry", None, None, f"seconds until it ends [{EXPIRY:g}]"],
    ]

    def __init__(self) -> None:
        super().__init__()
        for name in ("audience", "scope", "subscribe", "publish", "channel", "claim"):
            self[name] = []

    def opt_audience(self, audience: str) -> None:
        """whom it is for (aud); repeatable"""  # noqa: D403, D415 - this is the help text
        self["audience"].append(audience)

    def opt_scope(self, scope: str) -> None:
        """a scope; repeatable"""  # noqa: D403, D415 - this is the help text
        self["scope"].append(scope)

    def opt_subscribe(self, grant: str) -> None:
        """a channel or pattern that it grants to subscribe to; repeatable"""  # noqa: D403, D415 - this is the help text
        self["subscribe"].append(_pattern("subscribe", grant))

    def opt_publish(self, grant: str) -> None:
        """a channel or pattern that it grants to publish to; repeatable"""  # noqa: D403, D415 - this is the help text
        self["publish"].append(_pattern("publish", grant))

    def opt_channel(self, channel: str) -> None:
        """makes a subscription token, which opens no connection, with this channel or pattern; repeatable"""  # noqa: D403, D415
        self["channel"].append(_pattern("channel", channel))

    def opt_claim(self, claim: str) -> None:
        """another claim, NAME=VALUE, where the value is JSON or text; repeatable"""  # noqa: D403, D415 - this is the help text
        name, equals, value = claim.partition("=")
        if not equals or not name:
            raise UsageError("--claim must be NAME=VALUE")
        try:
            self["claim"].append((name, msgspec.json.decode(value)))
        except (ValueError, RecursionError):
            self["claim"].append((name, value))

    def postOptions(self) -> None:
        """Check what belongs together."""
        if self["user"] is None:
            raise UsageError("--user is needed: whose token is it?")
        if self["secret-file"] is not None and self["key-file"] is not None:
            raise UsageError("give one of --secret-file and --key-file")
        if self["channel"] and (self["scope"] or self["subscribe"]):
            raise UsageError("a subscription token (--channel) has no --scope and --subscribe")


def _pattern(option: str, text: str) -> str:
    try:
        Grants([text])
    except ChannelError as error:
        raise UsageError(f"--{option}: {error}") from None
    return text


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code."""
    options = MakeOptions()
    options.parseOptions(arguments)
    seconds = number(options, "expiry", least=1)
    try:
        rules = _configure(options)
        key, algorithms = _secret(options["secret-file"]) if options["key-file"] is None else _privateKey(options["key-file"])
    except ConfigurationError as error:
        complain(str(error))
        return Exit.USAGE
    algorithm = options["algorithm"] or algorithms[0]
    if algorithm not in algorithms:
        raise UsageError(f"--algorithm must be one that the key is for: {', '.join(algorithms)}")
    header = {} if options["key-id"] is None else {"kid": options["key-id"]}
    if options["channel"]:
        header["typ"] = CHANNEL_TYPE
    print(jwt.encode(_claims(options, rules, time.time(), seconds or EXPIRY), key, algorithm, header))
    return Exit.OK


def _configure(options: MakeOptions) -> ClaimRules:
    """Fill in what a configuration file says, and return what claims mean there."""
    if options["config"] is None:
        if options["secret-file"] is None and options["key-file"] is None:
            raise ConfigurationError("Give --secret-file or --key-file with what signs the token, or --config.")
        return ClaimRules()
    configured = Configured(options["config"])
    name = options["authenticator"] or configured.first
    rules: ClaimRules = configured.make(name)[name].rules
    if options["secret-file"] is None and options["key-file"] is None:
        options["secret-file"] = configured.file(name, "secret-file")
        if options["secret-file"] is None:
            raise ConfigurationError(f"The server has no secret for {name}: give its private key with --key-file.")
    options["issuer"] = options["issuer"] or rules.issuer
    options["audience"] = options["audience"] or [*rules.audience[:1]]
    return rules


def _claims(options: MakeOptions, rules: ClaimRules, now: float, seconds: float) -> dict[str, Any]:
    begin = int(now)
    claims: dict[str, Any] = {"iss": options["issuer"]} if options["issuer"] else {}
    if options["audience"]:
        claims["aud"] = options["audience"] if len(options["audience"]) > 1 else options["audience"][0]
    claims |= {"iat": begin, "exp": begin + int(seconds), "jti": str(uuid.uuid4())}
    if options["channel"]:
        claims |= {"sub": options["user"], "channels": options["channel"]}
        if options["publish"]:
            claims["publish"] = options["publish"]
    else:
        claims |= {name: wanted[0] if isinstance(wanted, list) else wanted for name, wanted in rules.require.items()}
        claims[rules.user] = options["user"]
        if options["scope"]:
            claims[rules.scopes] = options["scope"] if rules.scopes != "scope" else " ".join(options["scope"])
        grants = {name: options[name] for name in ("subscribe", "publish") if options[name]}
        if grants:
            claims[rules.grants] = grants
    return claims | dict(options["claim"])


def _secret(path: str) -> tuple[bytes, tuple[str, ...]]:
    if PEM_KEY in readFile(path, "secret file").data:
        raise ConfigurationError(f"The secret file {path} is a key in PEM: give it with --key-file.")
    secret = SecretFile(path).secrets[0]
    return secret, _SECRETS[: len(secret) // 16 - 1]  # RFC 7518 section 3.2: as many bytes as the hash


def _privateKey(path: str) -> tuple[Any, tuple[str, ...]]:
    file = readFile(path, "key file")
    if isOpenToOthers(file.mode):
        complain(f"the key in {file.path} is open to other users of this machine: chmod 600 {file.path}")
    try:
        key: Any = load_pem_private_key(file.data, None)
    except TypeError:
        raise ConfigurationError(f"The key file {file.path} is encrypted: decrypt it with openssl pkey.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"The key file {file.path} has no private key in PEM (-----BEGIN PRIVATE KEY-----).") from None
    algorithms = algorithmsOf(key.public_key())
    if not algorithms:
        raise ConfigurationError(f"The key file {file.path} has a key of a kind that signs no tokens: use RSA, ECDSA or EdDSA.")
    if algorithms[0] == "RS256" and key.key_size < SHORTEST_RSA:
        raise ConfigurationError(f"The key file {file.path} has a key of fewer than {SHORTEST_RSA} bits: make a longer one.")
    return key, tuple([each for each in algorithms if each not in EDWARDS])
