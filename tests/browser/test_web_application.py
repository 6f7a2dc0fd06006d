"""The shop of the guide for web applications, in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.browser.chromium import Tab
from tests.live.applications import ANN, HOST, Visitor, application

# What stands between a browser and the server does to it what these do.
_WITHOUT = {
    "websocket": "",
    "sse": "delete window.WebSocket;",
    "poll": """
        delete window.WebSocket;
        const all = window.fetch;
        window.fetch = (url, init) => init?.headers?.Accept ? Promise.reject(new Error("blocked")) : all(url, init);
    """,
}


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start the shop with Flask."""
    with application("Flask", tmp_path_factory.mktemp("Flask")) as port:
        yield port


@pytest.fixture
def blocked(tab: Tab, transport: str) -> Iterator[Tab]:
    """Return a tab in which nothing better than a transport gets through."""
    script = tab.call("Page.addScriptToEvaluateOnNewDocument", source=_WITHOUT[transport])["identifier"]
    yield tab
    tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    tab.call("Network.clearBrowserCookies")


@pytest.mark.parametrize("transport", _WITHOUT)
def test_shop(blocked: Tab, port: int, transport: str) -> None:
    """Who logs in sees orders come, also after a logout in another browser, and the login page after one in another tab."""
    tab = blocked
    tab.open(f"https://{HOST}:{port}/")
    assert tab.run("location.pathname") == "/login"
    tab.run(f"document.forms[0].username.value = {json.dumps(ANN)}")
    tab.run(f"document.forms[0].password.value = {json.dumps(f'password of {ANN}')}")
    tab.leave("document.forms[0].requestSubmit()")
    elsewhere = Visitor(port)
    elsewhere.login(ANN)
    tea, cake = f"tea, by {transport}", f"<b>cake</b>, by {transport}"
    elsewhere.order(tea)
    _shows(tab, tea)
    elsewhere.logout()
    elsewhere.login(ANN)
    elsewhere.order(cake)
    _shows(tab, tea, cake)
    tab.leave("void fetch('/logout', { method: 'POST' })")
    assert tab.run("location.pathname") == "/login"


def _shows(tab: Tab, *lines: str) -> None:
    """Wait until these are the newest orders on the page."""
    shown = f"JSON.stringify([...document.querySelectorAll('#orders li')].slice(-{len(lines)}).map(each => each.textContent))"
    tab.wait(f"{shown} === JSON.stringify({json.dumps(lines)})")
