"""Tokens as well-known providers document theirs: the right ones are taken, and what comes close to them is not."""

from __future__ import annotations

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.access.kinds.support import NOW, refused, request, settings
from twisted_ws.access.kinds.jwt import JWTAuthenticator
from twisted_ws.access.tokens.presets import PRESETS, completed

RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
PEM = "".join(each.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() for each in (RSA, CURVE))
PUSH = "https://push.shop.example"
POOL = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI"
REALM = "https://login.shop.example/realms/shop"
PROJECT = "https://abcdefghij.supabase.co/auth/v1"
UUID = "f1c4f64e-2c0c-4cda-8c9f-9f3f8f3a2b0e"
TIMES = {"iat": NOW, "exp": NOW + 600}

OPTIONS: dict[str, dict[str, Any]] = {
    "auth0": {"issuer": "https://shop.eu.auth0.com", "audience": PUSH},
    "keycloak": {"issuer": REALM, "audience": PUSH},
    "cognito": {"issuer": POOL, "require": {"client_id": "1example23456789"}},
    "supabase": {"issuer": PROJECT},
    "firebase": {"issuer": "https://securetoken.google.com/shop-1234"},
}
KEYS = {
    "auth0": "https://shop.eu.auth0.com/.well-known/jwks.json",
    "keycloak": f"{REALM}/protocol/openid-connect/certs",
    "cognito": f"{POOL}/.well-known/jwks.json",
    "supabase": f"{PROJECT}/.well-known/jwks.json",
    "firebase": "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
}
AUTH0 = {
    "iss": "https://shop.eu.auth0.com/",
    "sub": "auth0|6553da60a54af58e29493993",
    "aud": [PUSH, "https://shop.eu.auth0.com/userinfo"],
    "azp": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja",
    "scope": "openid profile offline_access",
    "permissions": ["chat"],
}
KEYCLOAK = {
    "iss": REALM,
    "sub": UUID,
    "aud": [PUSH, "account"],
    "typ": "Bearer",
    "azp": "page",
    "sid": "4c0a3a8a-3a47-4f2f-8e89-9e5f9b0a0a0a",
    "jti": "onrtac:0b7c2e1a-5d0f-4a53-9f0b-0f3a3f8c2d11",
    "acr": "1",
    "allowed-origins": ["https://shop.example"],
    "realm_access": {"roles": ["default-roles-shop", "offline_access", "chat"]},
    "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
    "scope": "openid email profile",
    "preferred_username": "ann",
    "email": "ann@example.org",
}
COGNITO = {
    "sub": UUID,
    "cognito:groups": ["chat"],
    "iss": POOL,
    "version": 2,
    "client_id": "1example23456789",
    "origin_jti": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "event_id": "bbbbbbbb-bbbb-cccc-dddd-eeeeeeeeeeee",
    "token_use": "access",
    "scope": "openid email",
    "auth_time": NOW,
    "jti": "cccccccc-bbbb-cccc-dddd-eeeeeeeeeeee",
    "username": "ann",
}
SUPABASE = {
    "iss": PROJECT,
    "sub": UUID,
    "aud": "authenticated",
    "role": "authenticated",
    "aal": "aal1",
    "session_id": UUID,
    "email": "ann@example.org",
    "phone": "",
    "is_anonymous": False,
    "amr": [{"method": "password", "timestamp": NOW}],
    "app_metadata": {"provider": "email", "providers": ["email"]},
    "user_metadata": {},
}
FIREBASE = {
    "iss": "https://securetoken.google.com/shop-1234",
    "aud": "shop-1234",
    "auth_time": NOW,
    "user_id": "ovsAGUmLgJO2ouyrWnTxCLPmpuF3",
    "sub": "ovsAGUmLgJO2ouyrWnTxCLPmpuF3",
    "email": "ann@example.org",
    "email_verified": True,
    "firebase": {"identities": {"email": ["ann@example.org"]}, "sign_in_provider": "password"},
}


def signed(claims: dict[str, Any], more: dict[str, Any], typ: str | None = "JWT", alg: str = "RS256") -> str:
    """Return a token with these claims; ``...`` takes one away."""
    said = {name: value for name, value in {**TIMES, **claims, **more}.items() if value is not ...}
    return jwt.encode(said, CURVE if alg == "ES256" else RSA, alg, {"kid": "one", "typ": typ})


def made(directory: Any, preset: str, **more: Any) -> JWTAuthenticator:
    (directory / "keys.pem").write_text(PEM)
    options = {"preset": preset, "key_file": "keys.pem", **OPTIONS[preset], **more}
    return JWTAuthenticator(settings(directory, **options), lambda: NOW)


