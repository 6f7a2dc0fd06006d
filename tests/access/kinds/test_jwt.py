"""JSON Web Tokens: which are taken, and what they say."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from twisted.internet.defer import Deferred

from tests.access.kinds.support import NOW, SECRET, refused, request, secretFile, settings
from twisted_ws import ConfigurationError
from twisted_ws.access.chain import Chain, Guest
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.refusals import AccessRefused
from twisted_ws.access.revocations import Revocations
from twisted_ws.access.tokens.verification import Key
from twisted_ws.access.tokens.verified import VerifiedTokens
from twisted_ws.identity import Identity

RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.generate()
CLAIMS = {"sub": "ann", "exp": NOW + 600}


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def made(directory, keys=None, **options):
    if keys is None and not {"key_file", "jwks"} & options.keys():
        options.setdefault("secret_file", secretFile(directory))
    return JWTAuthenticator(settings(directory, **options), lambda: NOW, keys)


def sign(key=SECRET, alg="HS256", header=None, **more):
    claims = {name: value for name, value in {**CLAIMS, **more}.items() if value is not ...}
    return jwt.encode(claims, key, alg, header)


def forged(header, payload=b'{"sub":"ann","exp":1800000600}', secret=SECRET):
    """Make a token as no library does, with a right HS256 signature."""
    parts = [base64.urlsafe_b64encode(each).rstrip(b"=") for each in (header, payload)]
    signature = hmac.digest(secret.encode(), b".".join(parts), "sha256")
    return b".".join((*parts, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def asking(token):
    return request(("authorization", f"Bearer {token}"))


def test_identity(tmp_path):
    """The claims of a token are the identity's; the leeway is added to its end."""
    grants = {"subscribe": ["orders.*"], "publish": ["typing"], "info": {"name": "Ann"}}
    token = sign(iat=NOW, jti="t1", scope="chat admin", twisted_ws=grants)
    found = made(tmp_path).identify(asking(token))
    assert (found.user, found.scopes, found.info) == ("ann", {"chat", "admin"}, {"name": "Ann"})
    assert (list(found.subscribe), list(found.publish)) == (["orders.*"], ["typing"])
    assert (found.expiresAt, found.issuedAt, found.tokenId, found.by) == (NOW + 610, NOW, "t1", "mine")
    assert found.claims["scope"] == "chat admin"
    assert made(tmp_path, expiry="keep").identify(asking(token)).expiresAt is None


@pytest.mark.parametrize(
    ("claims", "reason", "message"),
    [
        ({"exp": NOW - 10}, "expired", "expired"),
        ({"exp": ...}, "invalid", "must say when it ends"),
        ({"exp": str(NOW + 600)}, "invalid", "an invalid time"),
        ({"exp": True}, "invalid", "an invalid time"),
        ({"exp": None}, "invalid", "an invalid time"),
        ({"exp": float("nan")}, "invalid", "not a JSON object"),
        ({"exp": 1e300}, "invalid", "an invalid time"),
        ({"exp": -1}, "invalid", "an invalid time"),
        ({"nbf": NOW + 11}, "invalid", "not valid yet"),
        ({"nbf": "now"}, "invalid", "an invalid time"),
        ({"iat": NOW + 11}, "invalid", "issued in the future"),
        ({"sub": ...}, "invalid", "does not name a user"),
        ({"sub": ""}, "invalid", "does not name a user"),
        ({"sub": "x" * 129}, "invalid", "does not name a user"),
        ({"aud": "elsewhere"}, "invalid", "none is set here"),
        ({"aud": 7}, "invalid", "audience that is malformed"),
        ({"scope": 7}, "invalid", "scopes are neither"),
        ({"scope": [7]}, "invalid", "scopes are neither"),
        ({"twisted_ws": []}, "invalid", "grants are not an object"),
        ({"twisted_ws": {"subscribe": "orders"}}, "invalid", "something other than lists"),
        ({"twisted_ws": {"subscribe": ["a*b"]}}, "invalid", "neither a name nor a pattern"),
        ({"jti": "x" * 257}, "invalid", "id of the token"),
    ],
)
def test_claims(tmp_path, claims, reason, message):
    """A token whose claims are not as they must be is refused, with a reason and a challenge."""
    refusal = refused(made(tmp_path), asking(sign(**claims)))
    assert (refusal.status, refusal.reason) == (401, reason)
    assert message in refusal.message
    assert dict(refusal.headers)["WWW-Authenticate"].startswith('Bearer error="invalid_token"')


