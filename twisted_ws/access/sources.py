"""Where in a request a token may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from twisted_ws.errors import ConfigurationError
from twisted_ws.upgrade import UpgradeRequest, isToken

# A longer token is none that anybody issues: proxies refuse heads of more than 8 KiB.
MOST_BYTES = 8192
DEFAULT = ("header", "subprotocol")


class Found(NamedTuple):
    """A token in a request.

    Attributes:
        token: the token; the empty string, or one of any length and form, if that is what the client has sent.
        isAmbient: whether a browser sends it by itself, as it does a cookie.
        inURL: whether it was in the query, where proxies log it: only tokens that live very shortly belong there.
    """

    token: str
    isAmbient: bool = False
    inURL: bool = False

    def __repr__(self) -> str:
        return f"<Found {'cookie' if self.isAmbient else 'query' if self.inURL else 'token'}>"


class TokenMessage(UpgradeRequest):
    """A request in place of a handshake: its token came in a message, over a connection that is open.

    Nothing of the handshake is in it that could count as credentials, but what says where it came from.

    Args:
        handshake: the handshake of the connection.
        token: the token.

    Attributes:
        token: the token; authenticators may take it for one of a header, too.
    """

    __slots__ = ("token",)

    def __init__(self, handshake: UpgradeRequest, token: str) -> None:
        super().__init__(
            handshake.target.partition("?")[0],
            (("authorization", f"Bearer {token}"),) if token.isascii() and token.isprintable() else (),
            peerAddress=handshake.peerAddress,
            peerPort=handshake.peerPort,
            isSecure=handshake.isSecure,
        )
        self.bearer = self.token = token


class TokenSources:
    """The places where tokens are looked for, in order.

    Args:
        names: ``header`` (``Authorization: Bearer``), ``subprotocol`` (see `UpgradeRequest.bearer`), ``cookie:NAME``,
            ``query:NAME``, ``message`` (see `TokenMessage`).
        where: the option, for messages.

    Attributes:
        hasMessage: whether a token may also come in the first message (``message``).

    Raises:
        ConfigurationError: there is no such place.
    """

    __slots__ = ("_sources", "hasMessage")

    def __init__(self, names: Iterable[str] = DEFAULT, where: str = "sources") -> None:
        self._sources: list[tuple[str, str]] = []
        self.hasMessage = False
        for each in names:
            kind, colon, name = each.partition(":")
            isNamed = kind in ("cookie", "query")
            if (
                kind not in ("header", "subprotocol", "cookie", "query", "message")
                or isNamed != bool(colon)
                or (isNamed and not isToken(name))
            ):
                raise ConfigurationError(
                    f"{where} must be a list of header, subprotocol, cookie:NAME, query:NAME and message, not {each!r}."
                )
            self.hasMessage |= kind == "message"
            self._sources.append((kind, name))

    def find(self, request: UpgradeRequest) -> Found | None:
        """Return the first token in a request, None if there is none in any place."""
        for kind, name in self._sources:
            match kind:
                case "header":
                    line = request.header("authorization")
                    if line is None:
                        continue
                    token = line[7:].strip() if line.startswith("Bearer ") else bearerOf(line)  # as nearly everybody writes it
                    if token is not None:
                        return Found(token)
                case "subprotocol":
                    if request.bearer is not None:
                        return Found(request.bearer)
                case "message":
                    if isinstance(request, TokenMessage):
                        return Found(request.token)
                case "cookie":
                    if name in (cookies := request.cookies):
                        return Found(cookies[name], isAmbient=True)
                case _:
                    if name in (query := request.query):
                        return Found(query[name][-1], inURL=True)
        return None


def bearerOf(authorization: str | None) -> str | None:
    """Return the token of an Authorization header (RFC 6750 section 2.1); None if its scheme is another, or there is none."""
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None
