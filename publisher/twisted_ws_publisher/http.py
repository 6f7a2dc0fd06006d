"""HTTP/1.1 without sockets (RFC 9112): what is written, and what was read."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPException, parse_headers
from io import BytesIO
from typing import NamedTuple

# Bytes: the server's answers are far smaller, except for lists, whose pages the caller chooses.
MOST_HEAD = 64 * 1024
MOST_BODY = 16 * 1024 * 1024
# Bytes of the line before a chunk.
_LONGEST_LINE = 1024


class Malformed(Exception):
    """What was received is not an answer in HTTP/1.1, or is too large."""


class Response(NamedTuple):
    """An answer.

    Attributes:
        status: such as 200.
        headers: by name in lower case; of several with one name, the first.
        body: the whole body.
        keeps: whether the connection can be used again.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    keeps: bool


def encode_request(method: str, target: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the bytes of a request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body or method not in ("GET", "DELETE"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class ResponseReader:
    """Takes what was received for one request, piece by piece."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._keeps = False
        self._body: bytearray | None = None
        self._left: int | None = 0  # of the body, or of a chunk; None: until the connection ends
        self._is_chunked = False

    @property
    def began(self) -> bool:
        """Whether anything has come."""
        return self._status != 0 or bool(self._data)

    def feed(self, data: bytes) -> Response | None:
        """Take bytes; b"" is the end of the connection.

        Returns:
            The answer, once it is whole.

        Raises:
            Malformed: it is not one.
        """
        self._data += data
        while self._body is None:
            if not self._read_head():
                if not data:
                    raise Malformed("the connection was closed before the answer was whole")
                return None
        if self._read_body(not data):
            return Response(self._status, self._headers, bytes(self._body), self._keeps and not self._data)
        if not data:
            raise Malformed("the connection was closed before the answer was whole")
        return None

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD:
            if len(self._data) > MOST_HEAD:
                raise Malformed("the head of the answer is too large")
            return False
        line, _, rest = bytes(self._data[: end + 4]).partition(b"\r\n")
        del self._data[: end + 4]
        version, _, status = line.partition(b" ")
        if version not in (b"HTTP/1.1", b"HTTP/1.0") or not status[:3].isdigit():
            raise Malformed("the answer is not HTTP/1.1")
        try:
            headers = parse_headers(BytesIO(rest))
        except HTTPException:
            raise Malformed("the head of the answer is malformed") from None
        self._status = int(status[:3])
        if 100 <= self._status < 200:
            self._status = 0  # an interim answer, such as a proxy's 100
            return True
        self._headers = {}
        for name, value in headers.items():
            self._headers.setdefault(name.lower(), value)
        connection = self._headers.get("connection", "").lower()
        self._keeps = version == b"HTTP/1.1" and "close" not in connection
        has_body = self._status not in (204, 304)
        self._is_chunked = has_body and self._headers.get("transfer-encoding", "").lower() == "chunked"
        length = self._headers.get("content-length")
        if self._is_chunked or not has_body:
            self._left = 0
        elif length is None:
            self._left, self._keeps = None, False
        elif length.isascii() and length.isdigit() and int(length) <= MOST_BODY:
            self._left = int(length)
        else:
            raise Malformed("the length of the answer is malformed or too large")
        self._body = bytearray()
        return True

    def _read_body(self, ended: bool) -> bool:
        if self._left is None:
            self._take(len(self._data))
            return ended
        while True:
            self._left -= self._take(self._left)
            if self._left:
                return False
            if not self._is_chunked:
                return True
            line, found, rest = self._data.partition(b"\r\n")
            if not found:
                if len(line) > _LONGEST_LINE:
                    raise Malformed("a chunk of the answer is malformed")
                return False
            self._data = rest
            if not line:  # the end of a chunk's data
                continue
            try:
                self._left = int(line.partition(b";")[0], 16)
            except ValueError:
                raise Malformed("a chunk of the answer is malformed") from None
            if not self._left:
                # Whoever sends trailers, or sends the last line later, gets another connection next time.
                self._keeps = self._keeps and rest == b"\r\n"
                self._data.clear()
                return True

    def _take(self, most: int) -> int:
        assert self._body is not None
        data = self._data[:most]
        del self._data[: len(data)]
        self._body += data
        if len(self._body) > MOST_BODY:
            raise Malformed("the answer is too large")
        return len(data)
