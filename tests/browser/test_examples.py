"""The examples that have a page, each as its README starts it, in a real browser."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection

from tests.browser.axe import violations
from tests.browser.chromium import Tab
from tests.live.support import PATIENCE, Running, running, until
from tests.transcript import ROOT

EXAMPLES = ROOT / "examples"
PAGES = sorted(each.parent.parent.name for each in EXAMPLES.glob("*/pages/index.html"))

Start = Callable[[str], Running]


@pytest.fixture
def start(tab: Tab, tmp_path: Path) -> Iterator[Start]:
    """Start an example, and open its page."""
    with _starting(tab, tmp_path) as begin:
        yield begin


@contextmanager
def _starting(tab: Tab, directory: Path) -> Iterator[Start]:
    open_ = []

    def begin(name: str) -> Running:
        place = directory / name
        shutil.copytree(EXAMPLES / name, place, ignore=shutil.ignore_patterns("__pycache__"))
        context = running(place, "--config", "server.toml")
        server = context.__enter__()
        open_.append(context)
        tab.open(f"http://localhost:{server.port('ws')}/")
        return server

    try:
        yield begin
    finally:
        tab.open("about:blank")
        for each in open_:
            each.__exit__(None, None, None)


def _type(tab: Tab, form: str, field: str, text: str) -> None:
    tab.run(f"document.getElementById({json.dumps(field)}).value = {json.dumps(text)}")
    tab.run(f"document.getElementById({json.dumps(form)}).requestSubmit()")


def _shows(tab: Tab, where: str, text: str) -> None:
    tab.wait(f"[...document.querySelectorAll({json.dumps(where)})].some(each => each.textContent.trim() === {json.dumps(text)})")


def _open(tab: Tab) -> None:
    tab.wait("document.getElementById('state').textContent === 'open'")


def _reads(client: ClientConnection, **fields: object) -> dict[str, object]:
    """Return the first message of a client that has these fields."""
    while True:
        message: dict[str, object] = json.loads(client.recv(PATIENCE))
        if fields.items() <= message.items():
            return message


def test_broadcaster(tab: Tab, start: Start) -> None:
    """What one page announces, all get, and a page that comes later; a back end announces, too."""
    server = start("broadcaster")
    _open(tab)
    with server.client("/broadcaster") as other:
        _type(tab, "announce", "text", "<b>Tea</b>")
        assert json.loads(other.recv(PATIENCE)) == {"announcement": "<b>Tea</b>"}
        _shows(tab, "#announcement", "<b>Tea</b>")
        _shows(tab, "#reached", "2 pages reached.")
    with server.client("/broadcaster") as late:
        assert json.loads(late.recv(PATIENCE)) == {"announcement": "<b>Tea</b>"}
    server.curl("-d", '{"announcement": "Cake"}')
    _shows(tab, "#announcement", "Cake")


def test_chat(tab: Tab, start: Start) -> None:
    """Who is in a room sees who else is, and what was said before and since; a visitor cannot speak for another."""
    server = start("chat")
    with server.client("/chat?name=Bob", subprotocols=["twisted-ws.v1"]) as bob:
        bob.send('{"type": "subscribe", "channel": "rooms.lobby", "presence": true}')
        bob.send('{"type": "publish", "channel": "rooms.lobby", "data": "hello <i>"}')
        _reads(bob, type="message")
        _type(tab, "enter", "name", "Ann")
        _open(tab)
        _shows(tab, "#messages li span", "hello <i>")
        _shows(tab, "#members li", "Bob")
        _type(tab, "say", "text", "hello Bob")
        assert _reads(bob, type="message")["data"] == {"from": "Ann", "text": "hello Bob"}
        _shows(tab, "#messages .mine span", "hello Bob")
        bob.send('{"type": "publish", "channel": "elsewhere", "data": "x", "ref": 9}')
        assert _reads(bob, ref=9)["code"] == "not-found"
    tab.run("document.querySelectorAll('#rooms button')[1].click()")
    tab.wait("document.querySelectorAll('#messages li').length === 0 && document.querySelectorAll('#members li').length === 1")


def test_dashboard(tab: Tab, start: Start) -> None:
    """Every chart has values, and a viewer who comes later gets those of the last minute."""
    server = start("dashboard")
    tab.wait("[...document.querySelectorAll('output')].every(each => /[0-9]/.test(each.textContent))")
    tab.wait("document.querySelector('.line').getAttribute('d').split('L').length >= 3")
    with server.client("/dashboard", subprotocols=["twisted-ws.v1"]) as late:
        late.send('{"type": "subscribe", "channel": "machine", "after": "0"}')
        assert int(str(_reads(late, type="subscribed")["count"])) >= 8
        late.send('{"type": "subscribe", "channel": "other", "ref": 9}')
        assert _reads(late, ref=9)["code"] == "not-found"


def test_cursors(tab: Tab, start: Start) -> None:
    """A page shows where the others point until they leave, and tells them where it points itself."""
    server = start("cursors")
    _open(tab)
    with server.client("/cursors") as other:
        me = _reads(other)["you"]
        other.send('{"x": 0.5, "y": 0.25}')
        tab.wait("document.querySelectorAll('.cursor').length === 1")
        box = "document.getElementById('board').getBoundingClientRect()"
        at = f"{{bubbles: true, clientX: {box}.left + {box}.width / 2, clientY: {box}.top}}"
        tab.run(f"document.getElementById('board').dispatchEvent(new PointerEvent('pointermove', {at}))")
        while (move := _reads(other))["who"] == me:
            pass
        assert (move["x"], move["y"]) == (0.5, 0)
    tab.wait("document.querySelectorAll('.cursor').length === 0")


def test_game(tab: Tab, start: Start) -> None:
    """Two play in turns by the rules; a move that is none is answered, and who leaves has lost."""
    server = start("game")
    _open(tab)
    tab.run("document.getElementById('join').click()")
    _shows(tab, "#said", "Waiting for somebody else …")
    with server.client("/game") as other:
        other.send('{"type": "join"}')
        assert _reads(other, type="board")["you"] == "O"
        for message in ('{"type": "move", "cell": 4}', '{"type": "move", "cell": 9}', '{"type": "dance"}', "{}"):
            other.send(message)
            assert _reads(other, type="error")
        for number, (mine, theirs) in enumerate(((0, 4), (1, 8), (2, None))):
            # Of the board before its own move, the page has enabled buttons, too, until it has seen that move.
            tab.wait(f"document.querySelectorAll('#board [data-mark=O]').length === {number}")
            _shows(tab, "#said", "Your turn: you are X.")
            tab.run(f"document.querySelectorAll('#board button')[{mine}].click()")
            if theirs is not None:
                _reads(other, turn="O")
                other.send(json.dumps({"type": "move", "cell": theirs}))
        _shows(tab, "#said", "You have won!")
        assert _reads(other, winner="X")["cells"] == ["X", "X", "X", "", "O", "", "", "", "O"]
        tab.run("document.getElementById('join').click()")
        _shows(tab, "#said", "Waiting for somebody else …")
        other.send('{"type": "join"}')
        _shows(tab, "#said", "Your turn: you are X.")
    _shows(tab, "#said", "You have won!")


def test_upload(tab: Tab, start: Start) -> None:
    """A file arrives whole, and what the page shows of it is what is on the disk; what is broken off is removed."""
    server = start("upload")
    data = bytes(range(256)) * 4096
    content = "new Uint8Array(1048576).map((_, index) => index % 256)"
    script = f"const data = new DataTransfer(); data.items.add(new File([{content}], '../../evil.bin'));"
    tab.run(f"{script} file.files = data.files; file.dispatchEvent(new Event('change'))")
    _shows(tab, "#files .quiet", f"done, SHA-256 {hashlib.sha256(data).hexdigest()[:12]}…")
    assert tab.run("document.querySelector('progress').value") == len(data)
    folder = Path(f"/proc/{server.process.pid}/cwd").readlink() / "uploads"
    (kept,) = folder.iterdir()
    assert kept.read_bytes() == data
    with server.client("/upload") as client:
        client.send('{"type": "start", "name": "x", "size": 1000000000}')
        assert "error" in json.loads(client.recv(PATIENCE))
        client.send('{"type": "start", "name": "x", "size": 100}')
        assert json.loads(client.recv(PATIENCE)) == {"received": 0, "size": 100}
        client.send(b"x" * 60)
        assert json.loads(client.recv(PATIENCE)) == {"received": 60, "size": 100}
        assert len([*folder.iterdir()]) == 2
    until(lambda: [*folder.iterdir()] == [kept])


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page(tab: Tab, start: Start, name: str, theme: str) -> None:
    """Each page is accessible in both themes, fits on a phone, and has nothing to complain about."""
    start(name)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
    tab.resize(390, 800)
    if name == "chat":
        _type(tab, "enter", "name", "Ann")
        _shows(tab, "#members li", "Ann")
    assert violations(tab) == []
    assert tab.run("document.documentElement.scrollWidth") <= 390
    assert [each for each in tab.messages if "error" in each.lower()] == []
