from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from http.client import HTTPResponse
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.live.support import PATIENCE, Running, running, unverified, writeService
from tests.memory import clientFrame, upgrade

_SERVICES = """
from twisted.internet.task import deferLater

from twisted_ws import WebSocketService


class Echo(WebSocketService):
    idleTimeout = 6

    def onTextMessage(self, caller, text):
        return text


class Later(WebSocketService):
    async def onUpgrade(self, request):
        await deferLater(self.server.reactor, 2)
        return self


class Bye(WebSocketService):
    def onTextMessage(self, caller, text):
        caller.close(4000, "bye", timeout=6)

    def onClose(self, caller, statusCode, reason):
        print("closed with", statusCode, reason, flush=True)
"""
LIMITS = """[limits]
pingInterval = 1
pingTimeout = 6
headDeadline = 6
bodyDeadline = 6
upgradeDeadline = 6
closeDeadline = 6
keepAlive = 6
writeDeadline = 6
messageRate = 40
controlRate = 40
"""
# Longer than any of these.
STOPPED = 12


class Chatter(threading.Thread):
    """A client that has nearly as much to say as it may, and pings as much; it writes down what does not come back."""

    def __init__(self, client: ClientConnection) -> None:
        super().__init__()
        self.client = client
        self.failure: Exception | None = None
        self.ending = threading.Event()
        self.pinging = threading.Thread(target=self._ping)

    def run(self) -> None:
        """Talk until told to end."""
        self.pinging.start()
        try:
            number = 0
            while not self.ending.wait(0.1):
                self.client.send(str(number))
                assert self.client.recv(PATIENCE) == str(number)
                number += 1
        except Exception as error:
            self.failure = error
        self.pinging.join()

    def _ping(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while not self.ending.wait(0.07):
                self.client.ping()

    def end(self) -> None:
        """Raise what has failed."""
        self.ending.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def _raw(server: Running, scheme: str, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port(scheme)), PATIENCE)
    client.sendall(data)
    return client


def _expect(client: socket.socket, status: int) -> None:
    answer = HTTPResponse(client)
    answer.begin()
    answer.read()
    assert answer.status == status
    if status == 101:  # it would answer no ping
        client.shutdown(socket.SHUT_RDWR)


def test_stopped(tmp_path: Path) -> None:
    """A server that is stopped for a while, longer than any deadline, and then goes on closes nobody who does his part."""
    writeService(tmp_path, _SERVICES)
    (tmp_path / "limits.toml").write_text(LIMITS)
    services = ("/echo=rooms:Echo", "/later=rooms:Later", "/bye=rooms:Bye", "/channels/{channel}=channels")
    mounts = [part for service in services for part in ("--service", service)]
    with running(tmp_path, *mounts, "--config", "limits.toml", "--tls-port", "0") as server, contextlib.ExitStack() as stack:

        def raw(scheme: str, data: bytes) -> socket.socket:
            return stack.enter_context(_raw(server, scheme, data))

        chatters = [Chatter(stack.enter_context(server.client("/echo", secure, ping_interval=None))) for secure in (0, 0, 1, 1)]
        for chatter in chatters:
            chatter.start()
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = b"POST /channels/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123456789"
        asked = [("http", head, 200), ("http", body, 200), ("ws", head, 404), ("ws", upgrade("/echo"), 101)]
        halves = [(raw(scheme, request[:-5]), request[-5:], status) for scheme, request, status in asked]
        kept = raw("http", head)
        _expect(kept, 200)
        stream = raw("ws", b"GET /channels/a HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").makefile("rb")
        assert b"200 OK" in stream.readline()
        bye = raw("ws", upgrade("/bye"))
        assert b" 101 " in bye.recv(4096)
        bye.sendall(clientFrame(1, b"x"))
        close = bye.recv(7, socket.MSG_WAITALL)
        later = raw("ws", upgrade("/later"))
        unmade = raw("wss", b"")
        server.signal(signal.SIGSTOP)
        for client, rest, _ in halves:
            client.sendall(rest)
        kept.sendall(head)
        bye.sendall(clientFrame(8, close[2:]))
        time.sleep(STOPPED)
        server.signal(signal.SIGCONT)
        for client, _, status in halves:
            _expect(client, status)
        _expect(kept, 200)
        _expect(later, 101)
        secure = stack.enter_context(unverified().wrap_socket(unmade, server_hostname="localhost"))
        secure.sendall(head)
        _expect(secure, 404)
        server.waitFor("closed with 4000 bye")
        assert b"data: 0123456789\n" in iter(stream.readline, b"")
        # As many pings again as were due, and the judgement of their pongs.
        time.sleep(7)
        for chatter in chatters:
            chatter.end()
        assert "no pong" not in server.output
        assert " 408 " not in server.output
