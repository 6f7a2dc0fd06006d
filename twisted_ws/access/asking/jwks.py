"""The public keys of whoever issues tokens, by URL (RFC 7517), and their rotation."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from twisted_ws.access.asking.answers import Answers, Kept
from twisted_ws.access.asking.backend import BackEnd
from twisted_ws.access.asking.exchange import Answer, Question, Unanswered
from twisted_ws.access.refusals import unavailable

# Seconds for which keys count if the answer does not say so, and the bounds of what it may say.
FRESH = 300.0
LEAST_FRESH = 60.0
MOST_FRESH = 86_400.0
# Seconds for which the keys that are there are used while no new ones can be had.
STALE = 86_400.0
# Seconds between two fetches because of an unknown key: whoever makes up key ids must not make us ask for each of them.
REFETCH = 30.0
# Seconds after which a fetch that failed is tried again.
RETRY = 5.0
# Unknown key ids that are remembered, and for how many seconds: one id must not use up the fetches for others.
UNKNOWN = 128
UNKNOWN_SECONDS = 60.0
# Keys in a set: each is some 50 microseconds of work.
MOST_KEYS = 64
# Bits of an RSA key: below, it is broken (NIST SP 800-131A); above, a signature takes a millisecond.
LEAST_BITS = 2048
MOST_BITS = 8192

_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "secp256k1": "ES256K"}
_RSA = frozenset(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"))


class Key(NamedTuple):
    """A public key, and the one algorithm that it is for, which may have two names.

    Attributes:
        kid: its id; None without one.
        alg: the algorithm (RFC 7518).
        key: the key, of cryptography.
    """

    kid: str | None
    alg: str
    key: Any

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The algorithms that it verifies."""
        if self.alg != "EdDSA":
            return (self.alg,)
        return self.alg, "Ed25519" if isinstance(self.key, Ed25519PublicKey) else "Ed448"


class _JWK(msgspec.Struct):
    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    crv: str | None = None
    key_ops: list[str] | None = None


class _Set(msgspec.Struct):
    keys: list[msgspec.Raw]


_set = msgspec.json.Decoder(_Set)
_jwk = msgspec.json.Decoder(_JWK)


def parseKeys(data: bytes) -> tuple[Key, ...]:
    """Return the keys of a set that can verify signatures; others, and those of unknown kinds, are left out.

    Secrets (``oct``) are left out, because what is published is not secret, as are keys for encryption, and those whose ``alg``
    does not fit them. A key without ``alg`` is for RS256, the algorithm of its curve, or EdDSA.

    Raises:
        ValueError: it is not a set of keys, or has too many.
    """
    try:
        members = _set.decode(data).keys
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise ValueError("it is not a set of keys") from None
    if len(members) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    return tuple(key for each in members if (key := _parse(bytes(each))) is not None)


