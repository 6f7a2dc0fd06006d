"""The order board of the tutorial, with a real database, server and browser: nothing is lost or doubled, whenever it happens."""

from __future__ import annotations

import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.browser.chromium import Tab
from tests.live.support import running
from tests.ports import freePort
from tests.transcript import ROOT, blocks

_TUTORIAL = ROOT / "docs" / "tutorial" / "board.md"
# So many that none is dropped while a page loads: what is tried is the race, and not the history.
_CONFIGURATION = "[limits]\nhistoryMessages = 1000000\nhistoryBytes = 200000000\n"

# Everything that a board shows as the state of an order, in the order in which it was shown.
_WITNESS = """
globalThis.shown = [];
new MutationObserver((records) => {
    for (const { target, addedNodes } of records) {
        const order = target.cellIndex === 2 && target.parentNode.id;
        if (order) shown.push(...[...addedNodes].map((node) => [order, Number(node.data)]));
    }
}).observe(document, { childList: true, subtree: true });
"""


class _Quiet(WSGIRequestHandler):
    def log(self, *arguments: object) -> None:
        """Say nothing."""


class _Board:
    """The shop and its board.

    Attributes:
        shop: the module of the tutorial.
    """

    def __init__(self, shop: ModuleType, tab: Tab, url: str) -> None:
        self.shop: Any = shop
        self._tab = tab
        self._url = url
        with shop.database() as connection:
            connection.executemany("INSERT INTO orders (item, state, version) VALUES ('soup', '1', 1)", [()] * 3)
            connection.commit()

    def change(self, order: int = 1) -> None:
        """Change an order as the shop does; its state is its version, so that one sees it."""
        self.shop.change("UPDATE orders SET version = version + 1, state = version + 1 WHERE id = ?", [order])

    def version(self, order: int) -> int:
        """Return what is in the database."""
        with self.shop.database() as connection:
            found: int = connection.execute("SELECT version FROM orders WHERE id = ?", [order]).fetchone()[0]
            return found

    def open(self) -> None:
        """Load the page."""
        self._tab.open("about:blank")
        self._tab.open(self._url)

    def connected(self, state: str = "open") -> None:
        """Wait for a state of the connection."""
        self._tab.wait(f"document.getElementById('connection').textContent === {state!r}")

    def shows(self, order: int = 1) -> list[int]:
        """Wait until an order is shown as it is in the database, and return all versions that were shown."""
        self._tab.wait(f"document.querySelector('#order-{order} td:last-child')?.textContent === '{self.version(order)}'")
        return self.shown(order)

    def shown(self, order: int = 1) -> list[int]:
        """Return all versions of an order that were shown so far."""
        return [version for name, version in self._tab.run("shown") if name == f"order-{order}"]

    def rendered(self, order: int = 1) -> int:
        """Return the version that the page came with."""
        found: int = self._tab.run(
            f"JSON.parse(document.getElementById('state').textContent).orders.find(({{ id }}) => id === {order}).version"
        )
        return found


@pytest.fixture
def ports() -> tuple[int, int, int]:
    """Return the ports of the shop, and of the server."""
    return freePort(), freePort(), freePort()


@pytest.fixture
def serving(tmp_path: Path, ports: tuple[int, int, int]) -> Callable[[], Any]:
    """Return what starts the server, again and again at the same ports."""
    shop, webSocket, broadcast = ports
    (tmp_path / "ws.toml").write_text(_CONFIGURATION)
    options = ("--config", "ws.toml", "--allowed-origin", f"http://localhost:{shop}")
    places = ("--port", str(webSocket), "--broadcast-port", str(broadcast))
    return lambda: running(tmp_path, *options, ports=places)


