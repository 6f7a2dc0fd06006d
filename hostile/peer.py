"""A hostile connection: a plain blocking socket that knows a little HTTP, WebSocket and TLS, and follows no rules."""

from __future__ import annotations

import ctypes
import select
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

__all__ = ["HANDSHAKE", "PATIENCE", "Peer", "blackhole", "close", "ends", "frame", "frames", "tally", "unverified", "upgrade"]

# Seconds that an attacker waits for the server to end its connection, before it reports that it is still open.
PATIENCE = 20.0
_KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
_UPGRADE = f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n{_KEY}\r\n"
_SO_ATTACH_FILTER = 26


def upgrade(path: str = "/ws", *lines: str) -> bytes:
    """Return a handshake with additional header lines."""
    more = "".join(f"{line}\r\n" for line in lines)
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{_UPGRADE}{more}\r\n".encode("latin-1")


HANDSHAKE = upgrade()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """Return a frame, masked with zeros."""
    first = (final << 7) | (reserved << 4) | opcode
    return struct.pack("!B", first) + length(len(payload), masked) + (bytes(4) if masked else b"") + payload


def length(size: int, masked: bool = True) -> bytes:
    """Return the second byte of a frame and the extended length after it."""
    bit = masked << 7
    if size < 126:
        return struct.pack("!B", bit | size)
    if size < 1 << 16:
        return struct.pack("!BH", bit | 126, size)
    return struct.pack("!BQ", bit | 127, size)


def frames(data: bytearray) -> Iterator[tuple[int, bytes]]:
    """Remove the complete frames of a server from the front of the data read, as opcode and payload; leave an incomplete one."""
    position = 0
    while position + 2 <= len(data):
        size, head = data[position + 1], 2
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[position + 2 : position + head])
        if position + head + size > len(data):
            break
        yield data[position] & 15, bytes(data[position + head : position + head + size])
        position += head + size
    del data[:position]


def close(code: int, reason: bytes = b"") -> bytes:
    """Return a Close frame."""
    return frame(8, struct.pack("!H", code) + reason)


def unverified() -> ssl.SSLContext:
    """Return client TLS settings that accept any certificate, without spending time on loading the system's authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def blackhole(connection: socket.socket) -> None:
    """Make the kernel discard everything that arrives for a socket before TCP sees it, so that it is never acknowledged."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0, "keep no byte"
    program = struct.pack("HL", 1, ctypes.addressof(instruction))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


_TLS = unverified()