@pytest.mark.parametrize("preset", PRESETS)
def test_keys(preset: str) -> None:
    """The keys are fetched from where the provider publishes them, with the issuer written with a slash at its end or without."""
    assert completed({"preset": preset, **OPTIONS[preset]}, "x")["jwks"] == KEYS[preset]
    if preset == "auth0":
        assert completed({"preset": preset, "issuer": "https://shop.eu.auth0.com/"}, "x")["jwks"] == KEYS[preset]


TAKEN: list[tuple[str, dict[str, Any], dict[str, Any], str, set[str]]] = [
    ("auth0", AUTH0, {}, AUTH0["sub"], {"chat"}),
    ("auth0", AUTH0, {"aud": PUSH, "permissions": ...}, AUTH0["sub"], set()),
    # Of a machine.
    ("auth0", AUTH0, {"sub": "K1AU@clients", "gty": "client-credentials", "aud": PUSH}, "K1AU@clients", {"chat"}),
    ("keycloak", KEYCLOAK, {}, UUID, {"default-roles-shop", "offline_access", "chat"}),
    ("keycloak", KEYCLOAK, {"aud": PUSH, "realm_access": ..., "sid": ..., "client_id": "machine"}, UUID, set()),
    ("cognito", COGNITO, {}, UUID, {"chat"}),
    ("cognito", COGNITO, {"cognito:groups": ..., "username": ..., "scope": "push/read"}, UUID, set()),
    # With resource binding, an access token has an audience, too.
    ("cognito", COGNITO, {"aud": PUSH}, UUID, {"chat"}),
    ("supabase", SUPABASE, {}, UUID, {"authenticated"}),
    ("supabase", SUPABASE, {"aud": ["authenticated"]}, UUID, {"authenticated"}),
    ("firebase", FIREBASE, {}, FIREBASE["sub"], set()),
    (
        "firebase",
        FIREBASE,
        {"firebase": {"sign_in_provider": "anonymous", "identities": {}}, "email": ...},
        FIREBASE["sub"],
        set(),
    ),
]


@pytest.mark.parametrize(
    ("preset", "claims", "more", "user", "scopes"), TAKEN, ids=[f"{n}-{each[0]}" for n, each in enumerate(TAKEN)]
)
def test_taken(tmp_path: Any, preset: str, claims: dict[str, Any], more: dict[str, Any], user: str, scopes: set[str]) -> None:
    """A token as the provider documents it names the user, with roles, groups or permissions as scopes."""
    found = made(tmp_path, preset).identify(request(("authorization", f"Bearer {signed(claims, more)}")))
    assert (found.user, found.scopes, found.expiresAt) == (user, scopes, NOW + 610)


@pytest.mark.parametrize(
    ("preset", "claims", "known"),
    [
        ("keycloak", KEYCLOAK, KEYCLOAK["sid"]),
        ("keycloak", {**KEYCLOAK, "sid": ...}, KEYCLOAK["jti"]),  # of a machine
        ("cognito", COGNITO, COGNITO["origin_jti"]),
        ("supabase", SUPABASE, SUPABASE["session_id"]),
        ("auth0", AUTH0, None),
        ("auth0", {**AUTH0, "jti": "73WakrfVbNJBaAmhQtEeDv"}, "73WakrfVbNJBaAmhQtEeDv"),
    ],
)
def test_logins(tmp_path: Any, preset: str, claims: dict[str, Any], known: str | None) -> None:
    """What can be revoked is a login, where tokens say which one they are of, else a token."""
    assert made(tmp_path, preset).identify(request(("authorization", f"Bearer {signed(claims, {})}"))).tokenId == known


@pytest.mark.parametrize(
    ("preset", "claims", "typ", "alg"),
    [
        ("auth0", AUTH0, "at+jwt", "RS256"),  # the profile of RFC 9068
        ("keycloak", KEYCLOAK, "JWT", "ES256"),
        ("keycloak", KEYCLOAK, "at+jwt", "RS256"),
        ("cognito", COGNITO, None, "RS256"),
        ("supabase", SUPABASE, "JWT", "ES256"),
    ],
)
def test_headers(tmp_path: Any, preset: str, claims: dict[str, Any], typ: str | None, alg: str) -> None:
    """So are the types and algorithms that it may write into the header."""
    asked = request(("authorization", f"Bearer {signed(claims, {}, typ, alg)}"))
    assert made(tmp_path, preset).identify(asked).user == claims["sub"]


