from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.browser.chromium import Tab
from tests.browser.proxy import Proxy
from tests.live.support import curl, running
from tests.transcript import ROOT, blocks

HOWTO = ROOT / "docs" / "howto" / "browser.md"
PAGES = [*sorted((ROOT / "docs").glob("*/*.md")), ROOT / "js" / "README.md"]
SCRIPTS = [block.text for page in PAGES for block in blocks(page) if block.kind == "js"]
PAGE, SERVED = [block.text for block in blocks(HOWTO) if block.kind == "html"]


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


@pytest.mark.parametrize(
    ("page", "channel", "shown"),
    [("from-socketio", "rooms.tea", ["hello", "paid"]), ("from-django-channels", "users.42.orders", [{"text": "paid"}])],
)
def test_whoMoves(tab: Tab, tmp_path: Path, page: str, channel: str, shown: list[object]) -> None:
    """What a page becomes that moves here shows what is published, by itself or by a back end."""
    (script,) = [block.text for block in blocks(HOWTO.with_name(f"{page}.md")) if block.kind == "js"]
    (tmp_path / "ws.toml").write_text('[services."/channels"]\ntarget = "channels"\npublish = true\n')
    with running(tmp_path, "--config", "ws.toml") as server, Proxy(server.port("ws")) as proxy:
        proxy.answers["/token"] = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\ntoken1"
        tab.open(f"http://localhost:{proxy.port}/page")
        tab.run("document.body.dataset.user = '42'; globalThis.shown = []; globalThis.show = (data) => shown.push(data); 0")
        tab.run(
            "new Promise((done) => { const script = document.createElement('script'); script.type = 'module';"
            f" globalThis.done = done; script.textContent = {json.dumps(script + 'done();')}; document.body.append(script) }})"
        )
        subscribed = f"http://localhost:{server.port('http')}/api/channels/{channel}"
        while json.loads(curl(subscribed)).get("subscribers") != 1:
            time.sleep(0.05)  # another process: there is nothing to wait on
        curl(f"http://localhost:{server.port('http')}/channels/{channel}", "--json", '{"text": "paid"}')
        tab.wait(f"shown.length === {len(shown)}")
        assert tab.run("shown") == shown
        tab.open("about:blank")


def test_thePageThatIsServed(tab: Tab, tmp_path: Path) -> None:
    """The page that the server itself has needs no allowed origin, and shows what is published."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/index.html").write_text(SERVED)
    with running(tmp_path, "--pages", "pages") as server:
        curl(f"http://localhost:{server.port('http')}/channels/orders.42", "-d", "paid")
        tab.open(f"http://localhost:{server.port('ws')}/")
        _shows(tab, "paid")


def _shows(tab: Tab, *lines: str) -> None:
    shown = "JSON.stringify([...document.querySelectorAll('#events li')].map(each => each.textContent))"
    tab.wait(f"{shown} === JSON.stringify({json.dumps(lines)})")


@pytest.mark.parametrize("script", SCRIPTS)
def test_theScripts(script: str) -> None:
    """What the pages show in JavaScript is JavaScript."""
    done = subprocess.run(["node", "--input-type=module", "--check"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
