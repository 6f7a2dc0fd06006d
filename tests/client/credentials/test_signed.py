"""Tokens that a client signs itself."""

from __future__ import annotations

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.access.kinds.support import NOW, SECRET, request, secretFile, settings
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.client import Bearer, ConfigurationError, ConnectFailed, SignedToken


@pytest.fixture
def keys(tmp_path):
    """The directory of a private key and its public one."""
    made = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "private.pem").write_bytes(private)
    public = made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "public.pem").write_bytes(public)
    return tmp_path


def asked(function):
    """Return a request with the token that a client would send."""
    return request(("authorization", f"Bearer {function()}"))


def test_key(keys):
    """The server that has the public key knows who signed, and what else was said, for as long as was said."""
    there = settings(keys, key_file="public.pem", issuer="sensors", audience="push", leeway=0)
    server = JWTAuthenticator(there, unixTime=lambda: NOW)
    function = SignedToken(
        "sensor-7",
        keyFile=keys / "private.pem",
        issuer="sensors",
        audience=["push", "other"],
        algorithm="ES256",
        keyId="one",
        claims={"scope": "a b", "sub": "somebody else"},
        unixTime=lambda: NOW + 0.7,
    )
    found = server.identify(asked(function))
    assert (found.user, found.scopes, found.expiresAt) == ("sensor-7", {"a", "b"}, NOW + 60)
    assert server.identify(asked(function)).tokenId != found.tokenId
    assert jwt.get_unverified_header(function())["kid"] == "one"
    Bearer(function)


def test_secret(tmp_path):
    """A secret that both have does as well; it is read each time, so that it can be replaced."""
    server = JWTAuthenticator(settings(tmp_path, secret_file=secretFile(tmp_path)), unixTime=lambda: NOW)
    function = SignedToken("ann", secretFile=tmp_path / "secret", unixTime=lambda: NOW)
    assert server.identify(asked(function)).user == "ann"
    secretFile(tmp_path, "another-0123456789-0123456789-0123456789")
    server.reload()
    assert server.identify(asked(function)).user == "ann"
    assert SECRET not in repr(function)


def test_mistakes(keys):
    """A key that cannot sign, or is not there, fails with why, and shows no secret."""
    with pytest.raises(ConnectFailed, match="the key of ann cannot sign with RS256: "):
        SignedToken("ann", keyFile=keys / "private.pem")()
    with pytest.raises(ConfigurationError, match="No such file"):
        SignedToken("ann", keyFile=keys / "nothing")()
    secretFile(keys, "short")
    with pytest.raises(ConfigurationError, match="fewer than") as caught:
        SignedToken("ann", secretFile=keys / "secret")()
    assert "short" not in str(caught.value)
    for options in ({}, {"keyFile": "a", "secretFile": "b"}, {"keyFile": "a", "life": 0}):
        with pytest.raises(ValueError, match=r"give either|more than 0"):
            SignedToken("ann", **options)
