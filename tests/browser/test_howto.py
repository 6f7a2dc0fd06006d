from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.browser.chromium import Tab
from tests.live.support import curl, running
from tests.transcript import ROOT, blocks

HOWTO = ROOT / "docs" / "howto" / "browser.md"
SCRIPTS = [block.text for page in (HOWTO, ROOT / "js" / "README.md") for block in blocks(page) if block.kind == "js"]
(PAGE,) = [block.text for block in blocks(HOWTO) if block.kind == "html"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that a web server of its own serves, and the port of that."""
    folder = tmp_path / "pages"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield folder, server.server_port
        server.shutdown()
        thread.join()


def test_thePage(tab: Tab, elsewhere: tuple[Path, int], tmp_path: Path) -> None:
    """The page of the how-to, of another origin, shows what the back end publishes, what it missed, and why it may not ask."""
    folder, port = elsewhere
    with running(tmp_path, "--allowed-origin", f"http://localhost:{port}") as server:
        (folder / "order.html").write_text(PAGE.replace("localhost:8080", f"localhost:{server.port('ws')}"))
        publish = partial(curl, f"http://localhost:{server.port('http')}/channels/orders.42", "-d")
        publish("ordered")
        tab.open(f"http://localhost:{port}/order.html")
        _shows(tab, "ordered")
        publish("<b>paid</b>")
        _shows(tab, "ordered", "<b>paid</b>")
        tab.offline(True)
        tab.wait("document.getElementById('connection').textContent.startsWith('offline')")
        publish("sent")
        tab.offline(False)
        _shows(tab, "ordered", "<b>paid</b>", "sent")
        tab.run("document.getElementById('ask').requestSubmit()")
        _shows(tab, "ordered", "<b>paid</b>", "sent", "not asked: Publishing is not allowed here.")


def _shows(tab: Tab, *lines: str) -> None:
    shown = "JSON.stringify([...document.querySelectorAll('#events li')].map(each => each.textContent))"
    tab.wait(f"{shown} === JSON.stringify({json.dumps(lines)})")


@pytest.mark.parametrize("script", SCRIPTS)
def test_theScripts(script: str) -> None:
    """What the pages show in JavaScript is JavaScript."""
    done = subprocess.run(["node", "--input-type=module", "--check"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
