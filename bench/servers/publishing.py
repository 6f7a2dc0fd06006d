"""An HTTP endpoint for posts only, for asyncio libraries without an HTTP server of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


class Publishing(asyncio.Protocol):
    """Pass each posted body to a function, then answer; the connection stays open.

    Args:
        publish: called with each body.
    """

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        self._publish = publish
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Handle every complete request."""
        self._read += data
        while True:
            head, found, rest = self._read.partition(b"\r\n\r\n")
            if not found:
                return
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(rest) < length:
                return
            self._read = rest[length:]
            self._publish(rest[:length])
            self._transport.write(ANSWER)
