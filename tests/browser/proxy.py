"""A reverse proxy between a client and a server, with the faults that proxies and networks have."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, suppress

from tests.live.support import PATIENCE

# An empty page, for scripts to run in.
PAGE = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{}Content-Length: 0\r\nConnection: close\r\n\r\n"
_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes on what comes; each connection is one request.

    Attributes:
        port: where it listens.
        webSockets: what becomes of a handshake: "pass", "refuse" (403), or "cut" (taken, and cut at the client's first message).
        events: what becomes of an event stream: "pass", or "hold" (back, as it would be to answer when it is whole).
        answers: what is answered instead of being passed on, by the begin of the path; an empty page at /page.
        hurries: whether the server's wish that a client waits is left out.
        handshakes: how many there were.
        requests: the paths of the others.
    """

    def __init__(self, port: int, webSockets: str = "pass", events: str = "pass") -> None:
        self._server = port
        self.webSockets = webSockets
        self.events = events
        self.answers = {"/page": PAGE.format("").encode()}
        self.hurries = False
        self.handshakes = 0
        self.requests: list[str] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Proxy:
        self._start(self._accept)
        return self

    def __exit__(self, *exception: object) -> None:
        # What is being accepted or connected now is closed, too: its thread is there until then.
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._threads:  # those that are added meanwhile are waited for as well
            while each.is_alive():
                self.cut()
                each.join(0.05)
        self._listener.close()

    def cut(self) -> None:
        """End all that is connected."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _start(self, work: object, *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _note(self, connection: socket.socket, stack: ExitStack) -> socket.socket:
        """Let a connection be cut, and close it with `stack`."""
        connection.settimeout(None)
        stack.enter_context(connection)
        with self._lock:
            self._open.add(connection)
        stack.callback(self._forget, connection)
        return connection

    def _forget(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    def _serve(self, client: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            self._note(client, stack)
            data = b""
            while b"\r\n\r\n" not in data:
                more = client.recv(65536)
                if not more:
                    return
                data += more
            head, end, rest = data.partition(b"\r\n\r\n")
            isHandshake = b"\r\nupgrade: websocket" in head.lower()
            path = head.split(b" ", 2)[1].decode()
            with self._lock:
                self.handshakes += isHandshake
                self.requests += [] if isHandshake else [path]
            answer = next((each for begin, each in self.answers.items() if path.startswith(begin)), None)
            if answer is not None:
                client.sendall(answer)
            elif isHandshake and self.webSockets == "refuse":
                client.sendall(_REFUSED)
            elif self.events == "hold" and b"text/event-stream" in head.lower():
                client.recv(1)  # until the client gives it up
            else:
                if not isHandshake:
                    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
                    head = b"\r\n".join([*lines, b"Connection: close"])
                server = self._note(socket.create_connection(("127.0.0.1", self._server), PATIENCE), stack)
                server.sendall(head + end + rest)
                cuts = isHandshake and self.webSockets == "cut"
                back = self._start(self._copy, client, server, cuts)
                self._copy(server, client)
                with suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                back.join()

    def _copy(self, source: socket.socket, target: socket.socket, cuts: bool = False) -> None:
        """Pass on until one side ends; then the other ends, too."""
        with suppress(OSError):
            while data := source.recv(65536):
                if cuts:
                    break
                target.sendall(data.replace(b"Retry-After: ", b"X-Waits: ") if self.hurries else data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
