"""The head of an HTTP/1.1 request: bytes in, a checked head or a refusal out (RFC 9112). Pure.

Both ports use it: the front door for the first request of a connection, the HTTP channel for each one. It is stricter than a
parser has to be, because a head that two parsers read differently is how requests are smuggled past a proxy's rules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from twisted_ws.limits import Limits
from twisted_ws.upgrade import isToken
from twisted_ws.wire import speedups

__all__ = ["HEAD_START", "BadHead", "RequestHead", "parseHead"]

# What a method may begin with, or half an empty line. Anything else (a TLS handshake, say) is no HTTP, and not worth waiting for.
HEAD_START = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]|\r\Z")

# Bytes that end a line or a field for some parser (str.splitlines knows 0x0b, 0x0c, 0x1c-0x1e and 0x85), and controls.
_FORBIDDEN = bytes(b for b in range(256) if (b < 0x20 and b != 0x09) or 0x7F <= b <= 0x9F)
_CONTROLS = frozenset(_FORBIDDEN.decode("latin-1"))
_NOT_IN_HOST = frozenset(" \t,/\\@?#\"'<>")
_NO_TABLE = bytes.maketrans(b"", b"")


class BadHead(Exception):
    """A request head that is refused.

    Attributes:
        status: the HTTP status to answer: 400, 414, 431 or 505.
        message: one fixed sentence for the peer; nothing the peer sent is in it.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message


@dataclass(slots=True)
class RequestHead:
    """A checked request head.

    Attributes:
        method: a token, as it came ("GET").
        target: origin-form: begins with one "/", ASCII without controls and spaces; or "*".
        version: (1, 0) or (1, 1).
        headers: pairs of lower-case name and value (Latin-1, stripped), in the order they came.
        host: the value of Host, "" where an HTTP/1.0 request has none.
        values: the values of each name; a dozen are asked for in each handshake.
        key: the Sec-WebSocket-Key of a plain handshake (`twisted_ws.wire.pure.PlainHead`); None: `decide` finds out.
    """

    method: str
    target: str
    version: tuple[int, int]
    headers: tuple[tuple[str, str], ...]
    host: str
    values: dict[str, list[str]] = field(default_factory=dict, repr=False, compare=False)
    key: str | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.values:
            for name, value in self.headers:
                self.values.setdefault(name, []).append(value)

    def getAll(self, name: str) -> list[str]:
        """Return each value of the header `name` (lower case)."""
        return self.values.get(name, [])

    def tokens(self, name: str) -> list[str]:
        """Return the elements of a comma-separated header, stripped, empty ones left out (RFC 9110 section 5.6.1)."""
        return [t for value in self.values.get(name, ()) for e in value.split(",") if (t := e.strip(" \t"))]

    def hasToken(self, name: str, token: str) -> bool:
        """Say whether a comma-separated header has an element, in any case; `token` in lower case."""
        values = self.values.get(name)
        if values is None:
            return False
        return (len(values) == 1 and values[0].lower() == token) or token in [each.lower() for each in self.tokens(name)]


def parseHead(data: bytes, limits: Limits) -> RequestHead:
    """Return the head in `data`, which is everything up to and including the empty line.

    Args:
        data: at least the bytes of one head; ends with CRLF CRLF.
        limits: `requestLine`, `head` and `headers` are used.

    Raises:
        BadHead: the request must be refused; says with which status.
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
    return RequestHead(method, target, (1, 1), headers, host, values, key)


def _parse(data: bytes, limits: Limits) -> RequestHead:
    line, _, rest = data[:-2].partition(b"\r\n")
    method, target, version = _requestLine(line)
    lines = rest.decode("latin-1").split("\r\n")
    del lines[-1]
    if len(lines) > limits.headers:
        raise BadHead(431, "The request has too many headers.")
    # All the lines at once: without the ends of lines, no control character may be left.
    bare = rest.replace(b"\r\n", b"")
    clean = len(bare) == len(bare.translate(_NO_TABLE, _FORBIDDEN))
    headers = tuple([_header(each, clean) for each in lines])
    return RequestHead(method, target, version, headers, _host(headers, version))


def _requestLine(line: bytes) -> tuple[str, str, tuple[int, int]]:
    parts = line.split(b" ")
    if len(parts) != 3 or len(line) != len(line.translate(_NO_TABLE, _FORBIDDEN)):
        raise BadHead(400, "The request line is malformed.")
    method, target, version = parts
    if method != b"GET" and not isToken(method.decode("latin-1")):
        raise BadHead(400, "The request method is malformed.")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if version.startswith(b"HTTP/") and version[5:].replace(b".", b"", 1).isdigit():
            raise BadHead(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        raise BadHead(400, "The request line is malformed.")
    # Origin-form only: parsers disagree on where the path of "//host/x" and "http://host/x" begins, so that a proxy's
    # path rule could be walked around.
    if target != b"*" and (not target.startswith(b"/") or target.startswith(b"//")):
        raise BadHead(400, "The request target must be a path that begins with one slash.")
    if not target.isascii() or b"#" in target or b"\t" in target:
        raise BadHead(400, "The request target has characters that must be percent-encoded.")
    return method.decode("ascii"), target.decode("ascii"), (1, 1) if version == b"HTTP/1.1" else (1, 0)


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
    if hosts and (not hosts[0] or not hosts[0].isascii() or not _NOT_IN_HOST.isdisjoint(hosts[0])):
        raise BadHead(400, "The Host header is malformed.")
    return hosts[0] if hosts else ""
