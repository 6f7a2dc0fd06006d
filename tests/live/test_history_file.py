from __future__ import annotations

import json
import os
import pwd
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.live.support import COMMAND, PATIENCE, PORTS, TWISTD, Running, running, starting

OPTIONS = ("--history-file", "history")


def _publish(server: Running, text: str, *arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(server.curl("--data-binary", text, *arguments, path="/channels/orders"))
    return answer


@contextmanager
def _subscribed(server: Running, after: str) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """Connect a client to the channel; yield it with the answer to its subscription."""
    with server.client(f"/channels/orders?after={after}", subprotocols=["twisted-ws.v1"]) as client:
        assert json.loads(client.recv(PATIENCE))["type"] == "welcome"
        yield client, json.loads(client.recv(PATIENCE))


@pytest.mark.parametrize(
    ("command", "workers"), [(TWISTD, ()), (COMMAND, ()), (TWISTD, ("--workers", "2"))], ids=["twistd", "command", "workers"]
)
def test_deploy(tmp_path: Path, command: tuple[str, ...], workers: tuple[str, ...]) -> None:
    """Whoever comes back after a stop and a start has lost nothing, and a publisher that tries again publishes nothing twice."""
    with running(tmp_path, *OPTIONS, *workers, command=command) as server:
        with _subscribed(server, "0") as (client, _):
            first = _publish(server, "one", "--header", "Idempotency-Key: k")
            assert json.loads(client.recv(PATIENCE))["id"] == first["id"]
        missed = _publish(server, "two")
    with running(tmp_path, *OPTIONS, *workers, command=command) as server:
        server.waitFor("the numbering goes on; messages restored: 2, in channels: 1")
        assert _publish(server, "one", "--header", "Idempotency-Key: k") == first
        with _subscribed(server, first["id"]) as (client, answer):
            assert (answer["type"], answer["recovered"], answer["id"]) == ("subscribed", True, first["id"])
            last = _publish(server, "three")
            messages = [json.loads(client.recv(PATIENCE)) for _ in range(2)]
            assert [(each["id"], each["data"]) for each in messages] == [(missed["id"], "two"), (last["id"], "three")]
    assert stat.S_IMODE((tmp_path / "history").stat().st_mode) == 0o600


def test_silentChannel(tmp_path: Path) -> None:
    """A caller that is asked to leave by the stop, and comes back to a channel without messages, has missed nothing."""
    with running(tmp_path, *OPTIONS) as server, _subscribed(server, "0") as (client, answer):
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENCE)
        server.waitForEnd()
    with running(tmp_path, *OPTIONS) as server, _subscribed(server, answer["id"]) as (_, again):
        assert (again["recovered"], again["id"]) == (True, answer["id"])


def test_killed(tmp_path: Path) -> None:
    """After a kill there is a new epoch: the log says so, and a subscriber learns that it has not everything."""
    with running(tmp_path, *OPTIONS) as server:
        first = _publish(server, "one")
    with running(tmp_path, *OPTIONS) as server:
        second = _publish(server, "two")
        assert second["id"].partition(":")[0] == first["id"].partition(":")[0]
        server.signal(signal.SIGKILL)
        server.waitForEnd()
    with running(tmp_path, *OPTIONS) as server:
        server.waitFor("ended without writing the history, which is lost: a new epoch begins")
        third = _publish(server, "three")
        assert third["id"].partition(":")[0] != first["id"].partition(":")[0]
        with _subscribed(server, first["id"]) as (_, answer):
            assert answer["recovered"] is False


def test_broken(tmp_path: Path) -> None:
    """A file that cannot be read is set aside, and the server starts."""
    (tmp_path / "history").write_bytes(b"\x7fELF")
    with running(tmp_path, *OPTIONS) as server:
        server.waitFor(
            f"The history file {tmp_path}/history cannot be read: it has no history. It was renamed to {tmp_path}/history.broken"
        )
        _publish(server, "one")
    assert (tmp_path / "history.broken").read_bytes() == b"\x7fELF"


@pytest.mark.parametrize("command", [TWISTD, COMMAND], ids=["twistd", "command"])
@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("nowhere/history", "cannot be written: No such file or directory."),
        ("history", "is used by another process: give each its own."),
        (".", "is a directory."),
    ],
)
def test_startErrors(tmp_path: Path, command: tuple[str, ...], path: str, line: str) -> None:
    """Where no file can be is one line at the start, and exit status 1."""
    with running(tmp_path, *OPTIONS), starting(tmp_path, [*command, *PORTS, "--history-file", path]) as server:
        assert server.waitForEnd() == 1
        where = os.path.normpath(tmp_path / path)
        assert server.lines == [f"twisted_ws: The history file {where} {line}"]


def test_otherUser(tmp_path: Path) -> None:
    """A server that starts as root and becomes somebody else keeps its history where that user may write; any other as itself."""
    options: list[str] = []
    owner = os.getuid()
    with TemporaryDirectory() as directory:  # which others may enter, unlike pytest's
        place = Path(directory)
        if owner == 0:
            account = pwd.getpwnam("nobody")
            owner = account.pw_uid
            options = ["--uid", str(owner), "--gid", str(account.pw_gid)]
            os.chown(place, owner, account.pw_gid)
        command = [*TWISTD[:-1], *options, TWISTD[-1]]
        ids = []
        for _ in range(2):
            with running(tmp_path, "--history-file", str(place / "history"), command=command) as server:
                ids.append(_publish(server, "one")["id"])
            assert (place / "history").stat().st_uid == owner
        assert ids[1] == ids[0].replace(":1", ":2")
