"""The opening handshake as a service sees it: the request, and how to refuse it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import parse_qs, unquote

if TYPE_CHECKING:
    from twisted.internet.ssl import Certificate

    from twisted_ws.identity import Identity

T = TypeVar("T")

# What RFC 9110 section 5.6.2 calls a token: the names of headers and of subprotocols.
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def isToken(text: str) -> bool:
    """Return whether `text` is a token (RFC 9110 section 5.6.2): a header name, a subprotocol."""
    return bool(text) and _TOKEN.issuperset(text)


def checkHeaders(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return response headers that can be written as they are.

    Raises:
        ValueError: a name is not a token, or a value has a control character (with which its author could add headers or split
            the response) or one outside Latin-1.
    """
    checked = []
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isToken(name):
            raise ValueError(f"{name!r} is not a header name")
        if not isinstance(value, str) or any((c < " " and c != "\t") or "\x7f" <= c <= "\x9f" or c > "\xff" for c in value):
            raise ValueError(f"the value of the header {name} must be text without control characters")
        checked.append((name, value))
    return tuple(checked)


# How a token begins that is offered as a subprotocol; the second is for those with characters that a subprotocol cannot have.
_BEARER = "twisted-ws.bearer"
_BEARER_TEXT = f"{_BEARER}."
_BEARER_BASE64 = f"{_BEARER}64."


def _bearer(offer: str) -> str:
    """Return the token that an offer has; "" if it is malformed."""
    if offer.startswith(_BEARER_TEXT):
        return offer.removeprefix(_BEARER_TEXT)
    encoded = offer.removeprefix(_BEARER_BASE64)
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode() if encoded != offer else ""
    except (ValueError, UnicodeDecodeError):
        return ""


class Reject(Exception):
    """Raised by onUpgrade: refuse the handshake with this response.

    Attributes:
        status: the HTTP status, 400 to 599 (or 300-399 with a Location header).
        body: the text of the response, UTF-8; it goes to the peer as it is.
        headers: more response headers, checked.
        counted: the reason under which the refusal is counted; "": what the status says.

    Raises:
        ValueError: the status is out of range, or a header cannot be written.
        TypeError: the status is not an int, or the body not a str.
    """

    counted = ""

    def __init__(self, status: int = 403, body: str = "", headers: Mapping[str, str] | None = None) -> None:
        if not isinstance(status, int) or isinstance(status, bool):
            raise TypeError(f"the status must be an int, not {type(status).__name__}")
        if not isinstance(body, str):
            raise TypeError(f"the body must be a str, not {type(body).__name__}")
        if not 300 <= status <= 599:
            raise ValueError(f"status {status} does not refuse a handshake (300 to 599 do)")
        super().__init__(f"{status} {body}".rstrip())
        self.status = status
        self.body = body
        self.headers = checkHeaders(headers)

    @property
    def summary(self) -> str:
        """What the log says of it."""
        return self.body


