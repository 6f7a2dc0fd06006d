"""Rules for channels of a real daemon, with and without workers: what SIGHUP changes."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.daemon.workers.support import ended, reload, workers
from tests.live.support import Running, running

pytestmark = pytest.mark.exhaustive

RULES = """
[channels."*"]
subscribe = "anyone"
history-messages = 2

[channels."a"]
subscribe = "SUBSCRIBE"
"""


def write(place: Path, rules: str, count: int | None) -> None:
    """Write the file."""
    head = "" if count is None else f"workers = {count}\n"
    (place / "push.toml").write_text(f'state-directory = "state"\n{head}{rules}')


def refusals(server: Running, count: int) -> list[int]:
    """Return the codes with which so many clients of the channel are closed."""
    found = []
    for _ in range(count):
        with server.client("/channels/a") as client:
            found.append(ended(client))
    return found


@pytest.fixture(params=[None, 2], ids=["one process", "workers"])
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Running, Path, int | None]]:
    """A server that lets everybody subscribe."""
    with tempfile.TemporaryDirectory(prefix="ws-") as directory:
        place = Path(directory)
        write(place, RULES.replace("SUBSCRIBE", "anyone"), request.param)
        with running(place, "--config", "push.toml") as server:
            yield server, place, request.param


def test_reload(started: tuple[Running, Path, int | None]) -> None:
    """New rules hold at once everywhere, and end what they do not allow; a mistake is named with its line and changes nothing."""
    server, place, count = started
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client("/channels/a")) for _ in range(8)]
        assert json.loads(server.curl("--data", "all are there", path="/channels/a"))["recipients"] == 8
        write(place, RULES.replace("SUBSCRIBE", "everybody"), count)
        server.signal(signal.SIGHUP)
        line = 8 if count is None else 9
        why = f"push.toml:{line}: channels.\"a\".subscribe: 'everybody' is nobody"
        server.waitFor(f"The old rules for channels stay in use: {why}")
        assert json.loads(server.curl("--data", "heard", path="/channels/a"))["recipients"] == 8

        write(place, RULES.replace("SUBSCRIBE", "nobody"), count)
        if count is None:
            server.signal(signal.SIGHUP)
            server.waitFor("reloaded")
        else:
            assert reload(place) == (0, "")
        assert [ended(client) for client in clients] == [4403] * 8
    assert refusals(server, 6) == [4403] * 6
    if count is not None:  # a worker that takes the place of another has the rules of now
        before = workers(server)
        os.kill(before[0], signal.SIGKILL)
        server.waitFor("listens again")
        assert refusals(server, 12) == [4403] * 12


def test_history(started: tuple[Running, Path, int | None]) -> None:
    """How much of a channel is kept is what the rule says, for what back ends and clients publish, and changes with it."""
    server, place, count = started
    for number in range(4):
        server.curl("--data", str(number), path="/channels/b")
    kept = json.loads(server.curl(path="/api/channels/b/history"))["messages"]
    assert [each["data"] for each in kept] == ["2", "3"]
    write(place, RULES.replace("SUBSCRIBE", "anyone").replace("messages = 2", "messages = 3"), count)
    server.signal(signal.SIGHUP)
    server.waitFor("reloaded")
    for number in range(4, 8):
        server.curl("--data", str(number), path="/channels/b")
    kept = json.loads(server.curl(path="/api/channels/b/history"))["messages"]
    assert [each["data"] for each in kept] == ["5", "6", "7"]
