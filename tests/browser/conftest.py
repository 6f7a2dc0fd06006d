from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.chromium import Tab, chromium
from tests.browser.firefox import Tab as FirefoxTab
from tests.browser.firefox import firefox
from tests.browser.node import node
from tests.browser.places import Place


@pytest.fixture(scope="session")
def _chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    """Start one browser for all tests."""
    with chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def tab(_chromium: Tab) -> Tab:
    """Return a tab as it is when it is new."""
    _chromium.fresh()
    return _chromium


@pytest.fixture(scope="session")
def _firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirefoxTab]:
    """Start one Firefox for all tests: that takes longer than most of them."""
    with firefox(tmp_path_factory.mktemp("firefox")) as tab:
        yield tab


@pytest.fixture
def firefoxTab(_firefox: FirefoxTab) -> Iterator[FirefoxTab]:
    """Return a tab of Firefox, which leaves its page at the end."""
    yield _firefox
    _firefox.open("about:blank")


@pytest.fixture(scope="session", params=["chromium", "firefox", "node", "ws"])
def _driver(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start one of what the client runs in."""
    if request.param in ("chromium", "firefox"):
        yield request.getfixturevalue(f"_{request.param}")
    else:
        with node("own" if request.param == "node" else "ws") as process:
            yield process


@pytest.fixture
def place(_driver: Any, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Return each of the places that the client runs in; what it has of the client is closed at the end."""
    if isinstance(_driver, Tab):
        _driver.fresh()
    place = Place(_driver)
    yield place
    place.end()
