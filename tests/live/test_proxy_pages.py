"""The configurations of proxies in the how-to guide, with the proxies themselves."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.live.proxies import fromPage
from tests.live.support import PATIENCE, Running, running, unverified, writeService
from tests.transcript import ROOT, blocks

SERVICE = """
from twisted_ws import WebSocketService

class Who(WebSocketService):
    def onOpen(self, caller):
        caller.writeTextMessage(f"{caller.request.peerAddress} {caller.request.isSecure}")

    def onTextMessage(self, caller, text):
        return text
"""
# By the kind of its block, or the beginning of one without a kind of its own.
PROXIES = {"nginx": "nginx", "haproxy": "# haproxy.cfg", "apache2": "apache", "caddy": "caddy"}
# `make test` installs the first two; the others are tried where somebody has them.
HERE = [name for name in PROXIES if name in ("nginx", "haproxy") or shutil.which(name)]


def _configuration(name: str) -> str:
    kind = PROXIES[name]
    (text,) = (each.text for each in blocks(ROOT / "docs/howto/nginx.md") if each.kind == kind or each.text.startswith(kind))
    return text


@pytest.mark.parametrize("name", PROXIES)
def test_onThePage(name: str) -> None:
    """The page has one configuration for each of them, whose server is the one that the page starts."""
    assert _configuration(name).count("127.0.0.1:8080") == 1


@pytest.mark.parametrize("name", HERE)
def test_behind(name: str, tmp_path: Path) -> None:
    """Behind each, a page of its host connects, the service knows who came and how, and events come one by one."""
    writeService(tmp_path, SERVICE)
    mounts = ("--service", "/who=rooms:Who", "--service", "/channels/{channel}=channels")
    with (
        running(tmp_path, *mounts, "--trusted-proxy", "127.0.0.1") as server,
        fromPage(name, _configuration(name), tmp_path, server.port("ws")) as port,
    ):
        checkWebSocket(port)
        checkEvents(port, server)


def checkWebSocket(port: int) -> None:
    """Check that a page of the proxy's host connects, and that the service knows who came, and how."""
    # A client of an address that is no proxy's: what it says of itself counts for nothing.
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "http"}
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=("127.0.0.2", 0))
    with connect(
        "wss://chat.example/who", sock=sock, ssl=unverified(), origin="https://chat.example", additional_headers=lies
    ) as client:
        assert client.recv(PATIENCE) == "127.0.0.2 True"
        for message in ("hello", "x" * 100_000):
            client.send(message)
            assert client.recv(PATIENCE) == message


def checkEvents(port: int, server: Running) -> None:
    """Check that events come one by one."""
    address = ("--connect-to", f"chat.example:443:127.0.0.1:{port}", "https://chat.example/channels/news")
    command = [
        "curl",
        "-s",
        "-k",
        "-N",
        "--noproxy",
        "*",
        "--max-time",
        str(PATIENCE),
        "-H",
        "Accept: text/event-stream",
        *address,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        assert curl.stdout.readline().startswith("retry: ")
        for number in range(3):
            while curl.stdout.readline() != "\n":
                pass
            server.curl("-d", f"message {number}", path="/channels/news")
            assert curl.stdout.readline().startswith("id: ")
            assert curl.stdout.readline() == f"data: message {number}\n"
        curl.terminate()
