"""The head of an HTTP/1.1 request: bytes in, a checked head or a refusal out (RFC 9112). Pure.

Both ports use it: the front door for the first request of a connection, HTTP connections for each request. It is stricter than a
parser must be, because a head that two parsers read differently lets requests be smuggled past a proxy's rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from twisted_ws.limits import Limits
from twisted_ws.upgrade import isToken
from twisted_ws.wire import speedups

_EMPTY_LINES = re.compile(rb"(?:\r\n)*")

# What a method may begin with, or half an empty line. Anything else (a TLS handshake, say) is not HTTP, and not worth waiting
# for.
_TLS = b"\x16\x03"  # a handshake record, of any version (RFC 8446 section 5.1)
_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]|\r\Z")
# Some parsers accept either as the end of a line; for us, a head that has one might never end.
_HALF_AN_END = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")

# Control characters; the bytes from 80 on are opaque (RFC 9110 section 5.5).
_FORBIDDEN = bytes(b for b in (*range(0x20), 0x7F) if b != 0x09)
_CONTROLS = frozenset(_FORBIDDEN.decode("ascii"))
_NOT_IN_HOST = frozenset(" \t,/\\@?#\"'<>")
_NO_TABLE = bytes.maketrans(b"", b"")
# A later minor version is treated as 1.1 (RFC 9110 section 2.5).
_VERSION = re.compile(rb"HTTP/1\.[0-9]")
# An absolute-form that is accepted (RFC 9112 section 3.2.2): scheme, authority, path and query.
_ABSOLUTE = re.compile(rb"(?:https?|wss?)://([^/?]*)(.*)", re.IGNORECASE)


class BadHead(Exception):
    """A request head that is refused.

    Attributes:
        status: the HTTP status to answer: 400, 414, 431 or 505.
        message: one fixed sentence for the peer, without anything that the peer sent.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


