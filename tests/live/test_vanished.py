from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, Running, running, until, unverified, writeService
from tests.memory import upgrade

_SERVICE = """
from twisted_ws import WebSocketService


class State(WebSocketService):
    def onTextMessage(self, caller, channel):
        return {"connections": self.server.gate.open, "present": self.server.channels.who(channel)["count"]}
"""
# Those that will vanish answer no ping either: they must all be there before the first of them is judged.
LIMITS = "[limits]\npingInterval = 1\npingTimeout = 15\n"
HOST = "Host: localhost\r\n"
STREAM = f"GET /channels/a HTTP/1.1\r\n{HOST}Accept: text/event-stream\r\n\r\n".encode()
POLL = f"GET /channels/a?wait=60 HTTP/1.1\r\n{HOST}\r\n".encode()
SOCKET = upgrade("/channels/a")

IP_MINTTL = 21  # as Linux has it


def _client(server: Running, secure: bool, request: bytes) -> socket.socket:
    """Send a request, which is answered later or without an end."""
    client = socket.create_connection(("127.0.0.1", server.port("wss" if secure else "ws")), PATIENCE)
    if secure:
        client = unverified().wrap_socket(client, server_hostname="localhost")
    client.sendall(request)
    return client


def _vanish(client: socket.socket) -> None:
    """Have the kernel drop whatever comes for this socket, without an answer, as if its cable were pulled.

    What comes must have been sent from a link away, and has crossed none (RFC 5082).
    """
    client.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 255)


def _until(server: Running, holds: Callable[[dict[str, int]], bool]) -> None:
    with server.client("/state") as client:

        def asked() -> bool:
            client.send("a")
            return holds(json.loads(client.recv(PATIENCE)))

        until(asked)


@pytest.mark.parametrize("lane", ["1", "0"], ids=["lane", "no lane"])
def test_vanished(tmp_path: Path, lane: str) -> None:
    """Who vanishes without a word, on whatever transport, is noticed, and holds nothing more; who is there stays."""
    writeService(tmp_path, _SERVICE, "states")
    (tmp_path / "limits.toml").write_text(LIMITS)
    mounts = ("--service", "/channels/{channel}=channels", "--service", "/state=states:State")
    options = ("--config", "limits.toml", "--tls-port", "0", *mounts)
    with running(tmp_path, *options, more={"TWISTED_WS_LANE": lane}) as server, contextlib.ExitStack() as stack:
        gone = [
            stack.enter_context(_client(server, secure, request))
            for secure in (False, True)
            for request in (STREAM, POLL, SOCKET)
            for _ in range(2)
        ]
        stream = stack.enter_context(_client(server, False, STREAM)).makefile("rb")
        poll = stack.enter_context(_client(server, True, POLL))
        reader = stack.enter_context(server.client("/channels/a"))
        _until(server, lambda state: state["present"] == len(gone) + 3)
        for client in gone:
            _vanish(client)
        # The one that asks is a connection too.
        _until(server, lambda state: state == {"connections": 4, "present": 3})
        server.curl("--data-binary", "here", path="/channels/a")
        assert reader.recv(PATIENCE) == "here"
        assert b"data: here\n" in iter(stream.readline, b"")
        answer = HTTPResponse(poll)
        answer.begin()
        assert json.load(answer)["messages"][0]["data"] == "here"