class Peer:
    """One connection of an attacker.

    Args:
        port: a port of 127.0.0.1.
        secure: whether it speaks TLS.
        buffer: the size of its receive buffer in bytes; 0 for the system's default.
        patience: the seconds that any operation may take.
        begun: whether to begin the TLS handshake only; `shake` finishes it.
    """

    def __init__(
        self, port: int, *, secure: bool = False, buffer: int = 0, patience: float = PATIENCE, begun: bool = False
    ) -> None:
        self.raw = socket.socket()
        if buffer:
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.raw.settimeout(patience)
        self._patience = patience
        self.raw.connect(("127.0.0.1", port))
        self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = self.raw
        self.received = bytearray()
        self._upgraded = False
        if secure:
            self._tls = _TLS.wrap_socket(self.raw, server_hostname="localhost", do_handshake_on_connect=False)
            self.socket = self._tls
            if begun:
                self._tls.setblocking(False)
                with suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                self._tls.settimeout(patience)
            else:
                self.shake()

    def shake(self) -> None:
        """Finish the TLS handshake."""
        self._tls.do_handshake()

    def send(self, data: bytes) -> bool:
        """Send all of the data; return False if the server has ended the connection, or takes nothing while patience lasts."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def pour(self, data: bytes, seconds: float) -> int:
        """Send the same bytes again and again for this long, or until the end; return the number of bytes accepted."""
        taken, end = 0, time.monotonic() + seconds
        self.socket.setblocking(False)
        try:
            while (left := end - time.monotonic()) > 0:
                try:
                    taken += self.socket.send(data[taken % len(data) :])
                except (BlockingIOError, ssl.SSLWantWriteError):
                    select.select([], [self.socket], [], min(left, 0.2))
                except OSError:
                    break
        finally:
            self.socket.settimeout(self._patience)
        return taken

    def read(self, until: bytes) -> bytes:
        """Return the data up to and including these bytes; less if the connection ends."""
        while (found := self.received.find(until)) < 0:
            if not self._more():
                return bytes(self.received)
        end = found + len(until)
        taken = bytes(self.received[:end])
        del self.received[:end]
        self._upgraded = self._upgraded or taken.startswith(b"HTTP/1.1 101 ")
        return taken

    def _more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            return False
        self.received += data
        return bool(data)

    def upgrade(self, path: str = "/ws", *lines: str) -> Peer:
        """Do a handshake.

        Raises:
            ConnectionError: it was not answered with 101.
        """
        self.send(upgrade(path, *lines))
        answer = self.read(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(f"no 101 but {answer[:60]!r}")
        return self

    def status(self) -> int:
        """Return the status code of the next HTTP response without reading its body; 0 if none comes."""
        head = self.read(b"\r\n\r\n")
        return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0

    def answer(self) -> tuple[int, bytes]:
        """Return the status code and body of the next HTTP response with a Content-Length; (0, b"") if none comes."""
        head = self.read(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 "):
            return 0, b""
        lines = (line.partition(b":") for line in head.lower().split(b"\r\n")[1:])
        size = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
        while len(self.received) < size and self._more():
            pass
        body = bytes(self.received[:size])
        del self.received[:size]
        return int(head[9:12]), body

    def end(self, patience: float | None = None) -> str:
        """Read until the end, and return what the server did with this peer.

        Returns:
            "HTTP 400", "close 1002", "dropped" for an end without a word, "reset", or "open" when nothing ends it in time.
        """
        last = time.monotonic() + (patience or self._patience)
        how = ""
        while not how:
            try:
                self.socket.settimeout(max(last - time.monotonic(), 0.001))
                data = self.socket.recv(1 << 16)
                self.received += data
                how = "" if data else "dropped"
                if self._closed():
                    break
            except TimeoutError:
                how = "open"
            except ssl.SSLEOFError:
                how = "dropped"
            except OSError:
                how = "reset"
        said = self._closed() or self._refused()
        self.cut()
        return said or how

    def _refused(self) -> str:
        """Return the last HTTP status received, such as "HTTP 400"."""
        start = self.received.rfind(b"HTTP/1.1 ")
        return f"HTTP {self.received[start + 9 : start + 12].decode()}" if start >= 0 else ""

    def _closed(self) -> str:
        """Return the Close received, such as "close 1002"; discard everything before it."""
        if self.received.startswith(b"HTTP/1.1 101 ") and b"\r\n\r\n" in self.received:
            self.read(b"\r\n\r\n")
        if not self._upgraded:
            return ""
        for opcode, payload in frames(self.received):
            if opcode == 8:
                return f"close {int.from_bytes(payload[:2])}" if payload else "close 1005"
        return ""

    def cut(self, reset: bool = True) -> None:
        """End the connection, with or without a reset."""
        with suppress(OSError):
            if reset:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()

    def vanish(self) -> None:
        """Vanish silently."""
        blackhole(self.socket)


def ends(peers: Sequence[Peer], patience: float = PATIENCE) -> str:
    """Read all peers until the end, with this patience for all together, and return a tally of the results."""
    last = time.monotonic() + patience
    return tally([peer.end(max(last - time.monotonic(), 0.02)) for peer in peers])


def tally(ends: Iterable[str]) -> str:
    """Return a tally such as "40 x close 1002, 2 x reset"; without a number if all results are the same."""
    found = Counter(ends).most_common()
    if len(found) == 1:
        return found[0][0]
    return ", ".join(f"{count:,} x {what}" for what, count in found)
