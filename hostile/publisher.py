"""A publisher that publishes each message once, in order, while connections, clients, proxies and the server fail."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

__all__ = ["Publisher"]


class Publisher:
    """Publish numbered messages to channels, each over its own connection, while the context lasts.

    When no answer comes it publishes the same again, with the same idempotency key. Only when the server has been started anew
    meanwhile it cannot: the keys are gone with the old one, and nobody knows whether the message was published.

    Args:
        ports: the ports of the broadcast sites of all servers, which take turns; what one does not answer goes to the next.
        channels: their names.
        rate: messages per second, in total.
        size: the size of each message in bytes.
        patience: seconds to wait for an answer.

    Attributes:
        generation: counts the starts of the server; raise it when you end the server.
    """

    def __init__(self, ports: Sequence[int], channels: Sequence[str], rate: float, size: int, patience: float = 30.0) -> None:
        self.generation = 0
        self.ports = tuple(ports)
        self.patience = patience
        self.seconds = len(channels) / rate
        self.padding = "x" * size
        self.end = threading.Event()
        self._lines = [_Line(self, name) for name in channels]

    def __enter__(self) -> Publisher:
        for line in self._lines:
            line.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end.set()
        for line in self._lines:
            line.join()

    def cut(self) -> None:
        """Reset all connections, wherever their current publications are."""
        for line in self._lines:
            line.cut()

    @property
    def published(self) -> dict[str, int]:
        """The number of messages for each channel; their numbers are below it."""
        return {line.name: line.count for line in self._lines}

    @property
    def unsure(self) -> dict[str, list[int]]:
        """The messages that may or may not have been published."""
        return {line.name: line.unsure for line in self._lines}

    @property
    def wrong(self) -> str:
        """An answer that nobody expects; "" if there was none."""
        return next((line.wrong for line in self._lines if line.wrong), "")

    @property
    def tries(self) -> int:
        """The number of times that a message had to be sent again."""
        return sum(line.tries for line in self._lines)


class _Line(threading.Thread):
    """The messages of one channel."""

    def __init__(self, publisher: Publisher, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.count = 0
        self.unsure: list[int] = []
        self.tries = 0
        self.wrong = ""
        self._publisher = publisher
        self._turn = 0
        self._sent = 0.0
        self._connections: dict[int, http.client.HTTPConnection] = {}

    def run(self) -> None:
        """Publish one message after another; do not catch up when late."""
        publisher = self._publisher
        due = time.monotonic()
        while not publisher.end.wait(max(due - time.monotonic(), 0)):
            due = max(due + publisher.seconds, time.monotonic() - 0.5)
            if not self._one():
                self.unsure.append(self.count)
            self.count += 1
            self._turn += 1
        for port in tuple(self._connections):
            self._close(port)

    def cut(self) -> None:
        """Reset the connections."""
        for connection in tuple(self._connections.values()):
            sock = connection.sock
            if sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RDWR)

    def _one(self) -> bool:
        """Publish the next message; return False if it may or may not be published."""
        publisher = self._publisher
        generation = publisher.generation
        self._sent = time.monotonic()
        while (status := self._post()) != 200:
            if 400 <= status < 500:
                self.wrong = self.wrong or f"HTTP {status} for message {self.count} of {self.name}"
            self.tries += 1
            self._turn += 1
            if publisher.generation != generation or publisher.end.is_set():
                return False
            time.sleep(0.02)
        return True

    def _post(self) -> int:
        """Return the status code of the response; 0 if none comes."""
        publisher = self._publisher
        port = publisher.ports[self._turn % len(publisher.ports)]
        try:
            if port not in self._connections:
                self._connections[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=publisher.patience)
            connection = self._connections[port]
            headers = {"Idempotency-Key": f"{self.name}-{self.count}", "Content-Type": "text/plain"}
            body = f"{self.count} {self._sent} {publisher.padding}"
            connection.request("POST", f"/channels/{self.name}", body, headers)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            self._close(port)
            return 0

    def _close(self, port: int) -> None:
        connection = self._connections.pop(port, None)
        if connection is not None:
            connection.close()
