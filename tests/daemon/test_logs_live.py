"""The log of the real daemon, as a log collector reads it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.live.support import running, writeService

SERVICE = """
from twisted.logger import Logger

log = Logger(namespace="rooms.deep")


class Talks:
    def onTextMessage(self, caller, text):
        log.debug("debug {text}", text=text)
        log.info("info {text}", text=text)
        return text
"""


def lines(text: str) -> list[dict[str, Any]]:
    """Return what a log in JSON has, by line."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_connections(tmp_path: Path) -> None:
    """With level debug of the wire, each connection that opens and closes is a line, with what is known of it."""
    with running(tmp_path, "--log-level", "twisted_ws.wire=debug,info", "--log-format", "json") as server:
        with server.client(additional_headers={"Origin": f"http://localhost:{server.port('ws')}"}) as client:
            client.close(4000, "enough")
        closed = json.loads(server.waitFor('"connection.closed"'))
    (opened,) = [line for line in lines(server.output) if line["event"] == "connection.opened"]
    assert (closed["code"], closed["reason"], closed["path"], closed["peer"]) == (4000, "enough", "/ws/subscribe", "127.0.0.1")
    assert closed["duration"] >= 0
    assert closed["connection"] == opened["connection"]
    assert opened["origin"].startswith("http://localhost:")


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_levels(tmp_path: Path, more: tuple[str, ...]) -> None:
    """The levels of the configuration file hold by namespace, in all processes, and a reload takes those that it has then."""
    writeService(tmp_path, SERVICE)
    config = tmp_path / "ws.toml"
    config.write_text('log-level = "warn,twisted_ws=info"\n')
    arguments = ("--config", "ws.toml", "--service", "/ws=rooms:Talks", "--log-format", "json", *more)
    with running(tmp_path, *arguments) as server:

        def talk(text: str) -> None:
            with server.client() as client:
                client.send(text)
                client.recv()

        talk("one")
        config.write_text('log-level = "rooms=debug"\n')
        server.signal(signal.SIGHUP)
        server.waitFor('"message":"reloaded"')
        talk("two")
        server.waitFor("info two")
    said = [
        (line["level"], line["message"].rpartition(": ")[2]) for line in lines(server.output) if line["namespace"] == "rooms.deep"
    ]
    assert said == [("debug", "debug two"), ("info", "info two")]
    workers = {line.get("worker") for line in lines(server.output) if line["namespace"] == "rooms.deep"}
    assert (None in workers) is not bool(more)
