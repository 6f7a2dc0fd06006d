"""The client's credentials, for the Authorization header (RFC 7617, RFC 6750)."""

from __future__ import annotations

import base64


class Credentials:
    """The value of an Authorization header."""

    __slots__ = ("_header",)

    _header: str

    def header(self) -> str:
        """Return the value of the Authorization header."""
        return self._header

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class Basic(Credentials):
    """A user and a password (RFC 7617).

    Raises:
        ValueError: the user has a colon, or either has a control character.
        TypeError: either is not a str.
    """

    __slots__ = ()

    def __init__(self, user: str, password: str) -> None:
        for name, value in (("user", user), ("password", password)):
            if not isinstance(value, str):
                raise TypeError(f"the {name} must be a str, not {type(value).__name__}")
        if ":" in user:
            raise ValueError("Basic credentials cannot have a colon in the user (RFC 7617)")
        if any(c < " " or c == "\x7f" for c in user + password):
            raise ValueError("user and password must not have control characters")
        self._header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Bearer(Credentials):
    """A token (RFC 6750).

    Raises:
        ValueError: the token is empty, or has a character that is a space, a control character or not ASCII.
        TypeError: the token is not a str.
    """

    __slots__ = ()

    def __init__(self, token: str) -> None:
        if not isinstance(token, str):
            raise TypeError(f"the token must be a str, not {type(token).__name__}")
        if not token or not token.isascii() or any(c <= " " or c == "\x7f" for c in token):
            raise ValueError("a bearer token must be ASCII, without spaces and control characters, and not empty")
        self._header = f"Bearer {token}"