@pytest.mark.parametrize(
    "claims", [{"exp": NOW - 9}, {"nbf": NOW + 10}, {"iat": NOW + 10}, {"iat": NOW + 0.5}, {"scope": []}, {"twisted_ws": {}}]
)
def test_leeway(tmp_path, claims):
    """The clocks of two machines may differ by the leeway."""
    assert made(tmp_path).identify(asking(sign(**claims))).user == "ann"


@pytest.mark.parametrize(
    ("options", "claims", "isIn"),
    [
        ({"audience": "push"}, {"aud": "push"}, True),
        ({"audience": ["push", "b"]}, {"aud": ["a", "b"]}, True),
        ({"audience": "push"}, {"aud": "pushed"}, False),
        ({"audience": "push"}, {}, False),
        ({"require": {"token_use": "access"}}, {"token_use": "access"}, True),
        ({"require": {"token_use": "access"}}, {"token_use": "id"}, False),
        ({"require": {"token_use": "access"}}, {}, False),
        ({"require": {"realm_access.roles": "chat"}}, {"realm_access": {"roles": ["a", "chat"]}}, True),
        ({"require": {"verified": True}}, {"verified": 1}, False),
        ({"require": {"azp": "app"}}, {"azp": "app", "aud": "account"}, True),
        ({"require": {"azp": ["app", "tool"]}}, {"azp": "tool", "aud": "account"}, True),
        ({"require": {"azp": ["app", "tool"]}}, {"azp": "to", "aud": "account"}, False),
        ({"require": {"azp": ["app", "tool"]}}, {"aud": "account"}, False),
        ({"require": {"roles": ["chat", "admin"]}}, {"roles": ["admin", "a"]}, True),
        ({"require": {"roles": ["chat", "admin"]}}, {"roles": []}, False),
        ({"require": {"verified": [True, 2]}}, {"verified": 1}, False),
        ({"user": "who.name"}, {"who": {"name": "ann"}}, True),
        ({"id": "sid"}, {"sid": 7}, False),
        ({"id": "sid"}, {"sid": "x" * 257, "jti": "t1"}, False),
        ({"user": "https://shop.example/name"}, {"https://shop.example/name": "ann"}, True),
        ({"user": "who.name"}, {"who": "ann"}, False),
    ],
)
def test_options(tmp_path, options, claims, isIn):
    """The options say which claims must be there, and which mean what; dots go into objects."""
    authenticator = made(tmp_path, **options)
    if isIn:
        assert authenticator.identify(asking(sign(**claims))).user == "ann"
    else:
        assert refused(authenticator, asking(sign(**claims))).reason == "invalid"


@pytest.mark.parametrize(
    ("key", "alg"), [(RSA, "RS256"), (RSA, "RS512"), (CURVE, "ES256"), (EDWARDS, "EdDSA")], ids=["rsa", "rsa512", "ec", "ed"]
)
def test_publicKeys(tmp_path, key, alg):
    """A file may have several public keys of different kinds; each verifies its own algorithms."""
    (tmp_path / "keys.pem").write_text(pem(EDWARDS) + pem(CURVE) + pem(RSA))
    authenticator = made(tmp_path, key_file="keys.pem")
    assert authenticator.identify(asking(sign(key, alg))).user == "ann"
    other = rsa.generate_private_key(65537, 2048)
    assert refused(authenticator, asking(sign(other, "RS256"))).message == "The signature is wrong."


def test_curvesByName(tmp_path):
    """EdDSA by the name of its curve (RFC 9864), as newer libraries write it, counts for keys of that curve alone."""
    other = ed448.Ed448PrivateKey.generate()
    (tmp_path / "keys.pem").write_text(pem(EDWARDS) + pem(other))
    authenticator = made(tmp_path, key_file="keys.pem")
    for key, alg, isRight in (
        (EDWARDS, "Ed25519", True),
        (other, "Ed448", True),
        (EDWARDS, "Ed448", False),
        (other, "Ed25519", False),
    ):
        parts = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=") for each in ({"alg": alg}, CLAIMS)]
        signature = base64.urlsafe_b64encode(key.sign(b".".join(parts))).rstrip(b"=")
        request = asking(b".".join([*parts, signature]).decode())
        if isRight:
            assert authenticator.identify(request).user == "ann"
        else:
            assert refused(authenticator, request).reason == "invalid"


