"""Event streams of a real server, read by what people read them with."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import requests
import sseclient

from tests.live.support import PATIENCE, Running, running

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """Yield a server with channels."""
    with running(tmp_path) as server:
        yield server


def address(server: Running, directory: Path, secure: bool) -> list[str]:
    """Return curl's arguments for the channel of a server that was started in `directory`."""
    if not secure:
        return [f"http://localhost:{server.port('ws')}/channels/news"]
    certificate = next((directory / "state").rglob("*.pem"))
    return ["--cacert", str(certificate), f"https://localhost:{server.port('wss')}/channels/news"]


def publish(server: Running, channel: str, message: str) -> None:
    """Publish one message."""
    server.curl("--data", message, path=f"/channels/{channel}")


@pytest.mark.parametrize("secure", [False, True])
def test_sseclient(tmp_path: Path, secure: bool) -> None:
    """With requests and sseclient-py each event arrives as it is published, and the last id resumes; none is empty."""
    with running(tmp_path, *(("--tls-port", "0") if secure else ())) as server, requests.Session() as session:
        session.trust_env = False
        session.verify = False if not secure else str(next((tmp_path / "state").rglob("*.pem")))
        scheme, port = ("https", server.port("wss")) if secure else ("http", server.port("ws"))
        url = f"{scheme}://localhost:{port}/channels/news"
        with session.get(url, headers=STREAM, stream=True, timeout=PATIENCE) as response:
            events = sseclient.SSEClient(response).events()
            first = next(events)
            assert (first.event, json.loads(first.data)["recovered"]) == ("subscribed", False)
            assert 1000 <= int(first.retry) <= 2000
            for number in range(5):
                # The next is published only when this one has been read: nothing may wait for more.
                publish(server, "news", f"message {number}")
                event = next(events)
                assert (event.event, event.data) == ("message", f"message {number}")
        publish(server, "news", "missed")
        with session.get(url, headers={**STREAM, "Last-Event-ID": event.id}, stream=True, timeout=PATIENCE) as response:
            _, missed = islice(sseclient.SSEClient(response).events(), 2)
            assert missed.data == "missed"


def test_end(server: Running) -> None:
    """A stream of a server that stops ends as an answer does, and not as a broken one."""
    url = f"http://localhost:{server.port('ws')}/channels/news"
    with requests.Session() as session:
        session.trust_env = False
        with session.get(url, headers=STREAM, stream=True, timeout=PATIENCE) as response:
            lines = response.iter_lines()
            assert next(lines).startswith(b"retry: ")
            publish(server, "news", "last")
            server.stop()
            assert b"data: last" in list(lines)


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1"])
@pytest.mark.parametrize("secure", [False, True])
def test_curl(tmp_path: Path, version: str, secure: bool) -> None:
    """The events come through curl one by one, with either version of HTTP, plain and with TLS, where ALPN names the version."""
    command = ["curl", "--silent", "--no-buffer", "--noproxy", "*", version, "--header", "Accept: text/event-stream"]
    with (
        running(tmp_path, *(("--tls-port", "0") if secure else ())) as server,
        subprocess.Popen([*command, *address(server, tmp_path, secure)], stdout=subprocess.PIPE, text=True) as curl,
    ):
        assert curl.stdout is not None
        assert curl.stdout.readline().startswith("retry: ")
        for number in range(3):
            while curl.stdout.readline() != "\n":
                pass
            publish(server, "news", str(number))
            assert curl.stdout.readline().startswith("id: ")
            assert curl.stdout.readline() == f"data: {number}\n"
        curl.terminate()
