"""The examples without a page, and what all have in common."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect

from tests.live.support import PATIENCE, running
from tests.transcript import ROOT
from twisted_ws.daemon.settings import load, merge

EXAMPLES = ROOT / "examples"
FOLDERS = sorted(each.parent.name for each in EXAMPLES.glob("*/server.toml"))


def test_all() -> None:
    """Each folder is on the index and in the guide, and says how it is started."""
    assert sorted(each.name for each in EXAMPLES.iterdir() if each.is_dir() and each.name[0] not in "._") == FOLDERS
    index, guide = (EXAMPLES / "README.md").read_text(), (ROOT / "docs/howto/examples.md").read_text()
    for name in FOLDERS:
        assert f"[{name}]({name})" in index
        assert f"| `{name}` |" in guide
        assert f"cd examples/{name}\n" in (EXAMPLES / name / "README.md").read_text()
        merge(load(str(EXAMPLES / name / "server.toml")), {})


def test_iot(tmp_path: Path) -> None:
    """A device with a certificate sends readings, which are published and confirmed; nobody else may."""
    place = tmp_path / "iot"
    shutil.copytree(EXAMPLES / "iot", place)
    subprocess.run([sys.executable, "certificates.py", "greenhouse"], cwd=place, check=True)
    with running(place, "--config", "server.toml", "--tls-port", "0") as server:
        url = f"wss://localhost:{server.port('wss')}/sensors"
        with server.client("/channels/sensors.greenhouse") as watcher:
            done = subprocess.run(
                [sys.executable, "device.py", "greenhouse", url, "2"], cwd=place, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stdout) == (0, "reading 1 is confirmed\nreading 2 is confirmed\n"), done.stderr
            readings = [json.loads(watcher.recv(PATIENCE)) for _ in range(2)]
            assert {(each["device"], each["battery"]) for each in readings} == {("greenhouse", 87)}
            assert readings[0]["time"] < readings[1]["time"]
        with pytest.raises(InvalidStatus, match="401"):
            server.client("/sensors").close()
        stranger = ssl.create_default_context(cafile=str(place / "ca.pem"))
        with pytest.raises((OSError, WebSocketException)), connect(url, ssl=stranger, proxy=None) as client:
            client.recv(PATIENCE)
        stranger.load_cert_chain(place / "greenhouse.pem")
        with connect(url, ssl=stranger, proxy=None, open_timeout=PATIENCE) as client:
            client.send(b"short")
            with pytest.raises(ConnectionClosed, match="1003"):
                client.recv(PATIENCE)
