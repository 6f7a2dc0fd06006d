"""What ``twisted-ws top`` shows, and what its keys do."""

from __future__ import annotations

import pytest

from twisted_ws.commands.top import keysIn
from twisted_ws.commands.top.view import Act, Mode, View, size, spark

TOTAL = {
    "websocket": 3,
    "sse": 1,
    "poll": 0,
    "limit": 100,
    "channels": 2,
    "published": 5.0,
    "delivered": 10.0,
    "received": 1.5,
    "delivery": [0.5, 2.0],
    "lag": None,
    "queue": 2048,
    "queueLimit": 1 << 30,
    "slow": 1,
    "dropped": 0.0,
    "cpu": 0.25,
    "memory": 50 << 20,
}


def figures(**more):
    """Return the figures of a second."""
    nodes = [{**TOTAL, "id": f"node{n}", "worker": n} for n in (1, 2)]
    return {"time": 1.0, "total": TOTAL, "nodes": nodes, "missing": [], "problems": [], **more}


def caller(number, user="ann"):
    """Return a caller as the API lists it."""
    return {
        "id": f"node1.{number}",
        "user": user,
        "transport": "websocket",
        "peer": "192.0.2.1",
        "subscriptions": 2,
        "waiting": 0,
    }


@pytest.fixture
def view():
    view = View("http://localhost:8081")
    view.take(figures())
    view.takeLists([caller(1), caller(2, "bob"), caller(3, None)], 3, [{"channel": "a", "subscribers": 2, "messages": 7}])
    return view


def test_all(view):
    """The screen has the figures, each server, the callers, channels, and what is wrong, within its size."""
    view.take(figures(problems=[{"code": "slow", "count": 1, "text": "1 caller is \x1b[31mslow."}]))
    lines = view.lines(100, 40)
    text = "\n".join(lines)
    for expected in ("callers 4", "published 5/s", "0.5/2 ms", "CPU 25 %", "50 MiB", "node2", "node1.2", "bob", "q quit"):
        assert expected in text, text
    assert "! 1 caller is \\x1b[31mslow." in lines
    assert "\x1b" not in text


@pytest.mark.parametrize(("width", "height"), [(100, 40), (60, 24), (40, 10), (20, 3), (10, 1)])
def test_sizes(view, width, height):
    """Whatever the size of the terminal, nothing is wider or longer."""
    lines = view.lines(width, height)
    assert len(lines) <= max(height, 1)
    assert max(map(len, lines)) <= width


def test_before(view):
    """Before the first figures, it says so."""
    assert "waiting" in View("http://localhost:8081").lines(80, 24)[0]


def test_quit(view):
    """Q quits."""
    assert view.key("q") is Act.QUIT


def test_filter(view):
    """A slash begins a filter, each character asks for other callers; Enter keeps it, Escape forgets it."""
    assert view.key("/") is Act.NOTHING
    for key in "anq":
        assert view.key(key) is Act.FETCH
    view.key("\x7f")
    assert "an_" in view.lines(80, 24)[-1]
    view.key("\r")
    assert (view.mode, view.filter) == (Mode.SHOWING, "an")
    view.key("/")
    view.key("x")
    view.key("\x1b")
    assert (view.mode, view.filter) == (Mode.SHOWING, "")


def test_disconnect(view):
    """K asks about the chosen caller, and only y disconnects it, even if the list has changed meanwhile."""
    view.key("down")
    view.key("k")
    assert "disconnect node1.2?" in view.lines(80, 24)[-1]
    view.takeLists([caller(1), caller(9)], 2, [])
    assert view.key("n") is Act.NOTHING
    view.takeLists([caller(1), caller(2)], 2, [])
    view.key("down")
    view.key("k")
    view.takeLists([caller(7)], 1, [])
    assert view.key("y") is Act.DISCONNECT
    assert view.asked == "node1.2"


def test_chosen(view):
    """The same caller stays chosen, wherever it is in the next list; the choice never leaves the list."""
    view.key("down")
    view.takeLists([caller(2, "bob"), caller(1)], 2, [])
    assert view.chosen == "node1.2"
    for _ in range(9):
        view.key("up")
    assert view.chosen == "node1.2"
    view.takeLists([], 0, [])
    assert view.chosen is None
    assert view.key("k") is Act.NOTHING


def test_keys():
    """Arrows are keys, as terminals send them; other keys of that kind are nothing."""
    assert keysIn("q\x1b[A\x1bOB\x1b[Cx\x1b") == ["q", "up", "down", "x", "\x1b"]


def test_spark():
    """A sparkline has its largest value as the highest bar, and nothing where nothing was."""
    assert spark([0, 1, 2, 4], "_-^") == "__-^"
    assert spark([0, 0], "_-^") == "__"
    assert [size(each) for each in (0, 1023, 1536, 20480, 5 << 30)] == ["0 B", "1023 B", "1.5 KiB", "20 KiB", "5.0 GiB"]