@pytest.fixture
def board(tab: Tab, tmp_path: Path, ports: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[_Board]:
    """Run the shop of the tutorial, as the tutorial has it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "templates").mkdir()
    (tmp_path / "static").mkdir()
    shutil.copy(ROOT / "js" / "twisted-ws.mjs", tmp_path / "static")
    for block in blocks(_TUTORIAL):
        text = block.text
        for known, ours in zip(("8000", "8080", "8081"), ports, strict=True):
            text = text.replace(f"localhost:{known}", f"localhost:{ours}")
        if text.startswith("# shop.py"):
            (tmp_path / "shop.py").write_text(text)
        if text.startswith("<!-- templates/board.html"):
            (tmp_path / "templates" / "board.html").write_text(text)
    spec = importlib.util.spec_from_file_location("shop", tmp_path / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    shop: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    shop.app.root_path = str(tmp_path)
    server = make_server("127.0.0.1", ports[0], shop.app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    script = tab.call("Page.addScriptToEvaluateOnNewDocument", source=_WITNESS)["identifier"]
    with closing(shop.push):
        yield _Board(shop, tab, f"http://localhost:{ports[0]}/")
    tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    tab.open("about:blank")
    server.shutdown()
    thread.join()
    server.server_close()


def _around(board: _Board, name: str, monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    """Change the order before and after each call of a function of the shop."""
    function = getattr(board.shop, name)

    def changing() -> Any:
        for _ in range(before):
            board.change()
        found = function()
        for _ in range(after):
            board.change()
        return found

    monkeypatch.setattr(board.shop, name, changing)


@pytest.mark.parametrize(
    ("function", "before", "after"),
    [("position", 1, 0), ("position", 0, 2), ("orders", 1, 0), ("orders", 0, 1), ("orders", 2, 3)],
)
def test_aChangeAroundEachStep(
    board: _Board, serving: Any, monkeypatch: pytest.MonkeyPatch, function: str, before: int, after: int
) -> None:
    """What changes before or after the position is asked for, or the orders are read, is shown once."""
    with serving():
        board.change()
        _around(board, function, monkeypatch, before, after)
        board.open()
        board.connected()
        board.change()
        assert board.shows() == list(range(board.rendered(), board.version(1) + 1))


def test_aChangeBeforeTheScriptRuns(board: _Board, serving: Any) -> None:
    """What changes once the page is on its way, and its script is not there, is shown once."""

    @board.shop.app.after_request
    def sent(response: Any) -> Any:
        if board.shop.request.path == "/":  # and not its icon
            response.call_on_close(board.change)
        return response

    with serving():
        board.open()
        board.connected()
        assert board.shows() == [1, 2]


def test_theOtherWayRound(board: _Board, serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the orders are read before the position is asked for, what changes in between is lost: the rule has a reason."""
    orders = board.shop.orders()
    _around(board, "position", monkeypatch, 1, 0)
    monkeypatch.setattr(board.shop, "orders", lambda: orders)
    with serving():
        board.open()
        board.connected()
        board.change()
        assert board.shows() == [1, 3]


def test_aLostConnection(board: _Board, serving: Any, tab: Tab) -> None:
    """What changes while a board is cut off is shown once, when it is back."""
    with serving():
        board.open()
        board.connected()
        board.change()
        assert board.shows() == [1, 2]
        tab.offline(True)
        board.connected("offline")
        board.change()
        board.change()
        assert board.shown() == [1, 2]
        tab.offline(False)
        assert board.shows() == [1, 2, 3, 4]


def test_aServerThatWasAway(board: _Board, serving: Any) -> None:
    """What changes while there is no server is shown when there is one again, on boards that were open and on a new one."""
    with serving():
        board.open()
        board.connected()
        board.change()
        assert board.shows() == [1, 2]
    board.connected("waiting")
    board.change()
    with serving():
        assert board.shows() == [1, 2, 3]
    board.change()
    board.open()  # whose position the shop cannot ask for
    board.change()
    with serving():
        assert board.shows() == [4, 5]


def test_asFastAsItCan(board: _Board, serving: Any) -> None:
    """While orders change as fast as they can, a page that is loaded again and again shows each version from its own on, once."""
    with serving(), _changing(board):
        for _ in range(5):
            board.open()
            board.connected()
            last = board.version(3)
            board._tab.wait(f"shown.some(([order, version]) => order === 'order-3' && version > {last})")
            for order in (1, 2, 3):
                versions = board.shown(order)
                assert versions == list(range(board.rendered(order), versions[-1] + 1))
        assert board.version(1) > 10


@contextmanager
def _changing(board: _Board) -> Iterator[None]:
    """Change all orders meanwhile; at the end, all of them are shown."""
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for order in (1, 2, 3):
                board.change(order)

    thread = threading.Thread(target=change)
    thread.start()
    with ExitStack() as stack:
        stack.callback(thread.join)
        stack.callback(over.set)
        yield
    for order in (1, 2, 3):
        assert board.shows(order) == list(range(board.rendered(order), board.version(order) + 1))