def test_confusion(tmp_path):
    """A public key is no secret of HS256, and no algorithm but those of the keys is used."""
    (tmp_path / "keys.pem").write_text(pem(RSA))
    authenticator = made(tmp_path, key_file="keys.pem")
    for token in (
        forged(b'{"alg":"HS256"}', secret=pem(RSA)),
        jwt.encode(CLAIMS, None, "none"),
        sign(RSA, "PS256"),
        forged(b'{"alg":"RS256"}'),
    ):
        assert refused(authenticator, asking(token)).reason == "invalid"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"alg":"HS256","crit":["exp"]}', "critical extension"),
        (b'{"alg":"HS256","b64":false}', "critical extension"),
        (b'{"alg":"none"}', "No key here"),
        (b'{"alg":"hs256"}', "No key here"),
        (b'{"alg":"HS512"}', "No key here"),
        (b'{"alg":"HS256","typ":"twisted-ws-sub+jwt"}', "This is a subscription token, which opens no connection."),
        (b'{"alg":"HS256","typ":"application/logout+jwt"}', "another type"),
        (b'{"alg":"HS256","kid":"' + b"k" * 300 + b'"}', "too long"),
    ],
)
def test_headers(tmp_path, header, message):
    """A token that is signed rightly is refused for what its header says."""
    assert message in refused(made(tmp_path), asking(forged(header))).message


def test_aKeyThatDoesNotFit(tmp_path):
    """A key for which the library raises TypeError verifies nothing."""

    class Keys:
        def start(self):
            """Do nothing."""

        stop = start

        def find(self, kid, alg):
            return Key(RSA.public_key(), ("HS256",))

    authenticator = made(tmp_path, Keys(), issuer="i", audience="a")
    assert refused(authenticator, asking(sign(iss="i", aud="a"))).message == "The signature is wrong."


def test_keysThatCome(tmp_path):
    """Keys may be looked up elsewhere; an unknown one is a wrong token."""
    pending = []

    class Keys:
        def start(self):
            """Do nothing."""

        stop = start

        def find(self, kid, alg):
            pending.append(Deferred())
            return pending[-1]

    authenticator = made(tmp_path, Keys(), issuer="i", audience="a")
    token = asking(sign(iss="i", aud="a"))
    answers = [authenticator.identify(token) for _ in range(2)]
    pending[0].callback(None)
    pending[1].callback(Key(SECRET.encode(), ("HS256",)))
    assert answers[0].result.check(AccessRefused)
    answers[0].addErrback(lambda _: None)
    assert answers[1].result.user == "ann"
    assert authenticator.identify(token).user == "ann"


def test_recheck(tmp_path):
    """A token whose key its owner has withdrawn meanwhile counts for five minutes more, and less after a reload."""
    now = [NOW]
    known = [Key(SECRET.encode(), ("HS256",))]

    class Keys:
        def start(self):
            """Do nothing."""

        stop = start

        def find(self, kid, alg):
            return known[0]

    authenticator = JWTAuthenticator(settings(tmp_path, issuer="i", audience="a"), lambda: now[0], Keys())
    token = asking(sign(iss="i", aud="a", exp=NOW + 3600))
    authenticator.identify(token)
    known[0] = None
    now[0] += 299
    assert authenticator.identify(token).user == "ann"
    assert "no key" in refused(authenticator, asking(sign(iss="i", aud="a", exp=NOW + 3601))).message
    now[0] += 1
    assert "no key" in refused(authenticator, token).message
    known[0] = Key(SECRET.encode(), ("HS256",))
    authenticator.identify(token)
    known[0] = None
    authenticator.reload()
    assert "no key" in refused(authenticator, token).message


def whole(*authenticators):
    return Chain([(f"a{n}", each) for n, each in enumerate(authenticators)], Revocations(lambda: NOW), lambda: NOW, bool)


@pytest.mark.parametrize(
    "token", ["x", "a.b.c", "x" * 200_000, "." * 9000, "é", "[" * 8000, forged(b"[" * 3000), sign(iss="third")], ids=range(8)
)
def test_nobodys(tmp_path, token):
    """What no authenticator claims is refused, and makes no guest."""
    chain = whole(made(tmp_path, issuer="first"), made(tmp_path, issuer="second"), Guest())
    with pytest.raises(AccessRefused) as caught:
        chain.identify(asking(token))
    assert (caught.value.status, caught.value.reason) == (401, "invalid")
    assert chain.identify(request()).isGuest