NEAR: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    # ID tokens, which are signed with the same keys, and say who somebody is to one client.
    ("auth0", AUTH0, {"aud": "K1AUPhZq8mRi0Q0pjhkfu1D7y6KjDQja", "nonce": "n"}, "audience", "audience"),
    ("auth0", AUTH0, {"aud": ["https://other.shop.example", "https://shop.eu.auth0.com/userinfo"]}, "audience", "audience"),
    ("auth0", AUTH0, {"aud": "https://push.shop.example/"}, "audience", "audience"),
    ("keycloak", KEYCLOAK, {"typ": "ID", "aud": "page"}, "audience", "audience"),
    ("keycloak", KEYCLOAK, {"typ": "ID"}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"typ": "Refresh"}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"typ": "Offline"}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"typ": "Logout", "events": {}}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"typ": "DPoP"}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"typ": ...}, "value that is required", "require.typ"),
    ("keycloak", KEYCLOAK, {"aud": "account"}, "audience", "audience"),
    ("keycloak", KEYCLOAK, {"sub": ...}, "name a user", "user"),  # without the client scope basic
    (
        "cognito",
        COGNITO,
        {"token_use": "id", "aud": "1example23456789", "client_id": ...},
        "value that is required",
        "require.token_use",
    ),
    ("cognito", COGNITO, {"client_id": "another0client"}, "value that is required", "require.client_id"),
    ("supabase", SUPABASE, {"aud": "anon", "role": "anon"}, "audience", "audience"),
    ("supabase", SUPABASE, {"aud": ...}, "audience", "audience"),
    ("supabase", SUPABASE, {"sub": ...}, "name a user", "user"),
    ("firebase", FIREBASE, {"aud": "shop-12345"}, "audience", "audience"),
    ("firebase", FIREBASE, {"sub": ""}, "name a user", "user"),
]


@pytest.mark.parametrize(
    ("preset", "claims", "more", "message", "option"), NEAR, ids=[f"{n}-{each[0]}" for n, each in enumerate(NEAR)]
)
def test_nearMisses(tmp_path: Any, preset: str, claims: dict[str, Any], more: dict[str, Any], message: str, option: str) -> None:
    """A token of the same provider that is for something else is refused, and the log names the option."""
    refusal = refused(made(tmp_path, preset), request(("authorization", f"Bearer {signed(claims, more)}")))
    assert message in refusal.message
    assert refusal.detail == f"by mine, {option}"


@pytest.mark.parametrize(
    ("preset", "claims", "issuer"),
    [
        ("auth0", AUTH0, "https://shop.eu.auth0.com"),
        ("auth0", AUTH0, "https://shop.us.auth0.com/"),
        ("keycloak", KEYCLOAK, "https://login.shop.example/realms/master"),
        ("keycloak", KEYCLOAK, "http://login.shop.example/realms/shop"),
        ("cognito", COGNITO, "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Other"),
        ("supabase", SUPABASE, "supabase"),  # the keys anon and service_role of a project
        ("supabase", SUPABASE, "https://klmnopqrst.supabase.co/auth/v1"),
        ("firebase", FIREBASE, "https://session.firebase.google.com/shop-1234"),  # a session cookie
        ("firebase", FIREBASE, "https://securetoken.google.com/shop-12345"),
    ],
)
def test_otherIssuers(tmp_path: Any, preset: str, claims: dict[str, Any], issuer: str) -> None:
    """A token of another tenant, realm, pool or project is nobody's here, whoever has signed it."""
    authenticator = made(tmp_path, preset)
    asked = request(("authorization", f"Bearer {signed(claims, {'iss': issuer})}"))
    assert authenticator.identify(asked) is None
    assert authenticator.whyUnclaimed(asked) == "is from another issuer"


def test_logoutTokens(tmp_path: Any) -> None:
    """A logout token (OpenID Connect Back-Channel Logout), which has user and audience, opens nothing."""
    token = signed(AUTH0, {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}, "logout+jwt")
    assert "another type" in refused(made(tmp_path, "auth0"), request(("authorization", f"Bearer {token}"))).message


def test_legacySecret(tmp_path: Any) -> None:
    """The secret of an older Supabase project verifies HS256 tokens, with the rest of the preset."""
    (tmp_path / "jwt.key").write_text("planted-secret-0123456789-0123456789\n")
    options = {"preset": "supabase", "issuer": PROJECT, "secret_file": "jwt.key"}
    authenticator = JWTAuthenticator(settings(tmp_path, **options), lambda: NOW)
    token = jwt.encode({**TIMES, **SUPABASE}, "planted-secret-0123456789-0123456789", "HS256")
    assert authenticator.identify(request(("authorization", f"Bearer {token}"))).user == UUID
