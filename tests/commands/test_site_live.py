"""``twisted-ws tail``, ``publish``, ``disconnect`` and ``top`` against our server, with workers."""

from __future__ import annotations

import json
import os
import re
import select
import signal

import pytest

from tests.commands.support import Terminal, command, going
from tests.live.support import PATIENCE, running

KEY = "0123456789abcdef0123456789abcdef"
READER = "fedcba9876543210fedcba9876543210"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with two workers, with its URL; its admin and reader have the keys in files."""
    directory = tmp_path_factory.mktemp("server")
    for name, text in ("keys", f"ops: {KEY} admin\nreader: {READER} read:*\n"), ("ops", KEY), ("reader", READER):
        (directory / name).write_text(text)
        os.chmod(directory / name, 0o600)
    with running(directory, "--api-key-file", str(directory / "keys"), "--workers", "2") as server:
        server.url = f"http://localhost:{server.port('http')}"
        server.directory = directory
        yield server


def key(site, name="ops"):
    """Return the option with the key of somebody."""
    return "--key-file", str(site.directory / name)


def hasSaid(process):
    """Return whether a command has written anything, after giving it a moment."""
    return bool(select.select([process.stdout], [], [], 0.2)[0])


def line(process):
    """Return the next line of a command."""
    return process.stdout.readline().decode()


def test_tailOfChannel(site, tmp_path):
    """A tail of a pattern shows what is published, until Ctrl-C; with --json as JSON."""
    with going(tmp_path, "tail", *key(site), "--json", site.url, "orders.*") as tail:
        found = b""
        while b"paid" not in found:  # the tail begins when the server has answered
            done = command(tmp_path, "publish", *key(site), site.url, "orders.42", "paid")
            assert done.code == 0, done
            if hasSaid(tail):
                found = tail.stdout.readline()
        assert json.loads(found)["what"] == "published"
        assert json.loads(found)["data"] == "paid"
        tail.send_signal(signal.SIGINT)
        assert tail.wait(PATIENCE) == 130


def test_tailOfCaller(site, tmp_path):
    """A tail of a caller shows what it sends and is sent, and ends with an error when the caller is disconnected."""
    with site.client() as client:
        client.send("hello")
        assert client.recv(PATIENCE) == "Echo: hello"
        found = command(tmp_path, "top", *key(site), "--timeout", "5", "http://localhost:1")
        assert found.code == 3
        connection = _connection(site, tmp_path)
        with going(tmp_path, "tail", *key(site), "--connection", connection, site.url) as tail:
            while True:
                client.send("again\x1b")
                client.recv(PATIENCE)
                if hasSaid(tail):
                    break
            assert re.search(r"(received|sent) .*again\\x1b", line(tail))
            done = command(tmp_path, "disconnect", *key(site), site.url, connection)
            assert (done.code, done.out) == (0, b"1 connection ended\n")
            assert tail.wait(PATIENCE) == 1
            assert b"no such connection" in tail.stderr.read()


def _connection(site, tmp_path):
    """Return the id of the only caller."""
    import urllib.request

    request = urllib.request.Request(f"{site.url}/api/callers", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        (caller,) = json.loads(answer.read())["callers"]
    return caller["id"]


def test_disconnect(site, tmp_path):
    """Nobody to disconnect is exit code 1; without the right the site refuses; nonsense is refused before anything is sent."""
    assert command(tmp_path, "disconnect", *key(site), "--user", "nobody", site.url).code == 1
    done = command(tmp_path, "disconnect", *key(site, "reader"), "--user", "nobody", site.url)
    assert (done.code, "403" in done.err, "disconnect" in done.err) == (5, True, True)
    assert command(tmp_path, "disconnect", *key(site), site.url).code == 2
    assert command(tmp_path, "disconnect", *key(site), "--user", "a", site.url, "b.1").code == 2
    assert command(tmp_path, "disconnect", *key(site), "--code", "x", "--user", "a", site.url).code == 2


def test_topOfPipe(site, tmp_path):
    """Where no terminal is, top writes a line of JSON each second."""
    with going(tmp_path, "top", *key(site, "reader"), site.url) as top:
        first, second = json.loads(line(top)), json.loads(line(top))
        assert second["time"] > first["time"]
        assert len(second["nodes"]) == 2
        top.send_signal(signal.SIGTERM)
        assert top.wait(PATIENCE) == 143


def test_topOfTerminal(site, tmp_path):
    """On a terminal, top shows figures and callers, asks before it disconnects, and leaves the terminal as it was."""
    with site.client() as client, Terminal(tmp_path, "top", *key(site), site.url, columns=100) as terminal:
        client.send("x")
        mode = None
        while b"websocket" not in terminal.raw or b"published" not in terminal.raw:
            assert terminal.read(1)
            mode = mode or terminal.mode()
        terminal.type("k")
        while b"? y or n" not in terminal.raw:
            assert terminal.read(1)
        terminal.type("y")
        while b"was disconnected" not in terminal.raw:
            assert terminal.read(1)
        terminal.type("q")
        assert terminal.end() == 0
        assert terminal.raw.endswith(b"\x1b[?25h\x1b[?1049l")


@pytest.mark.parametrize("name", ["tail", "publish", "disconnect", "top"])
def test_usage(tmp_path, name):
    """Without arguments each says what is missing; its help has an example."""
    done = command(tmp_path, name)
    assert (done.code, f"see twisted-ws {name} --help" in done.err) == (2, True)
    done = command(tmp_path, name, "--help")
    assert (done.code, f"twisted-ws {name} --key-file".encode() in done.out) == (0, True)