def test_behindTheGuest(tmp_path):
    """A malformed token is refused as one, wherever the guest stands in the chain."""
    chain = Chain([("guest", Guest()), ("site", made(tmp_path))], Revocations(lambda: NOW), lambda: NOW, bool)
    for token in ("x" * 200_000, forged(b'{"alg":"HS256","crit":["exp"]}'), sign()):
        with pytest.raises(AccessRefused) as caught:
            chain.identify(asking(token))
        assert (caught.value.status, caught.value.reason) == (401, "invalid")


def test_several(tmp_path):
    """The issuer chooses among several authenticators."""
    chain = whole(made(tmp_path, issuer="first"), made(tmp_path, issuer="second"), Guest())
    assert chain.identify(asking(sign(iss="second"))).user == "ann"
    with pytest.raises(AccessRefused) as caught:
        whole(made(tmp_path, issuer="first")).identify(asking(sign(iss="third")))
    assert caught.value.detail == "a0: is from another issuer"


def test_inURL(tmp_path):
    """A token in a URL lives for a minute at most, also one that was taken from a header before."""
    authenticator = made(tmp_path, sources=["header", "query:t"])
    token = sign()
    assert authenticator.identify(asking(token)).user == "ann"
    assert "60 seconds" in refused(authenticator, request(target=f"/?t={token}")).message
    assert "60 seconds" in refused(authenticator, request(target=f"/?t={sign(iat=NOW - 10, exp=NOW + 51)}")).message
    assert authenticator.identify(request(target=f"/?t={sign(exp=NOW + 60)}")).user == "ann"


def test_ambient(tmp_path):
    """A token from a cookie is sent by the browser itself, the same from a header is not."""
    authenticator = made(tmp_path, sources=["header", "cookie:t"])
    token = sign()
    for _ in range(2):
        assert not authenticator.identify(asking(token)).isAmbient
        assert authenticator.identify(request(("cookie", f"t={token}"))).isAmbient


def test_rotation(tmp_path):
    """All secrets of a file are tried; one that is gone opens nothing after a reload, and a bad file changes nothing."""
    other = "another-secret-0123456789-0123456789"
    authenticator = made(tmp_path, secret_file=secretFile(tmp_path, other, SECRET))
    assert authenticator.identify(asking(sign())).user == "ann"
    path = tmp_path / "secret"
    for write in (lambda: path.write_text("short"), lambda: path.write_text(pem(RSA)), lambda: path.unlink() or os.mkfifo(path)):
        write()
        with pytest.raises(ConfigurationError) as caught:
            authenticator.reload()
        assert SECRET not in str(caught.value)
        assert authenticator.identify(asking(sign(jti=str(write)[:40]))).user == "ann"
    path.unlink()
    secretFile(tmp_path, other)
    authenticator.reload()
    assert refused(authenticator, asking(sign())).message == "The signature is wrong."
    assert authenticator.identify(asking(sign(other))).user == "ann"


PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("content", ["", "x", PRIVATE, pem(rsa.generate_private_key(65537, 1024)), pem(CURVE) * 17, "fifo"])
def test_badKeyFiles(tmp_path, content):
    """A file without usable public keys is an error at the start."""
    path = tmp_path / "keys"
    os.mkfifo(path) if content == "fifo" else path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"key file|Key 1"):
        made(tmp_path, key_file="keys")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key_file": "x", "secret_file": "y"}, "needs one of"),
        ({"jwks": "https://x.example/"}, "needs issuer"),
        ({"jwks": "https://x.example/", "issuer": "x"}, "needs audience"),
        ({"jwks": "file:///etc/passwd"}, "jwks must be"),
        ({"preset": "auth"}, "did you mean auth0"),
        ({"preset": "auth0"}, "needs issuer"),
        ({"preset": "cognito", "issuer": "https://x.example", "jwks": "https://x.example/"}, "needs audience"),
        ({"isuer": "x"}, "did you mean issuer"),
        ({"expiry": "never"}, "close or keep"),
        ({"require": {"a": []}}, "require must be"),
        ({"require": {"a": ["x", None]}}, "require must be"),
        ({"require": {"a": [["x"]]}}, "require must be"),
    ],
)
def test_wrongOptions(tmp_path, options, message):
    """What is wrong with the options is said at the start."""
    with pytest.raises(ConfigurationError, match=message):
        made(tmp_path, **options)