def _parse(data: bytes) -> Key | None:
    try:
        said = _jwk.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    if said.use not in (None, "sig") or (said.key_ops is not None and "verify" not in said.key_ops):
        return None
    match said.kty:
        case "RSA":
            fits, alg = said.alg is None or said.alg in _RSA, said.alg or "RS256"
        case "EC":
            alg = _CURVES.get(said.crv or "", "")
            fits = bool(alg) and said.alg in (None, alg)
        case "OKP":
            alg = "EdDSA"
            fits = said.crv in ("Ed25519", "Ed448") and said.alg in (None, alg, said.crv)
        case _:
            return None
    if not fits:
        return None
    members: dict[str, Any] = msgspec.json.decode(data)
    # A private part does not belong here, and is not needed.
    public = {name: value for name, value in members.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        key = jwt.PyJWK(public, algorithm=alg).key
    except Exception:  # PyJWT's and cryptography's errors have no common class
        return None
    if isinstance(key, RSAPublicKey) and not LEAST_BITS <= key.key_size <= MOST_BITS:
        return None
    return Key(said.kid, alg, key)


def freshFor(cacheControl: str) -> float:
    """Return the seconds for which an answer counts (RFC 9111 section 5.2.2.1), within bounds."""
    found = re.search(r'(?:^|[\s,])max-age="?([0-9]{1,10})', cacheControl, re.IGNORECASE)
    if found is None:
        return LEAST_FRESH if re.search("no-store|no-cache", cacheControl, re.IGNORECASE) else FRESH
    return min(max(float(found[1]), LEAST_FRESH), MOST_FRESH)


def _question(url: str) -> Question:
    return Question("GET", url, (("accept", "application/json"),))


def _keysOf(answer: Answer) -> tuple[Key, ...]:
    """Return the keys in an answer.

    Raises:
        Unanswered: it has none that can be used.
    """
    if answer.status != 200:
        raise Unanswered(f"it answered {answer.status}")
    try:
        keys = parseKeys(answer.body)
    except ValueError as error:
        raise Unanswered(str(error)) from None
    if not keys:
        raise Unanswered("the set has no key that can verify a signature")
    return keys


class RemoteKeys:
    """The keys at a URL: fetched at the start, again when they are no longer fresh, and when an unknown one is asked for.

    Args:
        url: the URL.
        what: what asks, for the log, such as ``authenticator site``.
        backEnd: asks (see `twisted_ws.access.asking.backend.makeBackEnd`).
        reactor: the reactor.
    """

    _log = Logger()

    def __init__(self, url: str, what: str, backEnd: BackEnd, reactor: Any) -> None:
        self._url = url
        self._what = what
        self._backEnd = backEnd
        self._reactor = reactor
        self._clock: Callable[[], float] = reactor.seconds
        self._keys: tuple[Key, ...] = ()
        self._fetchedAt: float | None = None
        self._askedAt: float | None = None  # when an unknown key was the reason
        self._notBefore = 0.0  # when to fetch again after a failure, while there are no keys
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._fetches: Answers[bool] = Answers(reactor)
        self._timer: Any = None
        self._isStopped = False

    def __repr__(self) -> str:
        return f"<RemoteKeys of {self._what}: {len(self._keys)}>"

    def start(self) -> None:
        """Fetch the keys, and go on doing so; a URL that cannot be reached is a line in the log."""
        self._again()

    async def probe(self) -> str:
        """Ask for the keys once, keep nothing, and return in words what there is.

        Raises:
            Unanswered: there is no answer, or none that can be used.
        """
        answer = await self._backEnd.ask(_question(self._url))
        count = len(_keysOf(answer))
        return f"{self._url}: {count} key{'' if count == 1 else 's'}"

    @property
    def isResting(self) -> bool:
        """Whether the server of the keys has failed so often that it is not asked now."""
        return self._backEnd.isResting

    def stop(self) -> Deferred[None]:
        """Fetch no more."""
        self._isStopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self._backEnd.stop()

    def find(self, kid: str | None, alg: str) -> Key | Deferred[Key | None] | None:
        """Return the key for a token with this header; None if there is none.

        A token without a key id has the only key for its algorithm.

        Raises:
            AccessRefused: with the status 503: there are no keys yet, or only some that are too old, or the key may be a new one,
                and cannot be had now; the Deferred fails with it.
        """
        if not self._areUsable():
            if self._clock() < self._notBefore:  # nobody can make us fetch again and again
                raise unavailable("Tokens cannot be checked at present.", RETRY, "the keys could not be fetched a moment ago")
            return self._wait(self._refresh(), kid, alg)
        candidates = [key for key in self._keys if kid is None or key.kid == kid]
        fitting = [key for key in candidates if alg in key.algorithms]
        if len(fitting) == 1 or (fitting and kid is not None):
            return fitting[0]
        if kid is None or candidates:
            return None
        return self._unknownKey(kid, alg)

    def _areUsable(self) -> bool:
        return self._fetchedAt is not None and bool(self._keys) and self._clock() - self._fetchedAt < FRESH + STALE

    def _unknownKey(self, kid: str, alg: str) -> Deferred[Key | None] | None:
        now = self._clock()
        if self._unknown.get(kid, now) > now:
            return None
        left = 0.0 if self._askedAt is None else self._askedAt + REFETCH - now
        if left > 0 and not self._fetches.isAsking("keys"):
            # Whoever makes up ids must not turn away those whose key is new: they come again.
            raise unavailable(
                "Tokens cannot be checked at present.", left, "an unknown key, and the keys were fetched a moment ago"
            )
        if left > 0:  # the fetch that another unknown key has caused may bring this one, too
            return self._wait(self._refresh(), kid, alg)
        self._askedAt = now
        return self._wait(self._refresh(), kid, alg)

    def _wait(self, fetch: bool | Deferred[bool], kid: str | None, alg: str) -> Deferred[Key | None]:
        assert isinstance(fetch, Deferred)  # nothing is kept
        return fetch.addBoth(self._found, kid, alg)

    def _found(self, result: bool | Failure, kid: str | None, alg: str) -> Key | None:
        if isinstance(result, Failure):
            result.trap(Unanswered)
        if not self._areUsable():
            error = result.value if isinstance(result, Failure) else None
            seconds, detail = (error.seconds, error.detail) if isinstance(error, Unanswered) else (0, "the set has no usable key")
            raise unavailable("Tokens cannot be checked at present.", seconds or RETRY, f"no keys: {detail}")
        fitting = [key for key in self._keys if (kid is None or key.kid == kid) and alg in key.algorithms]
        if len(fitting) == 1 or (fitting and kid is not None):
            return fitting[0]
        if kid is not None and isinstance(result, Failure) and not any(key.kid == kid for key in self._keys):
            raise unavailable("Tokens cannot be checked at present.", RETRY, "an unknown key, and the keys cannot be fetched")
        if kid is not None and not isinstance(result, Failure):
            self._note(kid)
        return None

    def _note(self, kid: str) -> None:
        """Remember that there is no key with an id."""
        self._unknown.pop(kid, None)
        self._unknown[kid] = self._clock() + UNKNOWN_SECONDS
        if len(self._unknown) > UNKNOWN:
            self._unknown.popitem(last=False)

    def _refresh(self) -> bool | Deferred[bool]:
        """Fetch the keys, once for all who wait; one of those is this itself, so that the fetch goes on when the others leave."""
        if not self._fetches.isAsking("keys"):
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            mine = self._fetches.find("keys", self._fetch)
            assert isinstance(mine, Deferred)
            mine.addErrback(lambda failure: None)
            if mine.called:
                # It has failed at once: whoever asks now gets the same.
                return self._fetches.find("keys", self._failAgain)
        return self._fetches.find("keys", self._fetch)

    def _failAgain(self) -> Deferred[Kept[bool]]:
        raise Unanswered("the last fetch failed", RETRY)

    def _fetch(self) -> Deferred[Kept[bool]]:
        try:
            asked: Deferred[Any] = self._backEnd.ask(_question(self._url))
        except Unanswered as error:
            self._schedule(error.seconds or RETRY)
            raise
        return asked.addCallback(self._take).addErrback(self._failed)

    def _take(self, answer: Answer) -> Kept[bool]:
        before, self._keys = self._keys, _keysOf(answer)
        for kid in {key.kid for key in before} - {key.kid for key in self._keys}:
            if kid is not None:
                self._note(kid)  # it was withdrawn, and is not a new one
        self._fetchedAt = self._clock()
        self._schedule(freshFor(answer.cacheControl))
        return Kept(True, 0)

    def _failed(self, failure: Failure) -> Failure:
        error = failure.value
        detail = error.detail if isinstance(error, Unanswered) else type(error).__name__
        state = "tokens signed with them are answered with 503" if not self._areUsable() else "the old ones are used"
        self._log.warn(
            "{by}: no keys from its jwks URL ({reason}); {state}",
            by=self._what,
            reason=detail,
            state=state,
            event="auth.keys_unavailable",
        )
        self._notBefore = self._clock() + 1
        self._schedule(max(RETRY, error.seconds if isinstance(error, Unanswered) else 0))
        return failure

    def _schedule(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._isStopped else self._reactor.callLater(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        found = self._refresh()
        if isinstance(found, Deferred):
            found.addErrback(lambda failure: None)
