from __future__ import annotations

import json

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from tests.access.asking.support import Server, outcome, turns
from twisted_ws.access.asking.exchange import Unanswered
from twisted_ws.access.asking.jwks import RemoteKeys, freshFor, parseKeys
from twisted_ws.access.refusals import AccessRefused

PRIVATE = rsa.generate_private_key(65537, 2048)
RSA = RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True)
P256 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), as_dict=True)
P521 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP521R1()).public_key(), as_dict=True)
ED = OKPAlgorithm.to_jwk(ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True)


def keySet(*keys):
    return json.dumps({"keys": [*keys]}).encode()


@pytest.mark.parametrize(
    ("key", "alg"),
    [
        (RSA, "RS256"),  # PS256 must be said
        (RSA | {"alg": "PS256"}, "PS256"),
        (P256, "ES256"),
        (P521, "ES512"),
        (ED, "EdDSA"),
        (RSA | {"use": "enc"}, None),
        (RSA | {"alg": "HS256"}, None),
        (RSA | {"alg": "ES256"}, None),
        (RSA | {"alg": "none"}, None),
        (P256 | {"alg": "ES512"}, None),
        (RSA | {"key_ops": ["encrypt"]}, None),
        (RSA | {"n": "AQAB"}, None),
        (P256 | {"x": "!"}, None),
        ({"kty": "oct", "k": "c2VjcmV0" * 8, "alg": "HS256"}, None),
        ({"kty": "new"}, None),
        ({}, None),
        (7, None),
    ],
)
def test_oneAlgorithmForEachKey(key, alg):
    """Each key is for one algorithm; secrets, keys for encryption, broken and unknown ones are left out, and others stay."""
    ids = {"kid": "one"} if isinstance(key, dict) else {}
    found = parseKeys(keySet(key | ids if ids else key, ED | {"kid": "other"}))
    assert [(each.kid, each.alg) for each in found] == [("one", alg)] * (alg is not None) + [("other", "EdDSA")]


def test_privateKeys():
    """Of a private key that was published by mistake only the public part is used."""
    (found,) = parseKeys(keySet({**json.loads(RSAAlgorithm.to_jwk(PRIVATE)), "key_ops": ["verify"]}))
    token = jwt.encode({"sub": "ann"}, PRIVATE, "RS256")
    assert isinstance(found.key, rsa.RSAPublicKey)
    assert jwt.decode(token, found.key, algorithms=[found.alg]) == {"sub": "ann"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"keys": 1}', b"[" * 60_000, keySet(*[{}] * 65), b"\xff"])
def test_notASet(data):
    """What is no set of keys, or is too large a one, is refused as a whole."""
    with pytest.raises(ValueError, match="it "):
        parseKeys(data)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 300),
        ("public, max-age=600", 600),
        ("max-age=1", 60),
        ("Max-Age=999999999", 86_400),
        ("s-maxage=600", 300),
        ("no-store", 60),
        ("max-age=x", 300),
    ],
)
def test_freshness(header, seconds):
    """How long keys count is said by the answer, within a minute and a day; without that, five minutes."""
    assert freshFor(header) == seconds


class World:
    """Keys at a URL, with a clock."""

    def __init__(self):
        self.clock = Clock()
        self.server = Server()
        self.keys = RemoteKeys("https://issuer.example/jwks", "authenticator mine", self.server.backEnd(self.clock), self.clock)

    def reply(self, *ids, **options):
        self.server.reply(body=keySet(*({**RSA, "kid": each} for each in ids)), **options)
        turns(self.clock)

    def started(self, *ids):
        self.keys.start()
        self.reply(*ids)
        return self

    @property
    def asked(self):
        return len(self.server.questions)


def test_findsByIdAndAlgorithm():
    """A key is found by its id, for its own algorithm only; without an id, only if there is no choice."""
    world = World().started("one", "two")
    assert world.keys.find("one", "RS256").kid == "one"
    assert world.keys.find("one", "HS256") is None
    assert world.keys.find("one", "PS256") is None
    assert world.keys.find(None, "RS256") is None
    assert World().started("one").keys.find(None, "RS256").kid == "one"
    assert world.asked == 1


def test_curvesByName():
    """A key of EdDSA is found by that name, and by that of its curve (RFC 9864)."""
    world = World()
    world.keys.start()
    world.server.reply(body=keySet(ED | {"kid": "one"}, ED | {"kid": "two", "alg": "Ed25519"}))
    turns(world.clock)
    for kid in "one", "two":
        for alg in "EdDSA", "Ed25519":
            assert world.keys.find(kid, alg).kid == kid
        assert world.keys.find(kid, "Ed448") is None


def test_unknownId():
    """An unknown id causes one fetch for all who ask; it may bring the key."""
    world = World().started("one")
    first, second = world.keys.find("two", "RS256"), world.keys.find("two", "RS256")
    assert world.asked == 2
    world.reply("one", "two")
    assert (outcome(first).kid, outcome(second).kid) == ("two", "two")
    assert world.keys.find("two", "RS256").kid == "two"


