from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.live.support import PATIENCE, running

# Python imports this before anything else: a clock on the wall that shows another time as soon as a file says so.
_CLOCK = """
import os
import json
import time

_time = time.time
_shift = os.path.join(os.path.dirname(__file__), "shift")
time.time = lambda: _time() + (float(open(_shift).read()) if os.path.exists(_shift) else 0.0)
"""
YEAR = 365 * 24 * 3600


@pytest.mark.parametrize("shift", [-2 * YEAR, YEAR])
def test_deadlinesHoldWhenTheClockIsSet(shift: int, tmp_path: Path) -> None:
    """When the clock on the wall is set, deadlines come neither years later nor at once: a poll waits, and then is answered."""
    path = tmp_path / "clock"
    path.mkdir()
    (path / "sitecustomize.py").write_text(_CLOCK)
    with running(tmp_path, more={"PYTHONPATH": str(path)}) as server, server.client() as client:
        with closing(http.client.HTTPConnection("localhost", server.port("ws"), timeout=PATIENCE)) as before:
            before.request("GET", "/channels/a")
            before.getresponse().read()
            begin = time.monotonic()
            before.request("GET", "/channels/a?wait=3")
            new = path / "new"
            client.send("a message: the poll waits by now")
            client.recv(PATIENCE)
            new.write_text(str(shift))
            new.rename(path / "shift")
            client.send("a message: the reactor looks at the clock")
            client.recv(PATIENCE)
            assert not json.load(before.getresponse())["messages"]
            assert time.monotonic() - begin >= 3
            before.request("GET", "/channels/a?wait=1")
            assert not json.load(before.getresponse())["messages"]
        client.send("still there")
        assert client.recv(PATIENCE) == "Echo: still there"
        assert "been stuck" not in server.output
