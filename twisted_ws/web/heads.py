"""Where the head of an HTTP/1.1 request ends (RFC 9112 section 2.1). Pure."""

from __future__ import annotations

import re

from twisted_ws.limits import Limits
from twisted_ws.wire.head import HEAD_START, BadHead

__all__ = ["HeadReader"]

# Some parsers take it for the end of a line; a head in which it stands might never come to an end for us.
_BARE_LF = re.compile(rb"(?<!\r)\n")


class HeadReader:
    """Takes heads from a buffer; looks at no byte of a slow one twice."""

    __slots__ = ("_searched",)

    def __init__(self) -> None:
        self._searched = 0

    def take(self, buffer: bytearray, limits: Limits) -> bytes | None:
        """Remove the next head from the front of `buffer` and return it; None when it is not whole yet.

        Args:
            buffer: what has come; between two calls it only grows at its end, or is emptied after a head was taken.
            limits: `requestLine` and `head` are used.

        Raises:
            BadHead: it need not be waited for any longer: 400, 414 or 431.
        """
        while buffer.startswith(b"\r\n"):  # empty lines before a request are ignored (RFC 9112 section 2.2)
            del buffer[:2]
        if not buffer:
            return None
        if HEAD_START.match(buffer) is None:
            raise BadHead(400, "This is no HTTP request.")
        end = buffer.find(b"\r\n\r\n", self._searched) + 4
        if end >= 4:
            self._searched = 0
            head = bytes(buffer[:end])
            del buffer[:end]
            return head
        if _BARE_LF.search(buffer, self._searched) is not None:
            raise BadHead(400, "A line of the head does not end with CRLF.")
        self._searched = max(len(buffer) - 3, 0)
        line = buffer.find(b"\r\n")
        if (len(buffer) if line < 0 else line) > limits.requestLine:
            raise BadHead(414, "The request line is too long.")
        if len(buffer) > limits.head:
            raise BadHead(431, "The request head is too large.")
        return None
