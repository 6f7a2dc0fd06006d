"""What the tokens of well-known providers look like: options that need not be written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted_ws.errors import ConfigurationError
from twisted_ws.spelling import didYouMean

_WELL_KNOWN = ".well-known/jwks.json"
_FIREBASE = "https://securetoken.google.com/"


def _auth0(issuer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    issuer = issuer.rstrip("/") + "/"
    return {"issuer": issuer, "jwks": issuer + _WELL_KNOWN, "scopes": "permissions"}


def _keycloak(issuer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    # Refresh and ID tokens are signed with the same keys; only this claim tells them from access tokens.
    return {
        "issuer": issuer,
        "jwks": issuer.rstrip("/") + "/protocol/openid-connect/certs",
        "scopes": "realm_access.roles",
        "id": "sid",
        "require": {"typ": "Bearer"},
    }


def _cognito(issuer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "jwks": f"{issuer.rstrip('/')}/{_WELL_KNOWN}",
        "scopes": "cognito:groups",
        "id": "origin_jti",
        "require": {"token_use": "access"},
    }


def _supabase(issuer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "jwks": f"{issuer.rstrip('/')}/{_WELL_KNOWN}",
        "audience": "authenticated",
        "scopes": "role",
        "id": "session_id",
    }


def _firebase(issuer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "jwks": "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com",
        "audience": issuer.removeprefix(_FIREBASE),
    }


# Each takes the issuer and the options, and returns what these leave out.
PRESETS: dict[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "auth0": _auth0,
    "keycloak": _keycloak,
    "cognito": _cognito,
    "supabase": _supabase,
    "firebase": _firebase,
}


def completed(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return options with what their preset says; what is written counts more, and tables are joined.

    Raises:
        ConfigurationError: there is no such preset, or it needs an issuer.
    """
    given = dict(options)
    if "preset" not in given:
        return given
    name = given["preset"]
    if name not in PRESETS:
        raise ConfigurationError(f"{where}.preset must be {' or '.join(PRESETS)}{didYouMean(str(name), PRESETS)}")
    issuer = given.get("issuer")
    if not isinstance(issuer, str) or not issuer:
        raise ConfigurationError(f"{where} needs issuer: preset fills in the other options from it.")
    preset = PRESETS[name](issuer, given)
    # The form that the provider writes into its tokens.
    given["issuer"] = preset.pop("issuer")
    if "secret-file" in given or "key-file" in given:
        del preset["jwks"]
    if isinstance(required := given.get("require"), dict):
        given["require"] = {**preset.get("require", {}), **required}
    return {**preset, **given}
