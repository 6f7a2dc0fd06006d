"""Why a request is refused before any service is asked: an HTTP response with a reason that programs can read."""

from __future__ import annotations

import math

import msgspec

from twisted_ws.upgrade import Reject

MISSING = "missing"
EXPIRED = "expired"
INVALID = "invalid"
REVOKED = "revoked"
OF_ANOTHER_USER = "another-user"  # of a subscription token alone


class AccessRefused(Reject):
    """A request that is refused because of who made it; the body is ``{"error", "reason", "message"}``.

    Attributes:
        error: "unauthorized", "forbidden", "unavailable" or "too-many-requests".
        reason: one word that says why, such as "expired"; "" if there is nothing to say.
        message: one fixed sentence; it repeats nothing of the credentials.
        detail: what the operator's log says in addition, without secrets; "" for nothing.
    """

    def __init__(
        self, status: int, error: str, reason: str, message: str, headers: dict[str, str] | None = None, detail: str = ""
    ) -> None:
        fields = {"error": error, "reason": reason, "message": message}
        body = msgspec.json.encode({name: value for name, value in fields.items() if value}).decode()
        super().__init__(status, body, {"Content-Type": "application/json", **(headers or {})})
        self.error = error
        self.reason = reason
        self.message = message
        self.detail = detail

    @property
    def summary(self) -> str:
        """What the log says of it."""
        return " ".join(each for each in (self.message, f"({self.reason})" if self.reason else "", self.detail) if each)


def unauthorized(reason: str, message: str, scheme: str = "Bearer", detail: str = "") -> AccessRefused:
    """Return a 401 (RFC 9110 section 15.5.2) with a challenge as in RFC 6750 section 3.

    Args:
        reason: "missing", "expired", "invalid" or "revoked".
        message: one fixed sentence for the client.
        scheme: what the client should use.
        detail: for the operator's log.
    """
    challenge = scheme
    if scheme == "Bearer" and reason != MISSING:  # RFC 6750 section 3.1: no error code without credentials
        challenge = f'Bearer error="invalid_token", error_description="{reason}"'
    elif scheme == "Basic":
        challenge = 'Basic realm="twisted_ws", charset="UTF-8"'
    return AccessRefused(401, "unauthorized", reason, message, {"WWW-Authenticate": challenge}, detail)


def forbidden(message: str, reason: str = "", scope: str = "", detail: str = "") -> AccessRefused:
    """Return a 403: the client is known, and may not do this; `scope` is what it lacks (RFC 6750 section 3.1)."""
    headers = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'} if scope else None
    return AccessRefused(403, "forbidden", reason, message, headers, detail)


def unavailable(message: str, seconds: float = 5, detail: str = "") -> AccessRefused:
    """Return a 503: whoever knows the answer cannot be asked; the client may try again after some seconds."""
    return AccessRefused(503, "unavailable", "", message, {"Retry-After": str(max(1, math.ceil(seconds)))}, detail)


def tooManyFailures(seconds: float) -> AccessRefused:
    """Return a 429: too many wrong credentials came from the client's address; after some seconds, one more is looked at."""
    message = "Too many wrong credentials came from this address."
    return AccessRefused(429, "too-many-requests", "", message, {"Retry-After": str(max(1, math.ceil(seconds)))})
