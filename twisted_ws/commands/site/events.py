"""Event streams as a client reads them: chunks (RFC 9112 section 7.1), and the data of events (WHATWG HTML). Pure."""

from __future__ import annotations

from twisted_ws.limits import MIB

# Bytes of one chunk or event; servers send less.
MOST = 16 * MIB


class Chunks:
    """Takes the bytes of a chunked body as they come, and returns its content."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> bytes:
        """Return the content of the chunks that are whole now.

        Raises:
            ValueError: this is not chunked.
        """
        self._data += data
        content = []
        while True:
            line, end, rest = self._data.partition(b"\r\n")
            if not end:
                break
            size = int(line.partition(b";")[0], 16)
            if not 0 <= size <= MOST:
                raise ValueError("a chunk of the stream is too large")
            if len(rest) < size + 2:
                break
            content.append(rest[:size])
            self._data = rest[size + 2 :]
        if len(self._data) > 2 * MOST:
            raise ValueError("a chunk of the stream is too large")
        return b"".join(content)


class Events:
    """Takes the bytes of an event stream as they come, and returns the data of its events."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the data of the events that are whole now.

        Raises:
            ValueError: an event is too large.
        """
        *blocks, self._data = (self._data + data).split(b"\n\n")
        if len(self._data) > MOST:
            raise ValueError("an event of the stream is too large")
        found = []
        for block in blocks:
            lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
            if lines:
                found.append(b"\n".join(lines))
        return found
