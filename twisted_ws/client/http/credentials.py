"""The client's credentials, for the Authorization header (RFC 7617, RFC 6750)."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from twisted_ws.dispatch.awaitables import asDeferred

# Returns a token, or something to await for it.
TokenFunction = Callable[[], str | Awaitable[str]]


class Credentials:
    """The value of an Authorization header.

    Attributes:
        canRenew: whether another header may come after one that the server has refused.
    """

    __slots__ = ("_header",)

    _header: str
    canRenew = False

    def header(self) -> str:
        """Return the value of the Authorization header, if there is only one."""
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
    """A token (RFC 6750), or a function that returns one for each attempt to connect.

    The function may be plain or async. It is called in the reactor's thread. With a `Retry`, a client that was refused with 401,
    or closed with 4401, asks it once more and comes back.

    Raises:
        ValueError: the token is empty, or has a character that is a space, a control character or not ASCII.
        TypeError: the token is neither a str nor a function.
    """

    __slots__ = ("_function", "canRenew")

    _scheme = "Bearer "

    def __init__(self, token: str | TokenFunction) -> None:
        self.canRenew = callable(token)
        if callable(token):
            self._function = token
        else:
            self._header = self._valueOf(token)

    def forget(self) -> None:
        """Tell a function that keeps its tokens, by its method ``forget``, that the server has refused the last one."""
        forget = getattr(self._function, "forget", None)
        if forget is not None:
            forget()

    async def renewed(self) -> str:
        """Ask the function, and return the value of the header for one attempt; raise whatever that raises."""
        found = self._function()
        pending = asDeferred(found)
        return self._valueOf(found if pending is None else await pending)

    @staticmethod
    def tokenOf(header: str) -> str:
        """Return the token in the value of a header."""
        return header.removeprefix(Bearer._scheme)

    def _valueOf(self, token: object) -> str:
        if not isinstance(token, str):
            raise TypeError(f"the token must be a str, not {type(token).__name__}")
        if not token or not token.isascii() or any(c <= " " or c == "\x7f" for c in token):
            raise ValueError("a bearer token must be ASCII, without spaces and control characters, and not empty")
        return f"{self._scheme}{token}"


class SubscriptionToken(Bearer):
    """A token for channels, or a function that returns one for each attempt to connect; for the header Channel-Token."""

    __slots__ = ()

    _scheme = ""