def test_floodOfUnknownIds():
    """Made-up ids cause at most one fetch in half a minute, known ones none for a minute; others are told when to come again."""
    world = World().started("one")
    first = world.keys.find("x", "RS256")
    world.reply("one")
    assert outcome(first) is None
    for number in range(1000):
        with pytest.raises(AccessRefused) as caught:
            world.keys.find(f"x{number}", "RS256")
        assert (caught.value.status, dict(caught.value.headers)["Retry-After"]) == (503, "30")
    assert world.keys.find("x", "RS256") is None
    assert world.asked == 2
    world.clock.advance(30)
    assert world.keys.find("x", "RS256") is None
    assert world.asked == 2
    assert isinstance(world.keys.find("x2", "RS256"), Deferred)
    assert world.asked == 3


def test_newKeyDuringAFlood():
    """A token with a new key is never called invalid because of made-up ids, or because the URL is away: it is taken later."""
    world = World().started("one")
    world.keys.find("x", "RS256")
    world.reply("one")
    with pytest.raises(AccessRefused):
        world.keys.find("two", "RS256")
    world.clock.advance(30)
    waiting = world.keys.find("two", "RS256")
    world.server.reply(500, b"")
    turns(world.clock)
    assert outcome(waiting).status == 503
    assert world.keys.find("one", "RS256").kid == "one"
    world.clock.advance(30)
    waiting = world.keys.find("two", "RS256")
    world.reply("one", "two")
    assert outcome(waiting).kid == "two"


def test_withdrawnKey():
    """A token with a key that was withdrawn is refused at once, while new keys may not be fetched, too."""
    world = World().started("one")
    waiting = world.keys.find("two", "RS256")
    world.reply("two")
    assert outcome(waiting).kid == "two"
    assert world.keys.find("one", "RS256") is None
    assert world.asked == 2


def test_freshKeys():
    """Keys are fetched again when they are no longer fresh, without anybody asking; withdrawn keys are gone then."""
    world = World()
    world.keys.start()
    world.reply("one", cacheControl="max-age=120")
    world.clock.advance(119)
    assert world.asked == 1
    world.clock.advance(1)
    assert world.asked == 2
    assert world.keys.find("one", "RS256").kid == "one"  # nobody waits for it
    world.reply("two")
    assert world.keys.find("two", "RS256").kid == "two"


def test_staleKeys():
    """While the URL is away the keys that are there are used, for a day; then nobody is let in, but told to come again."""
    world = World().started("one")
    world.server.answer = Unanswered("away")
    world.clock.pump([300] * 288)
    assert world.keys.find("one", "RS256").kid == "one"
    world.clock.pump([300] * 2)
    with pytest.raises(AccessRefused) as caught:
        raise outcome(world.keys.find("one", "RS256"))
    assert caught.value.status == 503


def test_noKeysYet():
    """Until there are keys the answer is 503, and asking again and again fetches nothing; then it works."""
    world = World()
    world.server.answer = Unanswered("away")
    world.keys.start()
    for _ in range(100):
        with pytest.raises(AccessRefused) as caught:
            raise outcome(world.keys.find("one", "RS256"))
        assert caught.value.status == 503
    assert world.asked == 1
    world.server.answer = None
    world.clock.advance(5)
    world.reply("one")
    assert world.keys.find("one", "RS256").kid == "one"


def test_waitsForTheFirstKeys():
    """Who comes while the first keys are on their way waits for them; who leaves does not end that."""
    world = World()
    world.keys.start()
    first, second = world.keys.find("one", "RS256"), world.keys.find("one", "RS256")
    first.cancel()
    outcome(first)
    world.reply("one")
    assert outcome(second).kid == "one"
    assert world.asked == 1


@pytest.mark.parametrize("answer", [(404, b"{}"), (200, b"<html>"), (200, keySet()), (500, b"")])
def test_badAnswersKeepTheKeys(answer):
    """An answer that has no keys changes nothing."""
    world = World().started("one")
    world.clock.advance(300)
    world.server.reply(*answer)
    assert world.keys.find("one", "RS256").kid == "one"
    world.clock.advance(5)
    assert world.asked == 3


def test_stops():
    """At the end nothing is left that would fetch again."""
    world = World().started("one")
    world.keys.stop()
    assert world.clock.getDelayedCalls() == []


def test_unknownIdsAreForgotten():
    """Of the made-up ids that wait for one fetch, some are remembered, and the memory of them is bounded."""
    world = World().started("one")
    waiting = [world.keys.find(f"x{n}", "RS256") for n in range(1000)]
    assert world.asked == 2
    world.reply("one")
    assert [outcome(each) for each in waiting] == [None] * 1000
    world.clock.advance(30)
    # Those that are remembered cause no fetch now; any other does.
    assert world.keys.find("x999", "RS256") is None
    assert world.keys.find("x872", "RS256") is None
    assert isinstance(world.keys.find("x871", "RS256"), Deferred)