def test_preset(tmp_path):
    """A preset fills in what the tokens of a provider look like, and what is written counts more."""
    rules = made(tmp_path, preset="auth0", issuer="https://shop.example", audience="push", jwks="https://x.example/k").rules
    assert (rules.issuer, rules.audience, rules.scopes) == ("https://shop.example/", ("push",), "permissions")
    options = {
        "preset": "keycloak",
        "issuer": "https://x.example/realms/r",
        "jwks": "https://x.example/",
        "require": {"azp": "app"},
    }
    assert made(tmp_path, **options).rules.require == {"typ": "Bearer", "azp": "app"}


def test_subscriptionTokens(tmp_path):
    """A subscription token of the same keys names channels for its user; a token of another type or user does not."""
    authenticator = made(tmp_path)
    header = {"typ": "twisted-ws-sub+jwt"}
    found = authenticator.grantsOf(sign(header=header, channels=["orders.*"]), "ann")
    assert (list(found.subscribe), list(found.publish), found.expiresAt) == (["orders.*"], [], NOW + 610)
    found = authenticator.grantsOf(sign(header=header, channels=["a"], publish=["b"], jti="1", iat=NOW), "ann")
    assert (list(found.publish), found.tokenId, found.issuedAt) == (["b"], "1", NOW)
    for token, message in (
        (sign(channels=["orders.*"]), "not a subscription token"),
        (sign(header=header, channels=["a"], sub="bob"), "another user"),
        (sign(header=header, channels=["a"], sub=...), "another user"),
        (sign(header=header), "no list of channels"),
        (sign(header=header, channels="a"), "no list of channels"),
        (sign(header=header, channels=["a"], publish="b"), "publish is not a list"),
        (sign(header=header, channels=["a b"]), "neither a name nor a pattern"),
        (sign("x" * 32, header=header, channels=["a"]), "signature"),
        (sign(header=header, channels=["a"], exp=NOW - 11), "expired"),
        (sign(header=header, channels=["a"], exp=...), "must say when it ends"),
        (sign(header=header, channels=["a"], aud="other"), "audience"),
        ("x", "not a JSON Web Token"),
        ("\ud800", "not a JSON Web Token"),
        ("x" * 9000, "longer"),
    ):
        for _ in range(2):  # what was refused once is not accepted the second time
            with pytest.raises(AccessRefused, match=message):
                authenticator.grantsOf(token, "ann")


def test_subscriptionTokensAgain(tmp_path):
    """A subscription token that was verified for one user is not taken for another, nor after its keys have changed."""
    authenticator = made(tmp_path)
    token = sign(header={"typ": "twisted-ws-sub+jwt"}, channels=["a"])
    assert authenticator.grantsOf(token, "ann") is authenticator.grantsOf(token, "ann")
    with pytest.raises(AccessRefused, match="another user"):
        authenticator.grantsOf(token, "bob")
    secretFile(tmp_path, "y" * 32)
    authenticator.reload()
    with pytest.raises(AccessRefused, match="signature"):
        authenticator.grantsOf(token, "ann")


def test_verified():
    """The least recently used tokens are forgotten, by number and by bytes, and each when it ends."""
    now = [NOW]
    tokens = VerifiedTokens(lambda: now[0], 2, 100)
    for name in (b"a", b"b"):
        tokens.put(name, Identity("ann"), NOW + 10, 0)
    assert tokens.get(b"a")
    tokens.put(b"c", Identity("bob"), NOW + 20, 0)
    assert [bool(tokens.get(each)) for each in (b"a", b"b", b"c")] == [True, False, True]
    tokens.put(b"d", Identity("eve"), NOW + 20, 101)
    assert len(tokens) == 0
    tokens.put(b"a", Identity("ann"), NOW + 10, 0)
    now[0] += 10
    assert tokens.get(b"a") is None


def test_noSecret(tmp_path):
    """Nothing that is shown of an authenticator and its parts has a secret."""
    authenticator = made(tmp_path)
    authenticator.identify(asking(sign()))
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    shown = f"{authenticator!r} {vars(authenticator)!r} {authenticator._file.keys!r}"
    assert SECRET not in shown
    assert digest not in shown
    assert json.dumps(SECRET) not in shown
