"""The files of the admin page."""

from __future__ import annotations

import pytest

from tests.web.worlds import Client, World
from twisted_ws.access.publishers.credentials import Credentials
from twisted_ws.web.admin.resource import AdminResource
from twisted_ws.web.api.broadcast import broadcastSite


@pytest.fixture
def get():
    """Return what gets a path of a broadcast site with an admin page."""
    world = World()
    credentials = Credentials(reactor=world.clock)
    site = broadcastSite(world.server, credentials, admin=AdminResource(world.server, credentials))
    return Client(site, world.clock).get


def test_page(get):
    """The page loads and runs only what comes from its own server, as files that it may not have anybody else read or frame."""
    page = get("/admin/")
    assert (page.status, page.headers["content-type"]) == (200, ["text/html; charset=utf-8"])
    (policy,) = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-frame-options"] == ["DENY"]


@pytest.mark.parametrize("name", ["admin.js", "admin.css", "twisted-ws.mjs"])
def test_files(get, name):
    """What the page refers to is below its own path, with the headers that the page has."""
    file = get(f"/admin/{name}")
    assert file.status == 200
    assert "content-security-policy" in file.headers


@pytest.mark.parametrize(
    "path", ["/admin/nothing.js", "/admin/../admin/x", "/admin/index.html", "/admin//", "/admin/%2e%2e/demo.js"]
)
def test_nothing(get, path):
    """Nothing else is there, whatever the path looks like."""
    assert get(f"/admin/{path}").status == 404


def test_slash(get):
    """Without its slash, the address leads to the page."""
    answer = get("/admin")
    assert (answer.status, answer.headers["location"]) == (308, ["/admin/"])


def test_onlyRead(get):
    """The files can only be read."""
    assert get("/admin/", method="POST").status == 405