@dataclass(slots=True, init=False)
class RequestHead:
    """A checked request head.

    Attributes:
        method: a token, as it came ("GET").
        target: in origin-form, which begins with one "/" and is ASCII without controls and spaces; or "*".
        version: (1, 0), or (1, 1) for that version and later ones.
        headers: pairs of lower-case name and value (its bytes as Latin-1, stripped), in the order in which they came.
        host: the host that the client asked: the value of Host, or the authority of a target in absolute-form, which then
            replaces Host among the headers, too (RFC 9112 section 3.2.2). "" if an HTTP/1.0 request has neither.
        values: the values of each name; each handshake asks for a dozen of them.
        key: the Sec-WebSocket-Key of a plain handshake (`twisted_ws.wire.speedups.pure.PlainHead`); None: `decide` finds out.
    """

    method: str
    target: str
    version: tuple[int, int]
    headers: tuple[tuple[str, str], ...]
    host: str
    values: dict[str, list[str]] = field(repr=False, compare=False)
    key: str | None = field(repr=False, compare=False)

    # Each handshake makes one: what a dataclass would write takes twice as long.
    def __init__(
        self,
        method: str,
        target: str,
        version: tuple[int, int],
        headers: tuple[tuple[str, str], ...],
        host: str,
        values: dict[str, list[str]] | None = None,
        key: str | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.host = host
        self.values = _byName(headers) if values is None else values
        self.key = key

    def getAll(self, name: str) -> list[str]:
        """Return each value of the header `name` (lower case)."""
        return self.values.get(name, [])

    def tokens(self, name: str) -> list[str]:
        """Return the elements of a comma-separated header, stripped and without empty ones (RFC 9110 section 5.6.1)."""
        return [t for value in self.values.get(name, ()) for e in value.split(",") if (t := e.strip(" \t"))]

    def hasToken(self, name: str, token: str) -> bool:
        """Return whether a comma-separated header has an element, in any case; `token` in lower case."""
        values = self.values.get(name)
        if values is None:
            return False
        return (len(values) == 1 and values[0].lower() == token) or token in [each.lower() for each in self.tokens(name)]


def _byName(headers: tuple[tuple[str, str], ...]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if name in values:
            values[name].append(value)
        else:
            values[name] = [value]
    return values


def emptyLines(data: bytes | bytearray) -> int:
    """Return the size of the empty lines at the start of `data`; before a request, they are ignored (RFC 9112 section 2.2)."""
    match = _EMPTY_LINES.match(data)
    return 0 if match is None else match.end()


def headEnd(data: bytes | bytearray, searched: int, limits: Limits) -> int:
    """Return where the head at the beginning of `data` ends; 0 if the end has not come yet. No byte is looked at twice.

    Args:
        data: what has come, without empty lines before it.
        searched: the length of `data` at the last call.
        limits: `requestLine` and `head` are used.

    Raises:
        BadHead: there is no use in waiting for the end: 400, 414 or 431.
    """
    again = searched - 3 if searched > 3 else 0
    end = data.find(b"\r\n\r\n", again)
    if end >= 0:
        return end + 4
    if not data:
        return 0
    _refuseStart(data)
    _refuseHalfEnds(data, again)
    if data.find(b"\r\n", 0, limits.requestLine + 2) < 0 and len(data) > limits.requestLine + 1:
        raise BadHead(414, "The request line is too long.")
    if len(data) > limits.head:
        raise BadHead(431, "The request head is too large.")
    return 0


def parseHead(data: bytes, limits: Limits) -> RequestHead:
    """Return the head in `data`, which is everything up to and including the empty line.

    Args:
        data: at least the bytes of one head; ends with CRLF CRLF.
        limits: `requestLine`, `head`, `headers` and `parameters` are used.

    Raises:
        BadHead: the request must be refused, with its status.
    """
    if data.find(b"\r\n") > limits.requestLine:
        raise BadHead(414, "The request line is too long.")
    if len(data) > limits.head:
        raise BadHead(431, "The request head is too large.")
    plain = speedups.plainHead(data)
    if plain is None:
        return _parse(data, limits)
    method, target, headers, host, values, key = plain
    if len(headers) > limits.headers:
        raise BadHead(431, "The request has too many headers.")
    if len(target) > limits.parameters:
        _checkParameters(target, limits)
    return RequestHead(method, target, (1, 1), headers, host, values, key)


def _checkParameters(target: str, limits: Limits) -> None:
    if target.count("&") >= limits.parameters:
        raise BadHead(414, "The request target has too many parameters.")


def _parse(data: bytes, limits: Limits) -> RequestHead:
    # Check all lines at once: apart from their ends, there must be no control character.
    bare = data.replace(b"\r\n", b"")
    clean = len(bare) == len(bare.translate(_NO_TABLE, _FORBIDDEN))
    _refuseStart(data)
    if not clean:
        _refuseHalfEnds(data)
    line, _, rest = data[:-2].partition(b"\r\n")
    method, target, version, authority = _requestLine(line, clean)
    _checkParameters(target, limits)
    lines = rest.decode("latin-1").split("\r\n")
    del lines[-1]
    if len(lines) > limits.headers:
        raise BadHead(431, "The request has too many headers.")
    headers = tuple([_header(each, clean) for each in lines])
    host = _host(headers, version)
    if authority is not None:
        host = _checkHost(authority, "The host of the request target is malformed.")
        headers = (("host", host), *[pair for pair in headers if pair[0] != "host"])
    return RequestHead(method, target, version, headers, host)


def _refuseStart(data: bytes | bytearray) -> None:
    if data[:2] == _TLS:
        raise BadHead(400, "This port does not speak TLS: use http:// or ws://, or the port of --tls-port.")
    if _START.match(data) is None:
        raise BadHead(400, "This is not an HTTP request.")


def _refuseHalfEnds(data: bytes | bytearray, start: int = 0) -> None:
    if _HALF_AN_END.search(data, start) is not None:
        raise BadHead(400, "A line of the head does not end with CRLF.")


def _requestLine(line: bytes, clean: bool) -> tuple[str, str, tuple[int, int], str | None]:
    """Return method, target, version, and the authority of a target in absolute-form."""
    parts = line.split(b" ")
    if len(parts) != 3 or not (clean or len(line) == len(line.translate(_NO_TABLE, _FORBIDDEN))):
        raise BadHead(400, "The request line is malformed.")
    method, target, version = parts
    if method != b"GET" and not isToken(method.decode("latin-1")):
        raise BadHead(400, "The request method is malformed.")
    if version != b"HTTP/1.1" and _VERSION.fullmatch(version) is None:
        if version.startswith(b"HTTP/") and version[5:].replace(b".", b"", 1).isdigit():
            raise BadHead(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        raise BadHead(400, "The request line is malformed.")
    authority = None
    absolute = None if target.startswith(b"/") else _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        authority, target = absolute[1].decode("latin-1"), absolute[2]
        if not target.startswith(b"/"):  # no path means the root, or the server for OPTIONS (RFC 9112 section 3.2.4)
            target = b"*" if method == b"OPTIONS" and not target else b"/" + target
    # Parsers disagree on where the path of "//host/x" begins, so a proxy's rules for paths could be evaded.
    if target != b"*" and (not target.startswith(b"/") or target.startswith(b"//")):
        raise BadHead(400, "The request target must be a path that begins with one slash.")
    if not target.isascii() or b"#" in target or b"\t" in target:
        raise BadHead(400, "The request target has characters that must be percent-encoded.")
    return method.decode("ascii"), target.decode("ascii"), (1, 0) if version == b"HTTP/1.0" else (1, 1), authority


def _header(line: str, clean: bool) -> tuple[str, str]:
    if line[:1] in (" ", "\t"):
        raise BadHead(400, "A header is folded over two lines.")
    if not clean and not _CONTROLS.isdisjoint(line):
        raise BadHead(400, "A header has a control character.")
    name, colon, value = line.partition(":")
    if not colon:
        raise BadHead(400, "A header has no colon.")
    return _name(name), value.strip(" \t")


@lru_cache(512)  # the same few dozen in every request
def _name(name: str) -> str:
    if not isToken(name):
        raise BadHead(400, "The name of a header is malformed.")
    return name.lower()


def _host(headers: tuple[tuple[str, str], ...], version: tuple[int, int]) -> str:
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) > 1 or (not hosts and version == (1, 1)):
        raise BadHead(400, "The request must have one Host header.")
    return _checkHost(hosts[0], "The Host header is malformed.") if hosts else ""


def _checkHost(host: str, message: str) -> str:
    if not host or not host.isascii() or not _NOT_IN_HOST.isdisjoint(host):
        raise BadHead(400, message)
    return host