def _readable(value: str) -> str:
    """Return a value, each character of which stands for a byte, as text: UTF-8 if it is valid, otherwise Latin-1."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class Headers(Mapping[str, str]):
    """The headers of a request: names in any case; several of one name are joined by ", " (RFC 9110 section 5.3).

    `getAll` gives them one by one, in the order in which they came. Values beyond ASCII are opaque (RFC 9110 section 5.5): valid
    UTF-8 is read as such, anything else as Latin-1. So a value is always text without lone surrogates, but may have any character
    of Unicode, even invisible ones.

    Args:
        pairs: lower-case name and value of each; a value has one character for each byte.
        values: the same by name, if available.
    """

    __slots__ = ("_pairs", "_values")

    def __init__(self, pairs: tuple[tuple[str, str], ...], values: Mapping[str, list[str]] | None = None) -> None:
        self._pairs = pairs
        self._values = values

    def getAll(self, name: str) -> list[str]:
        """Return each value of the header `name`, in the order in which they came; [] if there is none."""
        name = name.lower()
        if self._values is not None:
            values = self._values.get(name)
            return [] if values is None else [_readable(value) for value in values]
        return [_readable(value) for key, value in self._pairs if key == name]

    def __getitem__(self, name: str) -> str:
        values = self.getAll(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    @overload
    def get(self, name: str, /) -> str | None: ...

    @overload
    def get(self, name: str, /, default: T) -> str | T: ...

    def get(self, name: str, /, default: T | None = None) -> str | T | None:
        """Return the value of the header `name`, or `default`."""
        values = self.getAll(name)
        return ", ".join(values) if values else default

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._pairs))

    def __len__(self) -> int:
        return len(dict(self._pairs))

    def __repr__(self) -> str:
        # Values may be secrets (cookies, tokens), and a repr ends up in logs.
        return f"<Headers {', '.join(self)}>"


@lru_cache(16)  # a query is read several times while its request is answered, and polls of one channel have the same query
def _parsed(query: str) -> dict[str, list[str]]:
    # Not limited here: the request line is, and a service must not fail because of what a peer may send.
    return parse_qs(query, keep_blank_values=True)


class UpgradeRequest:
    """One opening handshake (RFC 6455 section 4.2.1), checked.

    Attributes:
        path: the path, percent-decoded.
        target: path and query as they came.
        pathParams: the parameters of the mounted path: ``{"room": "lobby"}``; `{id:int}` gives an int.
        pathRest: the decoded segments under the mounted path: ``["b"]`` for ``/a/b`` where the service is mounted at ``/a``.
        subProtocols: what the client offers, in its order of preference; without tokens.
        bearer: a token that the client has offered as a subprotocol (``twisted-ws.bearer.TOKEN``), as a browser can, which cannot
            send a header; None without one, and once the connection is open.
        peerAddress: the peer's IP address as text; "" for a UNIX socket. Behind a trusted proxy: the address it reports.
        peerPort: the peer's port; 0 if there is none, or if a proxy reports the address.
        isSecure: whether the connection uses TLS (behind a trusted proxy, or with PROXY protocol version 2: whether it says so).
        isProxied: whether a trusted proxy sent the request, so that what it says in headers counts.
        clientCertificate: the client's certificate (`twisted.internet.ssl.Certificate`), None without mutual TLS.
        identity: who this is, as the authenticators say; None if none were asked.
        user: who this is, which becomes the caller's `user` (any object; a str for presence): that of the identity, or what
            onUpgrade sets; None for nobody.
    """

    __slots__ = (
        "_headers",
        "bearer",
        "clientCertificate",
        "identity",
        "isProxied",
        "isSecure",
        "path",
        "pathParams",
        "pathRest",
        "peerAddress",
        "peerPort",
        "subProtocols",
        "target",
        "user",
    )

    def __init__(
        self,
        target: str = "/",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        path: str | None = None,
        pathParams: Mapping[str, Any] | None = None,
        pathRest: Iterable[str] = (),
        subProtocols: tuple[str, ...] = (),
        peerAddress: str = "127.0.0.1",
        peerPort: int = 0,
        isSecure: bool = False,
        isProxied: bool = False,
        clientCertificate: Certificate | None = None,
    ) -> None:
        self.target = target
        if path is None:
            path = target if "?" not in target else target.partition("?")[0]
            if "%" in path:
                path = unquote(path)
        self.path = path
        # One str instead of a tuple of tuples: a connection lives for hours, and its headers are read once.
        # Each begins with a line feed, so that `header` can search for one.
        self._headers = "\n".join(("", *map(":".join, headers)))
        self.bearer: str | None = None
        self.pathParams = dict(pathParams) if pathParams else {}
        self.pathRest = tuple(pathRest)
        self.subProtocols = list(subProtocols)
        for each in subProtocols:
            if each.startswith(_BEARER):
                self._takeToken()
                break
        self.peerAddress = peerAddress
        self.peerPort = peerPort
        self.isSecure = isSecure
        self.isProxied = isProxied
        self.clientCertificate = clientCertificate
        self.user: Any = None
        self.identity: Identity | None = None

    def _takeToken(self) -> None:
        """Move tokens from the offered subprotocols to `bearer`: a service that shows headers must not show them."""
        offered, self.subProtocols = self.subProtocols, []
        for each in offered:
            if each.startswith(_BEARER):
                self.bearer = _bearer(each) if self.bearer is None else ""  # several: none of them counts
            else:
                self.subProtocols.append(each)
        lines = [line for line in self._headers.split("\n") if not line.startswith("sec-websocket-protocol:")]
        if self.subProtocols:
            lines.append(f"sec-websocket-protocol:{', '.join(self.subProtocols)}")
        self._headers = "\n".join(lines)

    # The next four are computed at each access: a connection lives for hours, and most services read them once.

    @property
    def headers(self) -> Headers:
        """The request's headers, by name in any case."""
        pairs = [line.partition(":") for line in self._headers.split("\n")[1:]]
        return Headers(tuple((name, value) for name, _, value in pairs))

    def header(self, name: str) -> str | None:
        """Return the value of one header as `headers.get` does, ten times as fast; `name` in lower case."""
        parts = self._headers.split(f"\n{name}:", 2)
        if len(parts) == 1:
            return None
        if len(parts) == 3:
            return self.headers.get(name)
        value = parts[1]
        end = value.find("\n")
        if end >= 0:
            value = value[:end]
        return value if value.isascii() else _readable(value)

    @property
    def query(self) -> dict[str, list[str]]:
        """Each name of the query with its values, in order; a name without "=" has the value ""."""
        return {name: [*values] for name, values in _parsed(self.target.partition("?")[2]).items()}

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies (RFC 6265 section 4.2); of two with one name, the first, which has the longer path.

        Each is read by itself as UTF-8 or Latin-1 (see `Headers`), because different programs may have set them.
        """
        cookies: dict[str, str] = {}
        for line in self._headers.split("\n"):
            header, _, value = line.partition(":")
            for pair in value.split(";") if header == "cookie" else ():
                name, equals, text = map(_readable, pair.strip(" \t").partition("="))
                if equals and name not in cookies:
                    cookies[name] = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        return cookies

    def __repr__(self) -> str:
        # Without the query, which may have tokens.
        return f"<UpgradeRequest {self.path!r} from {self.peerAddress or 'a local socket'}>"


class Identified:
    """Somebody whose request the authenticators have seen.

    Attributes:
        request: the request.
    """

    __slots__ = ()

    request: UpgradeRequest

    @property
    def identity(self) -> Identity | None:
        """Who this is, as the server's authenticators say; None if none were asked. A client may renew it while it is open."""
        return self.request.identity

    @property
    def claims(self) -> Mapping[str, Any]:
        """What the credentials say, such as the claims of a token; empty without an identity."""
        return {} if self.request.identity is None else self.request.identity.claims
