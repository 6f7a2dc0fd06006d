"""Signed tokens (RFC 7515, compact form), and the keys that they are verified with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jwt
import msgspec
from jwt.algorithms import OKPAlgorithm

from twisted_ws.access.sources import MOST_BYTES
from twisted_ws.access.tokens.base64url import decoded

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

# The type (RFC 8725 section 3.11) of a subscription token, which opens no connection.
CHANNEL_TYPE = "twisted-ws-sub+jwt"
# Those of tokens that open one: RFC 7519 section 5.1, RFC 9068 section 2.1.
CONNECTION_TYPES = frozenset({"jwt", "at+jwt"})
# RFC 9864: the names of EdDSA that say which curve. Of these, PyJWT knows none.
EDWARDS = ("Ed25519", "Ed448")
# Characters of the id of a key: known ones have up to 64. Whoever fetches keys remembers those that it has not found.
LONGEST_KEY_ID = 256


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies tokens.

    Attributes:
        key: what PyJWT takes: bytes, or a public key of cryptography.
        algorithms: those that it verifies (RFC 7518 section 3.1), never of two kinds: a public key is not a secret for HS256.
    """

    key: Any = field(repr=False)
    algorithms: tuple[str, ...]


class AnyKey(Protocol):
    """What verifies tokens (see `Key`)."""

    @property
    def key(self) -> Any:
        """Return what PyJWT takes."""

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Return the algorithms that it verifies."""


class KeySet(Protocol):
    """Keys that change while the server runs."""

    @property
    def isResting(self) -> bool:
        """Whether the server of the keys has failed so often that it is not asked now."""

    def start(self) -> None:
        """Begin to fetch them."""

    def stop(self) -> Any:
        """Fetch no more; return a Deferred if that takes time."""

    def find(self, kid: str | None, alg: str) -> AnyKey | Deferred[Any] | None:
        """Return the key for a token, None if there is none; `kid` and `alg` are what its header says, and not verified.

        Raises:
            AccessRefused: keys cannot be had at present; the Deferred fails with the same.
        """


class InvalidToken(ValueError):
    """A token that is refused.

    Attributes:
        message: one fixed sentence, without anything of the token.
        option: the option of the authenticator that refuses it; "" if any would.
        step: what was looked at: "header", "typ", "key", "signature", or as `identityOf` and `channelGrantsOf` say.
        isExpired: whether it was valid before.
        isOfAnother: whether it is a subscription token that another user may use.
    """

    def __init__(self, message: str, option: str = "", *, step: str, isExpired: bool = False, isOfAnother: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.option = option
        self.step = step
        self.isExpired = isExpired
        self.isOfAnother = isOfAnother


class Token(NamedTuple):
    """A token that nobody has verified yet.

    Attributes:
        text: all of it.
        alg: the algorithm that it says it is signed with.
        kid: the id of the key, None without one.
        type: its type in lower case, without ``application/``; "jwt" if it does not say.
        payload: its claims, not decoded.
    """

    text: str
    alg: str
    kid: str | None
    type: str
    payload: bytes

    def __repr__(self) -> str:
        return f"<Token {self.type}>"


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: Any = None
    b64: Any = None


_headers = msgspec.json.Decoder(_Header)
_signatures = jwt.PyJWS()
for _name in EDWARDS:
    _signatures.register_algorithm(_name, OKPAlgorithm())


def parse(text: str) -> Token | None:
    """Return the token that `text` is; None if it is another kind of credential.

    Raises:
        InvalidToken: it is one that no server should take.
    """
    if len(text) > MOST_BYTES:
        raise InvalidToken(f"The token is longer than {MOST_BYTES} bytes.", step="header")
    try:
        header, payload, _ = map(decoded, text.split("."))
        read = _headers.decode(header)
    except (ValueError, UnicodeError, RecursionError):
        return None
    if read.crit is not None or read.b64 is not None:
        raise InvalidToken("The token has a critical extension (crit or b64).", step="header")
    if read.kid is not None and len(read.kid) > LONGEST_KEY_ID:
        raise InvalidToken("The id of the token's key (kid) is too long.", step="header")
    kind = (read.typ or "JWT").lower().removeprefix("application/")
    return Token(text, read.alg, read.kid, kind, payload)


def verify(token: Token, keys: Sequence[AnyKey]) -> AnyKey:
    """Check the signature of a token, and return the key that has made it, which may be any of these.

    Raises:
        InvalidToken: none of them has.
    """
    if not keys:
        raise InvalidToken("The issuer has no key with this token's id and algorithm.", step="key")
    usable = [key for key in keys if token.alg in key.algorithms]
    if not usable:
        raise InvalidToken("No key here is for the algorithm that the token is signed with.", step="key")
    for key in usable:
        try:
            _signatures.decode_complete(token.text, key.key, list(key.algorithms))
        except Exception:  # a TypeError, too, for a key that does not fit
            continue
        return key
    raise InvalidToken("The signature is wrong.", step="signature")
